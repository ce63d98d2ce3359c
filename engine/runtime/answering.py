"""Answers of people on their way into the core: what they are judged by, in time or not, with which arguments.

May import core, ports, tools and its neighbours. Must never do I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import Required, TypedDict

from ..core.arguments import json_text
from ..core.events import UserAnswered
from ..core.grants import GrantTerms, Here, asked_where
from ..core.session import CallState, Session
from ..core.values import JsonObject, PlannedCall, Request, ToolCall
from ..errors import InvalidEvent
from ..tools.registry import Case
from .clock import timestamp
from .parts import Parts

_LONGEST_S = 100 * 365.25 * 86_400
"""A century: later times have no form in records."""


class Said(TypedDict, total=False):
    """What a person says to a request; see `core.grants.Ruling`.

    `approve` yes or no; `text` what the model is told: why not, or the result of a write that did happen; `by` who
    answered; `arguments` to run the call with instead; `result` of a call that is not to run; `grant` for more calls.
    """

    approve: Required[bool]
    text: str | None
    by: str | None
    arguments: JsonObject | None
    result: str | None
    grant: GrantTerms | None


def case_of(parts: Parts, session: Session) -> Case | None:
    """Return what calls are decided by beside themselves; None where there is nothing."""
    turn = session.turn
    done = () if turn is None else turn.done
    loops = parts.limits.loops
    if parts.policy is None:
        return Case(_here(session, ""), done=done, loops=loops) if done and loops is not None else None
    now = timestamp(parts.clock.time_ns())
    return Case(_here(session, now), session.grants, done, loops, expiry(parts))


def expiry(parts: Parts) -> str | None:
    """Return until when a question that is asked now may be answered; None for as long as it takes."""
    timeout_s = parts.limits.approval_timeout_s
    return None if timeout_s is None else timestamp(parts.clock.time_ns() + int(timeout_s * 1e9))


def _here(session: Session, now: str) -> Here:
    number = session.turns + 1 if session.turn is None else session.turn.number
    return Here(session.id, number, session.opened.user, now)


def overdue(request: Request) -> UserAnswered:
    """Return the answer to a request that nobody has answered in time."""
    return UserAnswered(request_id=request.id, approve=False, text="nobody answered in time", by="engine", overdue=True)


def with_due_times(parts: Parts, plans: tuple[PlannedCall, ...]) -> tuple[PlannedCall, ...]:
    """Return plans in which external calls say until when the host may give their results, if they have a timeout."""
    for plan in plans:
        if plan.external:
            break
    else:
        return plans
    now_ns = parts.clock.time_ns()
    return tuple(
        plan.model_copy(update={"due_at": timestamp(now_ns + int(min(plan.timeout_s, _LONGEST_S) * 1e9))})
        if plan.external and plan.timeout_s is not None
        else plan
        for plan in plans
    )


def seconds_left(parts: Parts, request: Request) -> float | None:
    """Return how long, in seconds, a request may still be answered; None for as long as it takes."""
    if request.expires_at is None:
        return None
    return datetime.fromisoformat(request.expires_at).timestamp() - parts.clock.time_ns() / 1e9


def with_plan(parts: Parts, session: Session, event: UserAnswered) -> UserAnswered:
    """Return the answer with what was decided about the arguments that it changes.

    Raises:
        InvalidEvent: the call cannot run with them; the request stays open.
    """
    event = parts.clean(event)
    request = next(request for request in session.pending if request.id == event.request_id)
    if event.arguments is None or request.kind == "budget":
        return event
    call = _call_of(session, request)
    changed = ToolCall(id=call.call.id, name=call.call.name, arguments=event.arguments)
    case = case_of(parts, session)
    # Neither a grant nor the guard against loops has a say about what a person wrote.
    _, plans = parts.toolbox.admit([changed], parts.policy, case and _of_a_person(case, call))
    (plan,) = with_due_times(parts, plans)
    if plan.decision == "refuse":
        raise InvalidEvent(f"the call cannot run with these arguments: {plan.refusal}")
    note = f"Note: a person changed the arguments to {json_text(event.arguments)} before it ran."
    # What the limits say about the tool's time was decided with the call.
    decided = plan.model_copy(update={"note": note, "timeout_s": call.plan.timeout_s})
    return event.model_copy(update={"plan": decided})


def _of_a_person(case: Case, call: CallState) -> Case:
    """Return the case of arguments that a person wrote for a call."""
    return case._replace(here=asked_where(call.key, case.here), grants=(), loops=None)


def _call_of(session: Session, request: Request) -> CallState:
    turn = session.turn
    assert turn is not None
    for call in turn.batch.calls if turn.batch is not None else ():
        if call.call.id == request.call_id:
            return call
    raise InvalidEvent(f"request {request.id!r} is about no call: there are no arguments to change")
