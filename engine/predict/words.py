"""Turns names and values into 64-bit words, and words into the keys of contexts.

A context (the last two tools, say) is looked up by one integer: the exclusive or of the words of what it is made of.
Every symbol has one word for each role it can play, so "a then b" and "b then a" get different keys, while a *set* of
tools gets the same key in whatever order it came about (A. L. Zobrist, "A New Hashing Method with Application for Game
Playing", 1970). Words are keyed BLAKE2b digests: the same in every process, of constant size however long the name is,
and, with a secret salt, nothing that an argument can be read or guessed from.

May import the standard library's hashing and JSON. Must never use the builtin `hash`, which differs between processes.
"""

from __future__ import annotations

import json
from enum import IntEnum
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

MAX_NAME = 256
"""Characters of a name that are kept; a longer one is cut and told apart by its digest."""

MAX_CACHED = 128
"""Words kept at hand. They can be computed again, so the whole cache is dropped when it is full."""


class Role(IntEnum):
    """What a symbol can be in a context: one of the last six, a member of the used set, the first of its session."""

    LAST = 0
    SECOND = 1
    THIRD = 2
    FOURTH = 3
    FIFTH = 4
    SIXTH = 5
    MEMBER = 6
    FIRST = 7


class Symbol(NamedTuple):
    """A tool and whether it failed, with one 64-bit word for each role."""

    tool: str
    failed: bool
    words: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.tool} (failed)" if self.failed else self.tool


@cache
def constant_word(name: str) -> int:
    """Return the word of something that the engine itself names, such as a kind of context. Not salted."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


class Words:
    """Makes the words of one tenant.

    Args:
        salt: the tenant's secret; 16 random bytes or more keep arguments from being guessed.
    """

    def __init__(self, salt: bytes) -> None:
        self._key = blake2b(salt, digest_size=32).digest() if salt else b""
        self._fine: dict[str, Symbol] = {}
        self._failed: dict[str, Symbol] = {}

    @property
    def check(self) -> str:
        """A digest that tells whether two salts are the same, without telling them."""
        return blake2b(b"which salt is this", key=self._key, digest_size=16).hexdigest()

    def symbol(self, tool: str, failed: bool = False) -> Symbol:
        """Return the symbol of a tool that succeeded (or whose outcome is not known), or of one that failed."""
        cached = self._failed if failed else self._fine
        symbol = cached.get(tool)
        if symbol is None:
            if len(cached) >= MAX_CACHED:
                cached.clear()
            symbol = cached[tool] = self._make(self._clip(tool), failed)
        return symbol

    def value(self, value: object) -> int:
        """Return the word of a JSON value. What JSON cannot hold has the word 0, like every other such thing."""
        if isinstance(value, str):
            text = "s" + value
        else:
            try:
                text = "j" + json.dumps(value, sort_keys=True, separators=(",", ":"))
            except (TypeError, ValueError, RecursionError):
                return 0
        return int.from_bytes(self._digest(text, 8), "little")

    def _make(self, name: str, failed: bool) -> Symbol:
        words = self._eight(f"0{name}")
        if failed:
            # Which tools were used, and which came first, does not depend on how they ended.
            words = self._eight(f"1{name}")[:6] + words[6:]
        return Symbol(name, failed, words)

    def _eight(self, text: str) -> tuple[int, ...]:
        digest = self._digest(text, 64)
        return tuple(int.from_bytes(digest[start : start + 8], "little") for start in range(0, 64, 8))

    def _clip(self, name: str) -> str:
        return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 17]}~{self._digest(name, 8).hex()}"

    def _digest(self, text: str, size: int) -> bytes:
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=size).digest()
