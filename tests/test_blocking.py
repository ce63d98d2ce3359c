"""The blocking facade: the same engine without await."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from engine import State, ToolCall, TransitionRecord, TurnResult, tool
from engine.blocking import BlockingEngine
from engine.core.notices import TextDelta
from engine.core.values import Outcome
from engine.errors import EngineClosed, InvalidId, UnknownSession
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.ports import Decision, ToolOptions


@tool(effect="read")
def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def scripted() -> ScriptedModel:
    return ScriptedModel([ToolCall(id="c1", name="double", arguments={"n": 21}), "It is 42.", "Bye."])


def test_ask_returns_the_result() -> None:
    """A turn with a tool runs to its end, and the session is idle after it."""
    with BlockingEngine(model=scripted(), tools=[double]) as engine:
        session = engine.open("x")
        result = session.ask("double 21")
        assert (result.text, result.outcome) == ("It is 42.", Outcome.COMPLETED)
        assert [call.content for call in result.tool_calls] == ["42"]
        assert session.state is State.IDLE
        assert session.messages[-1].text == "It is 42."


def test_stream_yields_records_notices_and_the_result_last() -> None:
    """Iterating over a turn gives its records in order, text as it grows, and the result at the end."""
    with BlockingEngine(model=scripted(), tools=[double]) as engine, engine.open("x") as session:
        items = list(session.stream("double 21"))
        records = [item for item in items if isinstance(item, TransitionRecord)]
        assert [record.seq for record in records] == list(range(2, session.seq + 1))
        assert any(isinstance(item, TextDelta) for item in items)
        assert isinstance(items[-1], TurnResult)
        assert items[-1].text == "It is 42."


def test_leaving_a_stream_early_cancels_its_turn() -> None:
    """Closing the iterator before the end leaves a cancelled turn and an idle session."""
    entered = threading.Event()

    @tool(effect="read")
    async def wait_for_ever() -> str:
        entered.set()
        await anyio.sleep_forever()
        return "never"

    model = ScriptedModel([ToolCall(id="c1", name="wait_for_ever")])
    with BlockingEngine(model=model, tools=[wait_for_ever]) as engine:
        session = engine.open("x")
        items = session.stream("go")
        next(items)
        assert entered.wait(10)
        items.close()  # type: ignore[attr-defined]
        assert session.state is State.IDLE
        assert list(session.history())[-1].trigger == "turn_cancelled"


def test_history_of_session_and_engine_agree() -> None:
    """A history can be read through the session and, without opening it, through the engine; both respect `after`."""
    with BlockingEngine(model=scripted(), tools=[double]) as engine:
        session = engine.open("x")
        session.ask("double 21")
        whole = list(session.history())
        assert [record.seq for record in whole] == list(range(1, session.seq + 1))
        assert list(engine.history("x", after=3)) == whole[3:]


def test_works_inside_a_running_loop() -> None:
    """A notebook's loop is running already; the facade has its own."""

    async def cell() -> str | None:
        with BlockingEngine(model=ScriptedModel(["Hello."])) as engine:
            return engine.open().ask("hi").text

    assert asyncio.run(cell()) == "Hello."


def test_answer_settles_a_pending_request() -> None:
    """A turn that waits for a person goes on with the answer."""

    class AskAlways:
        def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
            return Decision("ask", f"May {call.name} run?")

    with BlockingEngine(model=scripted(), tools=[double], policy=AskAlways()) as engine:
        session = engine.open("x")
        waiting = session.ask("double 21")
        assert waiting.outcome is Outcome.WAITING
        assert session.answer(session.pending[0].id, approve=True).text == "It is 42."


def test_errors_arrive_as_themselves() -> None:
    """What the asynchronous call raises, the blocking one raises."""
    with BlockingEngine(model=scripted()) as engine:
        with pytest.raises(InvalidId):
            engine.open("no such id!")
        with pytest.raises(UnknownSession):
            next(engine.history("nobody"))


def test_two_engines_share_a_journal_one_after_the_other() -> None:
    """A session goes on where the engine before left it."""
    journal = MemoryJournal()
    with BlockingEngine(model=ScriptedModel(["One."]), journal=journal) as engine:
        engine.open("x", external_id="order 42").ask("1")
    with BlockingEngine(model=ScriptedModel(["Two."]), journal=journal) as engine:
        assert engine.find("order 42") == ["x"]
        session = engine.open("x")
        assert session.ask("2").turn == 2
        assert session.result().text == "Two."


def test_closed_engine_refuses() -> None:
    """Outside of its `with` block the engine says that it is closed."""
    engine = BlockingEngine(model=scripted())
    with pytest.raises(EngineClosed):
        engine.open("x")
    with engine:
        engine.open("x")
    with pytest.raises(EngineClosed):
        engine.open("x")


def test_cancel_from_another_thread_ends_the_turn() -> None:
    """One thread waits in `ask`, another cancels; the waiting one gets a cancelled result."""
    entered = threading.Event()

    @tool(effect="read")
    async def wait_for_ever() -> str:
        entered.set()
        await anyio.sleep_forever()
        return "never"

    model = ScriptedModel([ToolCall(id="c1", name="wait_for_ever")])
    with BlockingEngine(model=model, tools=[wait_for_ever]) as engine:
        session = engine.open("x")
        outcomes: list[Outcome] = []
        asking = threading.Thread(target=lambda: outcomes.append(session.ask("go").outcome))
        asking.start()
        assert entered.wait(10)
        session.cancel("enough")
        asking.join(10)
        assert outcomes == [Outcome.CANCELLED]
