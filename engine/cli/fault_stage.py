"""Where a scene of `demo --faults` is played: its engine, its disk, its person, and everything that was seen.

May import the public surface and its neighbours. Must never know what a scene claims.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from ..api import Engine, Session
from ..core.notices import Notice, ToolProgress
from ..core.record import TransitionRecord
from ..core.values import Outcome, State
from ..errors import JournalUnavailable
from ..journal import MemoryJournal
from ..ports import Tail, Writer
from ..runtime.parts import TurnResult
from .story import Storyteller
from .terminal import Screen, clip, safe

_PATIENCE_S = 30.0
"""How long a scene waits for what should come, in seconds. Its claim fails then."""


class Seen:
    """Keeps what happens, tells it, and lets a host wait for it. An observer.

    Attributes:
        records: every record.
        processes: the numbers of the processes that tools have said they run in.
        telling: whether records are shown.
    """

    def __init__(self, screen: Screen) -> None:
        self.records: list[TransitionRecord] = []
        self.processes: list[int] = []
        self.telling = True
        self._screen = screen
        self._story = Storyteller(screen)
        self._news = anyio.Event()

    def on_record(self, record: TransitionRecord) -> None:
        """Keep a record, and show it."""
        self.records.append(record)
        if self.telling:
            self._story.on_record(record)
        self._news.set()

    def on_notice(self, session: str, notice: Notice) -> None:
        """Keep in which process a tool says it runs, and show it."""
        if isinstance(notice, ToolProgress):
            self.processes.append(int(notice.text))
            self._news.set()
            self._screen.line(self._screen.paint(f"      it runs in process {safe(notice.text)}", "dim"))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, but not for ever; it is looked at after each record and each process."""
        with anyio.move_on_after(_PATIENCE_S):
            while not holds():
                self._news = anyio.Event()
                await self._news.wait()

    def count(self, trigger: str) -> int:
        """Return how many records of a trigger there are."""
        return sum(record.trigger == trigger for record in self.records)


class SmallDisk(MemoryJournal):
    """A journal that is out of room when the first intent of a write is to be kept, until somebody makes some."""

    def __init__(self, *, full: bool) -> None:
        super().__init__()
        self.full = full

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Return a writer that meets the end of the disk."""
        return _SmallDiskWriter(self, await super().claim(session, takeover=takeover))


class _SmallDiskWriter:
    def __init__(self, disk: SmallDisk, inner: Writer) -> None:
        self._disk = disk
        self._inner = inner

    @property
    def epoch(self) -> int:
        return self._inner.epoch

    @property
    def tail(self) -> Tail:
        return self._inner.tail

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        if self._disk.full and any(record.trigger == "tool_started" for record in records):
            raise JournalUnavailable("no space left on the device: make some, then use the session again")
        await self._inner.append(records)

    async def release(self) -> None:
        await self._inner.release()


@dataclass
class Stage:
    """What the host of a scene has at hand."""

    engine: Engine
    session: Session
    seen: Seen
    screen: Screen
    disk: SmallDisk

    def say(self, text: str) -> None:
        """Tell who watches what the host does or learns."""
        self.screen.line(self.screen.paint(f"      {clip(text, self.screen.width - 7)}", "yellow"))


_LONG_MEMBERS = frozenset({"event", "level", "session", "stack", "exception", "running", "reason"})
"""Members of a line of the log that are said otherwise, or take more than a line."""


class LogLines(logging.Handler):
    """Shows what the engine's log says as part of the story."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show one line of the log."""
        line = json.loads(record.getMessage())
        said = "".join(f" {name}={value}" for name, value in line.items() if name not in _LONG_MEMBERS)
        at = f" at: {line['stack'].split(chr(10))[-1].strip()}" if "stack" in line else ""
        text = clip(f"      log: {line['event']}{said}{at}", self._screen.width - 1)
        self._screen.line(self._screen.paint(text, "dim"))


# --- how hosts go about a scene ---------------------------------------------------------------------------------------

Host: TypeAlias = Callable[[Stage], Awaitable[TurnResult]]
"""Asks, does what it has to, and returns how the turn ended."""


async def asks(stage: Stage) -> TurnResult:
    """Ask; where the turn waits, let time pass until it goes on by itself."""
    result = await stage.session.ask("go")
    if result.outcome is not Outcome.WAITING:
        return result
    stage.say(f"nobody answers: {result.pending[0].text}")
    await stage.seen.until(lambda: stage.session.state is State.IDLE)
    return await stage.session.result()


async def says_yes(stage: Stage) -> TurnResult:
    """Ask, and answer whatever the turn wants to know with yes."""
    result = await stage.session.ask("go")
    while result.pending:
        request = result.pending[0]
        stage.say(f"a person is asked: {request.text}  Yes.")
        result = await stage.session.answer(request.id, approve=True)
    return result


async def says_that_it_took_effect(stage: Stage) -> TurnResult:
    """Answer a question about a write that nobody could see the end of, and wait until its thread ends."""
    result = await stage.session.ask("go")
    (request,) = result.pending
    stage.say(f"a person is asked: {request.text}  It did: moved 20.")
    result = await stage.session.answer(request.id, approve=True, text="moved 20")
    await stage.seen.until(lambda: stage.seen.count("late_result") == 1)
    return result


async def cancels_what_runs(stage: Stage) -> TurnResult:
    """Cancel the turn once its tool runs in its process."""
    async with anyio.create_task_group() as group:
        group.start_soon(stage.session.ask, "go")
        await stage.seen.until(lambda: bool(stage.seen.processes))
        stage.say("the turn is cancelled")
        await stage.session.cancel("it is enough")
    return await stage.session.result()


async def makes_room(stage: Stage) -> TurnResult:
    """Meet the error of a journal that cannot write, make room, and let the session go on."""
    try:
        await stage.session.ask("go")
    except JournalUnavailable as error:
        stage.say(f"ask raised JournalUnavailable: {error}")
    stage.say("there is room again")
    stage.disk.full = False
    return await stage.session.result()


async def closes_and_reopens(stage: Stage) -> TurnResult:
    """Give the session up while one of two reads has ended, and open it again."""
    async with anyio.create_task_group() as group:
        group.start_soon(stage.session.ask, "go")
        await stage.seen.until(lambda: stage.seen.count("tool_finished") == 1)
        stage.say("the session is closed in the middle of its batch, and opened again")
        await stage.session.close()
    stage.session = await stage.engine.open(stage.session.id)
    return await stage.session.result()
