"""What a journal may offer besides the port: a place for checkpoints, and rewriting what it holds.

Capabilities, each a Protocol of its own: whoever wants one asks with `isinstance` and does without where it is absent.
May import core and ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Checkpointing(Protocol):
    """Keeps one text a session, from which opening it can begin.

    Nothing depends on it. A text that is lost, old, damaged or another session's costs time, for whoever reads it
    checks it against the records; so it need not be durable, and storing it needs no claim.
    """

    async def put_checkpoint(self, session: str, text: str) -> None:
        """Keep an ASCII text in place of the one before.

        Raises:
            JournalUnavailable: it could not be stored.
        """
        ...

    async def get_checkpoint(self, session: str) -> str | None:
        """Return the text as it is stored, None where there is none.

        Raises:
            JournalError: the store cannot be read.
        """
        ...


@runtime_checkable
class Rewriting(Protocol):
    """A writer that can change what its session's history holds; see `replay.retention`, which declares it first."""

    async def rewrite(self, first: int, lines: Mapping[int, str]) -> None:
        """Drop the records before `first`, put these lines in the place of those of their sequence, forget the
        session's checkpoint. All or nothing, whenever the process ends; what was dropped is not left in the store's
        files.

        Raises:
            JournalUnavailable: nothing has changed, or the text says what has.
            StaleWriter: another writer has the session; nothing has changed.
        """
        ...
