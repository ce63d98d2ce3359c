"""The guards of the table: pure questions to a cursor.

They are asked for every record of a replay, hence loops where a generator would read a little shorter.

A guard answers about the session *as the event will leave it* and changes nothing. It never decides a state: that is
the table's. May import the other core modules. Must never raise for an event that `checks.CHECKS` let pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from .budgets import short_of
from .cursor import Cursor
from .events import ModelReplied
from .recovery import TROUBLE, trouble_of
from .session import CallState
from .values import PlannedCall, Request, State, ToolStatus


def answered_request(cursor: Cursor) -> Request:
    """Return the pending request that the event answers."""
    return next(request for request in cursor.open_turn.requests if request.id == cursor.event.request_id)


def answered_call(cursor: Cursor) -> CallState:
    """Return the call that the event's answer is about as the answer closes it: refused, done, or in doubt."""
    event, request = cursor.event, answered_request(cursor)
    call = _call(cursor, request.call_id)
    if event.objection is not None:
        return call._replace(status=ToolStatus.DENIED, content=event.objection, error="denied")
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


def outgrew(cursor: Cursor) -> bool:
    """Whether the reply was cut off by a full window and is asked for again."""
    return bool(cursor.event.outgrown)


def wants_continuation(cursor: Cursor) -> bool:
    """Whether the reply is a text that its token limit cut off, and the turn may still continue it."""
    if cursor.event.reply.finish != "length" or cursor.event.plans or cursor.open_turn.concluding:
        return False
    return cursor.open_turn.continuations < cursor.opened.settings.max_continuations


def others_run(cursor: Cursor) -> bool:
    """Whether another call than the one that finished still runs."""
    finished = cursor.place
    for place, call in enumerate(cursor.calls):
        if place != finished and call.runs:
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
    return event.status is ToolStatus.FAILED and cursor.calls[cursor.place].plan.stops


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
    if cursor.event.objection is not None:
        return False
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
