"""Tasks that run tool calls, kept for the next call when they are done with one.

A task group for every batch would cost more than everything else in a small turn; waking a task that waits costs a
third of it. The tasks live in the engine's own group and end with it. Each piece of work runs in a copy of the context
of whoever handed it in, so context variables of the host reach its tools. May import anyio.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import Any

from anyio import CancelScope
from anyio.abc import TaskGroup

from .bell import loop_clock, new_bell

Work = Callable[[], Coroutine[Any, Any, None]]

MAX_IDLE = 64
"""How many tasks are kept waiting; those beyond end when their work does."""


class Crew:
    """Runs pieces of work side by side in one task group.

    Attributes:
        now_s: the clock of the group's event loop, for deadlines.
        new_scope: makes a cancel scope of that event loop; `anyio.CancelScope` finds out each time which that is.
    """

    def __init__(self, group: TaskGroup) -> None:
        self.now_s = loop_clock()
        self.new_scope: type[CancelScope] = type(CancelScope())
        self._group = group
        self._idle: list[_Member] = []

    def start(self, work: Work) -> None:
        """Run `work` soon. It must not raise: an exception would end the whole engine."""
        context = copy_context()
        if self._idle:
            self._idle.pop().give(work, context)
        else:
            self._group.start_soon(self._serve, _Member(work, context))

    async def _serve(self, member: _Member) -> None:
        while True:
            await _within(member.context, member.work())
            # A task that waits holds on to nothing of what it has done.
            del member.work, member.context
            if len(self._idle) >= MAX_IDLE:
                return
            self._idle.append(member)
            await member.wait()


class _Member:
    """What a waiting task is to do next."""

    def __init__(self, work: Work, context: Context) -> None:
        self.work = work
        self.context = context
        self._bell = new_bell()

    def give(self, work: Work, context: Context) -> None:
        self.work = work
        self.context = context
        self._bell.ring()

    async def wait(self) -> None:
        await self._bell.wait()


@coroutine
def _within(context: Context, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Step a coroutine inside a context; everything it awaits is awaited by the task that steps it."""
    step: Callable[..., Any] = work.send
    given: Any = None
    while True:
        try:
            awaited = context.run(step, given)
        except StopIteration:
            return
        try:
            given = yield awaited
            step = work.send
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            given = error
            step = work.throw
