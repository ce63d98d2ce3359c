"""One pure advance of a session: (session, event) → (session, effects).

The same function drives the live engine, resuming and replay; that is why they cannot disagree. Whoever takes many
events keeps one cursor and freezes it at the end. May import the other core modules. Must never do I/O, read a clock or
draw a random number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import IllegalTransition, InvalidEvent, ReplayError
from .checks import CHECKS
from .cursor import Cursor
from .effects import KnownEffect
from .events import KnownEvent, UnknownEvent
from .record import TransitionRecord
from .session import Session
from .snapshot import begin
from .table import LEGAL, fire, legal


class Step(NamedTuple):
    """What a step gives: the next session and, in order, the effects it asks for."""

    session: Session
    effects: tuple[KnownEffect, ...]


def step(session: Session, event: KnownEvent, move: Callable[[Cursor], None] = fire) -> Step:
    """Advance a session by one event. The session given stays as it is, also when the event is refused.

    Args:
        session: the snapshot to start from.
        event: the fact that happened.
        move: how to consult the table; only tests give another one.

    Raises:
        IllegalTransition: the table does not allow the event in this state.
        InvalidEvent: the event refers to a call or request that is not open.
    """
    cursor = Cursor(session)
    effects = take(cursor, event, move)
    return Step(cursor.frozen(), effects)


def take(cursor: Cursor, event: KnownEvent, move: Callable[[Cursor], None] = fire) -> tuple[KnownEffect, ...]:
    """Advance a cursor by one event and return the effects it asks for. An event that is refused moves nothing.

    Raises:
        IllegalTransition, InvalidEvent: see `step`.
    """
    kind = event.kind
    if cursor.seq == 0 and kind != "session_opened":
        raise IllegalTransition(kind, "idle, before its first record", ("session_opened",))
    if (kind, cursor.state) not in LEGAL:
        raise IllegalTransition(kind, cursor.state, legal(cursor.state))
    cursor.event, cursor.source, cursor.effects = event, cursor.state, []
    if kind in CHECKS:
        CHECKS[kind](cursor)
    cursor.seq += 1
    move(cursor)
    return tuple(cursor.effects)


def advance(session: Session, record: TransitionRecord) -> Session:
    """Return the session after a recorded transition, stepping it and holding the result against the record.

    A record of a kind that this release does not know moves only the state and the sequence.

    Raises:
        ReplayError: the record does not reproduce: source, destination or effects differ, or the event is refused.
    """
    cursor = Cursor(session)
    reproduce(cursor, record)
    return cursor.frozen()


def reproduce(cursor: Cursor, record: TransitionRecord) -> None:
    """Advance a cursor by a recorded transition, as `advance` does.

    Raises:
        ReplayError: the record does not reproduce; the cursor is of no further use.
    """
    if cursor.seq == 0:
        # A fork's history begins with another session's records.
        cursor.id = record.session
    if record.source != cursor.state:
        raise ReplayError(f"{cursor.id}:{record.seq}: starts in {record.source}, the session is in {cursor.state}")
    if isinstance(record.event, UnknownEvent):
        if record.begins and cursor.seq == 0:
            begin(cursor, record, record.event)
        cursor.seq, cursor.state = record.seq, record.dest
        return
    try:
        effects = take(cursor, record.event)
    except (IllegalTransition, InvalidEvent) as error:
        raise ReplayError(f"{cursor.id}:{record.seq}: {error}") from error
    if cursor.state is not record.dest or effects != record.effects or cursor.seq != record.seq:
        raise ReplayError(
            f"{cursor.id}:{record.seq}: {record.trigger} was recorded as {record.source} → {record.dest} with "
            f"{_kinds(record.effects)}; now it gives {cursor.state} with {_kinds(effects)}"
        )


def _kinds(effects: tuple[KnownEffect, ...]) -> str:
    return "[" + ", ".join(effect.kind for effect in effects) + "]"


__all__ = ["Step", "advance", "legal", "reproduce", "step", "take"]
