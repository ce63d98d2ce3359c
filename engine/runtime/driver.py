"""The loop that owns one session: receive, step, append, perform.

A turn runs in the task that asked for it, so its cancellation, its deadline and its context variables are the caller's
own, and a turn that needs no second task starts none. At most one drive of a session runs at a time; further prompts
wait for it in the order they came. A drive ends when the session rests: idle, shut down, or waiting for a person with
nothing running.

Whatever ends a drive early (a cancelled caller, `stop`, a deadline) leaves terminal records, written under a shield.
May import anyio, core, ports and its neighbours. Must never change a session but through the ledger.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio

from ..core.effects import CallModel, KnownEffect, PrepareContext, Recover
from ..core.events import (
    Faulted,
    KnownEvent,
    PromptReceived,
    Resumed,
    ShutdownRequested,
    ToolFinished,
    ToolRetried,
    TurnCancelled,
)
from ..core.session import Session
from ..core.values import Fault, Prompt, State
from ..errors import EngineClosed, InboxFull, InvalidEvent, JournalError, SessionBusy
from ..log import logger
from ..ports import Writer
from .asking import Asking, call_model, remember
from .batch import BatchRunner
from .broadcast import Broadcast
from .compacting import carry_out, prepare
from .crew import Crew
from .desk import Desk, Late, Mailbox, Places
from .endings import endings
from .hiding import with_emit
from .inlet import Inlet
from .lanes import Lane
from .ledger import Ledger
from .opening import Entry, last_system, prompt_events
from .parts import TurnResult, turn_result
from .performers import probe_started

_READY = (State.IDLE, State.WAITING_FOR_USER)


class Driver:
    """Drives one session.

    Args:
        asking: what the engine is made of, and the gate before its model.
        ledger: the session and its journal, loaded.
        broadcast: where records and notices go.
        crew: runs tools that run side by side, and the alarms of questions.
        forget: called with the session's id when a recovery plan has shut it down.
    """

    def __init__(
        self, asking: Asking, ledger: Ledger, broadcast: Broadcast, crew: Crew, forget: Callable[[str], None]
    ) -> None:
        self.asking = asking
        self.parts = parts = asking.parts
        self.ledger = ledger
        self.broadcast = broadcast
        self._forget = forget
        self._mail = Mailbox()
        places = Places(parts.limits.max_concurrent_tools, self._mail.ring, parts.pipeline.lanes)
        self.began_ns: dict[str, int] = {}
        self._desk = Desk(self._mail, places, crew, set(), self.began_ns)
        self._lock = anyio.Lock(fast_acquire=True)
        self._queued = 0
        self._driving: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._stop: TurnCancelled | ShutdownRequested | None = None
        self._drain: ShutdownRequested | None = None
        self._fault: Fault | None = None
        self.inlet = Inlet(self, self._desk)
        # Who approves in this engine has not seen the questions that an earlier one left open.
        self._owes_questions = parts.approver is not None and any(q.not_before is None for q in ledger.session.pending)
        self._system = last_system(ledger.session)
        self._closed = False
        self.on_rest: Callable[[str], None] | None = None
        self._turn_ns = parts.clock.monotonic_ns()

    @property
    def session(self) -> Session:
        """The snapshot at the last durable record."""
        return self.ledger.session

    @property
    def driving(self) -> anyio.Event | None:
        """What is set when the drive that runs has ended; None while the session rests."""
        return self._driving

    @property
    def closed(self) -> bool:
        """Whether nothing enters any more."""
        return self._closed

    @property
    def running_tools(self) -> int:
        """How many tools run, those included whose calls have been given up."""
        return self._desk.places.taken

    @property
    def unfinished(self) -> bool:
        """Whether there is something to go on with before anything new can enter."""
        return self.ledger.shaken or self.session.state not in _READY or self._owes_questions

    @property
    def at_rest(self) -> bool:
        """Whether all of the session is in its journal: idle, nothing under way, asked for or left behind."""
        settled = self.session.state is State.IDLE and not self.unfinished and not self._closed
        idle = not (self._driving or self._queued or self._lock.locked() or self.ledger.keeping)
        return settled and idle and not (self._mail or self.inlet.noting or self.running_tools)

    # --- what hosts ask for -------------------------------------------------------------------------------------------

    async def ask(self, prompt: Prompt, on_open: Callable[[], None] | None = None) -> TurnResult:
        """Run one turn, after those that were asked for before it.

        Args:
            prompt: what opens the turn.
            on_open: called when the turn's own drive begins.

        Raises:
            InboxFull: too many prompts wait already.
            IllegalTransition: the session waits for an answer.
            JournalUnavailable: the turn stopped where the journal failed; the next call goes on from there.
            EngineClosed: the engine ended before the turn began.
        """
        if self._queued >= self.parts.limits.inbox_size:
            raise InboxFull(self.session.id, self._queued)
        self._queued += 1
        try:
            await self._lock.acquire()
        finally:
            self._queued -= 1
        try:
            return await self._drive(Entry(lambda: self._opening(prompt), on_open))
        finally:
            self._lock.release()

    async def enter(self, event: KnownEvent | Entry) -> TurnResult:
        """Let an event from outside in and return how the session rests after it."""
        async with self._lock:
            return await self._drive(event if isinstance(event, Entry) else Entry(lambda: (event,)))

    async def note(self, find: Callable[[], Sequence[KnownEvent]]) -> None:
        """Commit events that move nothing, as they are found when no drive runs."""
        async with self._lock:
            if self.ledger.shaken:
                await self._mend()
            if events := find():
                await self.ledger.commit(events)

    async def resume(self) -> TurnResult:
        """Go on with a turn that a crash, a shutdown or a failing journal interrupted."""
        async with self._lock:
            return await self._drive(None)

    async def stop(self, event: TurnCancelled | ShutdownRequested) -> None:
        """End the open turn with `event`, wherever it is; return when that is durable. Without one do nothing."""
        if self._driving is not None:
            driving = self._driving
            self.interrupt(event)
            await driving.wait()
        elif self.session.turn is not None and self.session.state is not State.SHUTDOWN:
            async with self._lock:
                await self._end_turn(event)
                self.inlet.rest()

    async def drain(self, event: ShutdownRequested) -> None:
        """End the open turn with `event` where nothing that has started is unfinished; return when that is durable."""
        if self._driving is None or self.session.state in (State.WAITING_FOR_USER, State.ERROR):
            # Nothing is under way but waiting: for a person, or out a fault.
            await self.stop(event)
        else:
            self._drain = event
            await self.rest()

    def interrupt(self, event: TurnCancelled | ShutdownRequested) -> None:
        """Let the drive that runs, if any, end its turn with `event`. Waits for nothing."""
        if self._driving is not None:
            self._stop = event
            if self._scope is not None:
                self._scope.cancel()

    def fail(self, fault: Fault) -> None:
        """End the turn that runs, if any, with a fault. Waits for nothing."""
        if self._scope is not None:
            self._fault = fault
            self._scope.cancel()

    async def rest(self) -> None:
        """Wait until no drive runs."""
        while self._driving is not None:
            await self._driving.wait()

    async def close(self) -> None:
        """Refuse further work and give the session's journal up. The turn must have been stopped before."""
        self._closed = True
        try:
            await self.inlet.close()
        finally:
            await self.ledger.release()

    def retire(self) -> Writer:
        """Take nothing more in and let go of what is in memory; return the right to write. It must be at rest."""
        self._closed = True
        return self.ledger.retire()

    def watch(self) -> None:
        """Mind the times of what an earlier engine left open, and those that it was told for the gate."""
        remember(self.asking, self.session)
        self.inlet.mind()

    def refuse_prompts(self) -> None:
        """Let the prompts that still wait for their turn fail with `EngineClosed`."""
        self._closed = True

    def result(self) -> TurnResult:
        """Return how the newest turn came to rest, or stands."""
        return turn_result(self.session, (self.parts.clock.monotonic_ns() - self._turn_ns) / 1e9)

    # --- one drive ----------------------------------------------------------------------------------------------------

    async def _drive(self, entry: Entry | None) -> TurnResult:
        """Bring the session to rest, let `entry` in, and run until the session rests again."""
        if self._closed:
            raise EngineClosed(f"session {self.session.id!r} is closed; open it again with engine.open")
        self._driving = anyio.Event()
        try:
            with self.parts.monitor.turn():
                if self.unfinished:
                    await self._to_rest(self._unfinished)
                if entry is not None:
                    self._let_in(entry)
                    await self._to_rest(entry.events)
            if self.session.state is State.SHUTDOWN and self.session.turn is None:
                await self._shut_down()
            return self.result()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._end_turn(self._stop or TurnCancelled(reason="the caller was cancelled"))
            raise
        finally:
            self._scope = self._stop = self._fault = None
            if not self.ledger.shaken:
                self._finished_in_mail()
            self._driving.set()
            self._driving = None
            self.inlet.rest()
            self.ledger.keep_if_due(self._desk.crew)
            if self.on_rest is not None:
                self.on_rest(self.session.id)

    async def _shut_down(self) -> None:
        """Give the session up, whose recovery plan says so; whoever wants it opens it again."""
        with anyio.CancelScope(shield=True):
            try:
                await self.close()
            finally:
                self._forget(self.session.id)

    def _let_in(self, entry: Entry) -> None:
        """Make sure that the session may still take an event from outside, and tell who waits for that."""
        if isinstance(self._stop, ShutdownRequested):
            raise EngineClosed(f"session {self.session.id!r} was closed before its next turn began")
        # A cancellation was meant for the turn that has just ended.
        self._stop = None
        if entry.on_open is not None:
            entry.on_open()

    async def _to_rest(self, first: Callable[[], Awaitable[Sequence[KnownEvent]]]) -> None:
        """Run from the events of `first` until the session rests, each stretch under the turn's deadline."""
        find: Callable[[], Awaitable[Sequence[KnownEvent]]] | None = first
        crew = self._desk.crew
        while find is not None:
            with crew.new_scope(deadline=crew.now_s() + self.parts.limits.max_execution_time_s) as scope:
                self._scope = scope
                if self._stop is not None:
                    scope.cancel()
                await self._run(await find())
            self._scope = None
            if scope.cancelled_caught and self._stop is not None:
                await self._end_turn(self._stop)
                find = None
            elif scope.cancelled_caught:
                find = self._overdue
            else:
                find = self.inlet.late_answers if self._mail and self._drain is None else None

    async def _run(self, events: Sequence[KnownEvent]) -> None:
        if not events:
            return
        effects = await self.inlet.commit(events)
        if isinstance(events[0], PromptReceived) and len(events[0].messages) > 1:
            self._system = last_system(self.session)
        while effects:
            if self._drain is not None:
                await self.inlet.commit([self._drain])
                return
            self.inlet.mind()
            state = self.session.state
            asks = state is State.WAITING_FOR_USER and self.parts.approver is not None
            if state is State.EXECUTING_TOOLS or asks:
                runner = BatchRunner(self.parts, self.ledger, self._desk, self.broadcast, self.inlet)
                effects = await runner.run(effects)
                continue
            event = await self._perform(effects[-1])
            effects = [] if event is None else await self.inlet.commit([*self.inlet.revocations(), event])

    async def _perform(self, effect: KnownEffect) -> KnownEvent | None:
        """Perform an effect that stands alone; what is not to be performed here leaves the session at rest."""
        if isinstance(effect, CallModel):
            ask = partial(call_model, self.asking, self.session)
            turn = self.session.turn
            if self.parts.pipeline.lanes is None or turn is None:
                return await with_emit(self.parts.redactor, self.broadcast.notice, ask)
            async with self.parts.pipeline.place(Lane.GENERATE, turn.priority):
                return await with_emit(self.parts.redactor, self.broadcast.notice, ask)
        if isinstance(effect, PrepareContext):
            return await prepare(self.asking, self.ledger, self.broadcast.notice)
        if isinstance(effect, Recover):
            return await carry_out(self.asking, self.ledger, self.broadcast.notice, effect.plan)
        return None

    # --- what enters --------------------------------------------------------------------------------------------------

    async def _unfinished(self) -> Sequence[KnownEvent]:
        """Return how an interrupted turn goes on, after finding out what a failed append left."""
        if self.ledger.shaken:
            await self._mend()
        if not self.unfinished:
            return ()
        self._owes_questions = False
        return (Resumed(probes=await probe_started(self.parts, self.session, self.broadcast.notice)),)

    async def _mend(self) -> None:
        """Find out what a failed append left, and write first what is known."""
        if outcomes := [*await self.ledger.mend(), *self._finished_in_mail()]:
            await self.ledger.commit(outcomes)

    def _opening(self, prompt: Prompt) -> Sequence[KnownEvent]:
        self._turn_ns = self.parts.clock.monotonic_ns()
        return prompt_events(self.parts, self.session, prompt, self._system)

    async def _overdue(self) -> Sequence[KnownEvent]:
        """Return the end of a turn that its deadline or a fault from outside cut off."""
        fault, self._fault = self._fault, None
        if self.session.turn is None:
            return ()
        if fault is None:
            message = f"the turn ran longer than {self.parts.limits.max_execution_time_s:g} s"
            fault = Fault(kind="execution_limit", message=message)
        return (*self._endings(fault.message, self._finished_in_mail()), Faulted(fault=fault))

    # --- endings ------------------------------------------------------------------------------------------------------

    async def _end_turn(self, event: TurnCancelled | ShutdownRequested) -> None:
        """Make the end of the open turn durable: an end for each call that was running, then `event`.

        A shutdown leaves unfinished calls open: whoever opens the session again goes on with them.
        """
        try:
            with anyio.CancelScope(shield=True):
                if self.ledger.shaken:
                    await self._mend()
                finished = self._finished_in_mail()
                if self.session.turn is None or self.session.state is State.SHUTDOWN:
                    return
                if isinstance(event, TurnCancelled):
                    finished = self._endings(event.reason or "cancelled", finished)
                await self.ledger.commit([*finished, *self.inlet.late_events(), event])
        except (JournalError, SessionBusy):
            # The turn stays open where the journal ends; the next use of the session goes on from there.
            logger.exception("the end of a turn could not be journaled", session=self.session.id)

    def _endings(self, reason: str, finished: Sequence[KnownEvent]) -> list[KnownEvent]:
        return endings(self.session.open_calls, finished, reason, self._desk.left_behind)

    def _finished_in_mail(self) -> list[KnownEvent]:
        """Take the ends that tools have posted and nobody has committed; refuse what else was."""
        running = {call.call.id for call in self.session.open_calls if call.runs}
        ends: list[KnownEvent] = []
        for event, ack in self._mail.take():
            if isinstance(event, ToolFinished | ToolRetried) and event.call_id in running:
                ends.append(event)
            elif isinstance(event, Late):
                self.inlet.keep(event)
            elif ack is not None:
                ack.settle(InvalidEvent("the turn ended before the answer could be taken"))
        return ends
