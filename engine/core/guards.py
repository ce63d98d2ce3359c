"""The guards of the table, and what an event must refer to: pure questions to a cursor.

They are asked for every record of a replay, hence loops where a generator would read a little shorter.

A guard answers about the session *as the event will leave it* and changes nothing. It never decides a state: that is
the table's. May import the other core modules. Must never raise for an event that `CHECKS` let pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..errors import InvalidEvent
from .budgets import short_of, too_much
from .cursor import Cursor
from .events import ModelReplied
from .recovery import TROUBLE, objection_to, trouble_of
from .session import CallState
from .values import PlannedCall, Request, State, ToolCall, ToolStatus


def _check_call(cursor: Cursor) -> None:
    event = cursor.event
    place = place_of(cursor.calls, event.call_id)
    if place is None or not cursor.calls[place].runs:
        raise InvalidEvent(f"{event.kind}: call {event.call_id!r} is not running in this batch")
    if event.kind == "tool_finished" and not event.status.terminal:
        raise InvalidEvent(f"tool_finished: status {event.status} is not terminal")
    if event.kind == "tool_started" and cursor.calls[place].started:
        raise InvalidEvent(f"tool_started: call {event.call_id!r} has already started")


def _check_retry(cursor: Cursor) -> None:
    _check_call(cursor)
    call_id = cursor.event.call_id
    call = _call(cursor, call_id)
    if call.plan.effect == "write" or call.attempt > call.plan.retries:
        raise InvalidEvent(f"tool_retried: call {call_id!r} may not be tried again after attempt {call.attempt}")


def _check_answer(cursor: Cursor) -> None:
    requests = cursor.open_turn.requests
    if all(request.id != cursor.event.request_id for request in requests):
        open_ids = ", ".join(request.id for request in requests) or "none"
        raise InvalidEvent(f"no request {cursor.event.request_id!r} is pending; pending: {open_ids}")
    event = cursor.event
    more = event.arguments is not None or event.result is not None or event.grant is not None
    if more and answered_request(cursor).kind != "approval":
        raise InvalidEvent("only the answer to an approval can change arguments, give a result or a grant")
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


def _check_decision(cursor: Cursor) -> None:
    objection = objection_to(cursor.event.plan, cursor.open_turn, cursor.opened.settings)
    if objection is not None:
        raise InvalidEvent(f"recovery_planned: {objection}")


CHECKS: dict[str, Callable[[Cursor], None]] = {
    "tool_started": _check_call,
    "tool_finished": _check_call,
    "tool_retried": _check_retry,
    "user_answered": _check_answer,
    "grant_revoked": _check_revocation,
    "budget_lent": _check_lending,
    "budget_settled": _check_settlement,
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


def answered_request(cursor: Cursor) -> Request:
    """Return the pending request that the event answers."""
    return next(request for request in cursor.open_turn.requests if request.id == cursor.event.request_id)


def answered_call(cursor: Cursor) -> CallState:
    """Return the call that the event's answer is about as the answer closes it: refused, done, or in doubt."""
    event, request = cursor.event, answered_request(cursor)
    call = _call(cursor, request.call_id)
    if event.result is not None:
        return call._replace(status=ToolStatus.COMPLETED, content=event.result, error=None)
    if request.kind == "approval":
        content = "denied by user" + (f": {event.text}" if event.text else "")
        return call._replace(status=ToolStatus.DENIED, content=content, error="denied")
    if request.kind == "outcome":
        content = event.text or "The user confirmed that this call took effect; its own result was lost."
        return call._replace(status=ToolStatus.COMPLETED, content=content, error=None)
    if event.overdue and call.plan.effect == "write":
        content = "timed out: it was handed over and may or may not have taken effect"
        return call._replace(status=ToolStatus.UNKNOWN, content=content, error="timed_out")
    if event.overdue:
        content = "timed out: no result came in time"
        return call._replace(status=ToolStatus.TIMED_OUT, content=content, error="timed_out")
    if event.approve:
        return call._replace(status=ToolStatus.COMPLETED, content=event.text or "", error=None)
    content = event.text or "the external task failed"
    return call._replace(status=ToolStatus.FAILED, content=content, error="external_failed")


def _call(cursor: Cursor, call_id: str) -> CallState:
    return next(call for call in cursor.calls if call.call.id == call_id)


def place_of(calls: Iterable[CallState], call_id: str) -> int | None:
    """Return where in `calls` the call with this id stands, counted from 0, if it does."""
    for place, call in enumerate(calls):
        if call.call.id == call_id:
            return place
    return None


def has_malformed(plans: Iterable[PlannedCall]) -> bool:
    """Whether the arguments of a call were malformed."""
    for plan in plans:
        if plan.malformed:
            return True
    return False


def _plans(cursor: Cursor) -> tuple[PlannedCall, ...]:
    if isinstance(cursor.event, ModelReplied):
        return cursor.event.plans
    return cursor.open_turn.direct_plans


def no_call_is_planned(cursor: Cursor) -> bool:
    """Whether there is no planned call at all."""
    return not _plans(cursor)


def some_call_runs(cursor: Cursor) -> bool:
    """Whether a planned call may run here at once."""
    for plan in _plans(cursor):
        if plan.decision == "run" and not plan.external:
            return True
    return False


def some_call_asks(cursor: Cursor) -> bool:
    """Whether a planned call needs an approval, or is handed to the host."""
    return any(plan.decision == "ask" or (plan.decision == "run" and plan.external) for plan in _plans(cursor))


def rounds_exhausted(cursor: Cursor) -> bool:
    """Whether the model asks for tools once more than `max_tool_rounds` admits."""
    return cursor.open_turn.round > cursor.opened.settings.max_tool_rounds


def parsing_exhausted(cursor: Cursor) -> bool:
    """Whether malformed arguments came once more in a row than `max_parse_retries` admits."""
    if cursor.open_turn.malformed_streak < cursor.opened.settings.max_parse_retries:
        return False
    return has_malformed(cursor.event.plans)


def halted(cursor: Cursor) -> bool:
    """Whether the guard against loops, or a budget that is used up, ends the model's calls."""
    for plan in cursor.event.plans:
        if plan.decision == "halt":
            return True
    return False


def cannot_afford_reply(cursor: Cursor) -> bool:
    """Whether the model would be asked next and a budget has no room for its reply."""
    settings = cursor.opened.settings
    if (settings.max_tokens is None and settings.max_cost_pico is None) or _plans(cursor):
        return False
    return short_of(cursor.open_turn, settings) is not None


def wants_continuation(cursor: Cursor) -> bool:
    """Whether the reply is a text that its token limit cut off, and the turn may still continue it."""
    if cursor.event.reply.finish != "length" or cursor.event.plans or cursor.open_turn.concluding:
        return False
    return cursor.open_turn.continuations < cursor.opened.settings.max_continuations


def others_run(cursor: Cursor) -> bool:
    """Whether another call than the one that finished still runs."""
    finished = cursor.event.call_id
    for call in cursor.calls:
        if call.runs and call.call.id != finished:
            return True
    return False


def answers_missing(cursor: Cursor) -> bool:
    """Whether a question is still open: an approval, an outcome that nobody saw, what an external task gave."""
    return bool(cursor.open_turn.requests)


def finished_in_trouble(cursor: Cursor) -> bool:
    """Whether this or an earlier end in the batch is a fault that no recovery has dealt with."""
    event = cursor.event
    if event.status in TROUBLE or unhandled_trouble(cursor):
        return True
    return event.status is ToolStatus.FAILED and _call(cursor, event.call_id).plan.stops


def unhandled_trouble(cursor: Cursor) -> bool:
    """Whether an earlier end in the batch is a fault that no recovery has dealt with."""
    for call in cursor.calls:
        if (call.status in TROUBLE or call.plan.stops) and not call.handled and trouble_of(call) is not None:
            return True
    return False


def answer_extends_budget(cursor: Cursor) -> bool:
    """Whether the answer lets the turn use more than its budget."""
    return answered_request(cursor).kind == "budget" and cursor.event.approve


def answer_refuses_budget(cursor: Cursor) -> bool:
    """Whether the answer lets the turn use no more than its budget."""
    return answered_request(cursor).kind == "budget"


def plan_extends_budget(cursor: Cursor) -> bool:
    """Whether the recovery plan asks for more of a budget."""
    plan = cursor.open_turn.plan
    return plan is not None and plan.adjustment == "extend"


def answer_starts_call(cursor: Cursor) -> bool:
    """Whether the answer lets a call run: an approval given, or "it did not happen" to an unknown outcome."""
    request = answered_request(cursor)
    if request.kind == "approval":
        return bool(cursor.event.approve)
    return request.kind == "outcome" and not cursor.event.approve


def answer_hands_over(cursor: Cursor) -> bool:
    """Whether the answer lets a call go that the host is to carry out."""
    return answer_starts_call(cursor) and _call(cursor, answered_request(cursor).call_id).plan.external


def answered_in_trouble(cursor: Cursor) -> bool:
    """Whether the answered call, as the answer closes it, or an earlier end in the batch is a fault."""
    return unhandled_trouble(cursor) or trouble_of(answered_call(cursor)) is not None


def answer_unparks(cursor: Cursor) -> bool:
    """Whether the answer lets a parked turn go on."""
    return answered_request(cursor).kind == "parked" and cursor.event.approve


def answer_gives_up(cursor: Cursor) -> bool:
    """Whether the answer ends a parked turn."""
    return answered_request(cursor).kind == "parked"


def other_answers_missing(cursor: Cursor) -> bool:
    """Whether another request than the answered one is pending."""
    return len(cursor.open_turn.requests) > 1


def plan_shuts_down(cursor: Cursor) -> bool:
    """Whether the recovery plan gives the turn up, and the session with it."""
    plan = cursor.open_turn.plan
    return plan is not None and plan.end == "shutdown"


def plan_parks(cursor: Cursor) -> bool:
    """Whether the recovery plan is to wait so long that the session is not to be kept for it."""
    plan = cursor.open_turn.plan
    return plan is not None and plan.action == "park"


def plan_resumes_generating(cursor: Cursor) -> bool:
    """Whether the recovery plan asks the model again."""
    plan = cursor.open_turn.plan
    return plan is not None and plan.resume is State.GENERATING_RESPONSE


def left_idle(cursor: Cursor) -> bool:
    """Whether the session was shut down while idle."""
    return cursor.left is State.IDLE


def left_processing(cursor: Cursor) -> bool:
    """Whether the session was shut down while processing."""
    return cursor.left is State.PROCESSING


def left_generating(cursor: Cursor) -> bool:
    """Whether the session was shut down while generating."""
    return cursor.left is State.GENERATING_RESPONSE


def left_waiting(cursor: Cursor) -> bool:
    """Whether the session was shut down while waiting for the user."""
    return cursor.left is State.WAITING_FOR_USER


def left_in_error(cursor: Cursor) -> bool:
    """Whether the session was shut down while recovering from a fault."""
    return cursor.left is State.ERROR


def reruns_some(cursor: Cursor) -> bool:
    """Whether resuming finds a call that may run (again)."""
    return any(call.runs for call in after_interruption(cursor))


def interrupted_in_trouble(cursor: Cursor) -> bool:
    """Whether resuming finds a write whose end nobody saw, or an older trouble."""
    return any(not call.handled and trouble_of(call) is not None for call in after_interruption(cursor))


def after_interruption(cursor: Cursor) -> tuple[CallState, ...]:
    """Return the open calls as an interruption leaves them.

    Finished calls stay, and those that the host has. A call that never started, a read and an idempotent one may run. A
    write that had started is what its probe found out, else unknown.
    """
    probes = {probe.call_id: probe for probe in cursor.event.probes}
    calls: list[CallState] = []
    for call in cursor.calls:
        if not call.started or call.handed or call.plan.effect != "write":
            calls.append(call)
            continue
        probe = probes.get(call.call.id)
        if probe is None:
            text = "interrupted: it had started and may or may not have taken effect"
            calls.append(call._replace(status=ToolStatus.UNKNOWN, content=text, error="unknown_outcome"))
        elif probe.happened:
            calls.append(call._replace(status=ToolStatus.COMPLETED, content=probe.content))
        else:
            calls.append(call._replace(status=ToolStatus.QUEUED))
    return tuple(calls)
