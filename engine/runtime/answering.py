"""Answers of people on their way into the core: what they are judged by, in time or not, with which arguments.

May import core, ports, tools and its neighbours. Must never do I/O.
"""

from typing import Required, TypedDict

from ..core.arguments import json_text
from ..core.events import UserAnswered
from ..core.grants import GrantTerms, Here, asked_where
from ..core.session import CallState, Session
from ..core.values import JsonObject, PlannedCall, Request, ToolCall
from ..errors import InvalidEvent
from ..tools.conflicts import in_the_way
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


def standing(session: Session) -> Case:
    """Return what a call that was let through is held against right before it runs: the time of day plays no part."""
    return Case(_here(session, ""), session.grants)


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


def with_plan(parts: Parts, session: Session, event: UserAnswered) -> UserAnswered:
    """Return the answer with what was decided about the arguments that it changes, and about a task that it lets go.

    Raises:
        InvalidEvent: the call cannot run with the changed arguments; the request stays open.
    """
    event = parts.clean(event)
    request = next(request for request in session.pending if request.id == event.request_id)
    if event.arguments is not None and request.kind != "budget":
        event = _edited(parts, session, request, event)
    lets_go = event.approve if request.kind == "approval" else request.kind == "outcome" and not event.approve
    objection = _objection(parts, session, request, event) if lets_go else None
    return event if objection is None else event.model_copy(update={"objection": objection})


def _edited(parts: Parts, session: Session, request: Request, event: UserAnswered) -> UserAnswered:
    call = _call_of(session, request)
    changed = _as_answered(call, event).call
    case = case_of(parts, session)
    # Neither a grant nor the guard against loops has a say about what a person wrote.
    _, plans = parts.toolbox.admit([changed], parts.policy, case and _of_a_person(case, call))
    (plan,) = with_due_times(parts, plans)
    refusal = plan.refusal if plan.decision == "refuse" else in_the_way(plan, session.open_calls)
    if refusal is not None:
        raise InvalidEvent(f"the call cannot run with these arguments: {refusal}")
    note = f"Note: a person changed the arguments to {json_text(event.arguments)} before it ran."
    # What the limits say about the tool's time was decided with the call.
    decided = plan.model_copy(update={"note": note, "timeout_s": call.plan.timeout_s})
    return event.model_copy(update={"plan": decided})


def _objection(parts: Parts, session: Session, request: Request, event: UserAnswered) -> str | None:
    """Return why a task may not be handed to the host now. What runs here is asked about when it is to run."""
    call = _as_answered(_call_of(session, request), event)
    if not call.plan.external:
        return None
    if parts.toolbox.get(call.call.name) is None:
        return f"the tool {call.call.name!r} is no longer available"
    case = case_of(parts, session)
    return None if parts.policy is None or case is None else parts.toolbox.objection(call, parts.policy, case)


def _as_answered(call: CallState, event: UserAnswered) -> CallState:
    """Return the call as an answer that lets it go leaves it."""
    if event.arguments is not None:
        asked = ToolCall(id=call.call.id, name=call.call.name, arguments=event.arguments)
        call = call._replace(call=asked, plan=event.plan or call.plan)
    return call._replace(approved=True)


def _of_a_person(case: Case, call: CallState) -> Case:
    """Return the case of arguments that a person wrote for a call."""
    return case._replace(here=asked_where(call.key, case.here), grants=(), loops=None)


def _call_of(session: Session, request: Request) -> CallState:
    for call in session.open_calls:
        if call.call.id == request.call_id:
            return call
    raise InvalidEvent(f"request {request.id!r} is about no call: there are no arguments to change")
