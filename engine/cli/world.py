"""The demonstration's tools, as real as they can be offline: a weather table, an adder, notes in a SQLite file.

Every real run of a tool leaves a row in the file, so that anyone can count afterwards how often what happened. May
import the public surface. Must never decide what a state is or when something runs again: that is what it is there to
show.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from ..ports import Tool, ToolContext
from ..tools.function import tool

T = TypeVar("T")

Pause = Callable[[str, str], Awaitable[None]]
"""Awaited after a tool's work was done and before it returns, with the tool's name and its argument."""

_DEGREES = {"Oslo": 7, "Kampala": 24, "Lima": 19, "Tokyo": 16, "Cairo": 29, "Paris": 12, "Rome": 18, "Quito": 14}
_LATENCY_S = {"Oslo": 0.15, "Kampala": 0.25}

_TABLES = """
CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, key TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, session TEXT NOT NULL, tool TEXT NOT NULL, argument TEXT NOT NULL, process INTEGER NOT NULL
);
"""


async def _do_not_pause(name: str, argument: str) -> None:
    """Return at once."""


class World:
    """What the tools act on.

    Args:
        path: a SQLite file; created at the first use.
        pause: see `Pause`.
    """

    def __init__(self, path: Path, pause: Pause = _do_not_pause) -> None:
        self.path = path
        self._pause = pause

    def tools(self) -> tuple[Tool, ...]:
        """Return the three tools."""

        @tool(effect="read", timeout_s=30)
        async def get_weather(city: str, context: ToolContext) -> str:
            """Get the current weather of a city."""
            await self._note_run(context, city)
            await anyio.sleep(_LATENCY_S.get(city, 0.05))
            await self._pause("get_weather", city)
            return f"{_DEGREES.get(city, 11)} degrees"

        @tool(effect="read", timeout_s=30)
        async def add(a: int, b: int, context: ToolContext) -> int:
            """Add two numbers."""
            await self._note_run(context, f"{a}, {b}")
            return a + b

        async def was_written(text: str, context: ToolContext) -> str | None:
            """Say whether the note of this very call is in the file."""
            rows = await self._ask("SELECT 1 FROM notes WHERE key = ? AND text = ?", (context.idempotency_key, text))
            return "saved" if rows else None

        @tool(effect="write", timeout_s=30, probe=was_written)
        async def write_note(text: str, context: ToolContext) -> str:
            """Write a note."""
            await self._note_run(context, text)
            await self._ask("INSERT INTO notes (key, text) VALUES (?, ?)", (context.idempotency_key, text))
            await self._pause("write_note", text)
            return "saved"

        return get_weather, add, write_note

    async def runs(self, session: str, name: str, argument: str) -> int:
        """Return how often a tool really ran for a session with this argument, in any process."""
        rows = await self._ask(
            "SELECT COUNT(*) FROM runs WHERE session = ? AND tool = ? AND argument = ?", (session, name, argument)
        )
        return int(str(rows[0][0]))

    async def notes(self, session: str, text: str) -> int:
        """Return how often a note of this text was written for a session."""
        rows = await self._ask("SELECT COUNT(*) FROM notes WHERE key LIKE ? AND text = ?", (f"{session}:%", text))
        return int(str(rows[0][0]))

    async def _note_run(self, context: ToolContext, argument: str) -> None:
        await self._ask(
            "INSERT INTO runs (session, tool, argument, process) VALUES (?, ?, ?, ?)",
            (context.session, context.name, argument, os.getpid()),
        )

    async def _ask(self, statement: str, values: Iterable[str | int]) -> list[tuple[object, ...]]:
        return await anyio.to_thread.run_sync(partial(self._execute, statement, tuple(values)))

    def _execute(self, statement: str, values: tuple[str | int, ...]) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path, timeout=10)) as connection, connection:
            connection.executescript(_TABLES)
            return connection.execute(statement, values).fetchall()
