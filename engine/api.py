"""What hosts call: `Engine`, which holds sessions.

An engine is opened with `async with` and holds sessions; a session is one conversation with its journal. May import
everything below it. Must never hold the state of a session itself: that is the driver's.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict, Unpack
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup

from .core.limits import Limits
from .core.loans import Loan, Share
from .core.record import TransitionRecord
from .core.redaction import Redactor
from .core.values import check_id
from .errors import EngineClosed, EngineError
from .journal import MemoryJournal
from .log import hide_in_log, logger
from .ports import Approver, Clock, ContextProvider, Journal, Middleware, Model, Observer, Policy, Tool
from .replay.reading import read_history
from .runtime.accepting import check_extras, check_given
from .runtime.asking import asking_of
from .runtime.clock import SystemClock
from .runtime.closing import Closing, DrainReport
from .runtime.crew import Crew
from .runtime.dead_letters import DeadLetters
from .runtime.driver import Driver
from .runtime.lending import borrow, room_of
from .runtime.loading import Nursery, load_driver, warmer_of
from .runtime.memory import Freer
from .runtime.monitor import Monitor, Watching
from .runtime.opening import Room, Who
from .runtime.paging import House, Pager
from .runtime.parts import EngineSettings, Learns, Parts, learner_of, policy_of
from .runtime.pipeline import ToolStats, furnish
from .runtime.spending import check_names
from .runtime.stats import EngineStats, stats_of
from .session import Session

if TYPE_CHECKING:
    from .runtime.ruling import EngineRules


class Extras(TypedDict, total=False):
    """What an engine takes beside model, tools, journal and limits; see the ports of the same names, and `Learner`.

    With an `approver` and no `policy` the effect decides: reads run, everything else is asked about.
    """

    settings: EngineSettings
    middleware: Sequence[Middleware]
    providers: Sequence[ContextProvider]
    observers: Sequence[Observer]
    approver: Approver
    policy: Policy
    clock: Clock
    redactor: Redactor
    predictor: Learns


class Engine:
    """Runs sessions. Use it with `async with`; leaving it shuts every session down in order.

    Args:
        model: the language model.
        tools: tools, or annotated functions, which become tools with `effect="write"`.
        journal: where histories are kept; in memory if not given.
        limits: what sessions may use.
        extras: see `Extras`.

    Raises:
        ToolDefinitionError: something is no tool, or a name is taken twice.
        LimitNotEnforceable: a tool cannot be bounded as the limits demand.
        UsageError: `limits` has limits of a tool that is not there, or something is not what it is given as.
        TypeError: an argument has a name that no argument has.
    """

    def __init__(
        self,
        *,
        model: Model,
        tools: Iterable[Tool | Callable[..., object]] = (),
        journal: Journal | None = None,
        limits: Limits | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        check_given(model, journal, limits)
        check_extras(extras, Extras)
        clock, limits = extras.get("clock") or SystemClock(), limits or Limits()
        journal = MemoryJournal() if journal is None else journal
        redactor, settings = extras.get("redactor"), extras.get("settings") or EngineSettings()
        toolbox, pipeline = furnish(tools, journal, limits, settings.lanes)
        self._parts = Parts(
            model=model,
            toolbox=toolbox,
            journal=journal,
            pipeline=pipeline,
            limits=limits,
            settings=settings if redactor is None else redactor.clean(settings),
            clock=clock,
            monitor=Monitor(Watching(limits, clock, settings.loop_limit_s, settings.stuck_after_s, pipeline.lanes)),
            middleware=tuple(extras.get("middleware") or ()),
            providers=tuple(extras.get("providers") or ()),
            observers=tuple(extras.get("observers") or ()),
            approver=extras.get("approver"),
            policy=policy_of(extras.get("policy"), extras.get("approver")),
            redactor=redactor,
            learner=learner_of(extras.get("predictor")),
        )
        check_names(self._parts)
        if pipeline.cache is not None:
            self._parts.monitor.freers.append(Freer("results of tools", pipeline.cache.clear))
        self._sessions: dict[str, Session] = {}
        self._drivers: dict[str, Driver] = {}
        self._opening = anyio.Lock()
        self._pager = Pager(self._drivers, self._opening, settings.sessions_in_memory)
        self._parts.monitor.freers.append(Freer("idle sessions", self._pager.page_out))
        self._house = House(journal, self._start, self._forget, self._drivers, limits.stream_buffer)
        self._closing = self._begin()
        self._group: TaskGroup | None = None
        self._at_exit = ExitStack()

    async def __aenter__(self) -> Self:
        if self._group is not None:
            raise EngineClosed("this engine is already open; make another one for another `async with`")
        self._group = await anyio.create_task_group().__aenter__()
        crew = Crew(self._group)
        warmer = warmer_of(self._parts, crew, self._drivers)
        self._nursery = Nursery(asking_of(self._parts, crew), crew, self._room, self._forget, warmer)
        self._pager.open(self._nursery)
        self._closing = self._begin()
        if self._parts.redactor is not None:
            self._at_exit.callback(hide_in_log(self._parts.redactor))
        self._at_exit.callback(self._parts.monitor.close)
        self._parts.monitor.start(self._group, self._drivers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        group = self._running_group()
        try:
            await self.shutdown(0.0 if kind else self._parts.settings.exit_grace_s)
        finally:
            self._group = None
            self._sessions.clear()
            self._at_exit.close()
            group.cancel_scope.cancel()
            # The group is not told of the error: it would wrap it, and hosts catch JournalUnavailable, not a group.
            await group.__aexit__(None, None, None)

    @property
    def parts(self) -> Parts:
        """What this engine is made of, for whatever makes another one like it."""
        return self._parts

    @property
    def limits(self) -> Limits:
        """The limits of this engine."""
        return self._parts.limits

    @property
    def rules(self) -> "EngineRules":
        """What this engine decides by, for `replay.diverge`; it need not be open."""
        from .runtime.ruling import EngineRules

        return EngineRules(self._parts)

    @property
    def journal(self) -> Journal:
        """Where the histories are kept."""
        return self._parts.journal

    @property
    def dead_letters(self) -> DeadLetters:
        """The newest calls that failed for good after their retries."""
        return self._parts.pipeline.dead_letters

    @property
    def tool_metrics(self) -> Mapping[str, ToolStats]:
        """How the calls of each tool have ended so far."""
        return self._parts.pipeline.metrics.stats()

    async def open(
        self,
        session_id: str | None = None,
        *,
        takeover: bool = False,
        share: Share | None = None,
        **who: Unpack[Who],
    ) -> Session:
        """Return a session: a new one, or one rebuilt from its journal.

        A turn that was interrupted goes on in the background: finished tools are not run again, calls that never
        started run, started ones by their effect. `session.result()` waits for it.

        Args:
            session_id: `[A-Za-z0-9_-]{1,128}`; a new unique one if not given.
            takeover: take the session from another living writer.
            share: what the session gets of the budgets of its parent's open turn, which must be open in this engine;
                when it is closed at rest it gives back what it has not used. None for limits of its own.
            who: recorded with the session, see `Who`; what is not given stays as it was recorded.

        Raises:
            InvalidId: the id does not match.
            UsageError: what is said about whose session it is cannot be recorded, its parent has too many open, or
                cannot lend it so much.
            SessionBusy: another engine or process writes to the session.
            EngineClosed: the engine is not open.
            JournalError: the history cannot be read or does not hold.
        """
        self._running_group()
        name = uuid4().hex if session_id is None else check_id(session_id)
        if share is None or name in self._sessions:
            return await self._open(name, who, None, takeover=takeover)
        parent = self._drivers.get(who.get("parent") or "")
        return await borrow(parent, name, share, lambda loan: self._open(name, who, loan, takeover=takeover))

    async def _open(self, name: str, who: Who, loan: Loan | None, *, takeover: bool) -> Session:
        async with self._opening:
            if self._closing.begun:
                raise EngineClosed("the engine is shutting down: open the session in another engine")
            known = self._sessions.get(name)
            if known is None or takeover:
                if known is not None:
                    # It may have lost the session to another writer: only a new claim takes it back.
                    await known.close()
                driver = await load_driver(self._nursery, name, who, loan, takeover=takeover)
                self._drivers[name] = driver
                session = self._sessions[name] = Session(self._pager.seat(driver), self._house)
                driver.watch()
                if driver.unfinished:
                    self._running_group().start_soon(self._go_on, driver)
                elif self._nursery.warmer is not None:
                    self._nursery.warmer.opened(name)
                return session
        await known.load()
        return known

    async def find(self, external_id: str) -> list[str]:
        """Return the ids of the sessions that were opened with this external id, sorted. Looks through all sessions."""
        return [info.id for info in await self._parts.journal.sessions() if info.external_id == external_id]

    async def history(self, session_id: str, after: int = 0) -> AsyncIterator[TransitionRecord]:
        """Iterate over a session's records from sequence `after` + 1, without opening it.

        Raises:
            UnknownSession: the journal holds no such session.
            JournalCorrupt: a record is damaged.
        """
        async for record in read_history(self._parts.journal, session_id, after):
            yield record

    async def drain(self, deadline_s: float = 30.0) -> DrainReport:
        """Take no more prompts, and let every turn reach a point where nothing that has started is unfinished.

        Such points lie between a reply and its tools, and between rounds. Turns are recorded as shut down there, or
        after `deadline_s` seconds wherever they are, and go on when their session is opened again. Idempotent.
        """
        self._pager.close()
        return await self._closing.drain(deadline_s)

    def stats(self) -> EngineStats:
        """Return what the engine is doing, what the process uses, and what was noticed. Takes some 100 µs."""
        paged_out = len(self._sessions) - len(self._drivers)
        return stats_of(self._drivers.values(), self._parts, self._nursery if self._group else None, paged_out)

    async def shutdown(self, grace_s: float = 0.0) -> None:
        """Let running turns end for up to `grace_s` seconds, interrupt the others, release every session. Idempotent.

        Interrupted turns are recorded as such and go on when their session is opened again. This engine opens none any
        more. A tool that swallows its cancellation is given up after `limits.cancel_grace_s`; leaving `async with`
        still waits for it, for no task outlives its group.

        Raises:
            JournalUnavailable: something could not be released; everything else was.
        """
        self._pager.close()
        await self._closing.shutdown(grace_s)

    def _running_group(self) -> TaskGroup:
        if self._group is None:
            raise EngineClosed("the engine is not open: use it inside `async with Engine(...) as engine:`")
        return self._group

    async def _go_on(self, driver: Driver) -> None:
        try:
            await driver.resume()
        except EngineError:
            # Nobody waits here; whoever uses the session next meets the same error.
            logger.exception("an interrupted turn could not go on", session=driver.session.id)

    def _begin(self) -> Closing:
        return Closing(self._parts, self._drivers, self._opening, self._forget)

    def _room(self, parent: str) -> Room:
        children = [name for name, session in self._sessions.items() if session.parent == parent]
        return room_of(self._drivers.get(parent), [self._drivers.get(name) for name in children], self._parts.limits)

    def _start(self, work: Callable[[], object]) -> None:
        self._running_group().start_soon(work)  # type: ignore[arg-type]

    def _forget(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)
        self._drivers.pop(session_id, None)
        self._pager.forget(session_id)
        self._parts.monitor.forget(session_id)
        if self._nursery.warmer is not None:
            self._nursery.warmer.forget(session_id)


__all__ = ["Engine", "Extras", "Session", "Who", "read_history"]
