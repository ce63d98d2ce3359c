"""Budgets in the living engine: what has no room does not run, somebody is told, and the session goes on afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from engine import Engine, EngineSettings, Limits, ModelReply, ModelRequest, Outcome, Prompt, State, ToolStatus, tool
from engine.core.budgets import Budget, ToolLimits
from engine.core.money import Price
from engine.core.resuming import CONCLUDE, EXTENDED
from engine.core.values import Usage
from engine.errors import InvalidEvent, UsageError
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.ports import ToolContext
from tests.runtime.scenes import Verdicts, call, calling, check_closed, history

pytestmark = pytest.mark.anyio

ONE_REPLY = Usage(input_tokens=40, output_tokens=20)


class Eager:
    """A model that asks for `look` in every round up to the last of them, and counts what it was asked."""

    def __init__(self, rounds: int, width: int = 1, usage: Usage | None = ONE_REPLY) -> None:
        self.requests: list[ModelRequest] = []
        self._rounds, self._width, self._usage = rounds, width, usage

    async def think(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        if request.turn > 1 or request.round > self._rounds:
            return ModelReply(text="done", usage=self._usage, model="m")
        asked = [call("look", f"{request.round}-{place}", n=request.round) for place in range(self._width)]
        return ModelReply(tool_calls=asked, usage=self._usage, model="m")


class Looking:
    """A read tool that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.timeouts: list[float] = []

    def tool(self) -> Callable[..., object]:
        @tool(effect="read")
        async def look(n: int, context: ToolContext) -> str:
            self.runs += 1
            self.timeouts.append(context.timeout_s)
            return f"seen {n}"

        return look


def engine_of(model: Eager, looking: Looking, limits: Limits, **more: Any) -> Engine:
    return Engine(model=FunctionModel(model.think), tools=[looking.tool()], limits=limits, **more)


def told(request: ModelRequest) -> list[str]:
    return [message.text or "" for message in request.messages if message.role in ("tool", "user")]


async def check_usable(session: Any) -> None:
    """Assert that the next turn has its budget whole again."""
    assert session.state is State.IDLE
    assert (await session.ask("again")).outcome is Outcome.COMPLETED


async def test_v16_calls_beyond_the_budget_are_refused_and_the_model_reads_why() -> None:
    """Of three calls in one reply under a budget of two the third does not run, and the turn ends as usual."""
    model, looking = Eager(1, width=3), Looking()
    async with engine_of(model, looking, Limits(max_tool_calls=2)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.COMPLETED
        assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED] * 2 + [ToolStatus.DENIED]
        assert told(model.requests[-1])[-1] == "not run: the turn has used its 2 tool calls. Answer with what you have"
        assert session.budgets == {"tool_calls": Budget(2, 0, 2)}
        await check_usable(session)
    assert looking.runs == 2


async def test_v16_m2_a_model_that_insists_ends_its_turn() -> None:
    """The reply after the refusal that asks for calls again fails the turn with the budget as its reason."""
    model, looking = Eager(9), Looking()
    async with engine_of(model, looking, Limits(max_tool_calls=2)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.reason) == (Outcome.FAILED, "the turn used all of its budget of 2 tool calls")
        await check_usable(session)
        check_closed(await history(engine.journal))
    assert (looking.runs, len(model.requests)) == (2, 5)


async def test_v16_no_tool_calls_at_all() -> None:
    """A budget of 0 lets none run, not even one that the host asks for."""
    looking = Looking()
    async with engine_of(Eager(0), looking, Limits(max_tool_calls=0)) as engine:
        result = await (await engine.open("s")).ask(Prompt(text="go", calls=[call("look", n=1)]))
    assert [made.status for made in result.tool_calls] == [ToolStatus.DENIED]
    assert looking.runs == 0


async def test_v16_a_denied_call_gives_its_place_back() -> None:
    """What a person refuses is not booked: the next call has room."""
    model, looking = Eager(2), Looking()
    verdicts: dict[str, Any] = {"1-0": "ask"}
    policy = Verdicts(**verdicts)
    async with engine_of(model, looking, Limits(max_tool_calls=1), policy=policy) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert session.budgets == {"tool_calls": Budget(0, 1, 1)}
        result = await session.answer(result.pending[0].id, approve=False)
    assert [made.status for made in result.tool_calls] == [ToolStatus.DENIED, ToolStatus.COMPLETED]


async def test_v16_tokens_stop_the_turn_within_one_reply() -> None:
    """60 tokens a reply under 100: the second reply is the last, and the turn says what it used."""
    model, looking = Eager(9), Looking()
    async with engine_of(model, looking, Limits(max_tokens=100)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.reason == "the turn used 120 tokens of its budget of 100 tokens"
        assert session.budgets == {"tokens": Budget(120, 0, 100)}
        await check_usable(session)
    assert looking.runs == 2


async def test_v16_a_reply_is_let_through_with_room_for_what_it_may_take() -> None:
    """With 50 tokens a reply declared, 60 of 100 used leave no room for another: the limit itself is not crossed."""
    model = Eager(9)
    settings = EngineSettings(parameters={"max_tokens": 50})
    async with engine_of(model, Looking(), Limits(max_tokens=100), settings=settings) as engine:
        result = await (await engine.open("s")).ask("go")
    assert result.reason == (
        "the turn used 60 tokens of its budget of 100 tokens, and one more reply may take 50 tokens"
    )
    assert len(model.requests) == 1


async def test_v16_what_is_under_way_is_reserved() -> None:
    """While the model is asked, what its reply may take at most is reserved."""
    seen: list[object] = []

    async def think(request: ModelRequest) -> ModelReply:
        seen.append(session.budgets)
        return ModelReply(text="done", usage=ONE_REPLY, model="m")

    limits = Limits(max_tokens=100, max_cost="1", prices={"*": Price(input="1", output="2")})
    settings = EngineSettings(parameters={"max_tokens": 30})
    async with Engine(model=FunctionModel(think), limits=limits, settings=settings) as engine:
        session = await engine.open("s")
        await session.ask("go")
    assert seen == [{"tokens": Budget(0, 30, 100), "cost": Budget(0, 60 * 10**6, 10**12)}]


async def test_v16_money_is_exact() -> None:
    """Ten replies at a tenth of the limit use it up to the last digit, and not one more is let through."""
    model = Eager(20, usage=Usage(input_tokens=3, output_tokens=0))
    prices = {"m": Price(input="0.1", output="1")}
    async with engine_of(model, Looking(), Limits(max_cost="0.000003", prices=prices)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert session.budgets == {"cost": Budget(3 * 10**6, 0, 3 * 10**6)}
    assert len(model.requests) == 10
    assert result.reason == "the turn used 0.000003 (cost) of its budget of 0.000003 (cost)"


@pytest.mark.parametrize(
    ("limits", "usage", "reason"),
    [
        (Limits(max_tokens=9), None, "does not say how many tokens it used"),
        (Limits(max_cost="1", prices={"other": Price(input="1", output="1")}), ONE_REPLY, "no price for the model 'm'"),
    ],
    ids=["no usage", "no price"],
)
async def test_v16_a_budget_that_cannot_be_held_fails_the_turn(
    limits: Limits, usage: Usage | None, reason: str
) -> None:
    """A model that hides what it used, or has no price, gets nowhere under a budget: nothing runs unbounded."""
    looking = Looking()
    async with engine_of(Eager(9, usage=usage), looking, limits) as engine:
        result = await (await engine.open("s")).ask("go")
    assert result.outcome is Outcome.FAILED
    assert reason in result.reason
    assert looking.runs == 0


async def test_prices_without_a_limit_only_count() -> None:
    """A model without a price, or without usage, is no failure where nothing limits the cost."""
    limits = Limits(prices={"other": Price(input="1", output="1")})
    for usage in (ONE_REPLY, None):
        async with engine_of(Eager(0, usage=usage), Looking(), limits) as engine:
            assert (await (await engine.open("s")).ask("go")).outcome is Outcome.COMPLETED


async def test_v20_a_person_extends_the_budget() -> None:
    """Asked and approved, the turn may use as much again from there on, finished calls stay finished, and it ends."""
    model, looking = Eager(3), Looking()
    async with engine_of(model, looking, Limits(max_tokens=100, on_budget="ask")) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        (request,) = result.pending
        assert (result.outcome, request.kind) == (Outcome.WAITING, "budget")
        assert request.text == "the turn used 120 tokens of its budget of 100 tokens. May it use as much again?"
        result = await session.answer(request.id, approve=True)
        assert result.outcome is Outcome.COMPLETED
        assert session.budgets == {"tokens": Budget(240, 0, 220)}
        check_closed(await history(engine.journal))
        await check_usable(session)
    assert looking.runs == 3


async def test_v20_a_person_extends_tool_calls() -> None:
    """The model, whose calls had been refused, is told that there are more, and calls again."""
    model, looking = Eager(4), Looking()
    async with engine_of(model, looking, Limits(max_tool_calls=1, on_budget="ask")) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        result = await session.answer(result.pending[0].id, approve=True)
        assert result.outcome is Outcome.COMPLETED
        assert session.budgets == {"tool_calls": Budget(2, 0, 2)}
    assert looking.runs == 2
    assert told(model.requests[3])[-1] == EXTENDED


async def test_v20_a_refused_extension_ends_the_turn() -> None:
    """No is no: the turn fails with its reason and the words of who refused."""
    async with engine_of(Eager(9), Looking(), Limits(max_tokens=100, on_budget="ask")) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        result = await session.answer(result.pending[0].id, approve=False, text="too dear")
        assert result.outcome is Outcome.FAILED
        assert result.reason == "the turn used 120 tokens of its budget of 100 tokens; more was refused: too dear"
        await check_usable(session)


async def test_v20_nobody_extends_in_time() -> None:
    """A question about a budget that nobody answers in time is refused, as an approval is."""
    limits = Limits(max_tokens=100, on_budget="ask", approval_timeout_s=0.05)
    async with engine_of(Eager(9), Looking(), limits) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.pending[0].expires_at is not None
        with anyio.fail_after(30):
            while session.state is not State.IDLE:
                await anyio.lowlevel.checkpoint()
        assert (await session.result()).reason.endswith("more was refused: nobody answered in time")


async def test_v20_a_budget_takes_yes_or_no_and_nothing_else() -> None:
    """Changed arguments are no answer to it; the question stays open."""
    async with engine_of(Eager(9), Looking(), Limits(max_tokens=100, on_budget="ask")) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        with pytest.raises(InvalidEvent, match="only the answer to an approval"):
            await session.answer(request.id, approve=True, arguments={"n": 1})
        assert session.pending == (request,)


async def test_v20_no_approver_extends_a_budget() -> None:
    """One who approves every call is not asked for money: the question stays for `session.answer`."""

    class Yes:
        async def answer(self, request: object, call: object) -> None:
            raise AssertionError("asked about a budget")

    async with engine_of(Eager(9), Looking(), Limits(max_tokens=100, on_budget="ask"), approver=Yes()) as engine:
        result = await (await engine.open("s")).ask("go")
    assert result.outcome is Outcome.WAITING


@pytest.mark.parametrize("limits", [Limits(max_tokens=100, on_budget="ask"), Limits()], ids=["same", "lifted"])
async def test_v20_the_question_survives_a_restart(limits: Limits) -> None:
    """Another engine finds it open under its own id, also where it has other limits, and an answer goes on."""
    journal, looking = MemoryJournal(), Looking()
    first = Limits(max_tokens=100, on_budget="ask")
    async with engine_of(Eager(9), looking, first, journal=journal) as engine:
        (request,) = (await (await engine.open("s")).ask("go")).pending
    async with engine_of(Eager(3), looking, limits, journal=journal) as engine:
        session = await engine.open("s")
        assert session.pending == (request,)
        result = await session.answer(request.id, approve=True)
        assert result.outcome is Outcome.COMPLETED
        check_closed(await history(journal))
    assert looking.runs == 3


@pytest.mark.parametrize("limits", [Limits(max_tokens=100), Limits(max_tool_calls=2)], ids=["tokens", "tool calls"])
async def test_v16_wrapping_up_is_one_last_reply_without_tools(limits: Limits) -> None:
    """The model gets no tools and is told to conclude; what it says is the turn's text."""
    looking, requests = Looking(), list[ModelRequest]()

    async def think(request: ModelRequest) -> ModelReply:
        requests.append(request)
        if not request.tools:
            return ModelReply(text="so far: two", usage=ONE_REPLY)
        return ModelReply(tool_calls=[call("look", n=request.round)], usage=ONE_REPLY)

    limits = limits.model_copy(update={"on_budget": "wrap_up"})
    async with Engine(model=FunctionModel(think), tools=[looking.tool()], limits=limits) as engine:
        result = await (await engine.open("s")).ask("go")
        check_closed(await history(engine.journal))
    assert (result.outcome, result.text, looking.runs) == (Outcome.COMPLETED, "so far: two", 2)
    assert told(requests[-1])[-1] == CONCLUDE
    assert [bool(request.tools) for request in requests] == [True] * (len(requests) - 1) + [False]


async def test_v16_tools_in_the_last_reply_do_not_run() -> None:
    """A model that calls tools when it was told to conclude fails its turn, and is not asked again."""
    model, looking = Eager(9), Looking()
    async with engine_of(model, looking, Limits(max_tokens=100, on_budget="wrap_up")) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.reason == "the model asked for tools after it had been told to conclude"
        await check_usable(session)
    assert looking.runs == 2


async def test_v16_a_cut_last_reply_is_not_continued() -> None:
    """What the token limit cuts off after the turn was to conclude stays as it is."""
    asked = 0

    async def think(request: ModelRequest) -> ModelReply:
        nonlocal asked
        asked += 1
        return ModelReply(text="a", finish="length", usage=ONE_REPLY)

    limits = Limits(max_tokens=60, on_budget="wrap_up")
    async with Engine(model=FunctionModel(think), limits=limits) as engine:
        result = await (await engine.open("s")).ask("go")
    assert (result.outcome, result.text, asked) == (Outcome.COMPLETED, "aa", 2)


async def test_v16_limits_of_one_tool() -> None:
    """Its calls a turn and its time are those of `Limits.tools`; the others keep their own."""
    model, looking = Eager(3), Looking()
    limits = Limits(tools={"look": ToolLimits(max_calls=2, timeout_s=7)})
    async with engine_of(model, looking, limits) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        await check_usable(session)
    assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED] * 2 + [ToolStatus.DENIED]
    assert result.tool_calls[-1].content == "not run: look may run 2 times a turn, and has"
    assert looking.timeouts == [7, 7]


async def test_a5_v16_a_timeout_from_the_limits_strikes() -> None:
    """A tool that allows itself a minute is stopped by the limit it was given, also after its arguments were edited."""

    @tool(effect="read")
    async def hang(n: int = 0) -> str:
        await anyio.sleep_forever()
        return ""

    limits = Limits(tools={"hang": ToolLimits(timeout_s=0.01)})
    for policy in (None, Verdicts(hang="ask")):
        model = calling("hang")
        extras: dict[str, Any] = {"policy": policy} if policy else {}
        async with Engine(model=model, tools=[hang], limits=limits, **extras) as engine:
            session = await engine.open("s")
            with anyio.fail_after(30):
                result = await session.ask("go")
                if result.pending:
                    result = await session.answer(result.pending[0].id, approve=True, arguments={"n": 2})
        assert [made.status for made in result.tool_calls] == [ToolStatus.TIMED_OUT]


def test_limits_of_a_tool_that_is_not_there_are_refused() -> None:
    """A name that is none of the tools is a mistake, and the text lists those there are."""
    with pytest.raises(UsageError, match="names 'lok', which is no tool of this engine; there are: look"):
        engine_of(Eager(1), Looking(), Limits(tools={"lok": ToolLimits(max_calls=1)}))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tools": {"look": {"max_output_bytes": 1023}}}, "greater than or equal to 1024"),
        ({"max_cost": "1"}, "max_cost needs prices"),
        ({"max_cost": "0", "prices": {"*": {"input": "1", "output": "1"}}}, "max_cost must be more than 0"),
        ({"max_cost": 0.5, "prices": {"*": {"input": "1", "output": "1"}}}, "max_cost"),
        ({"max_cost": "0.1234567", "prices": {"*": {"input": "1", "output": "1"}}}, "max_cost"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tool_calls": -1}, "max_tool_calls"),
        ({"on_budget": "shrug"}, "on_budget"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(given: dict[str, object], complaint: str) -> None:
    """A float is no amount of money, a limit without prices none, and nothing is taken for something else."""
    with pytest.raises(ValueError, match=complaint):
        Limits.model_validate(given)
