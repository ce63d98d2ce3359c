"""Copy: histories from one journal into another, byte by byte the same, from wherever an earlier copy stopped.

May import anyio, core, ports and the codec. Must never change the source, nor a history in the target that is another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from ..errors import ReplayError, UsageError
from ..journal.codec import GENESIS, Chain, decode
from ..journal.forking import Forking, Origin
from ..ports import Journal, SessionInfo, Tail, Writer

_PAGE = 512


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy has done: sessions looked at, records added, and records that were there already."""

    sessions: int = 0
    records: int = 0
    present: int = 0


async def copy_journal(source: Journal, target: Journal, progress: Callable[[int], None] | None = None) -> CopyReport:
    """Add to `target` every record of `source` that it lacks. Canonical lines are taken as they are, each one verified.

    A session that the target holds in part is continued; one that is already longer there is left as it is. A fork
    follows its parent and shares its records in the target too.

    Args:
        source: where to read.
        target: where to write; not the same store.
        progress: told how many more records have been added, a page at a time.

    Raises:
        ReplayError: a session of the target is another history of the same id. Nothing of that session was written;
            those before it, sorted by id, are complete.
        JournalCorrupt, JournalTooNew: a record of the source does not hold; the pages before it were copied.
        SessionBusy: somebody writes to the session in the target.
        UsageError: the source holds a fork, and the target cannot share histories.
        JournalUnavailable: a journal cannot be used; call again to go on.
    """
    sessions = records = present = 0
    for info, origin in await _parents_first(source):
        begun = 0 if origin is None else await _plant(source, target, info.id, origin)
        records += begun
        writer = await target.claim(info.id)
        try:
            chain = await _common(source, target, info, writer.tail)
            present += chain.seq - begun - (0 if origin is None else origin.seq)
            if chain.seq == writer.tail.seq:
                records += await _append(source, chain, writer, progress)
        finally:
            with anyio.CancelScope(shield=True):
                await writer.release()
        sessions += 1
    return CopyReport(sessions, records, present)


async def _parents_first(source: Journal) -> list[tuple[SessionInfo, Origin | None]]:
    """Return every session and where it was forked from, sorted by id, but each after its parent."""
    found = {info.id: info for info in await source.sessions()}
    if not isinstance(source, Forking):
        return [(info, None) for info in found.values()]
    origins = {name: await source.origin(name) for name in found}
    ordered: dict[str, Origin | None] = {}
    for name in found:
        line: list[str] = []
        while name in found and name not in ordered:
            line.append(name)
            origin = origins[name]
            if origin is None:
                break
            name = origin.session
        ordered |= {heir: origins[heir] for heir in reversed(line)}
    return [(found[name], origin) for name, origin in ordered.items()]


async def _plant(source: Journal, target: Journal, session: str, origin: Origin) -> int:
    """Begin a fork in the target where it is not there yet; return how many records were written for that."""
    if await target.read(session, 0, 1):
        return 0
    if not isinstance(target, Forking):
        raise UsageError(
            f"session {session!r} shares records of {origin.session!r}, and {type(target).__name__} cannot share any: "
            "copy into a memory, JSONL or SQLite journal"
        )
    [line] = await source.read(session, origin.seq, 1)
    await target.fork(decode(line.text, session, line.offset))
    return 1


async def _common(source: Journal, target: Journal, info: SessionInfo, tail: Tail) -> Chain:
    """Return the chain at the last record that both journals hold.

    Raises:
        ReplayError: they hold different records of that sequence.
    """
    seq = min(info.records, tail.seq)
    theirs = tail.hash if seq == tail.seq else await _hash(target, info.id, seq)
    if await _hash(source, info.id, seq) != theirs:
        raise ReplayError(
            f"session {info.id!r} is another history in the target: record {seq} differs; nothing of it was copied. "
            "Copy into another journal, or give one of the two up"
        )
    # The hashes are chained: where these are equal, so is everything before them.
    return Chain(info.id, seq, theirs)


async def _hash(journal: Journal, session: str, seq: int) -> str:
    if seq == 0:
        return GENESIS
    [line] = await journal.read(session, seq - 1, 1)
    return decode(line.text, session, line.offset).hash


async def _append(source: Journal, chain: Chain, writer: Writer, progress: Callable[[int], None] | None) -> int:
    added = 0
    while page := await source.read(chain.session, chain.seq, _PAGE):
        await writer.append([chain.decode(line.text, line.offset) for line in page])
        added += len(page)
        if progress is not None:
            progress(len(page))
    return added
