"""Middleware, context providers, observers and streams: everything that stands around a turn or watches it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel
import pytest

from engine import (
    Engine,
    Limits,
    Message,
    ModelReply,
    ModelRequest,
    Outcome,
    State,
    ToolContext,
    ToolOutput,
    TransitionRecord,
    TurnResult,
    tool,
)
from engine.core.notices import Gap, Notice, TextDelta, ToolProgress, ToolRunning
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from tests.runtime.scenes import calls, check_closed, check_sound, history, triggers

pytestmark = pytest.mark.anyio


class Turnstile:
    """A model whose every reply waits until the test lets it through."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []
        self.arrived = anyio.Semaphore(0)
        self.passes = anyio.Semaphore(0)

    async def generate(self, request: ModelRequest, emit: Callable[[Notice], None]) -> ModelReply:
        """Wait for a pass, then repeat the newest message."""
        self.seen.append(request.messages[-1].text)
        self.arrived.release()
        await self.passes.acquire()
        return ModelReply(text=request.messages[-1].text)


@tool
async def pay(amount: int = 1) -> str:
    """Pay."""
    return f"paid {amount}"


class Wrapping:
    """A middleware that marks what passes."""

    def __init__(self, mark: str, log: list[str]) -> None:
        self._mark = mark
        self._log = log

    async def around_model(
        self, request: ModelRequest, call: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        """Note the way in and out, and add the mark to the text."""
        self._log.append(f"{self._mark} model in")
        reply = await call(request)
        self._log.append(f"{self._mark} model out")
        return reply.model_copy(update={"text": f"{reply.text}{self._mark}"}) if reply.text else reply

    async def around_tool(
        self, context: ToolContext, call: Callable[[ToolContext], Awaitable[ToolOutput]]
    ) -> ToolOutput:
        """Add the mark to the result."""
        self._log.append(f"{self._mark} tool in")
        output = await call(context)
        return ToolOutput(output.content + self._mark, output.status, output.error)


async def test_m4_middleware_wraps_model_and_tools_in_order() -> None:
    """The first middleware is the outermost; what it changes is what the journal holds."""
    journal = MemoryJournal()
    log: list[str] = []
    async with Engine(
        model=ScriptedModel([calls("pay"), "done"]),
        tools=[pay],
        journal=journal,
        middleware=[Wrapping("A", log), Wrapping("B", log)],
    ) as engine:
        result = await (await engine.open("s")).ask("go")
    assert (result.text, result.tool_calls[0].content) == ("doneBA", "paid 1BA")
    assert log[:4] == ["A model in", "B model in", "B model out", "A model out"]
    assert log[4:6] == ["A tool in", "B tool in"]
    assert check_sound(await history(journal)).messages()[-1].text == "doneBA"


async def test_a18_context_providers_add_to_the_first_round_of_a_turn() -> None:
    """What providers add stands in the conversation and in the record, once a turn."""
    journal = MemoryJournal()

    class Facts:
        async def provide(self, session: str, messages: Sequence[Message]) -> Sequence[Message]:
            return [Message(role="system", text=f"{session} has {len(messages)} messages")]

    model = ScriptedModel([calls("pay"), "done"])
    async with Engine(model=model, tools=[pay], journal=journal, providers=[Facts()]) as engine:
        await (await engine.open("s")).ask("go")
    assert [item.role for item in model.requests[1].messages] == ["user", "system", "assistant", "tool"]
    assert model.requests[0].messages[1].text == "s has 1 messages"
    check_closed(await history(journal))


async def test_l1_observers_see_every_record_and_notice_and_break_nothing() -> None:
    """Observers see what happens in order; one that raises changes nothing for anybody."""
    records: list[str] = []
    notices: list[str] = []

    class Watcher:
        def on_record(self, record: TransitionRecord) -> None:
            records.append(record.trigger)

        def on_notice(self, session: str, notice: Notice) -> None:
            notices.append(type(notice).__name__)

    class Broken:
        def on_record(self, record: TransitionRecord) -> None:
            raise ValueError("broken observer")

        def on_notice(self, session: str, notice: Notice) -> None:
            raise ValueError("broken observer")

    @tool(effect="read")
    async def look(context: ToolContext) -> str:
        context.progress("half way")
        return "seen"

    journal = MemoryJournal()
    async with Engine(
        model=ScriptedModel([calls("look"), "a\nb"]), tools=[look], journal=journal, observers=[Broken(), Watcher()]
    ) as engine:
        await (await engine.open("s")).ask("go")
    written = triggers(await history(journal))
    assert records == written[: len(records)]
    assert records[-1] == "model_replied"
    assert notices == ["ToolRunning", "ToolProgress", "TextDelta", "TextDelta"]


async def test_m15_callback_iterator_and_list_agree() -> None:
    """An observer's callbacks, the async iterator and the collected list tell the same story."""
    called: list[object] = []

    class Callback:
        def on_record(self, record: TransitionRecord) -> None:
            called.append(record)

        def on_notice(self, session: str, notice: Notice) -> None:
            called.append(notice)

    @tool(effect="read")
    async def look(context: ToolContext) -> str:
        context.progress("half way")
        return "seen"

    async with Engine(model=ScriptedModel([calls("look"), "a\nb"]), tools=[look], observers=[Callback()]) as engine:
        session = await engine.open("s")
        called.clear()
        collected = [item async for item in session.stream("go")]
    assert collected[:-1] == called
    assert isinstance(collected[-1], TurnResult)
    assert collected[-1].text == "a\nb"
    kinds = [type(item).__name__ for item in collected]
    assert {"TransitionRecord", "ToolRunning", "ToolProgress", "TextDelta", "TurnResult"} == set(kinds)
    assert any(isinstance(item, ToolRunning | ToolProgress | TextDelta) for item in collected)


async def test_m14_a_slow_reader_sees_a_gap_with_the_number_of_lost_items() -> None:
    """A stream that is read late keeps the newest items; a gap says how many are missing, and nothing was held up."""
    length = 50
    text = "line\n" * length
    done = anyio.Event()

    class Watch:
        def on_record(self, record: TransitionRecord) -> None:
            if record.dest is State.IDLE and record.trigger == "model_replied":
                done.set()

        def on_notice(self, session: str, notice: Notice) -> None:
            """Do nothing."""

    async with Engine(model=ScriptedModel([text]), limits=Limits(stream_buffer=8), observers=[Watch()]) as engine:
        session = await engine.open("s")
        stream = session.stream("go")
        items: list[object] = [await anext(stream)]
        await done.wait()
        await anyio.wait_all_tasks_blocked()
        items += [item async for item in stream]
    gaps = [item for item in items if isinstance(item, Gap)]
    assert len(gaps) == 1
    shown = [item for item in items if not isinstance(item, Gap | TurnResult)]
    # The turn made three records and `length` deltas.
    assert len(shown) + gaps[0].lost == length + 3
    assert isinstance(items[-1], TurnResult)


async def test_stream_left_early_lets_the_turn_go_on() -> None:
    """`async for` alone, left at the first item: the turn ends by itself in the background."""
    model = Turnstile()
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async for _ in session.stream("go"):
            break
        model.passes.release()
        assert (await session.result()).outcome is Outcome.COMPLETED


async def test_stream_left_early_inside_async_with_cancels_the_turn() -> None:
    """`async with session.stream(...)` left early: the turn is cancelled before the block is left."""
    model = Turnstile()
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with session.stream("go") as stream:
            async for _ in stream:
                break
        assert session.state is State.IDLE
        assert [turn.outcome for turn in session.turns] in ([Outcome.CANCELLED], [])


async def test_stream_left_in_the_queue_cancels_nobody_else() -> None:
    """Leaving a stream whose prompt still waits takes that prompt back, and leaves the running turn alone."""
    model = Turnstile()
    outcomes: list[Outcome] = []

    async def ask() -> None:
        outcomes.append((await session.ask("first")).outcome)

    async def leave() -> None:
        async with session.stream("second") as stream:
            with anyio.CancelScope() as waiting:
                scopes.append(waiting)
                async for _ in stream:
                    await anyio.lowlevel.checkpoint()

    scopes: list[anyio.CancelScope] = []
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(leave)
            await anyio.wait_all_tasks_blocked()
            scopes[0].cancel()
            await anyio.wait_all_tasks_blocked()
            assert session.state is State.GENERATING_RESPONSE
            model.passes.release()
        assert outcomes == [Outcome.COMPLETED]
        assert [turn.prompt for turn in session.turns] == ["first"]


async def test_stream_shows_its_own_turn_only() -> None:
    """A stream whose prompt waits begins with the record of that prompt, not with the end of the turn before."""
    model = Turnstile()
    items: list[object] = []

    async def read() -> None:
        items.extend([item async for item in session.stream("second")])

    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "first")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            model.passes.release()
            model.passes.release()
    shown = [item.trigger for item in items if isinstance(item, TransitionRecord)]
    assert shown == ["prompt_received", "context_prepared", "model_replied"]
