"""The way in for answers and revocations: at once where a session rests, through its mailbox while it is driven.

Whoever hands one in is told when it is durable, or why it was refused. A question with a time limit is answered with no
when nobody has answered it by then. May import anyio, core and its neighbours. Must never drive a session itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import anyio

from ..core.cursor import Cursor
from ..core.effects import KnownEffect
from ..core.events import BudgetLent, GrantRevoked, KnownEvent, LateResult, UserAnswered
from ..core.grants import is_over
from ..core.session import CallState
from ..core.step import take
from ..core.values import Request
from ..errors import IllegalTransition, InvalidEvent
from ..log import logger
from ..tools.cache import scope_of
from .alarm import Alarm
from .answering import overdue, with_plan
from .broadcast import Broadcast
from .clock import timestamp
from .desk import Ack, Aside, Desk, Late
from .ledger import Ledger
from .parts import Parts, TurnResult
from .performers import tool_context


class Door(Protocol):
    """The driver, as far as events from outside are concerned."""

    parts: Parts
    ledger: Ledger
    broadcast: Broadcast

    @property
    def driving(self) -> anyio.Event | None:
        """What is set when the drive that runs has ended; None while the session rests."""
        ...

    @property
    def closed(self) -> bool:
        """Whether nothing enters any more."""
        ...

    async def enter(self, event: KnownEvent) -> TurnResult:
        """Let an event from outside in and return how the session rests after it."""
        ...

    async def note(self, find: Callable[[], Sequence[KnownEvent]]) -> None:
        """Commit events that move nothing, as they are found when no drive runs."""
        ...

    def result(self) -> TurnResult:
        """Return how the newest turn came to rest, or stands."""
        ...


class Inlet:
    """Takes answers and revocations into one session.

    Args:
        door: the session's driver.
        desk: its mailbox, and the tasks that mind times.
    """

    def __init__(self, door: Door, desk: Desk) -> None:
        self._door = door
        self._mail = desk.mail
        self._crew = desk.crew
        self._acks: list[Ack] = []
        self._late: list[Late] = []
        self._closed = False
        self._alarm = Alarm(door.parts.clock, desk.crew, self._due)

    @property
    def noting(self) -> bool:
        """Whether something that came late is on its way into the journal."""
        return bool(self._late)

    async def answer(self, event: UserAnswered) -> TurnResult:
        """Answer a pending request and wait until the session rests again.

        Raises:
            InvalidEvent: no such request is pending, its time is over, or the call cannot run as the answer changes it.
            JournalUnavailable: the answer is not durable.
        """
        session, parts = self._door.ledger.session, self._door.parts
        request = next((request for request in session.pending if request.id == event.request_id), None)
        if request is None:
            raise InvalidEvent(f"no request {event.request_id!r} is pending in session {session.id!r}")
        if is_over(request.expires_at, timestamp(parts.clock.time_ns())):
            await self._take(overdue(request))
            raise InvalidEvent(f"the time for request {request.id!r} was over at {request.expires_at}: it was refused")
        if request.kind == "external":
            return await self._take(await self._result(request, event))
        return await self._take(with_plan(parts, session, event))

    async def _result(self, request: Request, event: UserAnswered) -> UserAnswered:
        """Return what a host says of an external task as it can be recorded."""
        session, parts = self._door.ledger.session, self._door.parts
        turn = session.turn
        assert turn is not None
        call = next(call for call in turn.calls if call.call.id == request.call_id)
        tool, pipeline = parts.toolbox.get(call.call.name), parts.pipeline
        if pipeline.cache is not None and call.plan.effect != "read":
            pipeline.cache.written(scope_of(tool_context(session, call, self._door.broadcast.notice)))
        text, blob = await pipeline.shortened(session.id, tool, parts.clean(event.text or ""))
        return event.model_copy(update={"text": text, "blob": blob})

    def late(self, call: CallState) -> None:
        """Record that the thread of a call has ended which had been given up, as long as there is a way to."""
        if self._closed:
            logger.info("a thread has ended after its session was released", call=call.call.id, tool=call.call.name)
        else:
            self.aside(LateResult(call_id=call.call.id, key=call.key))

    def aside(self, event: Late) -> None:
        """Record something soon that nobody waits for."""
        if self._door.driving is not None:
            self._mail.post(event)
        else:
            self._late.append(event)
            self._crew.start(self._note_late)

    def keep(self, event: Late) -> None:
        """Keep a late event that nobody has committed."""
        self._late.append(event)

    def late_events(self) -> list[KnownEvent]:
        """Return what came late and waits to be committed, as far as it still means something."""
        events, self._late = self._late, []
        return self.admitted([(event, None) for event in events], self._acks) if events else []

    async def _note_late(self) -> None:
        # After a failed append they wait for what finds out what is durable.
        if self._late and not self._door.ledger.shaken:
            try:
                await self._door.note(self.late_events)
            except Exception:
                # The call has its end, a loan stays set aside until the turn ends: nothing that anybody relies on.
                logger.exception("late events could not be recorded", session=self._door.ledger.session.id)

    async def lend(self, event: BudgetLent) -> None:
        """Set a part of the open turn's budgets aside; return when that is durable.

        Raises:
            InvalidEvent, IllegalTransition: the turn has ended, or has not so much left.
            JournalUnavailable: it is not durable.
        """
        await self._hand_in(event)

    async def _hand_in(self, event: GrantRevoked | BudgetLent) -> None:
        if self._door.driving is None:
            await self._door.note(lambda: (event,))
        else:
            ack = Ack()
            self._mail.post(event, ack)
            await ack.wait()

    async def revoke(self, event: GrantRevoked) -> None:
        """Take a grant back; return when that is durable.

        Raises:
            InvalidEvent: there is no such grant.
            JournalUnavailable: it is not durable.
        """
        session = self._door.ledger.session
        if all(grant.id != event.grant_id for grant in session.grants):
            raise InvalidEvent(f"no grant {event.grant_id!r} in session {session.id!r}")
        await self._hand_in(event)

    def mind(self) -> None:
        """Mind the times of the questions that are pending now; to be called when they may have changed."""
        self._alarm.set(self._door.ledger.session.pending)

    def rest(self) -> None:
        """Take note that the session rests: mind the times of its questions, and record what came late."""
        self.mind()
        if self._late and not self._closed:
            self._crew.start(self._note_late)

    async def close(self) -> None:
        """Mind no times any more, and record what came late until now. Idempotent."""
        self._closed = True
        self._alarm.stop()
        if self._door.driving is None:
            await self._note_late()

    async def commit(self, events: Sequence[KnownEvent]) -> list[KnownEffect]:
        """Commit events, and tell those who wait for one of them."""
        try:
            effects = await self._door.ledger.commit(events)
        except Exception as error:
            self._settle(error)
            raise
        self._settle(None)
        return effects

    def revocations(self) -> list[KnownEvent]:
        """Return what came beside whatever else went on, such as revocations; refuse what does not fit any more."""
        if not self._mail and not self._late:
            return []
        return [*self.late_events(), *self.admitted(self._mail.take_asides(), self._acks)]

    def admitted(self, asides: Sequence[tuple[Aside, Ack | None]], acks: list[Ack]) -> list[KnownEvent]:
        """Return the asides that can be committed one after the other.

        Args:
            asides: what was posted.
            acks: gets those of whoever waits for one of them; the others are told why not.
        """
        cursor = Cursor(self._door.ledger.session)
        events: list[KnownEvent] = []
        for event, ack in asides:
            try:
                take(cursor, event)
            except (IllegalTransition, InvalidEvent) as error:
                # Of what nobody waits for nothing has to be known: a loan ends with the turn that gave it.
                if ack is not None:
                    ack.settle(error)
                continue
            events.append(event)
            if ack is not None:
                acks.append(ack)
        return events

    async def late_answers(self) -> Sequence[KnownEvent]:
        """Return the answers that came while the last records were being written; refuse what nobody asks any more."""
        events = self.revocations()
        pending = {request.id for request in self._door.ledger.session.pending}
        for event, ack in self._mail.take():
            if ack is None or not isinstance(event, UserAnswered):
                continue
            if event.request_id in pending:
                pending.discard(event.request_id)
                events.append(event)
                self._acks.append(ack)
            else:
                ack.settle(InvalidEvent(f"request {event.request_id!r} is no longer pending"))
        return events

    def _settle(self, error: Exception | None) -> None:
        for ack in self._acks:
            ack.settle(error)
        self._acks.clear()

    async def _due(self, event: UserAnswered) -> None:
        """Take what the engine says to a question whose time has come, if anybody still asks it."""
        asked = any(request.id == event.request_id for request in self._door.ledger.session.pending)
        if asked and (self._door.driving is not None or not self._door.closed):
            await self._take(event)

    async def _take(self, event: UserAnswered) -> TurnResult:
        driving = self._door.driving
        if driving is None:
            return await self._door.enter(event)
        ack = Ack()
        self._mail.post(event, ack)
        await ack.wait()
        await driving.wait()
        return self._door.result()
