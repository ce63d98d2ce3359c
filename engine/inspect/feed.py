"""A history that grows, for pages that watch it: nobody is asked whether there is something new.

A `Feed` is told records: by an engine, as one of its observers, or by whoever reads a journal. Each time it encodes
them as one chunk and wakes whoever waits. May import anyio, core and its neighbours. Must never read a journal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import anyio

from ..core.notices import Notice
from ..core.record import TransitionRecord
from ..core.values import JsonObject
from .assembling import page
from .encoding import Encoder, head


class Chunk(NamedTuple):
    """Records that came together, encoded; `seq` is the sequence of the last of them."""

    seq: int
    records: JsonObject


class Feed:
    """A session that is watched. An observer: `Engine(..., observers=[feed])` keeps it up to date.

    Args:
        session: the id of the session.
        source: what to call the place it comes from.

    Attributes:
        session: the id of the session.
    """

    def __init__(self, session: str, source: str = "") -> None:
        self.session = session
        self._source = source
        self._encoder = Encoder(session)
        self._chunks: list[Chunk] = []
        self._news: anyio.Event | None = None
        self._closed = False

    @property
    def seq(self) -> int:
        """The sequence of the last record; 0 before the first."""
        return self._encoder.seq

    def add(self, records: Iterable[TransitionRecord]) -> None:
        """Take further records of the session, in order; those that are known already are passed over."""
        new = [record for record in records if record.seq > self.seq]
        if new:
            chunk = self._encoder.encode(new)
            self._chunks.append(Chunk(self.seq, chunk))
            self._wake()

    def on_record(self, record: TransitionRecord) -> None:
        """Take a record of this session; those of others are not for this feed."""
        if record.session == self.session:
            self.add([record])

    def on_notice(self, session: str, notice: Notice) -> None:
        """Pass over what is volatile: pages show records."""

    def page(self) -> str:
        """Return the page as of this moment; it asks for what follows at `events`, beside its own address."""
        return page(head(self.session, self._source), [chunk.records for chunk in self._chunks], live=True)

    async def follow(self, after: int) -> AsyncIterator[Chunk]:
        """Iterate over chunks, and wait for the next, until the feed is closed.

        Args:
            after: the last sequence that is known; 0 for everything.
        """
        place = 0
        while True:
            while place < len(self._chunks):
                chunk = self._chunks[place]
                place += 1
                if chunk.seq > after:
                    yield chunk
            if self._closed:
                return
            if self._news is None:
                self._news = anyio.Event()
            await self._news.wait()

    def close(self) -> None:
        """Let everybody who follows come to an end."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None
