"""A conversation as an immutable sequence that grows in constant time.

Snapshots of a session share one list and remember how much of it is theirs. Extending the newest snapshot appends to
the shared list; extending an older one copies first. So a snapshot never changes, a turn costs the same at turn 10 and
at turn 10,000, and a model is handed the whole conversation without a copy. May import `values` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

from .values import Message


class Transcript(Sequence[Message]):
    """The messages of closed tool groups and finished replies, oldest first."""

    __slots__ = ("_items", "_length")

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self._items: list[Message] = list(messages)
        self._length = len(self._items)

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
        return grown

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        if isinstance(index, slice):
            return tuple(self._items[i] for i in range(*index.indices(self._length)))
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError("message index out of range")
        return self._items[index]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Message]:
        return islice(self._items, self._length)

    def __reversed__(self) -> Iterator[Message]:
        if len(self._items) == self._length:
            # It starts at today's end and walks away from where the list grows.
            return reversed(self._items)
        return reversed(self._items[: self._length])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transcript):
            return NotImplemented
        return self._length == other._length and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Transcript({self._length} messages)"
