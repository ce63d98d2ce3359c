"""Middleware around a performer: the first one outermost. May import nothing of the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeAlias, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

Inner: TypeAlias = Callable[[Q], Awaitable[A]]
Around: TypeAlias = Callable[[Q, Inner[Q, A]], Awaitable[A]]


def wrapped(layers: Iterable[Around[Q, A]], inner: Inner[Q, A]) -> Inner[Q, A]:
    """Return `inner` with every layer around it; each is handed the question and what goes on to the next."""
    for around in reversed(tuple(layers)):
        inner = partial(_through, around, inner)
    return inner


async def _through(around: Around[Q, A], inner: Inner[Q, A], question: Q) -> A:
    return await around(question, inner)
