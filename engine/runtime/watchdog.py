"""Finds coroutine tools that take the event loop for themselves: those that block it, and those that will not end.

A thread asks the loop for a sign of life while tools run, and reports which tool keeps it from answering, with the
stack it stands at; while no tool runs the thread sleeps without a timer. Nothing can stop such a tool: it is named. A
tool that swallows its cancellation is waited for a while and then left behind. May import anyio and the log.
Must never touch a session, and from its thread nothing of the event loop but through `post`.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import NamedTuple, TypeAlias, TypeVar

import anyio

from ..log import logger

T = TypeVar("T")

Post: TypeAlias = Callable[[Callable[[], object]], object]
"""Has the event loop call a function soon; from any thread, without waiting. RuntimeError once the loop is gone."""

_STACK_FRAMES = 8
_MAX_STACK_CHARS = 4000


class LoopBlocked(NamedTuple):
    """The event loop did not answer for `for_s` seconds.

    `tool` is the one that was on the loop's stack, None where it was something else; `running` are all that had begun
    and not ended. `stack` shows the innermost calls.
    """

    tool: str | None
    running: tuple[str, ...]
    for_s: float
    stack: str


class LoopWatchdog:
    """Watches the event loop that it is made in.

    A block is reported once, while it lasts, when it is between 1 and 1¼ times `limit_s` old; a shorter one never.

    Args:
        post: how to reach the loop from a thread.
        on_blocked: told in the loop once it answers again; the log has it before.
        limit_s: how long the loop may keep from answering, in seconds.
    """

    def __init__(self, post: Post, on_blocked: Callable[[LoopBlocked], object], limit_s: float = 1.0) -> None:
        self._post = post
        self._on_blocked = on_blocked
        self._limit_s = limit_s
        self._loop_thread = threading.get_ident()
        self._running: dict[FrameType, str] = {}
        self._change = threading.Condition()
        self._parked = False
        self._answered = False
        self._ended = False
        self._thread: threading.Thread | None = None

    async def running(self, tool: str, work: Awaitable[T]) -> T:
        """Watch while something is awaited: the frame of this coroutine on the loop's stack is the proof."""
        frame = sys._getframe()  # pyright: ignore[reportPrivateUsage]
        self._running[frame] = tool
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="engine-watchdog", daemon=True)
            self._thread.start()
        elif self._parked:
            with self._change:
                # Once: waking the thread for each of many short tools would cost more than they do.
                self._parked = False
                self._change.notify()
        try:
            return await work
        finally:
            del self._running[frame]

    def close(self) -> None:
        """End the thread and wait for it. Idempotent."""
        with self._change:
            self._ended = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while self._wait_for_work():
            try:
                self._ask()
            except RuntimeError:
                # The loop has ended without closing the watchdog: there is nothing left to watch.
                return

    def _wait_for_work(self) -> bool:
        """Wait a quarter of the limit, and then until a tool runs; False at the end."""
        with self._change:
            self._change.wait_for(lambda: self._ended, self._limit_s / 4)
            self._parked = True
            self._change.wait_for(lambda: self._ended or not self._parked or bool(self._running))
            self._parked = False
            return not self._ended

    def _ask(self) -> None:
        """Ask for a sign of life; if none comes in time, report that, and wait for it."""
        self._answered = False
        self._post(self._answer)
        with self._change:
            if self._change.wait_for(lambda: self._answered or self._ended, self._limit_s):
                return
        blocked = self._look()
        self._post(lambda: self._on_blocked(blocked))
        logger.error(
            "event loop blocked", tool=blocked.tool, running=blocked.running, for_s=blocked.for_s, stack=blocked.stack
        )
        with self._change:
            self._change.wait_for(lambda: self._answered or self._ended)

    def _answer(self) -> None:
        with self._change:
            self._answered = True
            self._change.notify()

    def _look(self) -> LoopBlocked:
        """Return what the loop's thread is doing. A tool is on its stack if the frame that awaits it is."""
        running = dict(self._running)
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        stack = "".join(traceback.format_stack(frame, None)[-_STACK_FRAMES:])[-_MAX_STACK_CHARS:]
        tool = None
        while frame is not None and tool is None:
            tool = running.get(frame)
            frame = frame.f_back
        return LoopBlocked(tool, tuple(sorted(running.values())), self._limit_s, stack)


async def ends_in_time(ended: anyio.Event, grace_s: float) -> bool:
    """Wait for the end of what was cancelled, under a shield, and no longer than `grace_s` seconds.

    Returns:
        Whether it has ended. What has not goes on, and nobody may wait for it any more: keep counting it until it
        really ends, and do not take a result from it.
    """
    with anyio.move_on_after(grace_s, shield=True):
        await ended.wait()
    return ended.is_set()
