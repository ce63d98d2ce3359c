"""A session as plain data and back: what a checkpoint holds.

`snapshot_of` says what has to be written, `restore` makes a session of what was read. The conversation stands apart, a
message a line, because most of it is never looked at again. May import the other core modules' types. Must never decide
whether what it is given is true: whoever reads a store checks that first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from ..errors import ReplayError
from .cursor import Cursor
from .events import SessionOpened, UnknownEvent
from .grants import Grant
from .record import TransitionRecord
from .session import NO_USAGE, NOT_OPENED, Session, Turn
from .transcript import StoredMessages, Transcript
from .values import State, Usage
from .view import ALL, NOT_MEASURED, Measured, Shown


class Snapshot(NamedTuple):
    """A session without its conversation; the fields are the session's."""

    id: str
    seq: int = 0
    state: State = State.IDLE
    opened: SessionOpened = NOT_OPENED
    turn: Turn | None = None
    last_turn: Turn | None = None
    turns: int = 0
    usage: Usage = NO_USAGE
    left: State | None = None
    grants: tuple[Grant, ...] = ()
    spilled: bool = False
    shown: Shown = ALL
    measured: Measured = NOT_MEASURED


def snapshot_of(session: Session) -> Snapshot:
    """Return everything of a session but its conversation."""
    return Snapshot(*(getattr(session, name) for name in Snapshot._fields))


def restore(data: Mapping[str, Any], messages: StoredMessages) -> Session:
    """Return the session that was written.

    Args:
        data: `snapshot_of` it, as JSON gives it back: fields by their names, those at their defaults absent.
        messages: its conversation.

    Raises:
        ValidationError: the data are not of a session of this release.
    """
    snapshot = _snapshots().validate_python(data)
    return Session(transcript=Transcript(stored=messages), **snapshot._asdict())


def begin(cursor: Cursor, record: TransitionRecord, event: UnknownEvent) -> None:
    """Put a fresh cursor where a pruned history begins.

    Raises:
        ReplayError: the record holds no session, or another one; the cursor is of no further use.
    """
    data: dict[str, Any] = event.data
    try:
        messages = StoredMessages([json.dumps(message) for message in data["messages"]])
        session = restore(data["session"], messages)
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{cursor.id}:{record.seq}: the pruned history begins with no session") from error
    if (session.id, session.seq, session.state) != (record.session, record.seq, record.dest):
        raise ReplayError(f"{cursor.id}:{record.seq}: the pruned history begins with {session.id!r} at {session.seq}")
    cursor.put(session)


def restore_turn(data: Mapping[str, Any]) -> Turn:
    """Return a turn that was written. Raises as `restore`."""
    return _turn().validate_python(data)


@cache
def _snapshots() -> TypeAdapter[Snapshot]:
    return TypeAdapter(Snapshot)


@cache
def _turn() -> TypeAdapter[Turn]:
    return TypeAdapter(Turn)
