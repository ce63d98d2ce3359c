"""What an event must refer to, asked before the table is: the first thing that is done with one.

A check changes nothing of the session and only keeps the place of the call that the event is about. May import the
other core modules. Must raise nothing but `InvalidEvent`, whose text names what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import InvalidEvent
from . import compacting
from .budgets import too_much
from .cursor import Cursor
from .guards import answered_request, place_of
from .recovery import objection_to
from .session import CallState
from .values import PlannedCall, ToolCall


def _check_call(cursor: Cursor) -> CallState:
    """Find the call that the event is about, and keep its place for the guards and actions of this step."""
    event, calls = cursor.event, cursor.calls
    place = place_of(calls, event.call_id)
    if place is None or not calls[place].runs:
        raise InvalidEvent(f"{event.kind}: call {event.call_id!r} is not running in this batch")
    cursor.place = place
    return calls[place]


def _check_start(cursor: Cursor) -> None:
    if _check_call(cursor).started:
        raise InvalidEvent(f"tool_started: call {cursor.event.call_id!r} has already started")


def _check_finish(cursor: Cursor) -> None:
    _check_call(cursor)
    if not cursor.event.status.terminal:
        raise InvalidEvent(f"tool_finished: status {cursor.event.status} is not terminal")


def _check_retry(cursor: Cursor) -> None:
    call = _check_call(cursor)
    if call.plan.effect == "write" or call.attempt > call.plan.retries:
        text = f"call {cursor.event.call_id!r} may not be tried again after attempt {call.attempt}"
        raise InvalidEvent(f"tool_retried: {text}")


def _check_answer(cursor: Cursor) -> None:
    requests = cursor.open_turn.requests
    if all(request.id != cursor.event.request_id for request in requests):
        open_ids = ", ".join(request.id for request in requests) or "none"
        raise InvalidEvent(f"no request {cursor.event.request_id!r} is pending; pending: {open_ids}")
    event = cursor.event
    more = event.arguments is not None or event.result is not None or event.grant is not None
    if more and answered_request(cursor).kind != "approval":
        raise InvalidEvent("only the answer to an approval can change arguments, give a result or a grant")
    if event.objection is not None and answered_request(cursor).kind not in ("approval", "outcome"):
        raise InvalidEvent("only an answer that lets a task go to the host can meet an objection")
    if (event.arguments is None) is not (event.plan is None):
        raise InvalidEvent("changed arguments need a plan, and a plan needs changed arguments")


def _check_revocation(cursor: Cursor) -> None:
    if all(grant.id != cursor.event.grant_id for grant in cursor.grants):
        known = ", ".join(grant.id for grant in cursor.grants) or "none"
        raise InvalidEvent(f"no grant {cursor.event.grant_id!r} in this session; there are: {known}")


def _check_lending(cursor: Cursor) -> None:
    event, turn = cursor.event, cursor.open_turn
    if any(lent.child == event.child and lent.spent is None for lent in turn.lent):
        raise InvalidEvent(f"budget_lent: session {event.child!r} has a loan already")
    kind = too_much(turn, cursor.opened.settings, event.loan)
    if kind is not None:
        raise InvalidEvent(
            f"budget_lent: the turn has not so much of its budget of {kind} left; ask for a smaller share"
        )


def _check_settlement(cursor: Cursor) -> None:
    own, turn = cursor.opened.loan, cursor.turn
    if turn is None:
        known = [own.id] if own is not None and not own.settled else []
    else:
        known = [lent.loan.id for lent in turn.lent if lent.spent is None]
    if cursor.event.loan not in known:
        raise InvalidEvent(f"budget_settled: no loan {cursor.event.loan!r} is open; open: {', '.join(known) or 'none'}")


def _check_reply(cursor: Cursor) -> None:
    _check_plans(cursor.event.reply.tool_calls, cursor.event.plans)


def _check_prompt(cursor: Cursor) -> None:
    _check_plans(cursor.event.direct_calls, cursor.event.plans)


def _check_recovery(cursor: Cursor) -> None:
    plan = cursor.open_turn.plan
    assert plan is not None
    says = {"resume": "resume", "ask": "ask a person", "park": "park the turn", "give_up": "give up"}[plan.action]
    if plan.action not in {"recovered": ("resume",), "recovery_needs_user": ("ask", "park")}[cursor.event.kind]:
        raise InvalidEvent(f"{cursor.event.kind}: the recovery plan says to {says}")
    if plan.adjustment == "compact":
        raise InvalidEvent("recovered: the recovery plan says to compact first")


def _check_decision(cursor: Cursor) -> None:
    objection = objection_to(cursor.event.plan, cursor.open_turn, cursor.opened.settings)
    if objection is not None:
        raise InvalidEvent(f"recovery_planned: {objection}")


CHECKS: dict[str, Callable[[Cursor], None]] = {
    "tool_started": _check_start,
    "tool_finished": _check_finish,
    "tool_retried": _check_retry,
    "user_answered": _check_answer,
    "grant_revoked": _check_revocation,
    "budget_lent": _check_lending,
    "budget_settled": _check_settlement,
    "context_compacted": compacting.check,
    "model_replied": _check_reply,
    "prompt_received": _check_prompt,
    "recovery_planned": _check_decision,
    "recovered": _check_recovery,
    "recovery_needs_user": _check_recovery,
}
"""Kind of event → what refuses one that is legal in its state but refers to something the session does not have open,
with an `InvalidEvent` whose text names what is missing.
"""


def _check_plans(calls: Sequence[ToolCall], plans: tuple[PlannedCall, ...]) -> None:
    if not calls and not plans:
        return
    ids = [call.id for call in calls]
    if ids != [plan.call_id for plan in plans] or (len(ids) > 1 and len(set(ids)) != len(ids)):
        raise InvalidEvent(f"every call needs an id of its own and one plan, in the same order; calls {ids}")
