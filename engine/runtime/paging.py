"""Idle sessions leave memory and come back from the journal when they are used.

Paging a session out is no transition: nothing is recorded, and the right to write stays with this engine, so nobody
else can have changed the history meanwhile. What stays is a `Card`, some hundred bytes. A session is paged out only
where all of it is in the journal: idle, with nothing under way, asked for or left behind. May import anyio and the
driver. Must never page out a session that a caller is in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import anyio

from ..core.grants import Grant
from ..core.values import Usage
from ..errors import EngineClosed, SessionPagedOut
from ..ports import Journal, Writer
from .driver import Driver
from .loading import Nursery, reload_driver


class House(NamedTuple):
    """What the sessions of one engine share: the journal, how to start a task, how to forget a session that is closed,
    the drivers of those in memory, and how many items of a stream may wait.
    """

    journal: Journal
    start: Callable[[Callable[[], object]], None]
    forget: Callable[[str], None]
    drivers: Mapping[str, Driver]
    stream_buffer: int


class Card(NamedTuple):
    """What stays of a session that was paged out: idle, with nothing pending.

    `tokens` are the fields of its usage: the value itself takes three times as much. `writer` is the right to write,
    None when the session was closed.
    """

    id: str
    seq: int
    tokens: tuple[int, int, int]
    grants: tuple[Grant, ...]
    external_id: str | None
    parent: str | None
    cut_bytes: int
    writer: Writer | None

    @property
    def usage(self) -> Usage:
        """Tokens of the whole session."""
        given, written, cached = self.tokens
        return Usage(input_tokens=given, output_tokens=written, cached_tokens=cached)


class Seat:
    """The place of one open session in its engine: its driver, or its card while it is paged out.

    Whoever waits for something of the session enters it: it stays in memory until he has left.
    """

    __slots__ = ("_card", "_driver", "_guests", "_pager")

    def __init__(self, driver: Driver, pager: Pager) -> None:
        self._driver: Driver | None = driver
        self._card: Card | None = None
        self._guests = 0
        self._pager = pager

    @property
    def card(self) -> Card | None:
        """What stays of the session; None while it is in memory."""
        return self._card

    @property
    def driver(self) -> Driver:
        """The session's driver.

        Raises:
            SessionPagedOut: the session is not in memory.
        """
        if self._driver is None:
            assert self._card is not None
            raise SessionPagedOut(self._card.id)
        return self._driver

    async def enter(self) -> Driver:
        """Return the session's driver, rebuilt from the journal where the session was paged out. `leave` follows.

        Raises:
            EngineClosed: session or engine was closed meanwhile.
            JournalError: the history cannot be read or does not hold; the session stays paged out.
        """
        self._guests += 1
        try:
            return self._driver or await self._pager.back(self)
        except BaseException:
            self._guests -= 1
            raise

    def leave(self) -> None:
        """Let the session leave memory again."""
        self._guests -= 1

    async def release(self) -> None:
        """Give the right to write up, where the session is paged out. It does not come back any more."""
        card = self._card
        if card is not None and card.writer is not None:
            self._card = card._replace(writer=None)
            await self._pager.release(card.id, card.writer)

    def page_out(self) -> int:
        """Drop the session from memory if all of it is in the journal; return the bytes of its records' text."""
        driver = self._driver
        # What a session gives back of a loan is found in its turns.
        if driver is None or self._guests or not driver.at_rest or driver.session.opened.loan is not None:
            return 0
        session, ledger = driver.session, driver.ledger
        size_bytes = sum(map(len, ledger.recent))
        opened, usage = session.opened, session.usage
        self._card = Card(
            session.id, session.seq, (usage.input_tokens, usage.output_tokens, usage.cached_tokens), session.grants,
            opened.external_id, opened.parent, ledger.cut_bytes, driver.retire(),
        )  # fmt: skip
        self._driver = None
        return size_bytes

    def come_back(self, driver: Driver) -> None:
        """Take the session's new driver."""
        self._driver, self._card = driver, None


class Pager:
    """Pages the sessions of one engine out and in.

    Args:
        drivers: those of the sessions that are in memory, by their ids.
        opening: held while a session comes into memory.
        most: how many sessions stay in memory; those that were used last. None for all.
    """

    def __init__(self, drivers: dict[str, Driver], opening: anyio.Lock, most: int | None = None) -> None:
        self._drivers = drivers
        self._opening = opening
        self._most = most
        self._seats: dict[str, Seat] = {}
        self._rested: OrderedDict[str, None] = OrderedDict()
        self._nursery: Nursery | None = None

    def open(self, nursery: Nursery) -> None:
        """Let sessions come back, made from `nursery`."""
        self._nursery = nursery

    def close(self) -> None:
        """Let no session come back any more."""
        self._nursery = None

    def seat(self, driver: Driver) -> Seat:
        """Return the place of a session that is new in memory."""
        seat = Seat(driver, self)
        self._attend(seat, driver)
        return seat

    def forget(self, session_id: str) -> None:
        """Drop a session that was closed."""
        self._seats.pop(session_id, None)
        self._rested.pop(session_id, None)

    def page_out(self) -> int:
        """Drop every idle session from memory; return the bytes of their records' texts. The objects take more."""
        return sum(self._page_out(name) for name in list(self._seats))

    async def release(self, session_id: str, writer: Writer) -> None:
        """Give up a session that is paged out."""
        learner = None if self._nursery is None else self._nursery.asking.parts.learner
        try:
            await writer.release()
        finally:
            if learner is not None:
                await learner.leave(session_id)

    async def back(self, seat: Seat) -> Driver:
        """Return the driver of a seat, rebuilt where that is needed; see `Seat.enter`."""
        async with self._opening:
            card = seat.card
            if card is None:
                return seat.driver
            if self._nursery is None or card.writer is None:
                raise EngineClosed(f"session {card.id!r} is closed; open it again with engine.open")
            driver = await reload_driver(self._nursery, card.id, card.writer)
            self._drivers[card.id] = driver
            seat.come_back(driver)
            self._attend(seat, driver)
            return driver

    def _attend(self, seat: Seat, driver: Driver) -> None:
        name = driver.session.id
        self._seats[name] = seat
        if self._most is not None:
            driver.on_rest = self._rest
            self._rest(name)

    def _rest(self, session_id: str) -> None:
        """Take note that a session was used, and page those out that were not for longest."""
        if session_id not in self._seats:
            # Its recovery has shut it down.
            return
        self._rested[session_id] = None
        self._rested.move_to_end(session_id)
        assert self._most is not None
        while len(self._drivers) > self._most:
            oldest = next(iter(self._rested))
            if oldest == session_id:
                return
            # One that cannot leave now takes its place in the row again when it comes to rest.
            del self._rested[oldest]
            self._page_out(oldest)

    def _page_out(self, session_id: str) -> int:
        seat = self._seats[session_id]
        size_bytes = seat.page_out()
        if seat.card is not None:
            del self._seats[session_id]
            self._rested.pop(session_id, None)
            del self._drivers[session_id]
        return size_bytes
