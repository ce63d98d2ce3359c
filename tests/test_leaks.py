"""Sessions that are released leave nothing behind: ten thousand of them, one after the other and many at a time."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from pathlib import Path

import anyio
import psutil
import pytest

from engine import Engine, ModelReply, ModelRequest, Session, ToolCall, tool
from engine.journal import MemoryJournal
from engine.models import FunctionModel

pytestmark = pytest.mark.anyio

SESSIONS = 10_000
AT_ONCE = 20
WARM_UP = 1_000
KEPT_BY_THE_JOURNAL = 3
"""Objects that a journal in memory holds for each session: its history, and the lists in it."""


@tool(effect="read")
async def look(n: int) -> dict[str, int]:
    """Look at a number."""
    return {"n": n}


async def think(request: ModelRequest) -> ModelReply:
    """Call one tool, then answer."""
    if request.round > 1:
        return ModelReply(text="done")
    return ModelReply(tool_calls=[ToolCall(id="c1", name="look", arguments={"n": request.turn})])


def objects() -> Counter[str]:
    """Count what the collector knows, by class."""
    gc.collect()
    return Counter(type(found).__name__ for found in gc.get_objects())


async def test_demand12_ten_thousand_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    """Every session and everything it was driven by is gone when it was released; so are descriptors and threads."""
    process, alive = psutil.Process(), list[weakref.ref[object]]()

    async def use(engine: Engine, numbers: range) -> None:
        for number in numbers:
            async with await engine.open(f"s{number}") as session:
                assert (await session.ask("look")).text == "done"
                alive.extend(weakref.ref(part) for part in parts(session))

    def parts(session: Session) -> tuple[object, ...]:
        driver = session._seat.driver  # pyright: ignore[reportPrivateUsage]
        return session, driver, driver.ledger, driver.broadcast, driver.inlet

    async with Engine(model=FunctionModel(think), tools=[look], journal=MemoryJournal()) as engine:
        await use(engine, range(WARM_UP))
        before, files, threads = objects(), process.num_fds(), threading.active_count()
        async with anyio.create_task_group() as group:
            share = (SESSIONS - WARM_UP) // AT_ONCE
            for start in range(WARM_UP, SESSIONS, share):
                group.start_soon(use, engine, range(start, start + share))
        grown = objects() - before
        assert Counter(type(part).__name__ for ref in alive if (part := ref()) is not None) == {}
        # Fewer is fine: what an earlier test has left may end meanwhile.
        assert process.num_fds() <= files
        assert threading.active_count() <= threads
    more = sum(count for name, count in grown.items() if name != "ReferenceType")
    assert more <= KEPT_BY_THE_JOURNAL * (SESSIONS - WARM_UP) + 2_000, grown.most_common(8)
