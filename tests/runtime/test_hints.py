"""What is expected of a session: what the predictor says, and who acts on it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from engine import Engine, EngineSettings, ModelReply, ModelRequest, Outcome, ToolStatus, tool
from engine.models import FunctionModel
from engine.predict import Execution, Predictor
from engine.runtime.hints import CallProgress, Pending, side_by_side
from engine.runtime.warm_settings import WarmSettings
from engine.testing.scheduling import virtual_time
from engine.tools.registry import Toolbox
from engine.tools.warm import Warm, WarmContext
from tests.runtime.scenes import Verdicts, calls
from tests.runtime.test_warmer import LoopClock, taught


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Every test here runs in virtual time."""
    return virtual_time(request.param)


pytestmark = pytest.mark.anyio

SETTINGS = EngineSettings(loop_limit_s=None, warming=WarmSettings(mode="on"))


@tool(effect="read")
async def find() -> str:
    """Find it; that takes four seconds."""
    await anyio.sleep(4.0)
    return "found"


@tool(effect="read")
async def get() -> str:
    """Get it."""
    return "got"


@tool(effect="write")
async def pay() -> str:
    """Pay."""
    return "paid"


async def think(request: ModelRequest) -> ModelReply:
    await anyio.sleep(1.0)
    return calls("find", "get") if request.round == 1 else ModelReply(text="done")


def timed(**seconds: float) -> Predictor:
    """Return a predictor that knows how long these tools take."""
    predictor = taught("find", "get", "pay")
    for name, duration_s in seconds.items():
        for _ in range(20):
            predictor.record("known", name, Execution(True, duration_s))
    return predictor


async def test_v32_hints_are_filled() -> None:
    """An open session has a predicted sequence, candidates for warming, groups that may run side by side, and the tools
    that take much memory.
    """
    predictor = taught("find", "get", "pay")
    predictor.record("known", "get", Execution(True, 0.1, memory_bytes=2**30))
    async with Engine(
        model=FunctionModel(think), tools=[find, get, pay], predictor=predictor, settings=SETTINGS
    ) as engine:
        hints = (await engine.open("s")).hints
    assert hints is not None
    assert [name for name, _ in hints.sequence] == ["find", "get", "pay"]
    assert {name for name, _ in hints.candidates} == {"find", "get", "pay"}
    assert hints.groups == (("find", "get"), ("pay",))
    assert hints.heavy == {"get": 2**30}


async def test_without_a_predictor_there_are_no_hints() -> None:
    """Nobody who predicts, nothing expected."""
    async with Engine(model=FunctionModel(think), tools=[find, get]) as engine:
        session = await engine.open("s")
        assert (session.hints, session.pending, session.progress) == (None, (), ())


def test_v32_groups_follow_effects_and_conflict_keys() -> None:
    """Reads run side by side; a write without a conflict key, and what nobody knows, alone; one with a key beside."""

    @tool(effect="write", conflict_key="account:{account}")
    async def book(account: str) -> str:
        """Book."""
        return account

    toolbox = Toolbox([find, get, pay, book])
    names = ["find", "book", "pay", "get", "unknown", "find", "get"]
    assert side_by_side(names, toolbox) == (("find", "book"), ("pay",), ("get",), ("unknown",), ("find", "get"))


async def test_v14_v32_calls_show_what_is_left_of_them() -> None:
    """While a call runs, the session says for how long it has, and by learned quantiles what is left."""
    async with Engine(
        model=FunctionModel(think), tools=[find, get], predictor=timed(find=4.0), clock=LoopClock(), settings=SETTINGS
    ) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await anyio.sleep(2.0)
            first, second = session.progress
    assert (first.name, first.status, second.status) == ("find", ToolStatus.RUNNING, ToolStatus.COMPLETED)
    assert first.running_s == pytest.approx(1.0)
    assert first.usual_s == pytest.approx(4.0, rel=0.1)
    assert first.left_s == pytest.approx(3.0, abs=0.4)
    assert second.running_s is None


def test_v14_a_call_that_takes_longer_than_usual_is_measured_by_the_long_ones() -> None:
    """Beyond the median the ninth decile says what is left, and never less than nothing; unknown stays unknown."""
    late = CallProgress("c", "find", ToolStatus.RUNNING, 5.0, 4.0, 9.0)
    assert late.left_s == 4.0
    assert late._replace(running_s=20.0).left_s == 0.0
    assert late._replace(usual_s=None, long_s=None).left_s is None


async def test_v14_v32_pending_shows_how_long_the_call_will_take() -> None:
    """Who is asked about a call sees how long such calls take, before they say yes."""
    async with Engine(
        model=FunctionModel(think), tools=[find, get], predictor=timed(find=4.0), clock=LoopClock(),
        policy=Verdicts(find="ask"), settings=SETTINGS,
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.WAITING
        (request,) = session.pending
        assert isinstance(request, Pending)
        assert request.usual_s == pytest.approx(4.0, rel=0.1)
        assert (await session.answer(request.id, approve=True)).outcome is Outcome.COMPLETED


async def test_v32_tools_that_take_much_memory_wait_until_there_is_some() -> None:
    """A tool that has taken more than the machine has left does not start beside others; it starts when it is alone."""
    running: list[str] = []
    beside: list[tuple[str, ...]] = []

    def one(name: str) -> Any:
        @tool(effect="read", name=name)
        async def work() -> str:
            """Work for a second."""
            running.append(name)
            beside.append(tuple(running))
            await anyio.sleep(1.0)
            running.remove(name)
            return "done"

        return work

    async def three(request: ModelRequest) -> ModelReply:
        return calls("huge", "vast", "small") if request.round == 1 else ModelReply(text="done")

    predictor = Predictor()
    for name in ("huge", "vast"):
        predictor.record("known", name, Execution(True, 1.0, memory_bytes=2**60))
    async with Engine(
        model=FunctionModel(three), tools=[one("huge"), one("vast"), one("small")], predictor=predictor,
        clock=LoopClock(), settings=SETTINGS,
    ) as engine:  # fmt: skip
        assert (await (await engine.open("s")).ask("go")).outcome is Outcome.COMPLETED
    assert set(beside[1]) == {"huge", "small"}
    assert beside[2] == ("vast",)


async def test_v30_memory_of_calls_is_learned() -> None:
    """What a call in a process of its own took is part of its tool's pattern."""
    from engine.core.values import ResourceUsage, ToolSpec
    from engine.ports import ToolContext, ToolOptions, ToolOutput

    class Measured:
        spec = ToolSpec(name="get", description="", parameters={"type": "object", "properties": {}})
        options = ToolOptions(effect="read")

        def bind(self, arguments: Any) -> Any:
            return arguments

        async def run(self, bound: Any, context: ToolContext) -> ToolOutput:
            return ToolOutput("got", resources=ResourceUsage(peak_memory_bytes=2**27))

    predictor = Predictor()

    async def model(request: ModelRequest) -> ModelReply:
        return calls("get") if request.round == 1 else ModelReply(text="done")

    async with Engine(model=FunctionModel(model), tools=[Measured()], predictor=predictor) as engine:
        await (await engine.open("s")).ask("go")
    assert predictor.pattern("get").memory_bytes == 2**27
    predictor.catch_up()
    assert predictor.heavy == {"get": 2**27}


async def test_v32_a_hook_is_told_how_many_calls_will_run_side_by_side() -> None:
    """Tools that share a warm-up and are expected in one group are counted together."""
    told: list[int] = []

    async def prepare(context: WarmContext) -> None:
        told.append(context.calls)

    shared = Warm(prepare)

    def one(name: str) -> Any:
        @tool(effect="read", name=name, warm=shared)
        async def work() -> str:
            """Work."""
            return "done"

        return work

    async with Engine(
        model=FunctionModel(think), tools=[one("find"), one("get"), pay], predictor=taught("find", "get", "pay"),
        clock=LoopClock(), settings=SETTINGS,
    ) as engine:  # fmt: skip
        await (await engine.open("s")).ask("go")
    assert told == [2]
