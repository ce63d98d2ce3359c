"""A recorded session runs again with one fact changed; only what depends on it runs."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from engine import Engine, EngineSettings, Limits, ModelReply, Outcome, ToolCall, tool
from engine.core.events import ModelReplied, ToolFinished, UserAnswered
from engine.core.record import TransitionRecord
from engine.counterfactual import Counterfactual, Setup, counterfactual
from engine.errors import ReplayError, UsageError
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.ports import Journal, ModelRequest, Tool
from engine.replay import fork, verify
from engine.runtime.clock import SystemClock
from engine.testing.records import read_all
from engine.tools.policy import RulePolicy

pytestmark = pytest.mark.anyio

LEAVES = 48


class World:
    """Tools over numbers, which count how often each really ran."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.asked = 0

    def tools(self) -> list[Tool]:
        """Return a leaf, a sum, and a transfer, which is a write."""

        @tool(effect="read")
        def leaf(number: int) -> int:
            """Return the number."""
            self.ran[f"leaf {number}"] += 1
            return number

        @tool(effect="read")
        def double(of: int) -> int:
            """Double it."""
            self.ran[f"double {of}"] += 1
            return 2 * of

        @tool(effect="write")
        def transfer(amount: int) -> str:
            """Move money."""
            self.ran[f"transfer {amount}"] += 1
            return f"moved {amount}"

        return [leaf, double, transfer]

    def model(self) -> FunctionModel:
        """Return a model that reads all leaves, doubles leaves 7 and 8, then says the sum of both."""

        def generate(request: ModelRequest) -> ModelReply:
            self.asked += 1
            texts = [message.text or "" for message in request.messages if message.role == "tool"]
            if not texts:
                return _calls(*(("leaf", {"number": number}) for number in range(LEAVES)))
            if len(texts) == LEAVES:
                return _calls(("double", {"of": int(texts[7])}), ("double", {"of": int(texts[8])}))
            return ModelReply(text=f"the sum is {int(texts[-1]) + int(texts[-2])}")

        return FunctionModel(generate)


def _calls(*calls: tuple[str, dict[str, int]]) -> ModelReply:
    return ModelReply(
        tool_calls=[
            ToolCall(id=f"{name}-{place}", name=name, arguments=dict(arguments))
            for place, (name, arguments) in enumerate(calls)
        ]
    )


async def fifty() -> tuple[Journal, list[TransitionRecord]]:
    """Return the history of a turn with 50 tool calls."""
    world, journal = World(), MemoryJournal()
    async with Engine(model=world.model(), tools=world.tools(), journal=journal) as engine:
        result = await (await engine.open("s")).ask("go")
        assert (result.text, len(result.tool_calls)) == ("the sum is 30", 50)
    return journal, list(await read_all(journal, "s"))


def end_of(records: list[TransitionRecord], call_id: str) -> tuple[int, ToolFinished]:
    for record in records:
        if isinstance(record.event, ToolFinished) and record.event.call_id == call_id:
            return record.seq, record.event
    raise AssertionError(call_id)


async def test_only_the_dependents_of_a_changed_leaf_run() -> None:
    """Of 50 calls one leaf is changed: one call runs, the one that takes its value; 49 results are reused."""
    journal, records = await fifty()
    seq, end = end_of(records, "leaf-7")
    world = World()
    found = await counterfactual(
        journal, "s", seq, end.model_copy(update={"content": "100"}), model=world.model(), tools=world.tools()
    )
    assert world.ran == {"double 100": 1}
    assert Counter(use.kind for use in found.reused) == {"tool": 49, "model": 1}
    assert [(use.kind, use.name) for use in found.run_again] == [("model", ""), ("tool", "double"), ("model", "")]
    assert sorted((use.kind, use.name) for use in found.invalidated) == [
        ("model", ""),
        ("model", ""),
        ("tool", "double"),
    ]
    again = list(await read_all(journal, found.session))
    assert isinstance(again[-1].event, ModelReplied)
    assert again[-1].event.reply.text == "the sum is 216"
    assert verify(again).ok


async def test_nothing_changed_is_all_reused() -> None:
    """With no other fact and no other limit, nothing runs and the same happens."""
    journal, records = await fifty()
    world = World()
    found = await counterfactual(journal, "s", 3, None, model=world.model(), tools=world.tools())
    assert (world.asked, world.ran) == (0, {})
    assert (found.run_again, found.invalidated, found.withheld) == ((), (), ())
    # The fork itself and its waking are the only other records.
    assert [pair.kind for pair in found.comparison.differences] == ["only_right", "only_right"]
    assert list(await read_all(journal, "s")) == records


async def test_changed_limit() -> None:
    """Under another limit the recorded reply meets another end; nothing runs for that."""
    journal, records = await fifty()
    world = World()
    found = await counterfactual(
        journal, "s", len(records), None, model=world.model(), tools=world.tools(), limits=Limits(max_tool_rounds=1)
    )
    assert world.ran == {}
    assert found.comparison.left == "s"
    assert (await read_all(journal, found.session))[-1].trigger == "recovery_failed"
    assert {use.kind for use in found.invalidated} == {"tool", "model"}


async def test_changed_reply() -> None:
    """Another reply of the model runs what it asks for, and what it no longer asks for is invalidated."""
    journal, records = await fifty()
    place, event = next((r.seq, r.event) for r in records if isinstance(r.event, ModelReplied) and r.seq > 10)
    world = World()
    reply = event.reply.model_copy(update={"tool_calls": (), "text": "enough"})
    changed = event.model_copy(update={"reply": reply})
    found = await counterfactual(journal, "s", place, changed, model=world.model(), tools=world.tools())
    assert (world.asked, world.ran) == (0, {})
    assert [(use.kind, use.name) for use in found.invalidated] == [
        ("tool", "double"),
        ("tool", "double"),
        ("model", ""),
    ]


def mover(asked: list[int]) -> FunctionModel:
    """Return a model that looks, moves 5, looks again and says what it saw."""
    script = [("leaf", {"number": 1}), ("transfer", {"amount": 5}), ("leaf", {"number": 1})]

    def generate(request: ModelRequest) -> ModelReply:
        asked.append(len(request.messages))
        done = sum(message.role == "tool" for message in request.messages)
        if done < len(script):
            return ModelReply(
                tool_calls=(ToolCall(id=f"c{done}", name=script[done][0], arguments=dict(script[done][1])),)
            )
        return ModelReply(text="done")

    return FunctionModel(generate)


async def moved(*, approve: bool = True) -> tuple[Journal, list[TransitionRecord]]:
    """Return the history of a transfer that a person was asked about."""
    world, journal = World(), MemoryJournal()
    setup = Engine(model=mover([]), tools=world.tools(), journal=journal, policy=RulePolicy(["ask transfer"]))
    async with setup as engine:
        session = await engine.open("s")
        result = await session.ask("move")
        await session.answer(result.pending[0].id, approve=approve)
    return journal, list(await read_all(journal, "s"))


async def move_again(
    journal: Journal, records: list[TransitionRecord], trigger: str, **changed: object
) -> tuple[Counterfactual, World]:
    """Run the transfer again with a field of the first record of this kind changed."""
    record = next(record for record in records if record.trigger == trigger)
    fact = record.event.model_copy(update=changed)
    assert isinstance(fact, ToolFinished | UserAnswered | ModelReplied)
    world = World()
    setup: Setup = {"model": mover([]), "tools": world.tools(), "policy": RulePolicy(["ask transfer"])}
    return await counterfactual(journal, "s", record.seq, fact, **setup), world


async def test_f17_recorded_approval_lets_nothing_new_happen() -> None:
    """An approval is repeated for a call whose result is reused; no write runs again."""
    journal, records = await moved()
    found, world = await move_again(journal, records, "tool_finished", content="another number")
    assert world.ran == {}
    assert [use.name for use in found.reused if use.kind == "tool"] == ["leaf", "transfer", "leaf"]
    assert found.pending == ()


async def test_changed_approval_to_no() -> None:
    """Had the person said no, the transfer would have no result; the look after it is reused."""
    journal, records = await moved()
    found, world = await move_again(journal, records, "user_answered", approve=False)
    assert world.ran == {}
    assert [use.name for use in found.invalidated if use.kind == "tool"] == ["transfer"]


async def test_changed_approval_to_yes_withholds_the_write() -> None:
    """Had the person said yes, a write would run; it does not unless that is allowed, and then reads run again."""
    journal, records = await moved(approve=False)
    found, world = await move_again(journal, records, "user_answered", approve=True)
    assert world.ran == {}
    assert [use.name for use in found.withheld] == ["transfer"]


async def test_reads_after_a_write_that_ran_are_not_reused() -> None:
    """What a write did when it really ran, no recorded read has seen."""
    journal, records = await moved(approve=False)
    record = next(record for record in records if isinstance(record.event, UserAnswered))
    assert isinstance(record.event, UserAnswered)
    world = World()
    found = await counterfactual(
        journal, "s", record.seq, record.event.model_copy(update={"approve": True}), model=mover([]),
        tools=world.tools(), policy=RulePolicy(["ask transfer"]), may_run=frozenset({"read", "write"}),
    )  # fmt: skip
    assert world.ran == {"transfer 5": 1, "leaf 1": 1}
    assert found.withheld == ()


async def test_f17_new_call_waits_for_a_person() -> None:
    """A call that nobody has been asked about is not let through by what was said about another one."""
    journal, records = await moved()
    record = [record for record in records if isinstance(record.event, ModelReplied)][1]
    assert isinstance(record.event, ModelReplied)
    calls = (ToolCall(id="c1", name="transfer", arguments={"amount": 9}),)
    reply = record.event.reply.model_copy(update={"tool_calls": calls})
    world = World()
    found = await counterfactual(
        journal, "s", record.seq, record.event.model_copy(update={"reply": reply}), model=mover([]),
        tools=world.tools(), policy=RulePolicy(["ask transfer"]),
    )  # fmt: skip
    assert [request.kind for request in found.pending] == ["approval"]
    assert world.ran == {}


async def test_earlier_turns_are_shared_and_later_ones_run_too() -> None:
    """The fork begins before the turn of the fact; prompts after it are asked again, the system prompt once."""
    journal = MemoryJournal()
    settings = EngineSettings(system="Be brief.")
    echo = FunctionModel(lambda request: ModelReply(text=f"{len(request.messages)} {request.messages[-1].text}"))
    async with Engine(model=echo, journal=journal, settings=settings) as engine:
        session = await engine.open("s")
        for text in ("one", "two", "three"):
            await session.ask(text)
    records = list(await read_all(journal, "s"))
    place, event = [(r.seq, r.event) for r in records if isinstance(r.event, ModelReplied)][1]
    changed = event.model_copy(update={"reply": ModelReply(text="something else")})
    found = await counterfactual(journal, "s", place, changed, model=echo, settings=settings)
    again = await read_all(journal, found.session)
    replies = [record.event.reply.text for record in again if isinstance(record.event, ModelReplied)]
    assert replies == ["2 one", "something else", "6 three"]
    assert [(use.kind, use.turn) for use in found.run_again] == [("model", 3)]
    opened = [record.seq for record in records if record.trigger == "prompt_received"]
    assert [record.hash for record in again[: opened[1] - 1]] == [record.hash for record in records[: opened[1] - 1]]


async def test_report_is_json() -> None:
    """The report survives JSON."""
    journal, _ = await fifty()
    found = await counterfactual(journal, "s", 3, None, model=World().model(), tools=World().tools())
    assert json.loads(json.dumps(found.as_json()))["session"] == found.session


@pytest.mark.parametrize(
    ("seq", "fact", "error", "text"),
    [
        (0, None, ReplayError, "no record 0"),
        (999, None, ReplayError, "no record 999"),
        (1, None, ReplayError, "before the first turn"),
        (2, ToolFinished(call_id="c1"), UsageError, "record 2 is a prompt_received"),
        (5, ToolFinished(call_id="nobody"), UsageError, "about something else"),
    ],
)
async def test_bad_fact_is_refused(seq: int, fact: ToolFinished | None, error: type[Exception], text: str) -> None:
    """What is no fact of the history is told, and no session is made."""
    journal, _ = await fifty()
    with pytest.raises(error, match=text):
        await counterfactual(journal, "s", seq, fact, model=World().model())
    assert [info.id for info in await journal.sessions()] == ["s"]


async def test_outcome_of_a_counterfactual_can_be_forked_again() -> None:
    """The new session is a session: it can be forked, and goes on."""
    journal, _ = await fifty()
    found = await counterfactual(journal, "s", 3, None, model=World().model(), tools=World().tools())
    length = len(await read_all(journal, found.session))
    name = await fork(journal, found.session, length, clock=SystemClock())
    async with Engine(model=FunctionModel(lambda request: ModelReply(text="on")), journal=journal) as engine:
        assert (await (await engine.open(name)).ask("and now?")).outcome is Outcome.COMPLETED
