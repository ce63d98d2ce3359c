"""What a journal may offer besides the port: a place for checkpoints.

Capabilities, each a Protocol of its own: whoever wants one asks with `isinstance` and does without where it is absent.
May import core and ports.
"""

from __future__ import annotations

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
