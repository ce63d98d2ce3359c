"""A session as JSON that a person can read, and what a transition changed in it.

`view` shows every field of a snapshot that is not at its default; the conversation, which only ever grows, is shown as
its length. `changes` says how one view becomes the next by walking the snapshots themselves: steps share what they do
not touch, so nearly everything is skipped by identity. What a record's own event holds is pointed at instead of written
again (`References`). May import core. Must never do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, TypeAlias, cast

from pydantic import JsonValue

from ..core.events import KnownEvent, UnknownEvent
from ..core.session import Session
from ..core.transcript import Transcript
from ..core.values import JsonObject, Value

Change: TypeAlias = list[JsonValue]
"""`[path]` removes, `[path, value]` sets, `[path, values, 1]` appends, `[path, from, 2]` copies what stands at `from`,
`[path, from, 3]` appends the items that stand there.

A path is the names of fields and the places in lists from the top, joined by "/".
"""

APPEND, COPY, APPEND_COPY = 1, 2, 3

_NONE = object()
_ALWAYS = ("seq", "state", "transcript")
_SHOWN = {name: default for name, default in Session._field_defaults.items() if name not in _ALWAYS}
_WORTH_POINTING_AT = 24
"""Shorter texts are written again: a reference would not be shorter."""


def view(session: Session) -> JsonObject:
    """Return a session as JSON: every field that is not at its default, and always `seq`, `state` and `transcript`, as
    the number of messages.
    """
    return cast(JsonObject, References().plain(session))


class References:
    """Turns engine values into JSON and remembers where they stand, so that the same object is written once.

    A text that begins with "~" is a reference: `~12/reply/text` is what stands there in the event of record 12, and
    `~~` is one plain "~". A reference is found by the identity of an object, which is why objects that are pointed at
    are held until `forget`.
    """

    def __init__(self) -> None:
        self._places: dict[int, str] = {}
        self._held: list[object] = []

    def forget(self) -> None:
        """Let go of all places: what is seen from now on is written again."""
        self._places.clear()
        self._held.clear()

    def note(self, event: KnownEvent | UnknownEvent, seq: int) -> None:
        """Remember where the parts of a record's event stand."""
        if not isinstance(event, UnknownEvent):
            self._held.append(event)
            self._note(event, f"~{seq}")

    def _note(self, value: object, place: str) -> None:
        if isinstance(value, str):
            if len(value) >= _WORTH_POINTING_AT:
                self._places.setdefault(id(value), place)
        elif isinstance(value, Value):
            self._places.setdefault(id(value), place)
            for name, item in value.__dict__.items():
                if not _at_default(type(value), name, item):
                    self._note(item, f"{place}/{name}")
        elif isinstance(value, tuple):
            for index, item in enumerate(cast(tuple[object, ...], value)):
                self._note(item, f"{place}/{index}")

    def pointed(self, value: object) -> JsonValue:
        """Return a value as JSON, with references to what was noted."""
        place = self._places.get(id(value))
        if place is not None:
            return place
        if isinstance(value, str) and value.startswith("~"):
            return "~" + value
        return self._written(value, self.pointed)

    def plain(self, value: object) -> JsonValue:
        """Return a value as JSON, whole."""
        return self._written(value, self.plain)

    def _written(self, value: object, inner: Any) -> JsonValue:
        if isinstance(value, Enum):
            return cast(JsonValue, value.value)
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, Transcript):
            return len(value)
        if isinstance(value, Value):
            kind = type(value)
            return {name: inner(item) for name, item in value.__dict__.items() if not _at_default(kind, name, item)}
        if isinstance(value, Mapping):
            return {key: inner(item) for key, item in cast(Mapping[str, object], value).items()}
        fields: tuple[str, ...] | None = getattr(value, "_fields", None)
        if fields is not None:
            defaults = _defaults_of(value)
            items = zip(fields, cast(tuple[object, ...], value), strict=True)
            return {name: inner(item) for name, item in items if not (name in defaults and item == defaults[name])}
        return [inner(item) for item in cast(Sequence[object], value)]


def changes(old: Session, new: Session, references: References) -> list[Change]:
    """Return how the view of `old` becomes that of `new`.

    That the sequence is another goes without saying. Calls of a batch that settles move to `turn/done` and a turn that
    ends to `last_turn`, which is said so instead of written out again.
    """
    found: list[Change] = []
    turn, after = old.turn, new.turn or new.last_turn
    if turn is not None and turn.batch is not None and after is not None and len(after.done) > len(turn.done):
        found.append(["turn/done", "turn/batch/calls", APPEND_COPY])
        turn = turn._replace(done=(*turn.done, *turn.batch.calls))
        old = old._replace(turn=turn)
    if new.last_turn is not old.last_turn and turn is not None and new.turn is None:
        found.append(["last_turn", "turn", COPY])
        old = old._replace(last_turn=turn)
    _compare(old._replace(seq=new.seq), new, "", _Found(found, references))
    return found


class _Found:
    """Collects changes."""

    def __init__(self, changes: list[Change], references: References) -> None:
        self.changes = changes
        self.json = references.pointed


def _compare(old: object, new: object, path: str, found: _Found) -> None:
    if old is new:
        return
    fields: tuple[str, ...] | None = getattr(new, "_fields", None)
    if fields is not None and type(old) is type(new):
        defaults = _defaults_of(new)
        pairs = zip(fields, cast(tuple[object, ...], old), cast(tuple[object, ...], new), strict=True)
        for name, before, after in pairs:
            if before is after or before == after:
                continue
            below = f"{path}/{name}" if path else name
            if name in defaults and after == defaults[name]:
                found.changes.append([below])
            elif name in defaults and before == defaults[name]:
                found.changes.append([below, found.json(after)])
            else:
                _compare(before, after, below, found)
    elif fields is None and isinstance(old, tuple) and isinstance(new, tuple):
        _compare_items(cast(tuple[object, ...], old), cast(tuple[object, ...], new), path, found)
    elif old != new:
        found.changes.append([path, found.json(new)])


def _compare_items(old: tuple[object, ...], new: tuple[object, ...], path: str, found: _Found) -> None:
    """Compare lists: one that grew is told item by item, and what joined it."""
    if not 0 < len(old) <= len(new):
        found.changes.append([path, found.json(new)])
        return
    for index, (one, other) in enumerate(zip(old, new, strict=False)):
        _compare(one, other, f"{path}/{index}", found)
    if len(new) > len(old):
        found.changes.append([path, [found.json(item) for item in new[len(old) :]], APPEND])


def _defaults_of(value: object) -> Mapping[str, object]:
    """Return which fields of a named tuple are left out, and at which values."""
    return _SHOWN if isinstance(value, Session) else cast(Any, value)._field_defaults


def _at_default(kind: type[Value], name: str, item: object) -> bool:
    """Whether the canonical form leaves a field out: it is at its default, and no tag."""
    return bool(item == _defaults(kind).get(name, _NONE))


@cache
def _defaults(kind: type[Value]) -> Mapping[str, object]:
    """Return what the fields of a class hold when nobody says anything; a tag is always said."""
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
        if name != "kind" and not field.is_required()
    }


__all__ = ["APPEND", "APPEND_COPY", "COPY", "Change", "References", "changes", "view"]
