"""One coroutine an effect: prepare the context, run a tool, ask a probe. Asking the model is in `asking`.

A performer turns whatever happens into the next event; it never touches a session and never raises but for
cancellation. May import anyio, ports, tools, models, core.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

import anyio

from ..core.events import (
    ContextPrepared,
    Faulted,
    KnownEvent,
    ProbeResult,
    ToolFinished,
)
from ..core.session import CallState, Session
from ..core.values import Message, ResourceUsage, ToolStatus, WirePatch
from ..log import logger
from ..ports import Emit, Probing, Tool, ToolContext, ToolOutput, occupy_nothing
from ..tools.encode import describe
from ..tools.function import FunctionTool, really_cancelled
from ..tools.isolation import is_isolated
from .answering import case_of
from .clock import timestamp
from .lanes import Lane
from .parts import Parts
from .pipeline import CERTAINLY_FITS_CHARS
from .wrapping import wrapped


async def prepare_context(parts: Parts, session: Session) -> KnownEvent:
    """Collect what the context providers add; only the first round of a turn asks them."""
    turn = session.turn
    if not parts.providers or turn is None or turn.round:
        return ContextPrepared()
    added: list[Message] = []
    timeout_s = parts.limits.provider_timeout_s
    try:
        for provider in parts.providers:
            with anyio.move_on_after(timeout_s) as scope:
                added.extend(await provider.provide(session.id, session.messages()))
            if scope.cancelled_caught:
                return Faulted.of("host_failure", f"a context provider gave nothing within {timeout_s:g} s")
        if any(message.tool_calls or message.tool_call_id for message in added):
            return Faulted.of("host_failure", "a context provider gave tool calls or results; it may give text only")
        return ContextPrepared(messages=tuple(added))
    except Exception as error:
        return Faulted.of("host_failure", f"a context provider failed: {describe(error)}")


class Tooling(NamedTuple):
    """What every call of a session is run with: the parts, the way out for notices, `ToolContext.occupy`, and the
    clock of deadlines.
    """

    parts: Parts
    emit: Emit
    occupy: Callable[[], Callable[[], None]]
    now_s: Callable[[], float]


async def run_tool(tooling: Tooling, session: Session, call: CallState, scope: anyio.CancelScope) -> ToolFinished:
    """Run one call in `scope`, under the call's own deadline. Returns an end, also where the scope was cancelled."""
    parts = tooling.parts
    started_at, started_ns = timestamp(parts.clock.time_ns()), parts.clock.monotonic_ns()
    tool = parts.toolbox.get(call.call.name)
    if tool is None:
        text = f"the tool {call.call.name!r} is no longer available"
        output, duration_s = ToolOutput(text, ToolStatus.FAILED, "unknown_tool"), 0.0
    else:
        output = await _run_tool(tooling, session, call, tool, scope)
        duration_s = (parts.clock.monotonic_ns() - started_ns) / 1e9
        parts.pipeline.metrics.ended(call.call.name, output.status, duration_s)
    # Cleaned before anything of it is kept: the ledger cleans records, and they hold previews.
    output = parts.clean(output)
    content, blob = output.content, None
    if len(content) > CERTAINLY_FITS_CHARS:
        content, blob = await parts.pipeline.shortened(session.id, tool, content)
    return ToolFinished.trusted(
        call_id=call.call.id,
        status=output.status,
        content=content,
        error=output.error,
        duration_s=duration_s,
        patch=output.patch,
        blob=blob,
        resources=output.resources,
        # One that was denied at the last moment never began.
        started_at=None if output.status is ToolStatus.DENIED else started_at,
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


def _in_thread(tool: object) -> bool:
    return isinstance(tool, FunctionTool) and not tool.is_async


async def _run_tool(
    tooling: Tooling, session: Session, call: CallState, tool: Tool, scope: anyio.CancelScope
) -> ToolOutput:
    context = tool_context(session, call, tooling.emit, tooling.occupy)
    policy = tooling.parts.policy
    in_thread = _in_thread(tool)
    try:
        if policy is not None:
            # Between the decision and now there may be a restart, an upgrade, a fork, another user or another policy.
            case = case_of(tooling.parts, session)
            assert case is not None
            objection = tooling.parts.toolbox.objection(call, policy, case)
            if objection is not None:
                return ToolOutput(objection, ToolStatus.DENIED, "denied")
        run: Callable[[ToolContext], Awaitable[ToolOutput]] = partial(tool.run, tool.bind(call.call.arguments))
        if tooling.parts.pipeline.cache is not None:
            run = partial(tooling.parts.pipeline.through_cache, call, tool.options, run)
        if tooling.parts.middleware:
            run = wrapped((middleware.around_tool for middleware in tooling.parts.middleware), run)
        # A worker process has its time from when it has the call, and its end comes with a word about what happened.
        scope.deadline = math.inf if is_isolated(tool) else tooling.now_s() + context.timeout_s
        with scope:
            watchdog = None if in_thread else tooling.parts.monitor.watchdog
            output = await (run(context) if watchdog is None else watchdog.running(context.name, run(context)))
            # What we wrote ourselves needs no check.
            return output if type(tool) is FunctionTool and not tooling.parts.middleware else _checked(output)
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()) and really_cancelled():
            raise
        return ToolOutput(describe(error), ToolStatus.FAILED, type(error).__name__)
    text = f"timed out after {context.timeout_s:g} s"
    if call.plan.effect == "write" and in_thread:
        # A thread cannot be stopped: nobody knows what the write still does.
        return ToolOutput(f"{text}; it may still take effect", ToolStatus.UNKNOWN, "timed_out")
    return ToolOutput(text, ToolStatus.TIMED_OUT, "timed_out")


def tool_context(
    session: Session, call: CallState, emit: Emit, occupy: Callable[[], Callable[[], None]] = occupy_nothing
) -> ToolContext:
    """Return everything that the tool of a call may want to know."""
    turn, opened = session.turn, session.opened
    assert turn is not None
    metadata = {**opened.metadata, **turn.metadata} if turn.metadata else opened.metadata
    return ToolContext(
        call.call.id, call.call.name, call.call.arguments, call.key, call.plan.timeout_s or 60.0, session.id,
        turn.number, turn.round, turn.priority, metadata, opened.external_id, opened.user, opened.workspace,
        opened.parent, emit, occupy,
    )  # fmt: skip


async def probe_started(parts: Parts, session: Session, emit: Emit) -> tuple[ProbeResult, ...]:
    """Ask the tools of interrupted writes whether they took place. A probe that fails knows nothing."""
    results: list[ProbeResult] = []
    for call in session.open_calls:
        tool = parts.toolbox.get(call.call.name)
        if not call.started or call.handed or not isinstance(tool, Probing) or not tool.can_probe:
            continue
        context = tool_context(session, call, emit)
        try:
            async with parts.pipeline.place(Lane.CONTROL, context.priority):
                with anyio.fail_after(context.timeout_s):
                    output = await tool.probe(tool.bind(call.call.arguments), context)
        except Exception:
            logger.exception("probe failed", session=session.id, call=call.call.id)
            continue
        content = "" if output is None else output.content
        results.append(ProbeResult(call_id=call.call.id, happened=output is not None, content=content))
    return tuple(results)


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
