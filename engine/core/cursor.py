"""The throw-away draft of one step: what guards look at and actions write to.

A cursor is made for one event and discarded after it, whatever happens; the session it was made from never changes.
`state` is the attribute that the table moves. May import the other core modules' types.
"""

from __future__ import annotations

from typing import Any

from .effects import KnownEffect
from .events import KnownEvent
from .session import CallState, Session, Turn

_PLACES = {name: place for place, name in enumerate(Turn._fields)}


class Cursor:
    """A session being stepped by one event. `effects` collects, in order, what the step asks for."""

    __slots__ = (
        "effects",
        "event",
        "left",
        "opened",
        "seq",
        "session",
        "state",
        "transcript",
        "turn",
        "turn_ended",
        "usage",
    )

    def __init__(self, session: Session, event: KnownEvent) -> None:
        self.session = session
        # Guards and actions are reached through the event's kind, so each knows which class it gets.
        self.event: Any = event
        self.seq = session.seq + 1
        # A plain string: `transitions` takes an enum member for the name of a state.
        self.state: str = session.state.value
        self.opened = session.opened
        self.transcript = session.transcript
        self.turn = session.turn
        self.turn_ended: Turn | None = None
        self.usage = session.usage
        self.left = session.left
        self.effects: list[KnownEffect] = []

    @property
    def open_turn(self) -> Turn:
        """The open turn; every state that asks for it has one."""
        assert self.turn is not None
        return self.turn

    @property
    def calls(self) -> tuple[CallState, ...]:
        """The calls of the open batch; none where no batch is open."""
        turn = self.turn
        if turn is None or turn.batch is None:
            return ()
        return turn.batch.calls

    def change_turn(self, **changes: Any) -> None:
        """Replace fields of the open turn."""
        fields = list(self.open_turn)
        for name, value in changes.items():
            fields[_PLACES[name]] = value
        self.turn = Turn._make(fields)
