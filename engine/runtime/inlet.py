"""The way in for answers and revocations: at once where a session rests, through its mailbox while it is driven.

Whoever hands one in is told when it is durable, or why it was refused. A question with a time limit is answered with no
when nobody has answered it by then. May import anyio, core and its neighbours. Must never drive a session itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import anyio

from ..core.cursor import Cursor
from ..core.effects import KnownEffect
from ..core.events import BudgetLent, BudgetSettled, GrantRevoked, KnownEvent, LateResult, UserAnswered
from ..core.grants import is_over
from ..core.session import CallState
from ..core.step import take
from ..core.values import Request
from ..errors import IllegalTransition, InvalidEvent
from ..log import logger
from ..tools.cache import scope_of
from .answering import overdue, seconds_left, with_plan
from .broadcast import Broadcast
from .clock import timestamp
from .desk import Ack, Aside, Desk
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

    async def note(self, event: KnownEvent) -> None:
        """Commit an event that moves nothing, while no drive runs."""
        ...

    def result(self) -> TurnResult:
        """Return how the newest turn came to rest, or stands."""
        ...


class Inlet:
    """Takes answers and revocations into one session.

    Args:
        door: the session's driver.
        desk: its mailbox, and the tasks that watch time limits.
    """

    def __init__(self, door: Door, desk: Desk) -> None:
        self._door = door
        self._mail = desk.mail
        self._crew = desk.crew
        self._acks: list[Ack] = []
        self._noting = 0

    @property
    def noting(self) -> bool:
        """Whether a late result is on its way into the journal."""
        return self._noting > 0

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
        text, blob = await pipeline.shortened(session.id, tool, event.text or "")
        return event.model_copy(update={"text": text, "blob": blob})

    def late(self, call: CallState) -> None:
        """Record that the thread of a call has ended which had been given up."""
        self.aside(LateResult(call_id=call.call.id, key=call.key))

    def aside(self, event: LateResult | BudgetSettled) -> None:
        """Record something soon that nobody waits for."""
        if self._door.driving is not None:
            self._mail.post(event)
        elif not self._door.closed:
            self._noting += 1
            self._crew.start(partial(self._note, event))

    async def _note(self, event: LateResult | BudgetSettled) -> None:
        try:
            await self._door.note(event)
        except Exception:
            # The call has its end, a loan stays set aside until the turn ends: nothing is lost that anybody relies on.
            logger.exception("what happened beside a turn could not be recorded", event_kind=event.kind)
        finally:
            self._noting -= 1

    async def lend(self, event: BudgetLent) -> None:
        """Set a part of the open turn's budgets aside; return when that is durable.

        Raises:
            InvalidEvent, IllegalTransition: the turn has ended, or has not so much left.
            JournalUnavailable: it is not durable.
        """
        await self._hand_in(event)

    async def _hand_in(self, event: GrantRevoked | BudgetLent) -> None:
        if self._door.driving is None:
            await self._door.note(event)
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

    def watch(self, requests: Iterable[Request]) -> None:
        """Refuse each of the requests when its time is over and nobody has answered it."""
        for request in requests:
            if request.expires_at is not None:
                self._crew.start(partial(self._expire, request))

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
        asides = self._mail.take_asides() if self._mail else []
        return self.admitted(asides, self._acks) if asides else []

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

    async def _expire(self, request: Request) -> None:
        await anyio.sleep(max(0.0, seconds_left(self._door.parts, request) or 0.0))
        try:
            if request in self._door.ledger.session.pending and not self._door.closed:
                await self._take(overdue(request))
        except Exception:
            # An answer was quicker, or the journal fails: then whoever uses the session next meets the same error.
            logger.exception("a request that is over could not be refused", request=request.id)

    async def _take(self, event: UserAnswered) -> TurnResult:
        driving = self._door.driving
        if driving is None:
            return await self._door.enter(event)
        ack = Ack()
        self._mail.post(event, ack)
        await ack.wait()
        await driving.wait()
        return self._door.result()
