"""The loop that owns one session: receive, step, append, perform.

A turn runs in the task that asked for it, so its cancellation, its deadline and its context variables are the caller's own,
and a turn that needs no second task starts none. At most one drive of a session runs at a time; further prompts wait for it in
the order they came. A drive ends when the session rests: idle, shut down, or waiting for a person with nothing running.

Whatever ends a drive early (a cancelled caller, `stop`, a deadline) leaves terminal records, written under a shield. May
import anyio, core, ports and its neighbours. Must never change a session but through the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from ..core.effects import CallModel, KnownEffect, PrepareContext, Recover
from ..core.events import (
    Faulted,
    KnownEvent,
    ProbeResult,
    PromptReceived,
    RecoveryFailed,
    Resumed,
    ShutdownRequested,
    ToolFinished,
    TurnCancelled,
    UserAnswered,
)
from ..core.session import CallState, Session
from ..core.values import Fault, Message, Outcome, Prompt, State, ToolStatus
from ..errors import EngineClosed, InboxFull, InvalidEvent, JournalError
from ..log import logger
from ..ports import Probing
from ..replay.turns import call_results
from .batch import Ack, BatchRunner, Mailbox, Places
from .broadcast import Broadcast
from .ledger import Ledger
from .parts import Parts, TurnResult
from .performers import call_model, prepare_context, recover, tool_context

_RESTING = (State.IDLE, State.WAITING_FOR_USER, State.SHUTDOWN)


class Driver:
    """Drives one session.

    Args:
        parts: what the engine is made of.
        ledger: the session and its journal, loaded.
        broadcast: where records and notices go.
    """

    def __init__(self, parts: Parts, ledger: Ledger, broadcast: Broadcast) -> None:
        self.parts = parts
        self.ledger = ledger
        self.broadcast = broadcast
        self._mail = Mailbox()
        self._places = Places(parts.limits.max_concurrent_tools, self._mail.ring)
        self._lock = anyio.Lock(fast_acquire=True)
        self._queued = 0
        self._driving: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._stop: TurnCancelled | ShutdownRequested | None = None
        self._closed = False
        self._system = _last_system(ledger.session)
        self._turn_ns = parts.clock.monotonic_ns()

    @property
    def session(self) -> Session:
        """The snapshot at the last durable record."""
        return self.ledger.session

    @property
    def busy(self) -> bool:
        """Whether a drive is running or prompts wait for one."""
        return self._driving is not None or self._queued > 0

    # --- what hosts ask for ---------------------------------------------------------------------------------------------

    async def ask(self, prompt: Prompt) -> TurnResult:
        """Run one turn, after those that were asked for before it.

        Raises:
            InboxFull: too many prompts wait already.
            IllegalTransition: the session waits for an answer.
            JournalUnavailable: the turn stopped where the journal failed; the next call goes on from there.
            EngineClosed: the engine ended before the turn began.
        """
        if self._queued > self.parts.limits.inbox_size:
            raise InboxFull(self.session.id, self._queued - 1)
        self._queued += 1
        try:
            await self._lock.acquire()
        finally:
            self._queued -= 1
        try:
            await self._make_ready()
            opening = self._opening(prompt)
            try:
                return await self._drive([opening])
            finally:
                if len(opening.messages) > 1:
                    self._system = _last_system(self.session)
        finally:
            self._lock.release()

    async def answer(self, event: UserAnswered) -> TurnResult:
        """Answer a pending request and wait until the session rests again.

        Raises:
            InvalidEvent: no such request is pending.
            JournalUnavailable: the answer is not durable.
        """
        if all(request.id != event.request_id for request in self.session.pending):
            raise InvalidEvent(f"no request {event.request_id!r} is pending in session {self.session.id!r}")
        if self._driving is not None:
            driving, ack = self._driving, Ack()
            self._mail.post(event, ack)
            await ack.wait()
            await driving.wait()
            return self.result()
        async with self._lock:
            await self._make_ready()
            return await self._drive([event])

    async def resume(self) -> TurnResult:
        """Go on with a turn that a crash, a shutdown or a failing journal interrupted."""
        async with self._lock:
            await self._make_ready()
            return self.result()

    async def stop(self, event: TurnCancelled | ShutdownRequested) -> None:
        """End the open turn with `event`, wherever it is; return when that is durable. Without an open turn do nothing."""
        if self._driving is not None:
            driving = self._driving
            self._stop = event
            if self._scope is not None:
                self._scope.cancel()
            await driving.wait()
        elif self.session.turn is not None and self.session.state is not State.SHUTDOWN:
            async with self._lock:
                await self._end_turn(event)

    async def rest(self) -> None:
        """Wait until no drive runs."""
        while self._driving is not None:
            await self._driving.wait()

    async def close(self) -> None:
        """Refuse further work and give the session's journal up. The turn must have been stopped before."""
        self._closed = True
        await self.ledger.release()

    def refuse_prompts(self) -> None:
        """Let the prompts that still wait for their turn fail with `EngineClosed`."""
        self._closed = True

    def result(self) -> TurnResult:
        """Return how the newest turn came to rest, or stands."""
        session = self.session
        turn = session.turn or session.last_turn
        if turn is None:
            return TurnResult(None, Outcome.COMPLETED)
        outcome = turn.outcome
        if outcome is None:
            outcome = Outcome.WAITING if session.state is State.WAITING_FOR_USER else Outcome.INTERRUPTED
        return TurnResult(
            text=turn.text,
            outcome=outcome,
            tool_calls=call_results(turn),
            usage=turn.usage,
            duration_s=(self.parts.clock.monotonic_ns() - self._turn_ns) / 1e9,
            reason=turn.reason,
            pending=session.pending,
            turn=turn.number,
        )

    # --- one drive ------------------------------------------------------------------------------------------------------

    async def _make_ready(self) -> None:
        """Bring the session to where the next event can enter: mended, and with no interrupted turn left behind."""
        if self._closed:
            raise EngineClosed(f"session {self.session.id!r} is closed; open it again with engine.open")
        if self.ledger.shaken:
            outcomes = [*await self.ledger.mend(), *self._finished_in_mail()]
            if outcomes:
                await self.ledger.commit(outcomes)
        session = self.session
        if session.state is State.SHUTDOWN or session.state not in _RESTING:
            await self._drive([Resumed(probes=await self._probe())])

    def _opening(self, prompt: Prompt) -> PromptReceived:
        system = self.parts.settings.system
        messages = list(prompt.messages)
        if prompt.text is not None:
            messages.append(Message(role="user", text=prompt.text))
        if system is not None and system != self._system:
            messages.insert(0, Message(role="system", text=system))
        self._turn_ns = self.parts.clock.monotonic_ns()
        calls, plans = self.parts.toolbox.admit(prompt.calls, self.parts.policy)
        return PromptReceived(
            messages=tuple(messages),
            direct_calls=tuple(calls),
            plans=plans,
            priority=prompt.priority,
            metadata=prompt.metadata,
        )

    async def _drive(self, events: Sequence[KnownEvent]) -> TurnResult:
        """Run from `events` until the session rests."""
        self._driving = anyio.Event()
        try:
            while events:
                with anyio.CancelScope() as scope:
                    scope.deadline = anyio.current_time() + self.parts.limits.max_execution_time_s
                    self._scope = scope
                    await self._run(events)
                self._scope = None
                # The scope ends early by `stop` or by its deadline; both are told to the session now.
                events = await self._interrupted() if scope.cancelled_caught else ()
            return self.result()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._end_turn(self._stop or TurnCancelled(reason="the caller was cancelled"))
            raise
        finally:
            self._refuse_mail()
            self._scope = None
            self._stop = None
            self._driving.set()
            self._driving = None

    async def _run(self, events: Sequence[KnownEvent]) -> None:
        if self._stop is not None and self._scope is not None:
            self._scope.cancel()
        effects = await self.ledger.commit(events)
        while effects:
            state = self.session.state
            asks = state is State.WAITING_FOR_USER and self.parts.approver is not None
            if state is State.EXECUTING_TOOLS or asks:
                runner = BatchRunner(self.parts, self.ledger, self._mail, self._places, self.broadcast)
                effects = await runner.run(effects)
                continue
            event = await self._perform(effects[-1])
            effects = [] if event is None else await self.ledger.commit([event])

    async def _perform(self, effect: KnownEffect) -> KnownEvent | None:
        """Perform an effect that stands alone; what is not to be performed here leaves the session at rest."""
        if isinstance(effect, CallModel):
            return await call_model(self.parts, self.session, self.broadcast.notice)
        if isinstance(effect, PrepareContext):
            return await prepare_context(self.parts, self.session)
        if isinstance(effect, Recover):
            return await recover(self.parts, effect.plan)
        return None

    # --- endings --------------------------------------------------------------------------------------------------------

    async def _interrupted(self) -> Sequence[KnownEvent]:
        """Close what a stop or the deadline cut off; return what is to be run next, if anything."""
        if self._stop is not None:
            await self._end_turn(self._stop)
            return ()
        limit_s = self.parts.limits.max_execution_time_s
        if self.session.state is State.ERROR:
            return (RecoveryFailed(),)
        message = f"the turn ran longer than {limit_s:g} s"
        return (*self._endings(message), Faulted(fault=Fault(kind="execution_limit", message=message)))

    async def _end_turn(self, event: TurnCancelled | ShutdownRequested) -> None:
        """Make the end of the open turn durable: an end for each call that was running, then `event`.

        A shutdown leaves unfinished calls open: whoever opens the session again goes on with them.
        """
        if self.session.turn is None and not self.ledger.shaken:
            return
        try:
            finished: Sequence[KnownEvent] = self._finished_in_mail()
            if self.ledger.shaken:
                finished = [*await self.ledger.mend(), *finished]
                if self.session.turn is None:
                    return
            if isinstance(event, TurnCancelled):
                finished = [*finished, *self._endings(event.reason or "cancelled", finished)]
            with anyio.CancelScope(shield=True):
                await self.ledger.commit([*finished, event])
        except JournalError:
            # The turn stays open where the journal ends; the next use of the session goes on from there.
            logger.exception("the end of a turn could not be journaled", session=self.session.id)

    def _endings(self, reason: str, finished: Sequence[KnownEvent] | None = None) -> list[KnownEvent]:
        """Return an end for every call that runs and has none yet, the known ends first."""
        known = self._finished_in_mail() if finished is None else finished
        have_end = {event.call_id for event in known if isinstance(event, ToolFinished)}
        endings: list[KnownEvent] = list(known) if finished is None else []
        for call in self._open_calls():
            if call.runs and call.call.id not in have_end:
                doubt = "; it had started and may have taken effect" if call.started else ""
                endings.append(
                    ToolFinished(
                        call_id=call.call.id,
                        status=ToolStatus.CANCELLED,
                        content=f"cancelled: {reason}{doubt}",
                        error="cancelled",
                    )
                )
        return endings

    def _finished_in_mail(self) -> list[KnownEvent]:
        """Take the ends that tools have posted and nobody has committed."""
        running = {call.call.id for call in self._open_calls() if call.runs}
        ends: list[KnownEvent] = []
        for event, ack in self._mail.take():
            if isinstance(event, ToolFinished) and event.call_id in running:
                ends.append(event)
            elif ack is not None:
                ack.settle(InvalidEvent("the turn ended before the answer could be taken"))
        return ends

    def _refuse_mail(self) -> None:
        if not self.ledger.shaken:
            self._finished_in_mail()

    def _open_calls(self) -> tuple[CallState, ...]:
        turn = self.session.turn
        return turn.batch.calls if turn is not None and turn.batch is not None else ()

    async def _probe(self) -> tuple[ProbeResult, ...]:
        """Ask the tools of interrupted writes whether they took place."""
        results: list[ProbeResult] = []
        for call in self._open_calls():
            tool = self.parts.toolbox.get(call.call.name)
            if not call.started or not isinstance(tool, Probing) or not tool.can_probe:
                continue
            context = tool_context(self.session, call, self.broadcast.notice)
            try:
                with anyio.fail_after(context.timeout_s):
                    output = await tool.probe(tool.bind(call.call.arguments), context)
            except Exception:
                # A probe that fails knows nothing: the outcome stays unknown.
                logger.exception("probe failed", session=self.session.id, call=call.call.id)
                continue
            happened = output is not None
            results.append(
                ProbeResult(call_id=call.call.id, happened=happened, content=output.content if output else "")
            )
        return tuple(results)


def _last_system(session: Session) -> str | None:
    return next((message.text for message in reversed(session.transcript) if message.role == "system"), None)


