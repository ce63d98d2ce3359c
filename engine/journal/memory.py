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
from ._orders import check_fork, check_next, check_page, external_id_of, parent_of
from .codec import GENESIS
from .forking import Origin, check_unshared


class _History:
    """The records of one session, and who may add to them. What precedes them up to `base` are its parent's, or was
    pruned.
    """

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
    def seq(self) -> int:
        """Sequence of the last record."""
        return self.base + len(self.lines)

    def page(self, after: int, limit: int) -> list[StoredLine]:
        """Return up to `limit` lines that follow sequence `after`, those of the ancestors first."""
        holders: list[tuple[_History, int]] = [(self, self.seq)]
        while after < holders[-1][0].base and (parent := holders[-1][0].parent) is not None:
            holders.append((parent[1], holders[-1][0].base))
        place = max(after, holders[-1][0].base)
        lines: list[StoredLine] = []
        for history, upto in reversed(holders):
            upto = min(upto, place + limit - len(lines))
            own = history.lines[place - history.base : upto - history.base]
            lines += [StoredLine(line, seq) for seq, line in enumerate(own, place + 1)]
            place += len(own)
        return lines


class _MemoryWriter:
    def __init__(self, session: str, histories: Mapping[str, _History]) -> None:
        self._session = session
        self._histories = histories
        self._history = history = histories[session]
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
            if record.seq != seq + 1 or record.prev != digest or record.session != self._session:
                check_next(self._session, seq, digest, record)
            seq, digest = record.seq, record.hash
        if records and not history.lines:
            history.external_id = external_id_of(records[0])
            history.base = records[0].seq - 1
        history.lines += [record.line for record in records]
        history.digest = digest

    async def rewrite(self, first: int, lines: Mapping[int, str]) -> None:
        history = self._history
        if history.epoch != self._epoch or not history.held:
            raise StaleWriter(self._session, self._epoch)
        check_unshared(self._session, _forks(self._histories, self._session), first, lines)
        kept = {**dict(enumerate(history.lines, history.base + 1)), **lines}
        if first > history.base + 1:
            history.base, history.parent = first - 1, None
        history.lines = [kept[seq] for seq in range(history.base + 1, max(kept) + 1)]

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
        return _MemoryWriter(session, self._histories)

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Return a page of records; see `ports.Journal.read`. The offset of a line is its sequence number."""
        check_page(after, limit)
        history = self._histories.get(check_id(session))
        if history is None:
            return ()
        return history.page(after, limit)

    async def fork(self, record: TransitionRecord) -> None:
        """Begin a session after a record of another one; see `ports.Forking.fork`."""
        name, parent, base = check_id(record.session), parent_of(record) or "", record.seq - 1
        source = self._histories.get(parent)
        held = source is not None and source.base < base <= source.seq
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

    async def forks(self, session: str) -> Mapping[str, int]:
        """Return what the forks of a session share; see `ports.Forking.forks`."""
        return _forks(self._histories, check_id(session))

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


def _forks(histories: Mapping[str, _History], session: str) -> dict[str, int]:
    """Return the last record that each fork of a session shares with it."""
    return {
        name: history.base
        for name, history in histories.items()
        if history.parent is not None and history.parent[0] == session
    }
