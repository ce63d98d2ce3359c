"""Learning in the living engine: what is learned, for whom, where it is kept, and that it never breaks a turn."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from engine import (
    Engine,
    EngineSettings,
    Learner,
    ModelReply,
    ModelRequest,
    Outcome,
    Session,
    ToolCall,
    TransitionRecord,
    tool,
)
from engine.errors import UsageError
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.predict import END, Predictor, PredictorSettings
from engine.predict.persistence import encode
from engine.replay.lessons import learn
from engine.runtime.shelf import SAVE_AFTER, UNPACKED, Owner, Shelf, file_of, load, salt_of
from engine.runtime.warm_settings import WarmSettings
from tests.runtime.scenes import Verdicts, calls, history

pytestmark = pytest.mark.anyio

WATCHING = EngineSettings(warming=WarmSettings(mode="off"))
"""Learn and prepare nothing: what is prepared, and what that saves, depends on times."""


@tool(effect="read")
async def find() -> str:
    """Find it, after `get` has got it."""
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    return "found"


@tool(effect="read")
async def get() -> str:
    """Get it."""
    return "got"


@tool(effect="read")
async def fail() -> str:
    """Fail."""
    raise ValueError("no")


async def in_turn(request: ModelRequest) -> ModelReply:
    """Call find and get side by side, then fail, then answer."""
    return (calls("find", "get"), calls("fail", "unknown"), ModelReply(text="done"))[(request.round - 1) % 3]


@asynccontextmanager
async def learning(predictor: Predictor | Learner, journal: MemoryJournal | None = None) -> AsyncGenerator[Engine]:
    async with Engine(
        model=FunctionModel(in_turn), tools=[find, get, fail], journal=journal, predictor=predictor, settings=WATCHING
    ) as engine:
        yield engine


async def turns(engine: Engine, session: str, count: int, **who: str) -> None:
    async with await engine.open(session, **who) as opened:  # type: ignore[arg-type]
        for _ in range(count):
            assert (await opened.ask("go")).outcome is Outcome.COMPLETED


def text(predictor: Predictor) -> str:
    return encode(predictor._learned)


async def test_v29_predictions_are_renewed_at_each_record() -> None:
    """What comes next changes with every call while the turn runs; nothing has to be told by the host."""
    predictor = Predictor()
    seen: list[str] = []

    class Looking:
        def on_record(self, record: TransitionRecord) -> None:
            if record.trigger in ("tool_finished", "prompt_received"):
                seen.append(predictor.predict("later", 1)[0][0])

        def on_notice(self, session: str, notice: object) -> None: ...

    async with learning(predictor) as engine:
        await turns(engine, "before", 30)
    async with Engine(
        model=FunctionModel(in_turn), tools=[find, get, fail], predictor=predictor, observers=[Looking()]
    ) as engine:
        await turns(engine, "later", 2)
        # Observers go first, so each sees what was predicted before its record: the two ran side by side.
        assert seen[4:] == ["find", "find", "find", "fail"]


async def test_v31_watching_live_teaches_what_replaying_does() -> None:
    """A predictor that watched sessions one after the other equals, to the last bit, one that learns their journal."""
    journal, salt = MemoryJournal(), PredictorSettings(salt=b"a salt of sixteen", arguments=True)
    live, later = Predictor(salt), Predictor(salt)
    async with learning(live, journal) as engine:
        for session in ("a", "b", "c"):
            await turns(engine, session, 2)
    for session in ("a", "b", "c"):
        learn(later, session, await history(journal, session))
    assert live.observations == 3 * 2 * 4
    assert text(live) == text(later)


async def test_calls_side_by_side_are_learned_in_the_order_they_were_asked_for() -> None:
    """`get` ends before `find`, and still follows it; unknown tools teach nothing."""
    predictor = Predictor()
    async with learning(predictor) as engine:
        await turns(engine, "s", 1)
    assert [pair for pair, _ in predictor.patterns()] == [("<start>", "find"), ("find", "get"), ("get", "fail")]
    assert predictor.pattern("unknown").calls == 0


async def test_v30_pattern_has_frequency_success_and_duration() -> None:
    """Of each pair of tools it is known how often it came, how often it went well, and how long it took."""
    predictor = Predictor()
    async with learning(predictor) as engine:
        await turns(engine, "s", 4)
    good, bad = predictor.pattern("get", "find"), predictor.pattern("fail")
    assert (good.calls, good.success_rate, bad.calls, bad.success_rate) == (4, 1.0, 4, 0.0)
    assert good.mean_s is not None
    assert good.mean_s > 0
    assert good.quantile_s(0.5) is not None


async def test_denied_call_teaches_nothing() -> None:
    """A call that a policy refused never ran, and its turn goes on."""
    predictor = Predictor()
    async with Engine(
        model=FunctionModel(in_turn), tools=[find, get, fail], predictor=predictor, policy=Verdicts(get="deny")
    ) as engine:
        await turns(engine, "s", 1)
    assert [pair for pair, _ in predictor.patterns()] == [("<start>", "find"), ("find", "fail")]


async def test_owners_learn_apart(tmp_path: Path) -> None:
    """Each pair of user and workspace has a predictor, a file and a salt of its own."""
    learner = Learner(tmp_path)
    async with learning(learner) as engine:
        await turns(engine, "one", 3, user="a")
        await turns(engine, "two", 1, user="a", workspace="w")
        async with await engine.open("three", user="b"):
            other = learner.predictor("three")
            assert other is not None
            assert other.observations == 0
    assert learner.predictor("three") is None
    paths = [file_of(tmp_path, owner) for owner in (Owner("a"), Owner("a", "w"))]
    assert [load(path).observations for path in paths] == [12, 4]
    assert len({salt_of(path) for path in paths}) == 2


async def test_files_are_written_at_the_end_and_read_again(tmp_path: Path) -> None:
    """An engine that begins later goes on with what an earlier one learned."""
    for engines in (1, 2):
        learner = Learner.beside(tmp_path / "runs.db")
        async with learning(learner) as engine:
            await turns(engine, f"s{engines}", 1)
            assert len(list((tmp_path / "runs.db.predict").glob("*.json"))) == engines - 1
        assert load(file_of(tmp_path / "runs.db.predict", Owner())).observations == 4 * engines


async def test_idle_owner_is_written_when_enough_is_new(tmp_path: Path) -> None:
    """Closing the last session of an owner writes its file once enough has been learned, and not before."""
    path = file_of(tmp_path, Owner())
    shelf = Shelf(tmp_path, 4)
    for decisions in (SAVE_AFTER - 1, 1):
        predictor = await shelf.take(Owner())
        assert not path.exists()
        for _ in range(decisions):
            predictor.update("s", "find")
        await shelf.put_back(Owner())
    assert load(path).observations == SAVE_AFTER


async def test_v29_idle_owner_forgets_its_weakest_contexts(tmp_path: Path) -> None:
    """Once no session of an owner is open, a fifth of its room is made free, so that the next turns find some."""
    shelf = Shelf(tmp_path, 4)
    predictor = await shelf.take(Owner())
    for number in range(1_000):
        predictor.update("s", f"tool {number}")
    full = predictor.contexts
    assert full > 8_000
    await shelf.put_back(Owner())
    assert predictor.contexts <= 8_000
    assert load(file_of(tmp_path, Owner())).contexts == predictor.contexts


async def test_least_recently_used_owner_leaves_and_comes_back(tmp_path: Path) -> None:
    """Beyond the bound the owner used longest ago is written and dropped; those in use stay."""
    shelf = Shelf(tmp_path, 2)
    first = await shelf.take(Owner("1"))
    second = await shelf.take(Owner("2"))
    second.update("s", "find")
    await shelf.put_back(Owner("2"))
    await shelf.take(Owner("3"))
    assert load(file_of(tmp_path, Owner("2"))).observations == 1
    assert await shelf.take(Owner("1")) is first
    again = await shelf.take(Owner("2"))
    assert again is not second
    assert again.observations == 1


async def test_owners_that_nobody_uses_lie_packed_and_come_back_as_they_were(tmp_path: Path) -> None:
    """Beyond the few used last, predictors without a session take little room; who comes back finds all of it."""
    shelf = Shelf(tmp_path, 16)
    before = {}
    for number in range(UNPACKED + 3):
        predictor = await shelf.take(Owner(str(number)))
        for call in range(200):
            predictor.update("s", f"tool {call % 7 + number}", ok=True)
        predictor.end("s")
        before[number] = text(predictor)
        await shelf.put_back(Owner(str(number)))
    packed = [owner.user for owner, kept in shelf._kept.items() if kept.packed]
    assert packed == ["0", "1"]
    held = [kept._predictor for kept in shelf._kept.values() if kept.packed]
    assert all(isinstance(packed, bytes) and len(packed) < len(before[0]) / 2 for packed in held)
    for number in before:
        assert text(await shelf.take(Owner(str(number)))) == before[number]
    await shelf.aclose()


@pytest.mark.parametrize("harm", ["damaged", "newer", "salt lost", "salt damaged"])
async def test_refused_file_stays_and_learning_begins_anew(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that cannot be used is told of and left as it is; a second one takes what is learned, also later on."""
    path = file_of(tmp_path, Owner())
    async with learning(Learner(tmp_path)) as engine:
        await turns(engine, "s", 1)
    salt = path.with_name(f"{path.name}.salt")
    if harm == "damaged":
        path.write_text(path.read_text()[:-9])
    elif harm == "newer":
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    elif harm == "salt lost":
        salt.unlink()
    else:
        salt.write_bytes(b"\xff")
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING, "engine"):
        for session in ("t", "u"):
            async with learning(Learner(tmp_path)) as engine:
                await turns(engine, session, 1)
    assert (
        sum("a predictor was refused" in record.message and path.name in record.message for record in caplog.records)
        == 2
    )
    assert path.read_bytes() == before
    assert load(path.with_suffix(".2.json")).observations == 8


async def test_folder_that_cannot_be_used_breaks_no_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be read or written, sessions run and learn in memory, and the log says so."""
    (tmp_path / "file").write_text("in the way")
    learner = Learner(tmp_path / "file")
    async with learning(learner) as engine:
        await turns(engine, "s", 1)
        async with await engine.open("t"):
            predictor = learner.predictor("t")
            assert predictor is not None
            assert predictor.observations == 4
    assert "what is learned will not be kept" in caplog.text


async def test_file_that_cannot_be_written_stays_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Something else put under the name meanwhile is not written over, and the engine ends as it should."""
    path = file_of(tmp_path, Owner())
    async with learning(Learner(tmp_path)) as engine:
        await turns(engine, "s", 1)
        path.write_text("mine")
    assert path.read_text() == "mine"
    assert "could not be written" in caplog.text


async def test_failing_predictor_breaks_no_turn(caplog: pytest.LogCaptureFixture) -> None:
    """What a predictor raises is logged, and the turn ends as it would have."""

    class Broken(Predictor):
        def update(self, *told: object, **more: object) -> None:
            raise RuntimeError("broken")

    async with learning(Broken()) as engine:
        await turns(engine, "s", 1)
    assert "a predictor could not learn" in caplog.text
    assert "broken" in caplog.text


async def test_interrupted_turn_goes_on_being_learned() -> None:
    """Calls that were asked for before a session was closed and end after it is opened again are learned."""
    predictor, journal = Predictor(), MemoryJournal()
    begun = anyio.Event()

    @tool(effect="read")
    async def slow() -> str:
        """Wait the first time."""
        if not begun.is_set():
            begun.set()
            await anyio.sleep_forever()
        return "done"

    async def model(request: ModelRequest) -> ModelReply:
        done = any(message.role == "tool" for message in request.messages)
        return ModelReply(text="done") if done else ModelReply(tool_calls=[ToolCall(id="c", name="slow")])

    async def ask(session: Session) -> None:
        await session.ask("go")

    async with Engine(model=FunctionModel(model), tools=[slow], journal=journal, predictor=predictor) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask, session)
            await begun.wait()
            await session.close()
            group.cancel_scope.cancel()
        assert predictor.observations == 0
        assert (await (await engine.open("s")).result()).outcome is Outcome.COMPLETED
    assert predictor.observations == 2
    assert predictor.pattern("slow").calls == 1


def test_bound_below_one_is_refused(tmp_path: Path) -> None:
    """A learner has to keep one predictor at least."""
    with pytest.raises(UsageError, match="max_predictors is 0"):
        Learner(tmp_path, max_predictors=0)


def names(found: Sequence[tuple[str, float]]) -> list[str]:
    return [name for name, _ in found]


async def test_v31_live_predictions_are_asked_under_the_session_s_id(tmp_path: Path) -> None:
    """A host asks the predictor of an open session what comes next, and is told after ten runs."""
    learner = Learner(tmp_path)
    async with learning(learner) as engine:
        for number in range(10):
            await turns(engine, f"s{number}", 1)
        await engine.open("new")
        predictor = learner.predictor("new")
        assert predictor is not None
        assert names(predictor.predict("new", 1)) == ["find"]
        assert set(names(predictor.within("new"))) == {"find", "get", "fail"}
        assert END not in names(predictor.predict("new", 1))
