"""The physical floors: the same calls with plain functions, bare asyncio or trio, and one SQLite commit a step.

What is below this nobody can be who makes the same model calls and the same parallel tool calls. Nothing is validated,
recorded, limited or supervised. May import asyncio, trio and the standard library. Must never use the engine.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Required, TypeAlias, TypedDict

from .workload import TOOL_DELAY_S, Shape, call_id, prompt


class Call(TypedDict):
    """A tool call as plain data."""

    id: str
    name: str
    arguments: dict[str, Any]


class Item(TypedDict, total=False):
    """A message as plain data."""

    role: Required[str]
    text: str | None
    calls: list[Call]
    call_id: str
    result: dict[str, Any]


Store: TypeAlias = Callable[[Item], None]
"""Makes one step durable."""

RunAll: TypeAlias = Callable[[Sequence[Callable[[], Awaitable[Item]]]], Awaitable[list[Item]]]
"""Runs coroutine functions at the same time; their results in their order."""


async def gather(functions: Sequence[Callable[[], Awaitable[Item]]]) -> list[Item]:
    """Run them on bare asyncio."""
    return await asyncio.gather(*[function() for function in functions])


async def nursery(functions: Sequence[Callable[[], Awaitable[Item]]]) -> list[Item]:
    """Run them on bare trio."""
    import trio

    results: dict[int, Item] = {}

    async def run(place: int, function: Callable[[], Awaitable[Item]]) -> None:
        results[place] = await function()

    async with trio.open_nursery() as group:
        for place, function in enumerate(functions):
            group.start_soon(run, place, function)
    return [results[place] for place in range(len(functions))]


def keep_nothing(item: Item) -> None:
    """Store no step."""


class Floor:
    """One conversation, the bare way.

    Args:
        shape: of its turns.
        run_all: runs parallel tool calls.
        store: makes a step durable; nothing is kept if not given.
        slow: whether tools take 10 ms (asyncio only).
    """

    def __init__(
        self, shape: Shape, run_all: RunAll = gather, store: Store = keep_nothing, *, slow: bool = False
    ) -> None:
        self._shape = shape
        self._run_all = run_all
        self._store = store
        self._lookup = _slow_lookup if slow else _lookup
        self.items: list[Item] = []

    async def turn(self, turn: int) -> str:
        """Run one turn and return its answer."""
        items = self.items
        items.append({"role": "user", "text": prompt(turn)})
        while True:
            reply = await _think(items, self._shape)
            items.append(reply)
            self._store(reply)
            calls = reply.get("calls")
            if not calls:
                return reply.get("text") or ""
            items += await self._run_all([self._runner(call) for call in calls])

    def _runner(self, call: Call) -> Callable[[], Awaitable[Item]]:
        async def run() -> Item:
            result = await self._lookup(**call["arguments"])
            item: Item = {"role": "tool", "call_id": call["id"], "result": result}
            self._store(item)
            return item

        return run


async def _think(items: Sequence[Item], shape: Shape) -> Item:
    results, asked = 0, ""
    for item in reversed(items):
        if item["role"] == "user":
            asked = item.get("text") or ""
            break
        if item["role"] == "tool":
            results += 1
    turn, number = int(asked.split()[1]), results // shape.calls
    if number < shape.rounds:
        calls: list[Call] = [
            {"id": call_id(turn, number, j), "name": "lookup", "arguments": {"q": f"r{number}j{j}", "n": number}}
            for j in range(shape.calls)
        ]
        return {"role": "assistant", "text": None, "calls": calls}
    return {"role": "assistant", "text": f"turn {turn}: {results} results"}


async def _lookup(q: str, n: int) -> dict[str, Any]:
    return {"q": q, "ok": True, "value": 2 * n}


async def _slow_lookup(q: str, n: int) -> dict[str, Any]:
    await asyncio.sleep(TOOL_DELAY_S)
    return {"q": q, "ok": True, "value": 2 * n}


class SqliteSteps:
    """Makes each step durable by one commit: WAL, `synchronous=FULL`, in the thread of the event loop.

    Args:
        path: the file, created here.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE steps (seq INTEGER PRIMARY KEY, session TEXT, body TEXT)")
        self._seq = 0

    def store(self, item: Item) -> None:
        """Commit one step."""
        self._seq += 1
        self._connection.execute("INSERT INTO steps VALUES (?, ?, ?)", (self._seq, "floor", json.dumps(item)))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def stored_steps(path: Path) -> int:
    """Open the file again and count what it holds."""
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM steps").fetchone()[0])
    finally:
        connection.close()
