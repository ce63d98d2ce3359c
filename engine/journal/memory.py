"""A journal in memory: for tests, notebooks, and sessions whose history nobody needs after the process.

Appends do not yield to the event loop, so a turn pays nothing for its journal. May import core, errors and ports. Must
never do I/O. It may be shared by several event loops of one process as long as each session has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core.record import TransitionRecord
from ..core.values import check_id
from ..errors import SessionBusy, StaleWriter
from ..ports import SessionInfo, StoredLine, Tail, Writer
from ._orders import check_fork, check_next, check_page, external_id_of, parent_of
from .codec import GENESIS
from .forking import Origin


class _History:
    """The records of one session, and who may add to them. A fork's own begin after record `base` of its parent."""

    __slots__ = ("base", "digest", "epoch", "external_id", "held", "lines", "parent")

    def __init__(self) -> None:
        self.parent: tuple[str, _History] | None = None
        self.base = 0
        self.lines: list[str] = []
        self.digest = GENESIS
        self.epoch = 0
        self.held = False
        self.external_id: str | None = None

    @property
    def last(self) -> int:
        """Sequence number of the newest record."""
        return self.base + len(self.lines)

    def page(self, after: int, limit: int) -> list[str]:
        """Return up to `limit` lines that follow sequence `after`, those of the ancestors first."""
        holders: list[tuple[_History, int]] = [(self, self.last)]
        while after < holders[-1][0].base and (parent := holders[-1][0].parent) is not None:
            holders.append((parent[1], holders[-1][0].base))
        lines: list[str] = []
        for history, upto in reversed(holders):
            start = after + len(lines) - history.base
            lines += history.lines[start : min(upto - history.base, start + limit - len(lines))]
        return lines


class _MemoryWriter:
    def __init__(self, session: str, history: _History) -> None:
        self._session = session
        self._history = history
        self._epoch = history.epoch
        self._tail = Tail(history.last, history.digest)

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
        seq, digest = history.last, history.digest
        for record in records:
            check_next(self._session, seq, digest, record)
            seq, digest = record.seq, record.hash
        if records and not history.lines:
            history.external_id = external_id_of(records[0])
        history.lines += [record.line for record in records]
        history.digest = digest

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
        return [StoredLine(line, after + n) for n, line in enumerate(history.page(after, limit), 1)]

    async def fork(self, record: TransitionRecord) -> None:
        """Begin a session after a record of another one; see `ports.Forking.fork`."""
        name, parent, base = check_id(record.session), parent_of(record) or "", record.seq - 1
        source = self._histories.get(parent)
        held = source is not None and source.base < base <= source.last
        known = self._histories.get(name)
        before = source.lines[base - source.base - 1] if source is not None and held else None
        check_fork(record, before, taken=known is not None and bool(known.lines))
        assert source is not None
        history = self._histories.setdefault(name, _History())
        history.parent, history.base = (parent, source), base
        history.lines, history.digest = [record.line], record.hash

    async def origin(self, session: str) -> Origin | None:
        """Return where a session was forked from; see `ports.Forking.origin`."""
        history = self._histories.get(check_id(session))
        return None if history is None or history.parent is None else Origin(history.parent[0], history.base)

    async def sessions(self) -> Sequence[SessionInfo]:
        """Return every session that has a record, sorted by id."""
        return [
            SessionInfo(name, history.last, history.external_id)
            for name, history in sorted(self._histories.items())
            if history.lines
        ]

    async def aclose(self) -> None:
        """Release every session. The histories stay."""
        for history in self._histories.values():
            history.held = False
