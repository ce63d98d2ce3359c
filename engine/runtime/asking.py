"""Asking the model, and what follows when it does not answer: the one layer of the whole stack that tries again.

`call_model` sends a request when it is the session's turn and turns whatever happens into the next event; `recover`
carries out the plan that the core made of a fault. Adapters never retry, and the gate stands right before the model: a
middleware that answers by itself costs no quota, one that asks twice passes the gate twice. What chance and clocks
decide (jitter, the time of day until which a gate is closed) is part of the fault, so a history replays without either.
May import anyio, ports, models, core and its neighbours. A performer must never raise but for cancellation, and never
sleep longer than the governor allows: a long wait is a fault, and the core parks the turn.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import NamedTuple

import anyio

from ..core.events import Faulted, KnownEvent, ModelReplied, Recovered, RecoveryFailed, RecoveryNeedsUser
from ..core.notices import Notice
from ..core.recovery import HOPELESS
from ..core.session import Session
from ..core.values import Fault, FaultKind, ModelReply, RecoveryPlan, State
from ..errors import GateClosed, ModelError
from ..models.recorded import RecordedModel
from ..ports import Emit, Metered, ModelRequest
from ..tools.encode import describe
from ..tools.function import really_cancelled
from .answering import expiry, with_due_times
from .clock import seconds_until, time_in
from .crew import Crew
from .deciding import decide
from .governor import Closed, Governor, Pass
from .leaving import Leavable
from .parts import Parts
from .quota import QuotaSettings
from .spending import admit, cost_of
from .wrapping import wrapped


class Asking(NamedTuple):
    """What every question to the model goes through; one an engine.

    `key` names the quota that the model's requests count against, None where nothing is metered: then there is no gate.
    `random` gives the jitter of waits that no gate decides, `crew` the tasks of calls that can be left.
    """

    parts: Parts
    governor: Governor
    random: Random
    key: str | None
    crew: Crew


def asking_of(parts: Parts, crew: Crew) -> Asking:
    """Return the gate before an engine's model. Its times are those of the event loop that runs."""
    limits = parts.limits
    pace = QuotaSettings(
        requests_per_minute=limits.requests_per_minute,
        backoff_base_s=limits.backoff_base_s,
        park_after_s=limits.park_after_s,
    )
    source = Random()  # noqa: S311 - jitter is no secret
    key = parts.model.quota_key if isinstance(parts.model, Metered) else None
    return Asking(parts, Governor(pace, source), source, key, crew)


async def call_model(asking: Asking, session: Session, emit: Emit) -> KnownEvent:
    """Ask the model; a reply comes back with the decision about each of its calls, anything else as a fault."""
    parts, turn = asking.parts, session.turn
    assert turn is not None
    specs = parts.toolbox.reading_specs if session.spilled else parts.toolbox.specs
    if turn.concluding:
        specs = ()
    request = ModelRequest(session.transcript, specs, parts.parameters, session.id, turn.number, turn.round)
    # Without a quota there is no gate to wait at.
    send = _generate if asking.key is None else partial(_send, asking.key)
    ask: Callable[[ModelRequest], Awaitable[ModelReply]] = partial(send, asking, emit)
    if parts.middleware:
        ask = wrapped((middleware.around_model for middleware in parts.middleware), ask)
    try:
        return _judge(parts, session, await ask(request))
    except ModelError as error:
        return Faulted(fault=_fault_of(asking, error))
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()) and really_cancelled():
            raise
        return Faulted.of("model_failure", f"the model failed: {describe(error)}")


async def recover(asking: Asking, session: Session, plan: RecoveryPlan) -> KnownEvent:
    """Carry out a recovery plan: wait as it says, or say that it takes a person or a long time, or give up.

    A handler of the host may put another plan in its place; that is recorded, and carried out next. After a rate limit
    it is the gate that is waited for, which other sessions may have closed for longer meanwhile.
    """
    decision = decide(asking.parts, session) if asking.parts.settings.recovery else None
    if decision is not None:
        return decision
    if plan.action in ("ask", "park"):
        # No answer about a write in doubt would be one that nobody gave: only a budget is refused by the clock.
        return RecoveryNeedsUser(expires_at=expiry(asking.parts) if plan.adjustment == "extend" else None)
    if plan.action == "give_up":
        return RecoveryFailed()
    clock = asking.parts.clock
    started_ns = clock.monotonic_ns()
    if plan.delay_s and plan.resume is not State.GENERATING_RESPONSE:
        await anyio.sleep(plan.delay_s)
    elif plan.delay_s:
        of_gate = asking.key is not None and plan.not_before is not None
        earliest = anyio.current_time() + (0.0 if of_gate else plan.delay_s)
        closed = await asking.governor.opened(asking.key, earliest)
        if closed is not None:
            return Faulted(fault=_fault_of(asking, _gate_closed(asking, closed)))
    return Recovered(waited_s=(clock.monotonic_ns() - started_ns) / 1e9)


def remember(asking: Asking, session: Session) -> None:
    """Let the gate learn what an earlier process recorded: until when nobody was to send on its key."""
    fault = None if session.turn is None else session.turn.fault
    if asking.key is None or fault is None or fault.not_before is None or fault.retry_after_s is None:
        return
    # The recorded wait bounds what a clock that was set back would make of the time of day.
    wait_s = min(fault.retry_after_s, seconds_until(asking.parts.clock, fault.not_before))
    asking.governor.hold(asking.key, anyio.current_time() + wait_s)


# --- one request ------------------------------------------------------------------------------------------------------


async def _send(key: str, asking: Asking, emit: Emit, request: ModelRequest) -> ModelReply:
    """Ask the model itself, when the gate lets the request through, and tell the gate what came of it."""
    right = await asking.governor.admit(key)
    if isinstance(right, Closed):
        raise _gate_closed(asking, right)
    with right:
        try:
            reply = await _generate(asking, emit, request)
        except ModelError as error:
            _report(right, error)
            raise
        right.succeeded()
        return reply


async def _generate(asking: Asking, emit: Emit, request: ModelRequest) -> ModelReply:
    model, limits = asking.parts.model, asking.parts.limits
    timeout_s = limits.model_timeout_s
    if limits.model_grace_s is not None:

        def show(notice: Notice) -> None:
            if not call.left:
                emit(notice)

        call = Leavable(partial(model.generate, request, show))
        return await call.result(asking.crew, timeout_s, limits.model_grace_s)
    with asking.crew.new_scope(deadline=asking.crew.now_s() + timeout_s):
        return await model.generate(request, emit)
    raise ModelError(f"the model did not answer within {timeout_s:g} s")


def _report(right: Pass, error: ModelError) -> None:
    """Tell the gate what an error means for everybody else. One that came from no server says nothing."""
    if error.kind == "rate_limit" and error.retryable:
        right.limited(_sensible(error.retry_after_s))
    elif _may_pass(error):
        right.failed()
    elif error.status is not None:
        right.refused()


def _gate_closed(asking: Asking, closed: Closed) -> GateClosed:
    return GateClosed(asking.key or "the model", closed.until - anyio.current_time(), for_all=closed.for_all)


# --- what came of it --------------------------------------------------------------------------------------------------


def _judge(parts: Parts, session: Session, reply: object) -> KnownEvent:
    """Return the reply with its plans, or the fault that it is."""
    if not isinstance(reply, ModelReply):
        return Faulted.of("bad_reply", f"the model returned {type(reply).__name__}, not a ModelReply")
    # What is refused goes back in words: they must not repeat a secret.
    reply = parts.clean(reply)
    ids = [call.id for call in reply.tool_calls]
    if len(set(ids)) != len(ids):
        return Faulted.of("bad_reply", f"the reply uses a call id twice: {', '.join(ids)}", retryable=True)
    if not ids and not reply.text and not isinstance(parts.model, RecordedModel):
        text = f"the reply has neither text nor calls (finish: {reply.finish})"
        return Faulted.of("empty_reply", text, retryable=True)
    loan = session.opened.loan
    cost_pico = cost_of(parts, reply, loan) if parts.limits.counts_output or loan is not None else None
    if not ids:
        return ModelReplied.trusted(reply=reply, cost_pico=cost_pico)
    try:
        calls, plans = admit(parts, session, reply.tool_calls)
    except Exception as error:
        return Faulted.of("host_failure", f"the policy failed: {describe(error)}")
    if calls is not reply.tool_calls:
        reply = reply.model_copy(update={"tool_calls": calls})
    return ModelReplied.trusted(reply=reply, plans=with_due_times(parts, plans), cost_pico=cost_pico)


def _fault_of(asking: Asking, error: ModelError) -> Fault:
    """Return an error as the fault it is, with what chance and the clocks have to say about the wait."""
    clock = asking.parts.clock
    jitter: float | None = None
    not_before: str | None = None
    if isinstance(error, GateClosed):
        not_before = time_in(clock, error.wait_s)
        return Fault(kind="gate_closed", message=str(error), retry_after_s=error.retry_after_s, not_before=not_before)
    kind: FaultKind = "rate_limit" if error.kind == "rate_limit" else "model_failure"
    retryable = _may_pass(error)
    wait_s = _sensible(error.retry_after_s)
    if retryable and asking.key is not None and kind == "rate_limit":
        # The gate's pause holds the server's wish, the jitter, and what other sessions were told meanwhile.
        wait_s = max(wait_s or 0.0, asking.governor.not_before(asking.key) - anyio.current_time())
        not_before = time_in(clock, wait_s)
    elif retryable:
        jitter = asking.random.random()
    return Fault(
        kind=kind,
        message=str(error),
        retryable=retryable,
        status=error.status,
        retry_after_s=wait_s,
        jitter=jitter,
        not_before=not_before,
    )


def _may_pass(error: ModelError) -> bool:
    return error.retryable and error.status not in HOPELESS


def _sensible(delay_s: float | None) -> float | None:
    """Return a wait that a provider wished for, if it is one: a number of seconds, not negative."""
    return delay_s if delay_s is not None and 0 <= delay_s < math.inf else None
