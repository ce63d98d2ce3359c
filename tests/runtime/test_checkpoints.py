"""Opening from a checkpoint is opening from the first record, only quicker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine import Engine, Limits, ModelReply, Session
from engine.errors import JournalUnavailable, SessionBusy
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.journal.keeping import Checkpointing
from engine.models import FunctionModel
from engine.ports import Journal, SessionInfo, StoredLine, Writer
from engine.replay import fold, verify
from engine.replay.checkpoints import read_checkpoint
from engine.runtime.parts import EngineSettings
from tests.journal.stores import factory_of

from .scenes import SCENES, Verdicts, World, calls, history, model_of

KINDS = ("jsonl-file", "jsonl-folder", "sqlite")
BUSY = next(scene for scene in SCENES if scene.name == "every kind of tool at once")


class Kept:
    """A journal in memory that keeps checkpoints as it is told, and counts the records that are read.

    Attributes:
        texts: session → the checkpoint.
        read_records: how many records were read.
        full: whether no checkpoint can be stored.
        stands: the record that each checkpoint so far stands at.
        hold: what storing one waits for.
        put: set when a checkpoint is to be stored.
        stored: set when one was.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.read_records = 0
        self.full = False
        self.stands: list[int] = []
        self.hold: anyio.Event | None = None
        self.put, self.stored = anyio.Event(), anyio.Event()
        self._journal = MemoryJournal()

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        return await self._journal.claim(session, takeover=takeover)

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        page = await self._journal.read(session, after, limit)
        self.read_records += len(page)
        return page

    async def sessions(self) -> Sequence[SessionInfo]:
        return await self._journal.sessions()

    async def aclose(self) -> None:
        await self._journal.aclose()

    async def put_checkpoint(self, session: str, text: str) -> None:
        if self.full:
            raise JournalUnavailable("the disk is full")
        self.put.set()
        if self.hold is not None:
            await self.hold.wait()
        self.texts[session] = text
        self.stands.append(read_checkpoint(text, session).session.seq)
        self.stored.set()

    async def get_checkpoint(self, session: str) -> str | None:
        return self.texts.get(session)


def engine_on(journal: Journal, records: int | None = 1, **limits: Any) -> Engine:
    """Return an engine that leaves a checkpoint after so many records."""
    world = World(journal)
    return Engine(
        model=model_of(BUSY), tools=world.tools(), journal=journal,
        limits=Limits(history_ring=20, turns_ring=2, **limits),
        settings=EngineSettings(system="Be brief.", checkpoint_records=records),
    )  # fmt: skip


async def talk(journal: Journal, *prompts: str, session: str = "s", records: int | None = 1) -> None:
    async with engine_on(journal, records) as engine:
        opened = await engine.open(session)
        for prompt in prompts:
            await opened.ask(prompt)


def shown(session: Session) -> tuple[object, ...]:
    """Return everything that a host can see of a session."""
    return (
        session.seq, session.state, [*session.messages], session.turns, session.recent, session.usage, session.grants,
        session.pending, session.external_id,
    )  # fmt: skip


async def seen(journal: Journal, session: str = "s") -> tuple[object, ...]:
    async with engine_on(journal, None) as engine:
        return shown(await engine.open(session))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_m5_session_opened_from_its_checkpoint_is_the_same(kind: str, tmp_path: Path) -> None:
    """State, conversation, turns and newest records are those of the whole history, in every durable journal."""
    make: Callable[[], Journal] = factory_of(kind, tmp_path)
    await talk(make(), "go", "and", "go")
    journal = make()
    assert isinstance(journal, Checkpointing)
    text = await journal.get_checkpoint("s")
    assert text is not None
    short = await seen(journal)
    await journal.put_checkpoint("s", "")
    assert short == await seen(make())


@pytest.mark.anyio
async def test_opening_reads_what_stays_in_memory_and_what_is_new() -> None:
    """With a checkpoint, the records that are read do not grow with the history."""
    journal = Kept()
    await talk(journal, *["go"] * 6)
    journal.read_records = 0
    await seen(journal)
    assert journal.read_records == 20


@pytest.mark.anyio
async def test_session_goes_on_from_its_checkpoint() -> None:
    """What is recorded after opening from a checkpoint continues the chain, and the whole replays."""
    journal = Kept()
    for _ in range(3):
        await talk(journal, "go")
    records = await history(journal)
    assert verify(records).ok
    assert fold(records).turns == 3


@pytest.mark.anyio
async def test_checkpoint_of_earlier_days_is_only_older() -> None:
    """A stale checkpoint is followed by the records that came after it."""
    journal = Kept()
    await talk(journal, "go")
    await talk(journal, "and", "go", records=None)
    stale = await seen(journal)
    journal.texts.clear()
    assert stale == await seen(journal)


WRONG: dict[str, Callable[[str, str], str]] = {
    "damaged at its beginning": lambda own, other: "0" + own[1:],
    "damaged in its session": lambda own, other: own.replace('"seq":', '"seq":1', 1),
    "damaged in its conversation": lambda own, other: own.replace("done", "gone"),
    "cut": lambda own, other: own[: len(own) // 2],
    "empty": lambda own, other: "",
    "of another session": lambda own, other: other,
    "no checkpoint": lambda own, other: "\x00\xff" * 100,
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", WRONG)
async def test_wrong_checkpoint_changes_nothing(name: str) -> None:
    """A checkpoint that cannot be used leads to the session that its records say."""
    journal = Kept()
    await talk(journal, "go", "and")
    await talk(journal, "go", session="other")
    journal.texts["s"] = WRONG[name](journal.texts["s"], journal.texts["other"])
    opened = await seen(journal)
    journal.texts.clear()
    assert opened == await seen(journal)


@pytest.mark.anyio
@pytest.mark.parametrize("later", [("go", "go"), ()])
async def test_checkpoint_of_another_history_of_the_same_session_is_not_taken(later: tuple[str, ...]) -> None:
    """A checkpoint stands for the hash of a record: another history, longer or shorter, does not have it."""
    first, second = Kept(), Kept()
    await talk(first, "go", "and")
    await talk(second, "and", *later)
    second.texts["s"] = first.texts["s"]
    opened = await seen(second)
    second.texts.clear()
    assert opened == await seen(second)


@pytest.mark.anyio
async def test_more_turns_than_the_checkpoint_holds_are_found_in_the_history() -> None:
    """An engine that keeps more turns in memory than the one before opens with as many as it keeps."""
    journal = Kept()
    await talk(journal, *["go"] * 4)
    async with Engine(model=model_of(BUSY), tools=World(journal).tools(), journal=journal) as engine:
        assert len((await engine.open("s")).turns) == 4


@pytest.mark.anyio
async def test_checkpoint_that_cannot_be_stored_changes_nothing() -> None:
    """A session whose checkpoint finds no room is released all the same, and opens from its records."""
    journal = Kept()
    journal.full = True
    await talk(journal, "go")
    assert (journal.texts, (await seen(journal))[0]) == ({}, len(await history(journal)))


@pytest.mark.anyio
async def test_few_new_records_leave_no_checkpoint() -> None:
    """A session is released without a checkpoint until enough is new since it began."""
    journal = Kept()
    await talk(journal, "go", records=1000)
    assert journal.texts == {}


@pytest.mark.anyio
async def test_m5_session_that_stays_open_leaves_checkpoints_as_it_grows() -> None:
    """A session at rest leaves one while it stays open, the rarer the longer it is; each opens to the same session."""
    journal = Kept()
    async with engine_on(journal, 4) as engine:
        session = await engine.open("s")
        for _ in range(40):
            last = journal.stands[-1] if journal.stands else 0
            await session.ask("go")
            if session.seq - last >= max(4, last // 4):
                with anyio.fail_after(60):
                    await journal.stored.wait()
                journal.stored = anyio.Event()
                assert journal.stands[-1] == session.seq
        stands = list(journal.stands)
        assert all(later - earlier >= earlier // 4 for earlier, later in pairwise(stands))
        assert 3 < len(stands) < 20
    opened = await seen(journal)
    journal.texts.clear()
    assert opened == await seen(journal)


@pytest.mark.anyio
async def test_no_turn_waits_for_a_checkpoint_and_the_release_does() -> None:
    """While one is stored turns go on; the right to write is given up when it stands, so nothing is stored later."""
    journal = Kept()
    journal.hold = anyio.Event()
    async with engine_on(journal, 1) as engine, anyio.create_task_group() as group:
        session = await engine.open("s")
        await session.ask("go")
        await journal.put.wait()
        await session.ask("go")
        assert journal.stands == []
        group.start_soon(session.close)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(SessionBusy):
            await journal.claim("s")
        journal.hold.set()
    assert journal.stands == sorted(journal.stands)
    assert journal.stands[-1] == len(await history(journal))


@pytest.mark.anyio
async def test_v33_drained_sessions_leave_checkpoints() -> None:
    """At a drain's safe point a checkpoint is left, so whoever goes on needs no engine that ends in order."""
    journal = Kept()
    await talk(journal, *["go"] * 10)
    [stand] = journal.stands[-1:]
    async with engine_on(journal, 4) as engine:
        session = await engine.open("s")
        await session.ask("go")
        # Too little for one while the session stays open.
        assert 4 < session.seq - stand < stand // 4
        assert journal.stands[-1] == stand
        await engine.drain(60)
        assert journal.stands[-1] == session.seq
    opened = await seen(journal)
    journal.texts.clear()
    assert opened == await seen(journal)


@pytest.mark.anyio
async def test_interrupted_turn_goes_on_from_a_checkpoint() -> None:
    """A turn that waits for a person when its session is released is answered after opening from the checkpoint."""
    journal = Kept()
    waiting = FunctionModel(lambda request: _ask_once(request.round))
    settings = EngineSettings(checkpoint_records=1)
    tools = World(journal).tools()
    async with Engine(model=waiting, tools=tools, journal=journal, settings=settings, policy=Verdicts(save="ask")) as e:
        await (await e.open("s")).ask("go")
    assert "s" in journal.texts
    async with Engine(model=waiting, tools=tools, journal=journal, settings=settings, policy=Verdicts(save="ask")) as e:
        session = await e.open("s")
        result = await session.answer(session.pending[0].id, approve=True)
    assert (result.text, result.tool_calls[0].content) == ("done", "saved")


async def _ask_once(number: int) -> ModelReply:
    return calls("save") if number == 1 else ModelReply(text="done")


def test_journals_that_last_keep_checkpoints() -> None:
    """SQLite and JSON Lines offer it, memory does not need it."""
    offered = [isinstance(kind, Checkpointing) for kind in (SqliteJournal("x.db"), JsonlJournal("x/"), MemoryJournal())]
    assert offered == [True, True, False]
