"""What the model is shown of a conversation: all of it, or a text in the place of its beginning.

A view never changes the conversation. It is an index into it, so it costs nothing to make and a summary of a summary
costs no more than the first. May import `transcript` and `values` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, overload

from .values import Message

_INSTRUCTING = ("system", "developer")
_RESULTS = ("tool", "function")


class Shown(NamedTuple):
    """What the model is shown. `text` stands for the first `through` messages, but for those at the places `kept`.

    `summary` is the part of the text that a model wrote. `tried` is how long the conversation was when it was last
    tried to show less of it.
    """

    through: int = 0
    kept: tuple[int, ...] = ()
    text: str = ""
    summary: str = ""
    tried: int = 0


class Measured(NamedTuple):
    """How many tokens a request took that showed the conversation when it had so many messages; nobody knows at 0."""

    messages: int = 0
    tokens: int = 0


ALL = Shown()
NOT_MEASURED = Measured()


class View(Sequence[Message]):
    """A conversation as the model is shown it. It is live as the conversation is: what is added to that stays out.

    Args:
        messages: the conversation.
        shown: what is shown of it.
        length: how many of the messages count; all of them if None.
    """

    __slots__ = ("_head", "_length", "_messages", "_through")

    def __init__(self, messages: Sequence[Message], shown: Shown, length: int | None = None) -> None:
        self._messages = messages
        self._length = len(messages) if length is None else length
        self._through = shown.through
        self._head: tuple[Message, ...] = ()
        if shown.through:
            self._head = (*(messages[place] for place in shown.kept), _stand_in(shown.text))

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError("message index out of range")
        head = len(self._head)
        return self._head[index] if index < head else self._messages[index - head + self._through]

    def __len__(self) -> int:
        return len(self._head) + self._length - self._through

    def __iter__(self) -> Iterator[Message]:
        # By place: what stays text until somebody reads it must not be read to be passed over.
        return chain(self._head, map(self._messages.__getitem__, range(self._through, self._length)))

    def __repr__(self) -> str:
        return f"View({len(self)} messages)"


@lru_cache(maxsize=64)
def _stand_in(text: str) -> Message:
    return Message.trusted(role="user", text=text)


def stays(message: Message) -> bool:
    """Whether a message is shown whatever else is left out."""
    return message.pinned or message.role in _INSTRUCTING


def cuts_no_group(messages: Sequence[Message], place: int) -> bool:
    """Whether a conversation can be cut before this place: no call would lose its result, no result its call."""
    return not 0 < place < len(messages) or messages[place].role not in _RESULTS


def cut_before(messages: Sequence[Message], place: int) -> int:
    """Return the last place up to this one before which a conversation can be cut."""
    while not cuts_no_group(messages, place):
        place -= 1
    return place


__all__ = [
    "ALL", "NOT_MEASURED", "Measured", "Shown", "View", "cut_before", "cuts_no_group", "stays",
]  # fmt: skip
