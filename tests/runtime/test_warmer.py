"""Preparing ahead in the living engine: when, what, how much, and that it never gets in the way."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from engine import Engine, EngineSettings, ModelReply, ModelRequest, Outcome, tool
from engine.core.notices import Notice, WarmUp
from engine.core.record import TransitionRecord
from engine.models import FunctionModel
from engine.predict import Predictor, PredictorSettings
from engine.runtime.warm_settings import WarmSettings
from engine.testing.scheduling import virtual_time
from engine.tools.warm import Warm, WarmContext
from tests.runtime.scenes import calls


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Every test here runs in virtual time: thinking and start-ups take none."""
    return virtual_time(request.param)


pytestmark = pytest.mark.anyio


class LoopClock:
    """The clock of the event loop, which is virtual here."""

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return round(anyio.current_time() * 1e9)


class Index:
    """Something that takes two seconds to load, once, whoever asks first."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.loaded = False
        self._lock = anyio.Lock()

    async def load(self, by: str) -> None:
        async with self._lock:
            if not self.loaded:
                self.loads.append(by)
                await anyio.sleep(2.0)
                self.loaded = True

    async def warm(self, context: WarmContext) -> None:
        await self.load("hook")


async def think(request: ModelRequest) -> ModelReply:
    """Think for 1.5 s; search first, then answer."""
    await anyio.sleep(1.5)
    return calls("search") if request.round == 1 else ModelReply(text="done")


class Notices:
    """Keeps what is told of warming."""

    def __init__(self) -> None:
        self.seen: list[WarmUp] = []

    def on_record(self, record: TransitionRecord) -> None: ...

    def on_notice(self, session: str, notice: Notice) -> None:
        if isinstance(notice, WarmUp):
            self.seen.append(notice)

    def stages(self) -> list[str]:
        return [notice.stage for notice in self.seen]


def taught(*tools: str, runs: int = 30, arguments: bool = False) -> Predictor:
    """Return a predictor that has seen these tools in this order many times."""
    predictor = Predictor(PredictorSettings(salt=b"sixteen bytes or more", arguments=arguments))
    for number in range(runs):
        for name in tools:
            predictor.update(number, name, ok=True)
        predictor.end_turn(number)
        predictor.end(number)
    return predictor


def warming(**settings: Any) -> EngineSettings:
    return EngineSettings(warming=WarmSettings(**settings), loop_limit_s=None)


def searching(index: Index) -> Any:
    @tool(effect="read", warm=Warm(index.warm, cost_s=2.0))
    async def search() -> str:
        """Search, with the index loaded."""
        await index.load("call")
        return "found"

    return search


async def test_v9_hook_runs_beside_the_thinking_and_hides_the_start_up() -> None:
    """A hook begins when the model is asked, so a call finds prepared what would have taken it two seconds."""
    durations = []
    for mode in ("off", "on"):
        index = Index()
        async with Engine(
            model=FunctionModel(think), tools=[searching(index)], clock=LoopClock(),
            predictor=taught("search"), settings=warming(mode=mode),
        ) as engine:  # fmt: skip
            session = await engine.open("s")
            began_s = anyio.current_time()
            assert (await session.ask("go")).outcome is Outcome.COMPLETED
            durations.append(anyio.current_time() - began_s)
            report = engine.stats().warming
    assert index.loads == ["hook"]
    assert durations == [pytest.approx(5.0), pytest.approx(3.5)]
    assert report is not None
    assert (report.done.prepared, report.done.used, report.done.wasted) == (1, 1, 0)
    assert report.done.saved_s == pytest.approx(1.5)
