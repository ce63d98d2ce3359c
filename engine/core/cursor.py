"""The private draft of a session while it is stepped: what guards look at and actions write to.

A cursor is made from a snapshot, takes one event or a whole history, and gives a snapshot back; the one it was made
from never changes. `state` is the attribute that the table moves. A cursor whose step raised is thrown away. May import
the other core modules' types.
"""

from __future__ import annotations

from typing import Any, cast

from .effects import KnownEffect
from .events import KnownEvent
from .session import Batch, CallState, Session, Turn
from .values import Message, Outcome, State


class Cursor:
    """A session being stepped.

    Attributes:
        event: the fact that is being taken.
        effects: what its step asks for, in order.
        source: the state it found.
        place: where in the open batch the call stands that the event is about, from 0; its check finds it.
    """

    __slots__ = (
        "effects",
        "event",
        "grants",
        "id",
        "last_turn",
        "left",
        "opened",
        "place",
        "seq",
        "source",
        "spilled",
        "state",
        "transcript",
        "turn",
        "turns",
        "usage",
    )

    def __init__(self, session: Session, event: KnownEvent | None = None) -> None:
        self.put(session)
        # Guards and actions are reached through the event's kind, so each knows which class it gets.
        self.event: Any = event
        self.effects: list[KnownEffect] = []
        self.place = 0

    def put(self, session: Session) -> None:
        """Stand where a snapshot does."""
        (
            self.id, self.seq, self.state, self.opened, self.transcript, turn, self.last_turn, self.turns, self.usage,
            self.left, self.grants, self.spilled,
        ) = session  # fmt: skip
        self.turn = None if turn is None else _draft(turn)
        self.source: State = self.state

    def frozen(self) -> Session:
        """Return the session as it stands."""
        turn = None if self.turn is None else _final(self.turn)
        return Session(
            self.id, self.seq, self.state, self.opened, self.transcript, turn, self.last_turn, self.turns, self.usage,
            self.left, self.grants, self.spilled,
        )  # fmt: skip

    @property
    def open_turn(self) -> Turn:
        """The open turn; every state that asks for it has one."""
        assert self.turn is not None
        return self.turn

    @property
    def calls(self) -> list[CallState]:
        """The calls of the open batch, to be replaced in place; none where no batch is open."""
        turn = self.turn
        if turn is None or turn.batch is None:
            return []
        return turn.batch.calls  # type: ignore[return-value]  # a draft's is a list; a cast costs as much as the rest

    def open(self, turn: Turn) -> None:
        """Begin a turn."""
        self.turn = _draft(turn)

    def change_turn(self, **changes: object) -> None:
        """Replace fields of the open turn."""
        vars(self.turn).update(changes)

    def close_turn(self, outcome: Outcome, reason: str, text: str | None) -> None:
        """End the open turn."""
        self.change_turn(outcome=outcome, reason=reason, text=text, requests=(), plan=None)
        self.last_turn = _final(self.open_turn)
        self.turns += 1
        self.turn = None


class _Draft:
    """A turn whose fields can be replaced, one by one and without a copy. It is read like a `Turn`, and only read; the
    calls of its batch are a list.
    """


def _draft(turn: Turn) -> Turn:
    draft = _Draft()
    fields = dict(zip(Turn._fields, turn, strict=True))
    if turn.batch is not None:
        fields["batch"] = draft_batch(turn.batch.message, list(turn.batch.calls))
    draft.__dict__ = fields
    return cast(Turn, draft)


def draft_batch(message: Message, calls: list[CallState]) -> Batch:
    """Return a batch whose calls can be replaced in place, for the turn of a cursor."""
    return Batch(message, cast("tuple[CallState, ...]", calls))


def _final(turn: Turn) -> Turn:
    fields = vars(turn)
    if turn.batch is not None:
        fields = {**fields, "batch": Batch(turn.batch.message, tuple(turn.batch.calls))}
    return Turn._make(fields.values())
