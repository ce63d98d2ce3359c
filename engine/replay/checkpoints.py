"""Checkpoints: a folded session as one text, so that opening it need not begin at its first record.

Only ever an optimisation. A text is taken if its digest covers it, if the very same code wrote it, and if it stands for
the session that was asked for; whoever takes it then compares its `hash` with that of the record it ends at, which
stands for every record before. Whatever does not hold leads back to the whole history.

The first line is the SHA-256 of the rest; the second holds the session, in the form of `core.snapshot`; then follow the
newest turns, one a line, and the conversation, a message a line. May import core and journal. Must never do I/O but
read the code of the core.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from .. import core
from .._version import __version__
from ..core.session import Session
from ..core.snapshot import restore
from ..core.transcript import StoredMessages
from ..errors import ReplayError
from ..journal.canonical import canonical
from ..journal.codec import RECORD_VERSION
from ..journal.snapshots import message_lines, session_text, turn_text
from .turns import EndedTurn

_DIGEST_LENGTH = 64


class Checkpoint(NamedTuple):
    """A session at one of its records.

    Attributes:
        session: the snapshot.
        hash: the hash of its last record.
        turns: its newest ended turns, oldest first.
        opened_at: when the newest turn was opened, UTC; empty where none was.
    """

    session: Session
    hash: str
    turns: tuple[EndedTurn, ...] = ()
    opened_at: str = ""


def write_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the text of a checkpoint.

    Raises:
        EncodingError: the session holds something JSON cannot.
    """
    session, turns = checkpoint.session, checkpoint.turns
    messages = message_lines(session)
    head = {
        "code": fingerprint(),
        "hash": checkpoint.hash,
        "messages": len(messages),
        "opened_at": checkpoint.opened_at,
        "turns": [[turn.opened_at, turn.ended_at] for turn in turns],
    }
    first = f'{canonical(head)[:-1]},"session":{session_text(session)}}}'
    kept = [turn.turn if isinstance(turn.turn, str) else turn_text(turn.turn) for turn in turns]
    body = "\n".join([first, *kept, *messages])
    return f"{_digest(body)}\n{body}"


def read_checkpoint(text: str, session_id: str) -> Checkpoint:
    """Return the checkpoint that a text holds. Turns and messages stay text until somebody looks at them.

    Args:
        text: as it was found.
        session_id: the session that it must be of.

    Raises:
        ReplayError: it cannot be used; the text says why.
    """
    digest, body = text[:_DIGEST_LENGTH], text[_DIGEST_LENGTH + 1 :]
    if not body.isascii() or _digest(body) != digest or text[_DIGEST_LENGTH] != "\n":
        raise ReplayError("the checkpoint is damaged")
    first, *lines = body.split("\n")
    try:
        checkpoint = _build(json.loads(first), lines)
    except (ValueError, TypeError, KeyError) as error:
        raise ReplayError("the checkpoint is no work of this release") from error
    if checkpoint.session.id != session_id:
        raise ReplayError(f"the checkpoint is of session {checkpoint.session.id!r}")
    return checkpoint


def _build(head: dict[str, Any], lines: list[str]) -> Checkpoint:
    if head["code"] != fingerprint():
        raise ReplayError("the checkpoint was written by other code")
    times, kept = head["turns"], lines[: len(head["turns"])]
    if len(lines) != len(times) + head["messages"]:
        raise ValueError("another number of lines than it says")
    session = restore(head["session"], StoredMessages(lines[len(times) :]))
    turns = [EndedTurn(session.id, line, opened, ended) for line, (opened, ended) in zip(kept, times, strict=True)]
    return Checkpoint(session, head["hash"], tuple(turns), head["opened_at"])


@cache
def fingerprint() -> str:
    """Return what tells the code that folds histories from any other: a hash of the core's own source.

    Where the source cannot be read, as in a package that was frozen, the release and the record version stand for it.
    """
    digest = sha256(f"{__version__} {RECORD_VERSION}".encode())
    for path in sorted(Path(place) for place in core.__path__):
        for module in sorted(path.glob("*.py")):
            digest.update(module.name.encode() + b"\0" + module.read_bytes())
    return digest.hexdigest()


def _digest(body: str) -> str:
    return sha256(body.encode("ascii")).hexdigest()
