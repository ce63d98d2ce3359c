"""The watchdog: who blocks the event loop is named, who swallows cancellation is left behind."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from engine.runtime.watchdog import LoopBlocked, LoopWatchdog, Post, ends_in_time
from engine.tools.threads import poster

LIMIT_S = 0.05


class Alarm(logging.Handler):
    """Lets a blocking test go on when the block has been logged: no time has to be guessed."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = threading.Event()
        self.lines: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the log."""
        self.lines.append(json.loads(record.getMessage()))
        self.rung.set()


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    """Listen to the engine's log."""
    alarm = Alarm()
    logging.getLogger("engine").addHandler(alarm)
    yield alarm
    logging.getLogger("engine").removeHandler(alarm)


async def blocking_tool(alarm: Alarm) -> None:
    """Keep the loop until the watchdog has noticed."""
    await anyio.lowlevel.checkpoint()
    assert alarm.rung.wait(30)


async def waiting_tool(release: anyio.Event) -> None:
    """Wait as a tool should."""
    await release.wait()


@pytest.mark.anyio
async def test_f4_a_tool_that_blocks_the_loop_is_named_with_its_stack(alarm: Alarm) -> None:
    """Beside another tool that waits properly, the one on the loop's stack is reported, and logged while it blocks."""
    reports: list[LoopBlocked] = []
    reported, release = anyio.Event(), anyio.Event()

    def report(blocked: LoopBlocked) -> None:
        reports.append(blocked)
        reported.set()

    watchdog = LoopWatchdog(poster(), report, LIMIT_S)

    async def good() -> None:
        await watchdog.running("good", waiting_tool(release))

    async def bad() -> None:
        await watchdog.running("bad", blocking_tool(alarm))

    async with anyio.create_task_group() as group:
        group.start_soon(good)
        group.start_soon(bad)
        await reported.wait()
        release.set()
    watchdog.close()
    (blocked,) = reports
    assert (blocked.tool, blocked.running) == ("bad", ("bad", "good"))
    assert "alarm.rung.wait(30)" in blocked.stack
    assert alarm.lines[0]["tool"] == "bad"


@pytest.mark.anyio
async def test_f4_a_block_by_something_else_is_not_laid_on_a_tool(alarm: Alarm) -> None:
    """Where the loop is kept by something that is no tool, the report names none and says which tools were running."""
    reported, release = anyio.Event(), anyio.Event()
    reports: list[LoopBlocked] = []

    def report(blocked: LoopBlocked) -> None:
        reports.append(blocked)
        reported.set()

    watchdog = LoopWatchdog(poster(), report, LIMIT_S)

    async def good() -> None:
        await watchdog.running("good", waiting_tool(release))

    async with anyio.create_task_group() as group:
        group.start_soon(good)
        await anyio.lowlevel.checkpoint()
        await blocking_tool(alarm)
        await reported.wait()
        release.set()
    watchdog.close()
    assert [(blocked.tool, blocked.running) for blocked in reports] == [(None, ("good",))]


class Asked:
    """A way into the event loop that counts how often it was taken."""

    def __init__(self, post: Post, enough: int) -> None:
        self._post = post
        self._enough = enough
        self.count = 0
        self.often = anyio.Event()

    def __call__(self, function: object) -> object:
        """Pass it on."""
        self.count += 1
        if self.count == self._enough:
            self._post(self.often.set)
        return self._post(function)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_f4_a_loop_that_answers_is_not_reported() -> None:
    """A tool that only waits is asked about again and again and never reported."""
    reports: list[LoopBlocked] = []
    asked = Asked(poster(), 5)
    watchdog = LoopWatchdog(asked, reports.append, LIMIT_S)
    await watchdog.running("good", asked.often.wait())
    watchdog.close()
    assert reports == []


@pytest.mark.anyio
async def test_v5_watchdog_asks_for_nothing_while_no_tool_runs() -> None:
    """The thread leaves the loop alone when tools have ended, and asks again when the next begins."""
    asked = Asked(poster(), 2)
    watchdog = LoopWatchdog(asked, print, LIMIT_S)
    await watchdog.running("first", asked.often.wait())
    await anyio.to_thread.run_sync(threading.Event().wait, 2 * LIMIT_S)
    before = asked.count
    await anyio.to_thread.run_sync(threading.Event().wait, 4 * LIMIT_S)
    assert asked.count == before
    asked.count, asked.often = 0, anyio.Event()
    await watchdog.running("second", asked.often.wait())
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "engine-watchdog"]
    watchdog.close()
    watchdog.close()
    assert not thread.is_alive()


@pytest.mark.anyio
async def test_a_watchdog_that_never_watched_can_be_closed() -> None:
    """Without a tool there is no thread."""
    before = threading.active_count()
    watchdog = LoopWatchdog(poster(), print)
    assert threading.active_count() == before
    watchdog.close()


@pytest.mark.anyio
async def test_a_watchdog_outlives_no_loop() -> None:
    """A thread whose loop is gone ends by itself."""

    def gone(function: object) -> object:
        raise RuntimeError("the loop is closed")

    watchdog = LoopWatchdog(gone, print, LIMIT_S)

    async def work() -> None:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "engine-watchdog"]
        await anyio.to_thread.run_sync(thread.join)

    await watchdog.running("tool", work())
    assert all(thread.name != "engine-watchdog" for thread in threading.enumerate())
    watchdog.close()


@pytest.mark.anyio
async def test_f4_closing_waits_for_no_answer(alarm: Alarm) -> None:
    """Closing from the loop that the watchdog waits for ends at once, also in the middle of a report."""
    watchdog = LoopWatchdog(poster(), print, LIMIT_S)

    async def work() -> None:
        assert alarm.rung.wait(30)
        watchdog.close()

    await watchdog.running("bad", work())
    assert alarm.lines[0]["event"] == "event loop blocked"


@pytest.mark.anyio
async def test_v22_what_ends_within_its_grace_is_waited_for() -> None:
    """The end of cancelled work is seen, under a shield, also by a task that is itself being cancelled."""
    ended = anyio.Event()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
        assert await ends_in_time(ended, 30)


@pytest.mark.anyio
async def test_v22_what_swallows_its_cancellation_is_left_behind() -> None:
    """After the grace period nobody waits any more for work that goes on."""
    release = anyio.Event()
    ended = anyio.Event()

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.lowlevel.checkpoint()
        assert not await ends_in_time(ended, 0.01)
        release.set()
