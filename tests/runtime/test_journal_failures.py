"""A journal that fails at its n-th append, for every n: the turn stops, nothing is lost, the next use goes on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from engine import Engine, Limits, Outcome, Session, State, TransitionRecord
from engine.core.events import ToolFinished
from engine.errors import IllegalTransition, JournalUnavailable
from engine.journal import MemoryJournal
from engine.ports import Journal
from engine.testing.journals import FailingJournal, Moment
from tests.runtime.scenes import (
    SCENES,
    Scene,
    Verdicts,
    World,
    answer_all,
    calls,
    check_sound,
    history,
    model_of,
    play,
    triggers,
)

pytestmark = pytest.mark.anyio

MOST_APPENDS = 60
"""Far more than any scene makes."""

every_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name.replace(" ", "-"))
every_moment = pytest.mark.parametrize("moment", ["before", "after"])


def engine_of(scene: Scene, world: World, journal: Journal) -> Engine:
    return Engine(
        model=model_of(scene),
        tools=world.tools(),
        journal=journal,
        limits=Limits(backoff_base_s=0),
        policy=Verdicts(ask="ask"),
    )


async def opened(engine: Engine) -> Session:
    """Open the session; a failed opening is tried once more, as a host would."""
    try:
        return await engine.open("s")
    except JournalUnavailable:
        return await engine.open("s")


def check_prefix(shorter: Sequence[TransitionRecord], longer: Sequence[TransitionRecord]) -> None:
    """Assert that nothing that was durable has changed (I1)."""
    assert [record.hash for record in longer[: len(shorter)]] == [record.hash for record in shorter]


async def check_goes_on(session: Session, world: World, store: MemoryJournal) -> None:
    """Assert that the interrupted turn can be finished, that another one runs, and that no write ran twice."""
    before = await history(store)
    await answer_all(session, await session.result())
    assert (await session.ask("again")).outcome is Outcome.COMPLETED
    assert session.state is State.IDLE
    records = await history(store)
    check_prefix(before, records)
    check_sound(records)
    assert world.undeclared == []
    assert all(times == 1 for key, times in world.done.items() if key not in world.reads), world.done


@every_scene
@every_moment
async def test_f12_a20_one_failed_append_stops_the_turn_and_the_next_use_goes_on(scene: Scene, moment: Moment) -> None:
    """Whichever append fails, before or after its effect: `ask` raises, and what follows finishes the turn."""
    for number in count(1):
        assert number < MOST_APPENDS
        store = MemoryJournal()
        journal = FailingJournal(store, number, moment=moment)
        world = World(store)
        async with engine_of(scene, world, journal) as engine:
            session = await opened(engine)
            try:
                await play(scene, session)
                surfaced = False
            except JournalUnavailable:
                surfaced = True
            assert surfaced == (journal.failures == 1 and number > 1)
            journal.mend()
            await check_goes_on(session, world, store)
        if not journal.failures:
            return


@every_scene
async def test_f12_a_journal_that_stays_broken_lets_nothing_start(scene: Scene) -> None:
    """While the journal is broken every call fails at once and no effect starts; once it is mended the turn goes on."""
    for number in count(2):
        assert number < MOST_APPENDS
        store = MemoryJournal()
        journal = FailingJournal(store, range(number, 10_000))
        world = World(store)
        async with engine_of(scene, world, journal) as engine:
            session = await engine.open("s")
            try:
                await play(scene, session)
            except JournalUnavailable:
                done = sum(world.done.values())
                durable = await history(store)
                for _ in range(2):
                    # A session that waits for an answer refuses a prompt before it looks at the journal.
                    with pytest.raises((JournalUnavailable, IllegalTransition)):
                        await session.ask("again")
                assert [record.hash for record in await history(store)] == [record.hash for record in durable]
                assert sum(world.done.values()) == done
            journal.mend()
            await check_goes_on(session, world, store)
        if not journal.failures:
            return


async def test_m16_a_known_result_survives_the_failure_of_its_record() -> None:
    """A write whose result could not be stored is not run again: the result is stored as soon as the journal works."""
    store = MemoryJournal()
    journal = FailingJournal(store, range(5, 1000))
    world = World(store)
    async with engine_of(Scene("", (calls("save"),)), world, journal) as engine:
        session = await engine.open("s")
        with pytest.raises(JournalUnavailable):
            await session.ask("go")
        assert triggers(await history(store))[-1] == "tool_started"
        journal.mend()
        result = await session.result()
    assert result.outcome is Outcome.COMPLETED
    assert list(world.done.values()) == [1]
    ends = [record.event for record in await history(store) if isinstance(record.event, ToolFinished)]
    assert [end.content for end in ends] == ["saved"]


async def test_f12_cancel_after_a_lost_reply_does_not_raise() -> None:
    """`session.cancel` after a failed append of the final reply finds the turn ended by that reply, or cancels it."""
    store = MemoryJournal()
    async with engine_of(Scene("text"), World(store), FailingJournal(store, 3)) as engine:
        session = await engine.open("s")
        with pytest.raises(JournalUnavailable):
            await session.ask("go")
        await session.cancel()
        assert session.state is State.IDLE
        assert (await session.ask("again")).outcome is Outcome.COMPLETED
    check_sound(await history(store))


@every_moment
async def test_f12_failed_opening_leaves_the_session_to_the_next(moment: Moment) -> None:
    """A session whose opening could not be recorded is not held: the next `open` of the same engine succeeds."""
    journal = FailingJournal(MemoryJournal(), 1, moment=moment)
    async with engine_of(Scene("text"), World(journal), journal) as engine:
        with pytest.raises(JournalUnavailable):
            await engine.open("s")
        session = await engine.open("s")
        assert (await session.ask("again")).text == "done"


async def test_v33_failing_release_keeps_no_other_session_open() -> None:
    """When one session cannot be released at the end, all others are, and the failure surfaces."""
    store = MemoryJournal()
    journal = FailingJournal(store, 1, operations=("release",))
    engine = engine_of(Scene("text"), World(store), journal)
    await engine.__aenter__()
    for name in ("a", "b", "c"):
        await (await engine.open(name)).ask("again")
    with pytest.raises(JournalUnavailable):
        await engine.__aexit__(None, None, None)
    for name in ("b", "c"):
        await (await store.claim(name)).release()
    assert journal.calls == 3


async def test_f12_failing_read_surfaces_from_open_and_history() -> None:
    """A journal that cannot be read is an error of `open`, which then holds nothing, and of `history`."""
    store = MemoryJournal()
    async with engine_of(Scene("text"), World(store), store) as engine:
        await (await engine.open("s")).ask("again")
    journal = FailingJournal(store, range(1, 3), operations=("read",))
    async with engine_of(Scene("text"), World(store), journal) as engine:
        with pytest.raises(JournalUnavailable):
            await engine.open("s")
        with pytest.raises(JournalUnavailable):
            assert [record async for record in engine.history("s")]
        assert (await (await engine.open("s")).ask("again")).text == "done"
