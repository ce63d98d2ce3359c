"""Where opening a session begins, and what is left behind for the next time.

A journal that can keep a checkpoint is asked for one when a session is opened, and given one when a session with
enough new records is released, drained, or at rest: no turn waits for it. Whatever goes wrong with either is logged and
changes nothing but time. May import anyio, core, journal, replay and ports.
"""

from __future__ import annotations

from typing import NamedTuple

import anyio.to_thread

from ..core.limits import Limits
from ..errors import JournalError, ReplayError
from ..journal.codec import decode
from ..journal.keeping import Checkpointing
from ..log import logger
from ..ports import Journal, Tail
from ..replay.checkpoints import Checkpoint, read_checkpoint, write_checkpoint


class Start(NamedTuple):
    """Where to begin: a checkpoint, and the lines of the newest records up to it."""

    checkpoint: Checkpoint
    recent: list[str]


async def start_of(journal: Journal, session: str, tail: Tail, limits: Limits) -> Start | None:
    """Return where opening a session may begin; None where it is its first record.

    What is checked here: the checkpoint's own digest, code and session; and that the record it ends at is in the
    journal, undamaged, with the very hash, which covers every record before it. Those are not looked at.

    Args:
        journal: where the session is kept.
        session: its id.
        tail: its last record, as the claim found it.
        limits: how many records and turns stay in memory.
    """
    if not isinstance(journal, Checkpointing) or tail.seq == 0:
        return None
    try:
        text = await journal.get_checkpoint(session)
        if text is None:
            return None
        checkpoint = await anyio.to_thread.run_sync(read_checkpoint, text, session)
        seq = checkpoint.session.seq
        if seq > tail.seq:
            raise ReplayError(f"the checkpoint stands at record {seq}, the history ends at {tail.seq}")
        if len(checkpoint.turns) < min(limits.turns_ring, checkpoint.session.turns):
            raise ReplayError("the checkpoint holds fewer turns than are to stay in memory")
        count = min(seq, limits.history_ring)
        lines = await journal.read(session, seq - count, count)
        if not lines:
            raise ReplayError("the journal does not hold the record of the checkpoint")
        last = decode(lines[-1].text, session, lines[-1].offset)
        if (last.session, last.seq, last.hash) != (session, seq, checkpoint.hash):
            raise ReplayError("the checkpoint is of another history")
    except (JournalError, ReplayError) as error:
        # Whatever is wrong with the records themselves, the whole history says it better.
        logger.info("a session is opened without its checkpoint", session=session, reason=str(error))
        return None
    return Start(checkpoint, [line.text for line in lines])


async def keep_checkpoint(journal: Journal, checkpoint: Checkpoint) -> None:
    """Leave a checkpoint behind. The text is made in a thread: it is as long as the conversation."""
    if not isinstance(journal, Checkpointing):
        return
    session = checkpoint.session.id
    try:
        await journal.put_checkpoint(session, await anyio.to_thread.run_sync(write_checkpoint, checkpoint))
    except Exception as error:
        logger.warning("no checkpoint could be kept; opening will take longer", session=session, reason=str(error))
