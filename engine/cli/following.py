"""`inspect --follow`: a page that grows while another process writes the journal.

The operating system says when the journal's files change (watchfiles); nothing is asked for at intervals. May import
inspect, replay and its neighbours and, inside a function, watchfiles. Must never write a journal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from ..errors import MissingExtra
from ..inspect.feed import Feed
from ..inspect.live import serve
from ..ports import Journal
from ..replay import read_history
from .signals import Interrupts
from .terminal import Screen, safe

_TOGETHER_MS = 200
"""Changes that follow one another closely are taken together, for at most so long."""

_QUIET_MS = 20


async def follow(
    feed: Feed, journal: tuple[str, Journal], place: tuple[str, int], told: tuple[Screen, Interrupts]
) -> int:
    """Serve the page of a session until a signal ends it.

    Args:
        feed: the session, empty as yet.
        journal: its name and the journal itself.
        place: address and port to listen at.
        told: where the address is printed, and whose signals stop it.

    Returns:
        The exit status.
    """
    name, source = journal
    screen, interrupts = told

    async def catch_up() -> None:
        feed.add([record async for record in read_history(source, feed.session, feed.seq)])

    def started(address: str, stop: Callable[[], None]) -> None:
        def take(number: int) -> bool:
            stop()
            return True

        interrupts.take = take
        screen.line(f"{safe(feed.session)} at {address} (Ctrl-C ends it)")

    path = Path(name)
    folder = path if await anyio.Path(path).is_dir() else path.parent
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, folder, "" if folder == path else path.name, catch_up)
        # The watch is set up in the first step of its task, before anything is read: nothing can fall between the two.
        await checkpoint()
        await catch_up()
        await serve(feed, place, started)
        group.cancel_scope.cancel()
    screen.result({"session": feed.session, "records": feed.seq})
    return 0


async def _watch(folder: Path, beginning: str, catch_up: Callable[[], Awaitable[None]]) -> None:
    """Catch up whenever a file in a folder changes whose name has this beginning: a database has others beside it."""
    try:
        from watchfiles import Change, awatch
    except ImportError as error:
        raise MissingExtra("--follow", "ui") from error

    def is_ours(change: Change, changed: str) -> bool:
        return Path(changed).name.startswith(beginning)

    async for _ in awatch(folder, watch_filter=is_ours, recursive=False, debounce=_TOGETHER_MS, step=_QUIET_MS):
        await catch_up()
