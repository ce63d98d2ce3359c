"""Histories read from a journal, page by page, every record checked. May import core, journal and ports."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ..core.record import TransitionRecord
from ..core.values import check_id
from ..errors import UnknownSession, UsageError
from ..journal.codec import Chain
from ..ports import Journal

_PAGE = 512


async def read_history(journal: Journal, session_id: str, after: int = 0) -> AsyncIterator[TransitionRecord]:
    """Iterate over a session's records, their hashes and order checked.

    Raises:
        UnknownSession: the journal holds no such session.
        JournalCorrupt: a record is damaged or does not follow from the one before.
    """
    check_id(session_id)
    if after < 0:
        raise UsageError(f"history(after={after}): sequence numbers count from 1, so `after` counts from 0")
    if not await journal.read(session_id, 0, 1):
        raise UnknownSession(session_id)
    chain: Chain | None = None
    seq = max(0, after - 1)
    while page := await journal.read(session_id, seq, _PAGE):
        for line in page:
            if chain is None:
                chain = Chain.at(line.text, session_id, line.offset) if seq else Chain(session_id)
            record = chain.decode(line.text, line.offset)
            seq = record.seq
            if seq > after:
                yield record
    if chain is not None:
        chain.finish()
