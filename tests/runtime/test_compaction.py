"""Compaction in the living engine: when, what the model is shown then, what is recorded, and what never changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine import (
    CompactionSettings,
    Engine,
    EngineSettings,
    Limits,
    Message,
    ModelReply,
    ModelRequest,
    Outcome,
    Prompt,
    Session,
    State,
    TransitionRecord,
    Usage,
    tool,
)
from engine.core.events import ContextCompacted
from engine.core.notices import Compacting
from engine.core.tokens import message_tokens
from engine.errors import IllegalTransition, ModelError, UsageError
from engine.journal import MemoryJournal
from engine.models import FunctionModel, RecordedModel
from engine.ports import Emit, Model, Tool
from engine.replay import Account, fork, prune, redact, state_at, verify
from engine.runtime.clock import SystemClock
from engine.testing.checks import check_messages

from .scenes import call, check_closed, history

pytestmark = pytest.mark.anyio

LONG = "word " * 40
SMALL = Limits(max_context_tokens=400)
SHORT_TAIL = EngineSettings(system="Be kind.", compaction=CompactionSettings(keep_messages=2))

Think = Callable[[ModelRequest], ModelReply]


class Talker:
    """A model that answers at length, and gives a short summary when it is asked for one."""

    def __init__(self, summary: Think | None = None) -> None:
        self.replies: list[list[Message]] = []
        self.summaries: list[ModelRequest] = []
        self._summary = summary or (lambda request: ModelReply(text="- goal: words"))

    def model(self) -> FunctionModel:
        """Return the model."""
        return FunctionModel(self.think)

    def think(self, request: ModelRequest) -> ModelReply:
        """Answer."""
        if request.purpose == "summary":
            self.summaries.append(request)
            return self._summary(request)
        self.replies.append(list(request.messages))
        return ModelReply(text=f"answer {request.turn}: {LONG}")


@asynccontextmanager
async def opened(
    model: Model,
    journal: MemoryJournal | None = None,
    limits: Limits | None = None,
    settings: EngineSettings = SHORT_TAIL,
    tools: Sequence[Tool] = (),
) -> AsyncGenerator[Session]:
    """Open the session "s" in an engine of its own."""
    engine = Engine(model=model, tools=tools, journal=journal, limits=limits, settings=settings)
    async with engine, await engine.open("s") as session:
        yield session


async def compactions(journal: MemoryJournal, session: str = "s") -> list[ContextCompacted]:
    return [record.event for record in await history(journal, session) if isinstance(record.event, ContextCompacted)]


async def talk(engine: Engine, turns: int, session: str = "s") -> None:
    async with await engine.open(session) as opened:
        for number in range(turns):
            result = await opened.ask(f"question {number}: {LONG}")
            assert result.outcome is Outcome.COMPLETED, result.reason


def size(messages: list[Message]) -> int:
    return sum(map(message_tokens, messages))


async def test_a8_a_long_conversation_is_compacted_at_its_threshold() -> None:
    """At 0.80 of the window a summary takes the place of what is older, on record; the view fits from then on."""
    talker, journal = Talker(), MemoryJournal()
    async with Engine(model=talker.model(), journal=journal, limits=SMALL, settings=SHORT_TAIL) as engine:
        await talk(engine, 12)
    done = await compactions(journal)
    assert len(done) > 2
    assert all(event.text and event.tokens_before >= 320 > event.tokens_after for event in done)
    assert all(event.reply is not None and event.reply.text == "- goal: words" for event in done)
    assert max(map(size, talker.replies)) < 400
    assert len(talker.replies) == 12
    check_closed(await history(journal))


async def test_m7_the_conversation_stays_whole() -> None:
    """Compaction is a view: messages, history and export hold everything, and replay gives the same."""
    talker, journal = Talker(), MemoryJournal()
    async with Engine(model=talker.model(), journal=journal, limits=SMALL, settings=SHORT_TAIL) as engine:
        await talk(engine, 12)
        async with await engine.open("s") as session:
            assert len(session.messages) == 1 + 2 * 12
    records = await history(journal)
    assert verify(records).ok
    folded = state_at(records, records[-1].seq)
    assert len(folded.messages()) == 25
    assert len(folded.view()) < 12


async def test_a8_off_means_off() -> None:
    """Without `auto_compact` the model is shown everything, and nothing is recorded about it."""
    talker, journal = Talker(), MemoryJournal()
    off = SMALL.model_copy(update={"auto_compact": False})
    async with Engine(model=talker.model(), journal=journal, limits=off, settings=SHORT_TAIL) as engine:
        await talk(engine, 12)
    assert await compactions(journal) == []
    assert talker.summaries == []
    assert len(talker.replies[-1]) == 24


async def test_a8_the_prompt_is_stable_between_two_compactions() -> None:
    """From one compaction to the next each request begins with all of the one before: a prefix cache holds."""
    talker, journal = Talker(), MemoryJournal()
    async with Engine(model=talker.model(), journal=journal, limits=SMALL, settings=SHORT_TAIL) as engine:
        await talk(engine, 12)
    breaks = [one for one, other in zip(talker.replies, talker.replies[1:], strict=False) if other[: len(one)] != one]
    assert len(breaks) == len(await compactions(journal))


async def test_l13_system_messages_and_pins_are_always_shown() -> None:
    """What is pinned, and every system message, is in every request after it, word by word."""
    talker, journal = Talker(), MemoryJournal()
    async with opened(talker.model(), journal, limits=SMALL) as session:
        await session.ask(Prompt(text="Never pay without asking.", pinned=True))
        for _ in range(12):
            await session.ask(LONG)
    assert len(await compactions(journal)) > 2
    for shown in talker.replies:
        assert [message.text for message in shown[:2]] == ["Be kind.", "Never pay without asking."]


@tool(effect="write", conflict_key="note:{text}")
def write_note(text: str) -> str:
    """Write."""
    return f"saved as n-{text}"


@tool(effect="read")
def look(text: str) -> str:
    """Look."""
    return LONG


async def test_l14_a_long_turn_is_cut_between_closed_groups_and_keeps_its_prompt() -> None:
    """Calls and results stay together in every request, the prompt of the turn is shown whole, facts tell the rest."""
    shown: list[list[Message]] = []

    def think(request: ModelRequest) -> ModelReply:
        if request.purpose == "summary":
            return ModelReply(text="- goal: notes")
        shown.append(list(request.messages))
        if request.round > 12:
            return ModelReply(text="done")
        notes = [
            call("write_note", f"a{request.round}", text=f"t{request.round}"),
            call("look", f"b{request.round}", text="x"),
        ]
        return ModelReply(tool_calls=notes)

    journal = MemoryJournal()
    limits = Limits(max_context_tokens=800, loops=None)
    async with (
        Engine(
            model=FunctionModel(think), tools=[write_note, look], journal=journal, limits=limits, settings=SHORT_TAIL
        ) as engine,
        await engine.open("s") as session,
    ):
        assert (await session.ask("write twelve notes")).outcome is Outcome.COMPLETED
    done = await compactions(journal)
    assert done
    for messages in shown:
        check_messages(messages)
        assert Message(role="user", text="write twelve notes") in messages
    assert '- done: write_note({"text": "t7"}) on note:t7: completed, "saved as n-t7"' in done[0].text
    assert '- done: write_note({"text": "t8"})' not in done[0].text, "its result is shown anyway"
    assert "- read: look ×7" in done[0].text
    check_closed(await history(journal))


async def test_l15_refused_where_nothing_is_gained() -> None:
    """A summary that is no shorter than what it stands for is paid for, recorded, and not used."""
    talker = Talker(lambda request: ModelReply(text="blah " * 400, usage=Usage(input_tokens=5, output_tokens=7)))
    journal = MemoryJournal()
    limits = Limits(max_context_tokens=400)
    settings = EngineSettings(compaction=CompactionSettings(keep_messages=2))
    async with opened(talker.model(), journal, limits=limits, settings=settings) as session:
        for _ in range(4):
            await session.ask(Prompt(text=LONG, pinned=True))
        for _ in range(4):
            await session.ask("and?")
        used = session.usage
    done = await compactions(journal)
    assert used.output_tokens == 7 * len(talker.summaries) > 0
    assert all(len(event.text) < 4 * (50 + 50 + 40) for event in done)
    refused = [event for event in done if not event.text]
    assert all(event.reason.startswith("it would not get shorter") for event in refused)


async def test_l15_a_summary_has_512_tokens_at_most() -> None:
    """One that is longer is cut, and parameters that say how long a reply may be say so less."""
    asked: list[Any] = []

    def summary(request: ModelRequest) -> ModelReply:
        asked.append(request.parameters)
        return ModelReply(text="blah " * 4000)

    journal = MemoryJournal()
    settings = EngineSettings(
        parameters={"max_tokens": 9000, "tool_choice": "auto"}, compaction=CompactionSettings(keep_messages=2)
    )
    limits = Limits(max_context_tokens=20_000)
    async with opened(Talker(summary).model(), journal, limits=limits, settings=settings) as session:
        for _ in range(10):
            await session.ask(LONG * 40)
    (done, *_) = await compactions(journal)
    assert asked[0] == {"max_tokens": 512}
    assert 1900 < len(done.text) < 4 * (512 + 512 + 40)


@pytest.mark.parametrize("failure", ["error", "nothing", "calls", "bug"])
async def test_a8_a_failing_summary_leaves_the_session_as_it_is(failure: str) -> None:
    """Below the window the conversation is shown whole, and the fault is on record; the turn goes on."""

    def summary(request: ModelRequest) -> ModelReply:
        if failure == "error":
            raise ModelError("503", status=503)
        if failure == "bug":
            raise ZeroDivisionError
        return ModelReply(text=" ") if failure == "nothing" else ModelReply(tool_calls=[call("look")])

    talker, journal = Talker(summary), MemoryJournal()
    limits = Limits(max_context_tokens=500)
    async with Engine(model=talker.model(), journal=journal, limits=limits, settings=SHORT_TAIL) as engine:
        await talk(engine, 4)
        (event,) = await compactions(journal)
        assert (event.text, event.fault is not None) == ("", True)
        assert event.reason.startswith("there is no summary")
        assert len(talker.replies[-1]) == 8
        # When it would not fit any more, the facts stand alone.
        await talk(engine, 3)
    (fallback,) = [event for event in await compactions(journal) if event.text]
    assert fallback.fault is not None
    assert "From the record:\n- asked: " in fallback.text
    assert fallback.tokens_before >= 500
    check_closed(await history(journal))


async def test_a8_a_summary_of_a_summary_keeps_it() -> None:
    """The next summary is made of the one before and of what came since; if it fails, the one before stays."""
    answers: Iterator[ModelReply | Exception] = iter(
        [ModelReply(text="FIRST"), ModelReply(text="SECOND"), *[ModelError("no")] * 9]
    )

    def summary(request: ModelRequest) -> ModelReply:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    talker, journal = Talker(summary), MemoryJournal()
    async with Engine(model=talker.model(), journal=journal, limits=SMALL, settings=SHORT_TAIL) as engine:
        await talk(engine, 14)
    told = [request.messages[-1].text or "" for request in talker.summaries]
    assert "summary so far" not in told[0]
    assert "summary so far: FIRST" in told[1]
    assert "summary so far: SECOND" in told[2]
    carried = [event for event in await compactions(journal) if event.fault is not None and event.text]
    assert carried
    assert all("SECOND" in event.text for event in carried)


@pytest.mark.parametrize("how", ["error", "reply", "empty reply"])
async def test_l2_a_full_window_leads_to_a_compaction_and_a_retry(how: str) -> None:
    """The turn whose request did not fit is asked again with less, in the same round, and completes."""
    shown: list[int] = []

    def think(request: ModelRequest) -> ModelReply:
        if request.purpose == "summary":
            return ModelReply(text="- goal: words")
        shown.append(len(request.messages))
        if len(request.messages) > 7:
            if how == "error":
                raise ModelError("too long", retryable=False, kind="context_full", status=400)
            text = "cut off" if how == "reply" else None
            return ModelReply(text=text, finish="context_full", usage=Usage(input_tokens=1, output_tokens=2))
        return ModelReply(text=LONG)

    journal = MemoryJournal()
    async with opened(FunctionModel(think), journal) as session:
        results = [await session.ask(LONG) for _ in range(8)]
        assert "cut off" not in [message.text for message in session.messages]
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    assert {result.text for result in results} == {LONG}
    assert max(shown) == 8
    records = await history(journal)
    check_closed(records)
    moves = [(record.source, record.dest) for record in records if isinstance(record.event, ContextCompacted)]
    assert set(moves) == {(State.ERROR, State.GENERATING_RESPONSE)}
    assert all(
        effect.kind == "call_model"
        for record in records
        for effect in record.effects
        if record.trigger == "context_compacted"
    )


async def test_l2_a_window_that_is_always_full_ends_the_turn_and_not_the_session() -> None:
    """Two compactions in a row at most; then the turn fails and says why, and the session is usable."""
    full = True

    def think(request: ModelRequest) -> ModelReply:
        if full and len(request.messages) > 2:
            raise ModelError("too long", retryable=False, kind="context_full")
        return ModelReply(text="fine")

    journal = MemoryJournal()
    async with Engine(model=FunctionModel(think), journal=journal) as engine, await engine.open("s") as session:
        await session.ask(LONG)
        failed = await session.ask(LONG)
        assert failed.outcome is Outcome.FAILED
        assert "too long" in failed.reason
        full = False
        assert (await session.ask("now?")).text == "fine"
    check_closed(await history(journal))


async def test_a8_budgets_count_the_summary() -> None:
    """What a summary used is the turn's: its tokens are in the result, and in the budget."""
    talker, journal = (
        Talker(lambda _: ModelReply(text="short", usage=Usage(input_tokens=300, output_tokens=5))),
        MemoryJournal(),
    )
    inner = talker.think

    def think(request: ModelRequest) -> ModelReply:
        reply = inner(request)
        return (
            reply
            if reply.usage
            else reply.model_copy(update={"usage": Usage(input_tokens=10 + size(list(request.messages)))})
        )

    limits = SMALL.model_copy(update={"max_tokens": 5000})
    async with opened(FunctionModel(think), journal, limits=limits) as session:
        results = [await session.ask(LONG) for _ in range(5)]
    with_summary = [result for result in results if result.usage.output_tokens == 5]
    assert len(with_summary) == len(await compactions(journal)) > 0
    assert all(result.usage.input_tokens > 300 for result in with_summary)


async def test_a8_no_summary_is_asked_for_where_the_budget_has_no_room() -> None:
    """The turn ends by its budget, as it would without compaction."""
    talker, journal = Talker(), MemoryJournal()

    def think(request: ModelRequest) -> ModelReply:
        reply = talker.think(request)
        return reply.model_copy(
            update={"usage": Usage(input_tokens=399, output_tokens=1), "tool_calls": (call("look", text="x"),)}
        )

    limits = SMALL.model_copy(update={"max_tokens": 400})
    async with (
        Engine(model=FunctionModel(think), tools=[look], journal=journal, limits=limits, settings=SHORT_TAIL) as engine,
        await engine.open("s") as session,
    ):
        assert "budget" in (await session.ask(LONG)).reason
    assert talker.summaries == []


async def test_a8_host_compacts_an_idle_session() -> None:
    """`session.compact` asks for a summary and says whether the model is shown less; the next turn is shown less."""
    talker, journal = Talker(), MemoryJournal()
    async with opened(talker.model(), journal) as session:
        assert not await session.compact()
        for _ in range(5):
            await session.ask(LONG)
        assert await session.compact()
        assert not await session.compact()
        assert session.state is State.IDLE
        await session.ask("and now?")
        assert len(session.messages) == 13
    assert len(talker.replies[-1]) == 1 + 1 + 2 + 1
    check_closed(await history(journal))


async def test_a8_a_waiting_session_is_not_compacted() -> None:
    """Outside of idle the host's request is refused with what is legal there."""

    @tool(external=True)
    def task() -> str:
        """Wait."""
        return ""

    async with opened(FunctionModel(lambda _: ModelReply(tool_calls=[call("task")])), tools=[task]) as session:
        assert (await session.ask("go")).outcome is Outcome.WAITING
        with pytest.raises(IllegalTransition, match="context_compacted"):
            await session.compact()


class Hanging:
    """A model whose summaries hang until they are cancelled."""

    def __init__(self, talker: Talker) -> None:
        self._talker = talker
        self.asked = anyio.Event()
        self.hangs = True

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Answer, or hang."""
        if request.purpose == "summary" and self.hangs:
            self.asked.set()
            await anyio.sleep_forever()
        return self._talker.think(request)


@pytest.mark.parametrize("end", ["cancel", "scope", "close"])
async def test_m11_a_compaction_can_be_called_off(end: str) -> None:
    """Cancelled, or its engine gone, in the middle of a summary: the session is sound, and goes on afterwards."""
    talker, journal = Talker(), MemoryJournal()
    model = Hanging(talker)
    async with Engine(model=model, journal=journal, limits=SMALL, settings=SHORT_TAIL) as engine:
        session = await engine.open("s")
        for _ in range(3):
            await session.ask(LONG)
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                await session.ask("third " + LONG)

            group.start_soon(ask)
            await model.asked.wait()
            assert session.state is State.PROCESSING
            if end == "cancel":
                await session.cancel()
            elif end == "scope":
                group.cancel_scope.cancel()
            else:
                await session.close()
        model.hangs = False
    check_open = await history(journal)
    assert await compactions(journal) == []
    assert check_open[-1].trigger == ("shutdown_requested" if end == "close" else "turn_cancelled")
    async with opened(model, journal, limits=SMALL) as session:
        await session.result()
        assert (await session.ask("fourth " + LONG)).outcome is Outcome.COMPLETED
    assert len(await compactions(journal)) >= 1
    check_closed(await history(journal))


@pytest.mark.parametrize("end", ["cancel", "scope"])
async def test_m11_a_compaction_by_the_host_can_be_called_off(end: str) -> None:
    """An idle session stays idle and as it was."""
    talker, journal = Talker(), MemoryJournal()
    model = Hanging(talker)
    async with opened(model, journal) as session:
        for _ in range(4):
            await session.ask(LONG)
        seq = session.seq
        async with anyio.create_task_group() as group:
            group.start_soon(session.compact)
            await model.asked.wait()
            if end == "cancel":
                await session.cancel()
            else:
                group.cancel_scope.cancel()
        assert (session.state, session.seq) == (State.IDLE, seq)
        model.hangs = False
        assert await session.compact()
    check_closed(await history(journal))


async def test_l1_watchers_are_told() -> None:
    """A notice when a summary begins, the record when it is done, and nothing of the summary as text of the reply."""
    talker, journal = Talker(), MemoryJournal()
    seen: list[object] = []
    async with opened(talker.model(), journal, limits=SMALL) as session:
        for _ in range(5):
            seen += [item async for item in session.stream(LONG)]
    notices = [item for item in seen if isinstance(item, Compacting)]
    assert notices
    assert all(notice.limit == 400 and notice.tokens >= 320 for notice in notices)
    assert len([item for item in seen if getattr(item, "trigger", "") == "context_compacted"]) == len(notices)
    assert not [
        item for item in seen if "goal" in str(getattr(item, "text", "") or "") and not hasattr(item, "outcome")
    ]


async def test_a8_a_restart_goes_on_with_the_same_view() -> None:
    """Opened again, from the history or from a checkpoint, the model is shown what it was shown before."""
    talker, journal = Talker(), MemoryJournal()
    settings = SHORT_TAIL.model_copy(update={"checkpoint_records": 5})
    for _ in range(10):
        async with Engine(model=talker.model(), journal=journal, limits=SMALL, settings=settings) as engine:
            await talk(engine, 1)
    apart = await compactions(journal)
    together = MemoryJournal()
    other = Talker()
    async with opened(other.model(), together, limits=SMALL, settings=settings) as session:
        for _ in range(10):
            await session.ask(f"question 0: {LONG}")
    assert talker.replies == other.replies
    assert apart == await compactions(together)


async def test_v6_a_recorded_model_gives_the_recorded_summaries() -> None:
    """A re-run with the recorded replies compacts where the recorded run did, and comes out the same."""
    talker, journal, again = Talker(), MemoryJournal(), MemoryJournal()
    async with Engine(model=talker.model(), journal=journal, limits=SMALL, settings=SHORT_TAIL) as engine:
        await talk(engine, 12)
    recorded = RecordedModel(await history(journal))
    async with Engine(model=recorded, journal=again, limits=SMALL, settings=SHORT_TAIL) as engine:
        await talk(engine, 12)
    assert await compactions(again) == await compactions(journal)
    assert [record.event for record in await history(again)] == [record.event for record in await history(journal)]


async def test_a8_forks_pruned_histories_and_redactions_cope() -> None:
    """A fork is shown what its parent was; pruned, the view stays; a value taken out is gone from summaries, too."""
    talker, journal = Talker(lambda _: ModelReply(text="- goal: secret-word-77")), MemoryJournal()
    async with Engine(model=talker.model(), journal=journal, limits=SMALL, settings=SHORT_TAIL) as engine:
        await talk(engine, 8)
    records = await history(journal)
    account = Account(SystemClock())
    name = await fork(journal, "s", records[-1].seq, clock=SystemClock())
    shared = await history(journal, name)
    assert list(state_at(shared, records[-1].seq).view()) == list(state_at(records, records[-1].seq).view())
    alone = await copy_of(records)
    done = await redact(alone, "s", "secret-word-77", account)
    assert done.rewritten
    assert not done.left
    before = [message.text for message in state_at(await history(alone), records[-1].seq).view()]
    await prune(alone, "s", records[-1].seq - 3, account)
    after = await history(alone)
    assert verify(after).ok
    assert [message.text for message in state_at(after, after[-1].seq).view()] == before
    assert not any("secret-word-77" in record.line for record in after)


async def test_a8_pruning_refuses_what_a_later_summary_needs() -> None:
    """With the conversation forgotten, a summary that stands for more than is left could not be placed."""
    talker, journal = Talker(), MemoryJournal()
    async with Engine(model=talker.model(), journal=journal, settings=SHORT_TAIL) as engine:
        await talk(engine, 4)
        async with await engine.open("s") as session:
            seq = session.seq
            assert await session.compact()
    account = Account(SystemClock())
    with pytest.raises(UsageError, match="nothing was changed"):
        await prune(journal, "s", seq, account, forget=True)
    await prune(journal, "s", seq + 10, account, forget=True)
    records = await history(journal)
    assert verify(records).ok
    assert not list(state_at(records, records[-1].seq).view())


async def copy_of(records: Sequence[TransitionRecord]) -> MemoryJournal:
    """Return a journal of its own with one history."""
    copied = MemoryJournal()
    writer = await copied.claim("s")
    await writer.append(records)
    await writer.release()
    return copied
