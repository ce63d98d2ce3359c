"""A conversation as an immutable sequence that grows in constant time.

Snapshots of a session share one list and remember how much of it is theirs. Extending the newest snapshot appends to
the shared list; extending an older one copies first. So a snapshot never changes, a turn costs the same at turn 10 and
at turn 10,000, and a model is handed the whole conversation without a copy. What a checkpoint holds of a conversation
stays text until somebody reads it. May import `values` only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import overload

from pydantic import ValidationError

from .values import Message, Role


class StoredMessages(Sequence[Message]):
    """Messages as their canonical JSON, each made a value when it is first looked at.

    Args:
        lines: one message a line. The list becomes this object's own.
    """

    __slots__ = ("_items",)

    def __init__(self, lines: list[str]) -> None:
        self._items: list[str | Message] = [*lines]

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self._items))))
        item = self._items[index]
        if isinstance(item, str):
            item = self._items[index] = _read(item)
        return item

    def __len__(self) -> int:
        return len(self._items)

    def lines(self, write: Callable[[Message], str]) -> list[str]:
        """Return the lines; what was read is written again."""
        return [item if isinstance(item, str) else write(item) for item in self._items]

    def newest(self, role: Role) -> Message | None:
        """Return the newest message of a role. Only those that may be it are read."""
        mark = f'"role":"{role}"'
        # One pass without a look into the values: a long conversation has a system prompt at its beginning or nowhere.
        places = [n for n, item in enumerate(self._items) if not isinstance(item, str) or mark in item]
        return next((self[n] for n in reversed(places) if self[n].role == role), None)


def _read(line: str) -> Message:
    try:
        return Message.model_validate_json(line)
    except ValidationError:
        # A lone surrogate, which models do write, has no JSON in the validator's eyes.
        return Message.model_validate(json.loads(line))


_NOTHING_STORED = StoredMessages([])


class Transcript(Sequence[Message]):
    """The messages of closed tool groups and finished replies, oldest first."""

    __slots__ = ("_items", "_length", "_stored")

    def __init__(self, messages: Iterable[Message] = (), stored: StoredMessages = _NOTHING_STORED) -> None:
        self._items: list[Message] = list(messages)
        self._length = len(self._items)
        self._stored = stored

    def extended(self, messages: Iterable[Message]) -> Transcript:
        """Return this conversation followed by `messages`; this one stays as it is."""
        items = self._items
        if len(items) != self._length or not items:
            # An older snapshot copies; so does the empty one, which many sessions start from.
            items = items[: self._length]
        items.extend(messages)
        grown = Transcript.__new__(Transcript)
        grown._items = items
        grown._length = len(items)
        grown._stored = self._stored
        return grown

    def newest(self, role: Role) -> Message | None:
        """Return the newest message of a role, None if there is none."""
        found = next((message for message in reversed(self._items[: self._length]) if message.role == role), None)
        return self._stored.newest(role) if found is None else found

    def lines(self, write: Callable[[Message], str]) -> list[str]:
        """Return the conversation a line a message, as `write` gives it and `StoredMessages` takes it."""
        return [*self._stored.lines(write), *map(write, self._items[: self._length])]

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        stored = len(self._stored)
        if index < 0:
            index += stored + self._length
        if not 0 <= index < stored + self._length:
            raise IndexError("message index out of range")
        return self._stored[index] if index < stored else self._items[index - stored]

    def __len__(self) -> int:
        return len(self._stored) + self._length

    def __iter__(self) -> Iterator[Message]:
        own = islice(self._items, self._length)
        return chain(self._stored, own) if self._stored else own

    def __reversed__(self) -> Iterator[Message]:
        # It starts at today's end and walks away from where the list grows.
        own = self._items if len(self._items) == self._length else self._items[: self._length]
        return chain(reversed(own), reversed(self._stored)) if self._stored else reversed(own)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transcript):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Transcript({len(self)} messages)"
