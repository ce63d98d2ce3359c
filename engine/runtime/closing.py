"""The end of an engine: everything is released, whatever fails on the way. May import anyio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import anyio


async def close_all(closing: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Release one thing after the other, under a shield.

    Raises:
        Exception: the first of those that were raised; one that cannot be released keeps no other from it.
    """
    failures: list[Exception] = []
    with anyio.CancelScope(shield=True):
        for close in closing:
            try:
                await close()
            except Exception as error:
                failures.append(error)
    if failures:
        raise failures[0]


async def nothing_to_close() -> None:
    """Stand in for the end of a model that holds nothing."""
