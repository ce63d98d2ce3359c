"""One pure advance of a session: (session, event) → (session, effects).

The same function drives the live engine, resuming and replay; that is why they cannot disagree. May import the other
core modules. Must never do I/O, read a clock or draw a random number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import IllegalTransition, InvalidEvent, ReplayError
from .cursor import Cursor
from .effects import KnownEffect
from .events import KnownEvent, UnknownEvent
from .guards import check
from .record import TransitionRecord
from .session import Session
from .table import fire, legal, refuse_illegal
from .values import State

_STATES = {state.value: state for state in State}


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
    if session.seq == 0 and event.kind != "session_opened":
        raise IllegalTransition(event.kind, "idle, before its first record", ("session_opened",))
    cursor = Cursor(session, event)
    refuse_illegal(cursor)
    check(cursor)
    move(cursor)
    ended = cursor.turn_ended
    advanced = Session(
        session.id,
        cursor.seq,
        _STATES[cursor.state],
        cursor.opened,
        cursor.transcript,
        cursor.turn,
        session.last_turn if ended is None else ended,
        session.turns if ended is None else session.turns + 1,
        cursor.usage,
        cursor.left,
    )
    return Step(advanced, tuple(cursor.effects))


def advance(session: Session, record: TransitionRecord) -> Session:
    """Return the session after a recorded transition, stepping it and holding the result against the record.

    A record of a kind that this release does not know moves only the state and the sequence.

    Raises:
        ReplayError: the record does not reproduce: source, destination or effects differ, or the event is refused.
    """
    if record.source != session.state:
        raise ReplayError(f"{session.id}:{record.seq}: starts in {record.source}, the session is in {session.state}")
    if isinstance(record.event, UnknownEvent):
        return session._replace(seq=record.seq, state=record.dest)
    try:
        stepped, effects = step(session, record.event)
    except (IllegalTransition, InvalidEvent) as error:
        raise ReplayError(f"{session.id}:{record.seq}: {error}") from error
    if stepped.state is not record.dest or effects != record.effects or stepped.seq != record.seq:
        raise ReplayError(
            f"{session.id}:{record.seq}: {record.trigger} was recorded as {record.source} → {record.dest} with "
            f"{_kinds(record.effects)}; now it gives {stepped.state} with {_kinds(effects)}"
        )
    return stepped


def _kinds(effects: tuple[KnownEffect, ...]) -> str:
    return "[" + ", ".join(effect.kind for effect in effects) + "]"


__all__ = ["Step", "advance", "legal", "step"]
