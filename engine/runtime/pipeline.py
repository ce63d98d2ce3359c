"""What the tool calls of all sessions of an engine share, and what becomes of a call's output before it is recorded.

A read may be answered from the cache; an output that is too long is kept beside the journal; a failure that may pass is
tried again; one that does not pass is a dead letter. May import anyio, core, journal, ports, tools and its neighbours.
Must never hold a session.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import NamedTuple

import anyio

from ..core.budgets import MIN_OUTPUT_BYTES
from ..core.events import ToolFinished, ToolRetried
from ..core.limits import Limits
from ..core.recovery import FAILURES
from ..core.session import CallState
from ..core.values import Priority, ToolStatus
from ..journal.blobs import MemoryBlobs, blobs_beside
from ..log import logger
from ..ports import Blobs, Journal, Tool, ToolContext, ToolOptions, ToolOutput
from ..tools.cache import ResultCache, key_of, scope_of
from ..tools.registry import Toolbox
from ..tools.spill import READER, Spilled, fits, read_tool, spilled
from .bell import new_bell
from .dead_letters import DeadLetters, dead_letter
from .lanes import Lane, LaneLimits, Lanes, Pressure, Ticket

CERTAINLY_FITS_CHARS = MIN_OUTPUT_BYTES // 4
"""So many characters fit whatever the limit is."""

_PASSING = frozenset({ToolStatus.FAILED, ToolStatus.TIMED_OUT})
_FOR_GOOD = frozenset({"unknown_tool", "bad_output", "result_not_encodable"})
"""Kinds of errors that no second attempt mends."""

Run = Callable[[ToolContext], Awaitable[ToolOutput]]


class ToolStats(NamedTuple):
    """How the calls of one tool have ended in this engine.

    `total` counts every run, each attempt and each answer from the cache included, and is `ok` plus `failed`;
    `cache_hits` those that did not run because an identical one had, or was running; `mean_ms` is over all of them.
    """

    total: int = 0
    ok: int = 0
    failed: int = 0
    cache_hits: int = 0
    mean_ms: float = 0.0


class ToolMetrics:
    """Counts how calls end. One entry for each tool of the engine that was called."""

    def __init__(self) -> None:
        self._counted: dict[str, list[float]] = {}

    def ended(self, name: str, status: ToolStatus, duration_s: float) -> None:
        """Count a call that ended after `duration_s` seconds."""
        counts = self._counted.get(name) or self._new(name)
        counts[0 if status is ToolStatus.COMPLETED else 1] += 1
        counts[2] += duration_s

    def hit(self, name: str) -> None:
        """Count a call that was answered without a run of its own."""
        (self._counted.get(name) or self._new(name))[3] += 1

    def _new(self, name: str) -> list[float]:
        counts = self._counted[name] = [0, 0, 0.0, 0]
        return counts

    def stats(self) -> Mapping[str, ToolStats]:
        """Return what was counted so far, by the name of the tool."""
        found: dict[str, ToolStats] = {}
        for name, (ok, failed, spent_s, hits) in self._counted.items():
            total = ok + failed
            mean_ms = spent_s / total * 1e3 if total else 0.0
            found[name] = ToolStats(int(total), int(ok), int(failed), int(hits), mean_ms)
        return found


class Place:
    """A place in a lane for the time of an `async with`."""

    __slots__ = ("_lane", "_lanes", "_priority", "_ticket")

    def __init__(self, lanes: Lanes | None, lane: Lane, priority: Priority) -> None:
        self._lanes = lanes
        self._lane = lane
        self._priority = priority
        self._ticket: Ticket | None = None

    async def __aenter__(self) -> None:
        if self._lanes is None:
            return
        bell = new_bell()
        ticket = self._lanes.take(self._lane, self._priority, bell.ring)
        if not ticket.granted:
            try:
                await bell.wait()
            except BaseException:
                ticket.give_back()
                raise
        self._ticket = ticket

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticket is not None:
            self._ticket.give_back()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What all calls share. `cache` is None where no tool asks for one, `lanes` where the engine has no cap of its own.

    Attributes:
        limits: say how much of a result the model gets at most.
    """

    limits: Limits
    blobs: Blobs = field(default_factory=MemoryBlobs)
    cache: ResultCache | None = None
    lanes: Lanes | None = None
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    metrics: ToolMetrics = field(default_factory=ToolMetrics)

    def place(self, lane: Lane, priority: Priority) -> Place:
        """Return a place in a lane, to be waited for and held by `async with`."""
        return Place(self.lanes, lane, priority)

    async def shortened(self, session: str, tool: Tool | None, text: str) -> Spilled:
        """Return what the model gets of a result, and the handle of the whole where that is too long."""
        most = self.limits.max_output_bytes
        if tool is not None:
            # A tool of the host's own making may say anything.
            most = max(MIN_OUTPUT_BYTES, self.limits.output_bytes(tool.spec.name, tool.options.max_output_bytes))
        if fits(text, most):
            return Spilled(text, None)
        return await spilled(text, self.blobs, session, most)

    async def through_cache(self, call: CallState, options: ToolOptions, run: Run, context: ToolContext) -> ToolOutput:
        """Run a call, or answer it with what an identical one gave. A call that may have changed something makes the
        cache forget what it knew.
        """
        cache = self.cache
        assert cache is not None
        if call.plan.effect != "read":
            return await _changing(cache, run, context)
        if options.cache_ttl_s is None:
            return await run(context)
        ran = False

        async def fresh() -> ToolOutput:
            nonlocal ran
            ran = True
            return await run(context)

        key = key_of(context, options.version)
        output = await cache.run(key, fresh, ttl_s=options.cache_ttl_s, now_s=anyio.current_time())
        if not ran:
            self.metrics.hit(context.name)
        return output

    def bury(self, session: str, call: CallState, end: ToolFinished, at_ns: int) -> None:
        """Keep a dead letter of a call that was worth trying again and has failed for good. The end is durable."""
        if call.plan.retries and end.status in FAILURES:
            ended = call._replace(status=end.status, content=end.content, error=end.error)
            self.dead_letters.add(dead_letter(session, ended, attempts=call.attempt, at_ns=at_ns))


async def _changing(cache: ResultCache, run: Run, context: ToolContext) -> ToolOutput:
    scope = scope_of(context)

    def occupy() -> Callable[[], None]:
        release = context.occupy()

        def ended() -> None:
            # The thread of a call that was given up may have changed something until now.
            release()
            cache.written(scope)

        return ended

    try:
        return await run(context._replace(occupy=occupy))
    finally:
        cache.written(scope)


def tried_again(call: CallState, end: ToolFinished) -> ToolFinished | ToolRetried:
    """Return the end of a call, or that it is to be run again: where it may be, and the failure may pass."""
    if call.attempt > call.plan.retries or end.status not in _PASSING or end.error in _FOR_GOOD:
        return end
    return ToolRetried.trusted(
        call_id=end.call_id, status=end.status, content=end.content, error=end.error, duration_s=end.duration_s
    )


def _warn(pressure: Pressure) -> None:
    """Say that calls wait longer and longer, and when that is over."""
    text = "fewer calls wait for a place" if pressure.over else "many calls wait for a place"
    logger.warning(text, waiting=pressure.waiting, bound=pressure.bound)


def furnish(
    tools: Iterable[Tool | Callable[..., object]], journal: Journal, limits: Limits, lanes: LaneLimits | None
) -> tuple[Toolbox, Pipeline]:
    """Return the tools of an engine and what their calls share.

    Raises:
        ToolDefinitionError: something is no tool, or a name is taken twice.
    """
    blobs = blobs_beside(journal)
    reader = partial(read_tool, blobs, limits.output_bytes(READER))
    toolbox = Toolbox(tools, limits, reader=reader)
    pipeline = Pipeline(
        limits,
        blobs,
        ResultCache() if toolbox.caches else None,
        None if lanes is None else Lanes(lanes, _warn),
    )
    return toolbox, pipeline
