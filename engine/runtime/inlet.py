"""The way in for answers and revocations: at once where a session rests, through its mailbox while it is driven.

Whoever hands one in is told when it is durable, or why it was refused. A question with a time limit is answered with no
when nobody has answered it by then. May import anyio, core and its neighbours. Must never drive a session itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import anyio

from ..core.effects import KnownEffect
from ..core.events import GrantRevoked, KnownEvent, UserAnswered
from ..core.grants import is_over
from ..core.values import Request
from ..errors import InvalidEvent
from ..log import logger
from .answering import overdue, seconds_left, with_plan
from .batch import Ack, Desk
from .clock import timestamp
from .ledger import Ledger
from .parts import Parts, TurnResult


class Door(Protocol):
    """The driver, as far as events from outside are concerned."""

    parts: Parts
    ledger: Ledger

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
        return await self._take(with_plan(parts, session, event))

    async def revoke(self, event: GrantRevoked) -> None:
        """Take a grant back; return when that is durable.

        Raises:
            InvalidEvent: there is no such grant.
            JournalUnavailable: it is not durable.
        """
        session = self._door.ledger.session
        if all(grant.id != event.grant_id for grant in session.grants):
            raise InvalidEvent(f"no grant {event.grant_id!r} in session {session.id!r}")
        if self._door.driving is None:
            await self._door.note(event)
        else:
            ack = Ack()
            self._mail.post(event, ack)
            await ack.wait()

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
        """Return the revocations that came while something else went on; refuse what is gone already."""
        if not self._mail:
            return []
        known = {grant.id for grant in self._door.ledger.session.grants}
        events: list[KnownEvent] = []
        for event, ack in self._mail.take_revocations():
            if event.grant_id in known:
                known.discard(event.grant_id)
                events.append(event)
                self._acks.append(ack)
            else:
                ack.settle(InvalidEvent(f"grant {event.grant_id!r} has already been revoked"))
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
