"""A process that runs one turn and kills itself at a given point of it; its tools note what they do in a file.

Run as `python -m tests.runtime.victim JOURNAL NOTES POINT BACKEND`. The parent builds its engine from the same parts.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import anyio

from engine import Engine, EngineSettings, Limits, ModelReply, ModelRequest, ToolContext, TransitionRecord, tool
from engine.core.notices import Notice
from engine.journal import JsonlJournal, SqliteJournal
from engine.models import FunctionModel
from engine.ports import Journal
from tests.runtime.scenes import Verdicts, call


class Notes:
    """A file of lines that several processes append to: what really happened outside."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, key: str) -> None:
        """Append one line, at once."""
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{name} {key}\n".encode())
        os.close(handle)

    def times(self, name: str) -> int:
        """Return how often something was noted."""
        return sum(line.split()[0] == name for line in self.lines())

    def keys(self, name: str) -> set[str]:
        """Return the keys that something was noted with."""
        return {line.split()[1] for line in self.lines() if line.split()[0] == name}

    def lines(self) -> list[str]:
        """Return all lines."""
        return self._path.read_text(encoding="ascii").splitlines() if self._path.exists() else []


class DyingObserver:
    """Kills the process when a record of a certain kind has become durable."""

    def __init__(self, trigger: str, die: Callable[[str], None]) -> None:
        self._trigger = trigger
        self._die = die

    def on_record(self, record: TransitionRecord) -> None:
        """Die at the record."""
        if record.trigger == self._trigger:
            self._die(f"at {self._trigger}")

    def on_notice(self, session: str, notice: Notice) -> None:
        """Do nothing."""


def journal_at(path: Path) -> Journal:
    """Return the journal that the name of a file stands for."""
    return SqliteJournal(path) if path.suffix == ".db" else JsonlJournal(path)


def engine_at(path: Path, notes: Notes, point: str = "", settings: EngineSettings | None = None) -> Engine:
    """Return an engine over these files whose process dies at `point`.

    The points: in look, in bump, in save, in model, …, and "at" any kind of event.
    """

    def die(place: str) -> None:
        if place == point:
            os.kill(os.getpid(), signal.SIGKILL)

    @tool(effect="read")
    async def look(context: ToolContext) -> str:
        """Look."""
        notes.add("look", context.idempotency_key)
        die("in look")
        return "seen"

    @tool(effect="idempotent")
    async def bump(context: ToolContext) -> str:
        """Bump."""
        notes.add("bump", context.idempotency_key)
        die("in bump")
        return "bumped"

    @tool
    def save(context: ToolContext) -> str:
        """Save."""
        die("before save")
        notes.add("save", context.idempotency_key)
        die("in save")
        return "saved"

    def saved(context: ToolContext) -> str | None:
        return "found saved" if context.idempotency_key in notes.keys("post") else None

    @tool(probe=saved)
    async def post(context: ToolContext) -> str:
        """Save, in a way that can be looked up."""
        die("before post")
        notes.add("post", context.idempotency_key)
        die("in post")
        return "posted"

    async def think(request: ModelRequest) -> ModelReply:
        prompt = next(message.text for message in reversed(request.messages) if message.role == "user")
        if request.round == 1 and prompt is not None:
            return ModelReply(tool_calls=[call(name, f"c{index}") for index, name in enumerate(prompt.split())])
        die("in model")
        return ModelReply(text="done")

    return Engine(
        model=FunctionModel(think),
        tools=[look, bump, save, post],
        journal=journal_at(path),
        limits=Limits(max_concurrent_tools=1),
        settings=settings or EngineSettings(),
        policy=Verdicts(post="ask") if point == "waiting" else Verdicts(),
        observers=[DyingObserver(point.removeprefix("at "), die)],
    )


async def main(path: Path, notes: Notes, point: str, prompt: str) -> None:
    """Run the turn; whoever survives it dies at its rest."""
    async with engine_at(path, notes, point) as engine:
        session = await engine.open("s")
        await session.ask(prompt)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), Notes(Path(sys.argv[2])), sys.argv[3], sys.argv[4], backend=sys.argv[5])
