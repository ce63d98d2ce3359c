"""Interrupts as decisions: what SIGINT and SIGTERM do to a command, on asyncio and on trio.

A command may take a signal itself, to stop in order; one that it does not take cancels it. May import anyio. Must
never end the process itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Coroutine

import anyio
from anyio.abc import TaskGroup, TaskStatus


class Interrupts:
    """The signals of one command.

    Attributes:
        received: the newest signal that was not taken, or that the command noted here itself.
        take: is offered each signal, in the event loop, and must not wait; false cancels the command.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.take: Callable[[int], bool] | None = None
        self._scope = anyio.CancelScope()
        self._group: TaskGroup | None = None

    def start(self, work: Callable[[], Coroutine[object, None, None]]) -> None:
        """Start what a taken signal asks for, beside the command."""
        assert self._group is not None
        self._group.start_soon(work)

    async def run(self, work: Callable[[Interrupts], Awaitable[int]]) -> int:
        """Return the exit status of `work`, or 128 + the number of the signal that ended it."""
        failure: Exception | None = None
        status = 0
        async with anyio.create_task_group() as group:
            self._group = group
            await group.start(self._listen)
            try:
                with self._scope:
                    status = await work(self)
            except Exception as error:
                # Raised below, outside of the group: it would come out wrapped.
                failure = error
            group.cancel_scope.cancel()
        if self.received is not None:
            return 128 + self.received
        if failure is not None:
            raise failure
        return status

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        if os.name == "nt":
            # Event loops take no signals there: Ctrl-C arrives as KeyboardInterrupt, and `main` answers it.
            task_status.started()
            return
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if self.take is None or not self.take(number):
                    self.received = number
                    self._scope.cancel()


def run_command(work: Callable[[Interrupts], Awaitable[int]]) -> int:
    """Run asynchronous work to its exit status."""

    async def run() -> int:
        return await Interrupts().run(work)

    return anyio.run(run)
