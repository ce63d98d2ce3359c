"""One coroutine an effect: prepare the context, ask the model, run a tool, wait out a recovery.

A performer turns whatever happens into the next event; it never touches a session and never raises but for
cancellation. May import anyio, ports, tools, models, core.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import anyio

from ..core.events import (
    ContextPrepared,
    Faulted,
    KnownEvent,
    ModelReplied,
    ProbeResult,
    Recovered,
    RecoveryFailed,
    RecoveryNeedsUser,
    ToolFinished,
)
from ..core.session import CallState, Session
from ..core.values import Fault, FaultKind, Message, ModelReply, RecoveryPlan, ResourceUsage, ToolStatus, WirePatch
from ..errors import ModelError
from ..log import logger
from ..models.recorded import RecordedModel
from ..ports import Emit, ModelRequest, Probing, ToolContext, ToolOutput
from ..tools.encode import describe
from ..tools.function import FunctionTool, really_cancelled
from ..tools.isolation import is_isolated
from .answering import case_of, expiry
from .parts import Parts
from .spending import admit, cost_of

Q = TypeVar("Q")
A = TypeVar("A")

_KINDS: dict[str, FaultKind] = {"rate_limit": "rate_limit", "model_failure": "model_failure"}


async def prepare_context(parts: Parts, session: Session) -> KnownEvent:
    """Collect what the context providers add; only the first round of a turn asks them."""
    turn = session.turn
    if not parts.providers or turn is None or turn.round:
        return ContextPrepared()
    added: list[Message] = []
    try:
        for provider in parts.providers:
            added.extend(await provider.provide(session.id, session.messages()))
        if any(message.tool_calls or message.tool_call_id for message in added):
            return _fault("host_failure", "a context provider gave tool calls or results; it may give text only")
        return ContextPrepared(messages=tuple(added))
    except Exception as error:
        return _fault("host_failure", f"a context provider failed: {describe(error)}")


async def call_model(parts: Parts, session: Session, emit: Emit) -> KnownEvent:
    """Ask the model; a reply comes back with the decision about each of its calls, anything else as a fault."""
    turn = session.turn
    assert turn is not None
    specs = () if turn.concluding else parts.toolbox.specs
    request = ModelRequest(session.transcript, specs, parts.parameters, session.id, turn.number, turn.round)
    ask: Callable[[ModelRequest], Awaitable[ModelReply]] = partial(_generate, parts, emit)
    for middleware in reversed(parts.middleware):
        ask = partial(_wrapped, middleware.around_model, ask)
    timeout_s = parts.limits.model_timeout_s
    try:
        with anyio.move_on_after(timeout_s):
            return _judge(parts, session, await ask(request))
        return _fault("model_failure", f"the model did not answer within {timeout_s:g} s", retryable=True)
    except ModelError as error:
        return Faulted(
            fault=Fault(
                kind=_KINDS.get(error.kind, "model_failure"),
                message=str(error),
                retryable=error.retryable,
                status=error.status,
                retry_after_s=_sensible(error.retry_after_s),
            )
        )
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()) and really_cancelled():
            raise
        return _fault("model_failure", f"the model failed: {describe(error)}")


def _sensible(delay_s: float | None) -> float | None:
    """Return a wait that a provider wished for, if it is one: a number of seconds, not negative."""
    return delay_s if delay_s is not None and 0 <= delay_s < math.inf else None


async def _generate(parts: Parts, emit: Emit, request: ModelRequest) -> ModelReply:
    return await parts.model.generate(request, emit)


async def _wrapped(
    around: Callable[[Q, Callable[[Q], Awaitable[A]]], Awaitable[A]], inner: Callable[[Q], Awaitable[A]], given: Q
) -> A:
    return await around(given, inner)


def _judge(parts: Parts, session: Session, reply: object) -> KnownEvent:
    """Return the reply with its plans, or the fault that it is."""
    if not isinstance(reply, ModelReply):
        return _fault("bad_reply", f"the model returned {type(reply).__name__}, not a ModelReply")
    ids = [call.id for call in reply.tool_calls]
    if len(set(ids)) != len(ids):
        return _fault("bad_reply", f"the reply uses a call id twice: {', '.join(ids)}", retryable=True)
    if not ids and not reply.text and not isinstance(parts.model, RecordedModel):
        return _fault("empty_reply", f"the reply has neither text nor calls (finish: {reply.finish})", retryable=True)
    cost_pico = cost_of(parts, reply) if parts.limits.counts_output else None
    if not ids:
        return ModelReplied.trusted(reply=reply, cost_pico=cost_pico)
    try:
        calls, plans = admit(parts, session, reply.tool_calls)
    except Exception as error:
        return _fault("host_failure", f"the policy failed: {describe(error)}")
    if calls is not reply.tool_calls:
        reply = reply.model_copy(update={"tool_calls": calls})
    return ModelReplied.trusted(reply=reply, plans=plans, cost_pico=cost_pico)


class Tooling(NamedTuple):
    """What every call of a session is run with: the parts, the way out for notices, and `ToolContext.occupy`."""

    parts: Parts
    emit: Emit
    occupy: Callable[[], Callable[[], None]]


async def run_tool(tooling: Tooling, session: Session, call: CallState, scope: anyio.CancelScope) -> ToolFinished:
    """Run one call in `scope`, under the call's own deadline. Returns an end, also where the scope was cancelled."""
    clock = tooling.parts.clock
    started_ns = clock.monotonic_ns()
    output = await _run_tool(tooling, session, call, scope)
    return ToolFinished.trusted(
        call_id=call.call.id,
        status=output.status,
        content=output.content,
        error=output.error,
        duration_s=(clock.monotonic_ns() - started_ns) / 1e9,
        patch=output.patch,
        resources=output.resources,
    )


def _checked(output: object) -> ToolOutput:
    """Return what a tool or a middleware of the host's gave, or that it gave something that no journal could hold."""
    if (
        isinstance(output, ToolOutput)
        and isinstance(output.content, str)
        and isinstance(output.status, ToolStatus)
        and output.status.terminal
        and isinstance(output.error, str | None)
        and isinstance(output.patch, WirePatch | None)
        and isinstance(output.resources, ResourceUsage | None)
    ):
        return output
    text = f"the tool returned {type(output).__name__}, not a ToolOutput with a text and a terminal status"
    return ToolOutput(text, ToolStatus.FAILED, "bad_output")


async def _run_tool(tooling: Tooling, session: Session, call: CallState, scope: anyio.CancelScope) -> ToolOutput:
    tool = tooling.parts.toolbox.get(call.call.name)
    if tool is None:
        return ToolOutput(f"the tool {call.call.name!r} is no longer available", ToolStatus.FAILED, "unknown_tool")
    context = tool_context(session, call, tooling.emit, tooling.occupy)
    policy = tooling.parts.policy
    try:
        if policy is not None:
            # Between the decision and now there may be a restart, an upgrade, a fork, another user or another policy.
            case = case_of(tooling.parts, session)
            assert case is not None
            objection = tooling.parts.toolbox.objection(call, policy, case)
            if objection is not None:
                return ToolOutput(objection, ToolStatus.DENIED, "denied")
        bound = tool.bind(call.call.arguments)
        run: Callable[[ToolContext], Awaitable[ToolOutput]] = partial(tool.run, bound)
        for middleware in reversed(tooling.parts.middleware):
            run = partial(_wrapped, middleware.around_tool, run)
        # A worker process has its time from when it has the call, and its end comes with a word about what happened.
        scope.deadline = math.inf if is_isolated(tool) else anyio.current_time() + context.timeout_s
        with scope:
            output = await run(context)
            # What we wrote ourselves needs no check.
            return output if type(tool) is FunctionTool and not tooling.parts.middleware else _checked(output)
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()) and really_cancelled():
            raise
        return ToolOutput(describe(error), ToolStatus.FAILED, type(error).__name__)
    text = f"timed out after {context.timeout_s:g} s"
    if call.plan.effect == "write" and isinstance(tool, FunctionTool) and not tool.is_async:
        # A thread cannot be stopped: nobody knows what the write still does.
        return ToolOutput(f"{text}; it may still take effect", ToolStatus.UNKNOWN, "timed_out")
    return ToolOutput(text, ToolStatus.TIMED_OUT, "timed_out")


def tool_context(
    session: Session, call: CallState, emit: Emit, occupy: Callable[[], Callable[[], None]] | None = None
) -> ToolContext:
    """Return everything that the tool of a call may want to know."""
    turn, opened = session.turn, session.opened
    assert turn is not None
    return ToolContext(
        call_id=call.call.id,
        name=call.call.name,
        arguments=call.call.arguments,
        idempotency_key=call.key,
        timeout_s=call.plan.timeout_s or 60.0,
        session=session.id,
        turn=turn.number,
        round=turn.round,
        priority=turn.priority,
        metadata={**opened.metadata, **turn.metadata} if turn.metadata else opened.metadata,
        external_id=opened.external_id,
        user=opened.user,
        workspace=opened.workspace,
        parent=opened.parent,
        emit=emit,
        **({} if occupy is None else {"occupy": occupy}),
    )


async def probe_started(parts: Parts, session: Session, emit: Emit) -> tuple[ProbeResult, ...]:
    """Ask the tools of interrupted writes whether they took place. A probe that fails knows nothing."""
    results: list[ProbeResult] = []
    turn = session.turn
    for call in turn.batch.calls if turn is not None and turn.batch is not None else ():
        tool = parts.toolbox.get(call.call.name)
        if not call.started or not isinstance(tool, Probing) or not tool.can_probe:
            continue
        context = tool_context(session, call, emit)
        try:
            with anyio.fail_after(context.timeout_s):
                output = await tool.probe(tool.bind(call.call.arguments), context)
        except Exception:
            logger.exception("probe failed", session=session.id, call=call.call.id)
            continue
        content = "" if output is None else output.content
        results.append(ProbeResult(call_id=call.call.id, happened=output is not None, content=content))
    return tuple(results)


async def recover(parts: Parts, plan: RecoveryPlan) -> KnownEvent:
    """Carry out a recovery plan: wait as long as it says, or say that it takes a person, or give up."""
    if plan.action == "ask":
        # No answer about a write in doubt would be one that nobody gave: only a budget is refused by the clock.
        return RecoveryNeedsUser(expires_at=expiry(parts) if plan.adjustment == "extend" else None)
    if plan.action == "give_up":
        return RecoveryFailed()
    started_ns = parts.clock.monotonic_ns()
    if plan.delay_s:
        await anyio.sleep(plan.delay_s)
    return Recovered(waited_s=(parts.clock.monotonic_ns() - started_ns) / 1e9)


def _fault(kind: FaultKind, message: str, *, retryable: bool = False) -> Faulted:
    return Faulted(fault=Fault(kind=kind, message=message, retryable=retryable))


def conflict_free(waiting: Sequence[CallState], running: Sequence[CallState]) -> list[CallState]:
    """Return the waiting calls that may start now: none of the same conflict key runs or waits before them."""
    taken = {call.plan.conflict_key for call in running if call.plan.conflict_key is not None}
    free: list[CallState] = []
    for call in waiting:
        key = call.plan.conflict_key
        if key is None or key not in taken:
            free.append(call)
        if key is not None:
            taken.add(key)
    return free
