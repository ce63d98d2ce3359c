"""The child process of the demonstration: runs a turn up to an exact moment, says so, and waits to be killed.

May import the public surface and its neighbours. Must never stop by itself: the parent ends it with SIGKILL.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import anyio

from ..api import Engine
from ..core.notices import Notice
from ..core.record import TransitionRecord
from ..journal import open_journal
from .models import chosen_model
from .signals import Interrupts
from .world import World

MARK = "the moment has come"
"""The line that tells the parent that its moment is there."""


@dataclass(frozen=True)
class Kill:
    """A moment to be killed at: inside `tool(argument)`, its work done, once `finished` calls of its turn ended."""

    name: str
    title: str
    prompt: str
    tool: str
    argument: str
    finished: int


KILLS = (
    Kill(
        name="read", title="Killed while one of two parallel tools is running",
        prompt="weather in Oslo and Kampala", tool="get_weather", argument="Kampala", finished=1,
    ),
    Kill(
        name="write", title="Killed after a write took effect, before anything could be recorded about it",
        prompt="note raincoat for oslo", tool="write_note", argument="raincoat for oslo", finished=0,
    ),
)  # fmt: skip


class _Ends:
    """An observer that waits for durable ends of calls."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._reached = anyio.Event()

    def on_record(self, record: TransitionRecord) -> None:
        if record.trigger == "tool_finished":
            self._wanted -= 1
            if self._wanted == 0:
                self._reached.set()

    def on_notice(self, session: str, notice: Notice) -> None:
        """Look at nothing volatile."""

    async def wait(self) -> None:
        """Return when as many ends as wanted are durable."""
        if self._wanted > 0:
            await self._reached.wait()


async def run_child(options: Namespace, interrupts: Interrupts) -> int:
    """Run the turn that is to be killed."""
    kill = next(kill for kill in KILLS if kill.name == options.child)
    ends = _Ends(kill.finished)

    async def pause(name: str, argument: str) -> None:
        if (name, argument) == (kill.tool, kill.argument):
            await ends.wait()
            sys.stdout.write(f"{MARK}\n")
            sys.stdout.flush()
            await anyio.sleep_forever()

    world = World(Path(options.output) / "notes.db", pause)
    async with Engine(
        model=chosen_model(options), tools=world.tools(), journal=open_journal(options.journal), observers=[ends]
    ) as engine:
        session = await engine.open(options.session)
        await session.ask(kill.prompt)
    return 1
