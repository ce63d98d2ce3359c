"""How many tokens a text is, roughly, and how many a model can be shown.

The estimate is four UTF-8 bytes a token and four tokens a message. It is about right for English prose, a third too low
for code and JSON, and up to four times too low for a model that reads single bytes; pictures count nothing. May import
`values` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .values import Message

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4
"""What a chat template puts around a message."""

Count: TypeAlias = Callable[[str], int]
"""Tells how many tokens a text is, exactly or about. Called in line, so it must be quick."""


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text is."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


class Window(NamedTuple):
    """How much a model can be shown.

    `tokens` is all that fits, the reply included. From the share `compact_at` of it on the conversation is compacted;
    its newest `keep_messages` stay. `tokens_of` is how texts are counted, `reply_limit` the name under which the model
    takes the most tokens of a reply, empty where it takes none.
    """

    tokens: int
    compact_at: float = 0.75
    keep_messages: int = 4
    tokens_of: Count = estimated_tokens
    reply_limit: str = "max_tokens"


def message_tokens(message: Message, count: Count = estimated_tokens) -> int:
    """Return how many tokens a message is, what stands around it included."""
    tokens = MESSAGE_TOKENS + (count(message.text) if message.text else 0)
    for call in message.tool_calls:
        tokens += MESSAGE_TOKENS + count(call.name) + count(call.arguments_text or str(call.arguments))
    return tokens


def clipped(text: str, tokens: int, count: Count = estimated_tokens) -> str:
    """Return as much of the beginning of a text as is at most so many tokens, with a mark where something is missing.

    Args:
        text: the text.
        tokens: how many it may be, from 0.
        count: how they are counted.
    """
    size = count(text)
    if size <= tokens:
        return text
    room = len(text) * tokens // size
    while room > 0 and count(text[:room] + "…") > tokens:
        room = room * 7 // 8
    return text[:room] + "…" if room > 0 else ""


__all__ = [
    "BYTES_PER_TOKEN", "MESSAGE_TOKENS", "Count", "Window", "clipped", "estimated_tokens", "message_tokens",
]  # fmt: skip
