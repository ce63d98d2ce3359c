"""A journal in memory: for tests, notebooks, and sessions whose history nobody needs after the process.

Appends do not yield to the event loop, so a turn pays nothing for its journal. May import core, errors and ports. Must
never do I/O. It may be shared by several event loops of one process as long as each session has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.record import TransitionRecord
from ..core.values import check_id
from ..errors import SessionBusy, StaleWriter
from ..ports import SessionInfo, StoredLine, Tail, Writer
from ._orders import check_next, check_page, external_id_of
from .codec import GENESIS


class _History:
    """The records of one session, and who may add to them."""

    __slots__ = ("digest", "dropped", "epoch", "external_id", "held", "lines")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.dropped = 0
        self.digest = GENESIS
        self.epoch = 0
        self.held = False
        self.external_id: str | None = None

    @property
    def seq(self) -> int:
        """Sequence of the last record; `dropped` records precede the first that is here."""
        return self.dropped + len(self.lines)


class _MemoryWriter:
    def __init__(self, session: str, history: _History) -> None:
        self._session = session
        self._history = history
        self._epoch = history.epoch
        self._tail = Tail(history.seq, history.digest)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def tail(self) -> Tail:
        return self._tail

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        history = self._history
        if history.epoch != self._epoch or not history.held:
            raise StaleWriter(self._session, self._epoch)
        seq, digest = history.seq, history.digest
        for record in records:
            check_next(self._session, seq, digest, record)
            seq, digest = record.seq, record.hash
        if records and not history.lines:
            history.external_id = external_id_of(records[0])
            history.dropped = records[0].seq - 1
        history.lines += [record.line for record in records]
        history.digest = digest

    async def rewrite(self, first: int, lines: Mapping[int, str]) -> None:
        history = self._history
        if history.epoch != self._epoch or not history.held:
            raise StaleWriter(self._session, self._epoch)
        kept = {**dict(enumerate(history.lines, history.dropped + 1)), **lines}
        history.dropped = max(first - 1, history.dropped)
        history.lines = [kept[seq] for seq in range(history.dropped + 1, max(kept) + 1)]

    async def release(self) -> None:
        if self._history.epoch == self._epoch:
            self._history.held = False


class MemoryJournal:
    """Keep histories in this object. They live as long as it does, `aclose` included."""

    def __init__(self) -> None:
        self._histories: dict[str, _History] = {}

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Return the right to append; see `ports.Journal.claim`."""
        history = self._histories.setdefault(check_id(session), _History())
        if history.held and not takeover:
            raise SessionBusy(session, "this process, the same MemoryJournal")
        history.epoch += 1
        history.held = True
        return _MemoryWriter(session, history)

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Return a page of records; see `ports.Journal.read`. The offset of a line is its sequence number."""
        check_page(after, limit)
        history = self._histories.get(check_id(session))
        if history is None:
            return ()
        start = max(0, after - history.dropped)
        page = history.lines[start : start + limit]
        return [StoredLine(line, seq) for seq, line in enumerate(page, history.dropped + start + 1)]

    async def sessions(self) -> Sequence[SessionInfo]:
        """Return every session that has a record, sorted by id."""
        return [
            SessionInfo(name, history.seq, history.external_id)
            for name, history in sorted(self._histories.items())
            if history.lines
        ]

    async def aclose(self) -> None:
        """Release every session. The histories stay."""
        for history in self._histories.values():
            history.held = False
