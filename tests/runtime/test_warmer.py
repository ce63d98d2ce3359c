"""Preparing ahead in the living engine: when, what, how much, and that it never gets in the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from engine import Engine, EngineSettings, ModelReply, ModelRequest, Outcome, ToolCall, tool
from engine.core.notices import Notice, WarmUp
from engine.core.record import TransitionRecord
from engine.errors import ToolDefinitionError
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.predict import Predictor, PredictorSettings
from engine.runtime.warm_settings import WarmSettings
from engine.testing.scheduling import virtual_time
from engine.tools.warm import Warm, WarmContext
from tests.runtime.scenes import Verdicts, calls, check_sound, history


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


def warming(**given: Any) -> EngineSettings:
    return EngineSettings(warming=WarmSettings(**given), loop_limit_s=None)


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


async def turns(engine: Engine, count: int, session: str = "s") -> None:
    async with await engine.open(session) as opened:
        for _ in range(count):
            assert (await opened.ask("go")).outcome is Outcome.COMPLETED


class Socket:
    """Something that is gone again when a turn has used it, so that every turn starts it anew."""

    def __init__(self) -> None:
        self.opened = 0
        self.open = False

    async def warm(self, context: WarmContext) -> None:
        self.opened += 1
        await anyio.sleep(1.0)
        self.open = True


def querying(socket: Socket) -> Any:
    @tool(effect="read", warm=Warm(socket.warm, cost_s=1.0, lifetime_s=2.4), name="search")
    async def search() -> str:
        """Search over the socket, and close it."""
        if not socket.open:
            await anyio.sleep(1.0)
        socket.open = False
        return "found"

    return search


async def test_v9_shadow_is_the_default_and_switches_itself_on_after_twenty_runs() -> None:
    """In the first 20 turns nothing is prepared, only noted; a net saving over them has it done from then on."""
    socket, predictor = Socket(), taught("search")
    async with Engine(
        model=FunctionModel(think), tools=[querying(socket)], clock=LoopClock(), predictor=predictor,
        settings=EngineSettings(loop_limit_s=None),
    ) as engine:  # fmt: skip
        await turns(engine, 20)
        assert socket.opened == 0
        assert predictor.books.acting
        assert predictor.books.noted.used == 20
        await turns(engine, 5, "t")
        report = engine.stats().warming
    assert socket.opened == 5
    assert report is not None
    assert report.done.used == 5


async def test_v9_shadow_mode_never_acts() -> None:
    """Told to stay in the shadow, an engine only notes, however much that would have saved."""
    socket, predictor = Socket(), taught("search")
    async with Engine(
        model=FunctionModel(think), tools=[querying(socket)], clock=LoopClock(), predictor=predictor,
        settings=warming(mode="shadow"),
    ) as engine:  # fmt: skip
        await turns(engine, 25)
    assert (socket.opened, predictor.books.acting) == (0, True)


async def test_v9_warming_stops_itself_when_it_no_longer_pays() -> None:
    """Once the tools that are warmed are not called any more, preparing ends by itself."""
    socket, predictor = Socket(), taught("search", runs=60)
    predictor.books.acting = True
    used = False

    async def changed(request: ModelRequest) -> ModelReply:
        await anyio.sleep(1.5)
        return calls("other") if request.round == 1 else ModelReply(text="done")

    @tool(effect="read")
    async def other() -> str:
        """Do something else."""
        return "other"

    async with Engine(
        model=FunctionModel(changed), tools=[querying(socket), other], clock=LoopClock(), predictor=predictor,
        settings=warming(waste=0.9),
    ) as engine:  # fmt: skip
        await turns(engine, 40)
        assert not used
    assert not predictor.books.acting
    assert predictor.books.done.used == 0
    assert 0 < socket.opened < 40


@pytest.mark.parametrize("harm", ["raises", "exits", "hangs"])
async def test_bad_input_failing_hook_is_recorded_and_retired_after_three(
    harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that raises, exits or hangs breaks no turn, is told of each time, and is not run a fourth time."""
    runs = 0

    async def bad(context: WarmContext) -> None:
        nonlocal runs
        runs += 1
        if harm == "hangs":
            await anyio.sleep_forever()
        raise SystemExit(3) if harm == "exits" else ValueError("no index")

    @tool(effect="read", warm=Warm(bad, lifetime_s=1.0))
    async def search() -> str:
        """Search."""
        return "found"

    watched = Notices()
    with caplog.at_level(logging.WARNING, "engine"):
        async with Engine(
            model=FunctionModel(think), tools=[search], clock=LoopClock(), predictor=taught("search"),
            observers=[watched], settings=warming(mode="on", timeout_s=0.5),
        ) as engine:  # fmt: skip
            session = await engine.open("s")
            for _ in range(6):
                assert (await session.ask("go")).text == "done"
                await anyio.sleep(5.0)
            report = engine.stats().warming
    assert runs == 3
    assert watched.stages().count("failed") == 3
    assert report is not None
    assert (report.done.failed, report.retired) == (3, ("search",))
    assert "it is not tried again" in caplog.text


async def test_hook_that_fails_now_and_then_stays() -> None:
    """A success between failures begins the count anew."""
    runs = 0

    async def flaky(context: WarmContext) -> None:
        nonlocal runs
        runs += 1
        if runs % 3:
            raise ValueError("not now")

    @tool(effect="read", warm=Warm(flaky, lifetime_s=1.0))
    async def search() -> str:
        """Search."""
        return "found"

    async with Engine(
        model=FunctionModel(think), tools=[search], clock=LoopClock(), predictor=taught("search"),
        settings=warming(mode="on"),
    ) as engine:  # fmt: skip
        await turns(engine, 12)
        report = engine.stats().warming
    assert report is not None
    assert report.retired == ()
    assert runs > 6


async def test_v7_v9_input_cancels_what_idle_time_began() -> None:
    """A prompt that arrives while idle time prepares stops that at once, and does not wait for it."""
    started, ended = anyio.Event(), []

    async def slow(context: WarmContext) -> None:
        started.set()
        try:
            await anyio.sleep(20.0)
        finally:
            ended.append(anyio.current_time())

    @tool(effect="read", warm=Warm(slow, cost_s=5.0))
    async def search() -> str:
        """Search."""
        return "found"

    async with Engine(
        model=FunctionModel(think), tools=[search], clock=LoopClock(), predictor=taught("search"),
        settings=warming(mode="on"),
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        await started.wait()
        await anyio.sleep(3.0)
        asked_s = anyio.current_time()
        await session.ask("go")
        assert anyio.current_time() - asked_s == pytest.approx(3.0)
    assert ended[0] == pytest.approx(asked_s)


async def test_cancelled_turn_takes_its_preparations_along() -> None:
    """Cancelling a turn cancels what was being prepared for it, and counts that as come to nothing."""
    begun = anyio.Event()
    cancelled = []

    async def slow(context: WarmContext) -> None:
        begun.set()
        try:
            await anyio.sleep(20.0)
        except anyio.get_cancelled_exc_class():
            cancelled.append(context.tool)
            raise

    @tool(effect="read", warm=Warm(slow, cost_s=5.0))
    async def search() -> str:
        """Search."""
        return "found"

    watched = Notices()
    async with Engine(
        model=FunctionModel(think), tools=[search], clock=LoopClock(), predictor=taught("search"),
        observers=[watched], settings=warming(mode="on"),
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await begun.wait()
            await anyio.sleep(1.0)
            await session.cancel()
    assert cancelled == ["search"]
    assert watched.stages() == ["begun", "failed"]


def many(count: int, hook: Callable[[WarmContext], Any], **options: Any) -> list[Any]:
    """Return that many tools with a hook of their own."""

    def one(number: int) -> Any:
        async def named(context: WarmContext) -> None:
            await hook(context)

        @tool(effect="read", name=f"t{number}", warm=Warm(named, **options))
        async def call() -> str:
            """Do nothing."""
            return "done"

        return call

    return [one(number) for number in range(count)]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({"per_turn": 2}, 2), ({"at_once": 1}, 1), ({"seconds_per_turn": 7.0}, 3), ({"per_turn": 0}, 0)],
)
async def test_v9_budgets_hold_in_number_in_seconds_and_at_once(bounds: dict[str, Any], expected: int) -> None:
    """A turn begins no more preparations than it may, no more seconds of them, and the engine no more at a time."""
    running = most = begun = 0

    async def hook(context: WarmContext) -> None:
        nonlocal running, most, begun
        begun += 1
        running += 1
        most = max(most, running)
        await anyio.sleep(60.0)
        running -= 1

    async def answer(request: ModelRequest) -> ModelReply:
        await anyio.sleep(1.5)
        return ModelReply(text="done")

    names = [f"t{number}" for number in range(6)]
    async with Engine(
        model=FunctionModel(answer), tools=many(6, hook, cost_s=2.0), clock=LoopClock(), predictor=taught(*names),
        settings=warming(mode="on", **{"per_turn": 6, "at_once": 6, "seconds_per_turn": 60.0, **bounds}),
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        await session.ask("go")
        assert (begun, most) == (expected, expected)


async def test_v9_a_write_is_never_run_ahead() -> None:
    """However sure its call is, a write or an idempotent tool is not run before it is asked for."""
    ran: list[str] = []

    @tool(effect="write", name="pay")
    async def pay() -> str:
        """Pay."""
        ran.append("pay")
        return "paid"

    async def answer(request: ModelRequest) -> ModelReply:
        await anyio.sleep(1.5)
        return ModelReply(text="done")

    for effect in ("write", "idempotent", "read"):
        with pytest.raises(ToolDefinitionError, match="cache_ttl_s"):
            tool(warm="result", effect=effect)(pay)
    async with Engine(
        model=FunctionModel(answer), tools=[pay], clock=LoopClock(), predictor=taught("pay", arguments=True),
        settings=warming(mode="on", waste=1.0),
    ) as engine:  # fmt: skip
        await turns(engine, 3)
    assert ran == []


def looking_up(ran: list[str]) -> Any:
    @tool(effect="read", cache_ttl_s=60, warm="result")
    async def order(number: str) -> str:
        """Look an order up; that takes a second."""
        ran.append(number)
        await anyio.sleep(1.0)
        return f"order {number}"

    return order


async def look_up(request: ModelRequest) -> ModelReply:
    """Always look the same order up, then another one in the second turn."""
    await anyio.sleep(1.5)
    if request.round == 1:
        number = "7" if request.turn < 4 else "8"
        return ModelReply(tool_calls=[ToolCall(id="c", name="order", arguments={"number": number})])
    return ModelReply(text="done")


def taught_orders(runs: int = 40) -> Predictor:
    predictor = Predictor(PredictorSettings(salt=b"sixteen bytes or more", arguments=True))
    for number in range(runs):
        predictor.update(number, "order", ok=True, args={"number": "7"})
        predictor.end_turn(number)
        predictor.end(number)
    return predictor


async def test_v9_read_runs_ahead_and_serves_exactly_the_call_that_was_guessed() -> None:
    """A read that opted in runs while the model thinks; the call finds its result, and another one runs itself."""
    ran: list[str] = []
    journal = MemoryJournal()
    async with Engine(
        model=FunctionModel(look_up), tools=[looking_up(ran)], clock=LoopClock(), journal=journal,
        predictor=taught_orders(), settings=warming(mode="on"),
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        began_s = anyio.current_time()
        first = await session.ask("go")
        assert anyio.current_time() - began_s == pytest.approx(3.0)
        assert (first.tool_calls[0].content, ran) == ("order 7", ["7"])
        for _ in range(2):
            await session.ask("go")
        other = await session.ask("go")
        assert other.tool_calls[0].content == "order 8"
    assert ran == ["7", "8"]
    check_sound(await history(journal))


@pytest.mark.parametrize("verdict", ["ask", "deny"])
async def test_read_that_would_be_asked_about_or_refused_never_runs_ahead(verdict: Any) -> None:
    """What a policy does not allow at once is not run before it is asked for."""
    ran: list[str] = []

    async def answer(request: ModelRequest) -> ModelReply:
        await anyio.sleep(1.5)
        return ModelReply(text="done")

    async with Engine(
        model=FunctionModel(answer), tools=[looking_up(ran)], clock=LoopClock(), predictor=taught_orders(),
        settings=warming(mode="on"), policy=Verdicts(order=verdict),
    ) as engine:  # fmt: skip
        await turns(engine, 2)
    assert ran == []


async def test_records_do_not_say_whether_anything_was_prepared() -> None:
    """A history is the same with and without a warmer, times apart, so replay needs none of it."""

    def told(records: Sequence[TransitionRecord]) -> list[tuple[object, ...]]:
        return [(record.trigger, record.dest, getattr(record.event, "content", "")) for record in records]

    journals = [MemoryJournal(), MemoryJournal()]
    for mode, journal in zip(("off", "on"), journals, strict=True):
        async with Engine(
            model=FunctionModel(look_up), tools=[looking_up([])], clock=LoopClock(), journal=journal,
            predictor=taught_orders(), settings=warming(mode=mode),
        ) as engine:  # fmt: skip
            await turns(engine, 5)
    assert told(await history(journals[0])) == told(await history(journals[1]))


async def test_v9_tools_that_share_a_warm_up_share_what_it_prepared() -> None:
    """Two tools over one connection open it once."""
    index = Index()
    shared = Warm(index.warm, cost_s=2.0)

    @tool(effect="read", warm=shared)
    async def search() -> str:
        """Search."""
        return "found"

    @tool(effect="read", warm=shared)
    async def read() -> str:
        """Read."""
        return "text"

    async def both(request: ModelRequest) -> ModelReply:
        await anyio.sleep(1.5)
        return (calls("search"), calls("read"), ModelReply(text="done"))[request.round - 1]

    async with Engine(
        model=FunctionModel(both), tools=[search, read], clock=LoopClock(), predictor=taught("search", "read"),
        settings=warming(mode="on"),
    ) as engine:  # fmt: skip
        await turns(engine, 2)
        report = engine.stats().warming
    assert index.loads == ["hook"]
    assert report is not None
    assert report.done.prepared == 1


async def test_v9_every_preparation_is_told() -> None:
    """Notices say when a preparation begins, when it is ready, what it saved, and that one was in vain."""
    watched, socket = Notices(), Socket()
    asked = 0

    async def changing(request: ModelRequest) -> ModelReply:
        nonlocal asked
        asked += 1
        await anyio.sleep(1.5)
        return calls("search") if asked == 1 else ModelReply(text="done")

    async with Engine(
        model=FunctionModel(changing), tools=[querying(socket)], clock=LoopClock(), predictor=taught("search"),
        observers=[watched], settings=warming(mode="on", waste=0.5),
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        await session.ask("go")
        await anyio.sleep(10.0)
        await session.ask("go")
        await session.close()
    assert watched.stages()[:3] == ["begun", "ready", "used"]
    assert watched.stages()[3:5] == ["begun", "ready"]
    assert watched.seen[2].seconds == pytest.approx(1.0)


async def test_v7_idle_time_is_used_and_measured() -> None:
    """Between turns results that have run out are dropped, and predictors forget; how much and how long is counted."""
    predictor = Predictor(PredictorSettings(max_contexts=200))
    for number in range(400):
        predictor.update("x", f"tool {number}")
    assert predictor.contexts > 160
    async with Engine(
        model=FunctionModel(look_up), tools=[looking_up([])], clock=LoopClock(), predictor=predictor,
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        for _ in range(4):
            # The fourth asks for another order: the result of the third has run out by then.
            await session.ask("go")
            await anyio.sleep(120.0)
        report = engine.stats().warming
        assert predictor.contexts <= 160
    assert report is not None
    assert report.idle.times >= 2
    assert report.idle.freed["contexts"] > 0
    assert report.idle.freed["cache_bytes"] > 0


async def test_unknown_tools_are_predicted_and_never_prepared() -> None:
    """A predictor that expects tools which the engine does not have prepares nothing, and the turn goes on."""
    predictor = taught("gone", "search and destroy", "<model>", "🦆" * 99)
    watched = Notices()
    async with Engine(
        model=FunctionModel(think), tools=[querying(Socket())], clock=LoopClock(), predictor=predictor,
        observers=[watched], settings=warming(mode="on"),
    ) as engine:  # fmt: skip
        await turns(engine, 2)
    assert watched.stages()[:1] in ([], ["begun"])
    assert {notice.tool for notice in watched.seen} <= {"search"}


class Prepared:
    """A model that keeps what it was told to get ready for."""

    def __init__(self) -> None:
        self.warmed: list[list[str | None]] = []

    async def warm(self, request: ModelRequest) -> None:
        await anyio.sleep(0.2)
        self.warmed.append([message.role for message in request.messages])

    async def generate(self, request: ModelRequest, emit: object) -> ModelReply:
        return await think(request)


async def test_v9_conversation_is_read_ahead_while_nobody_asks() -> None:
    """A model that can get ready is told what its next request begins like: after opening, while tools run, at rest."""
    model = Prepared()

    @tool(effect="read")
    async def search() -> str:
        """Search for a second."""
        await anyio.sleep(1.0)
        return "found"

    async with Engine(
        model=model, tools=[search], clock=LoopClock(), predictor=taught("search"),
        settings=EngineSettings(system="Be brief.", warming=WarmSettings(mode="on"), loop_limit_s=None),
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        await anyio.sleep(1.0)
        await session.ask("go")
        await anyio.sleep(1.0)
        report = engine.stats().warming
    asked = ["system", "user", "assistant", "tool"]
    assert model.warmed == [["system", "user"], asked, [*asked, "assistant", "user"]]
    assert report is not None
    assert report.done.used == 2
    assert report.done.saved_s == pytest.approx(0.4)


async def test_predictor_that_fails_when_asked_breaks_no_turn(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong when something is chosen is logged, and the turn ends as it would have."""

    class Broken(Predictor):
        def within(self, *asked: object, **more: object) -> list[tuple[str, float]]:
            raise RuntimeError("broken")

    async with Engine(
        model=FunctionModel(think), tools=[querying(Socket())], clock=LoopClock(), predictor=Broken(),
        settings=warming(mode="on"),
    ) as engine:  # fmt: skip
        session = await engine.open("s")
        for _ in range(2):
            # Asked while the model thinks, and while the session rests.
            assert (await session.ask("go")).outcome is Outcome.COMPLETED
            await anyio.sleep(1.0)
    assert "nothing could be prepared" in caplog.text
    assert "idle work failed" in caplog.text


EFFECTS = st.sampled_from(["read", "idempotent", "write"])
WARMTHS = st.sampled_from(["hook", "result", "none"])


@pytest.mark.parametrize("anyio_backend", [virtual_time("asyncio")], ids=["asyncio"])
@given(st.lists(st.tuples(EFFECTS, WARMTHS), min_size=1, max_size=4), st.integers(1, 30))
@settings(max_examples=40)
async def test_v9_whatever_is_offered_no_write_runs(made: list[tuple[Any, str]], runs: int) -> None:
    """Whatever tools there are and whatever is predicted: with nothing asked for, only reads that opted in have run."""
    ran: list[str] = []

    async def prepare(context: WarmContext) -> None:
        await anyio.sleep(0.1)

    def one(number: int, effect: Any, warmth: str) -> Any:
        options: dict[str, Any] = {"warm": prepare} if warmth == "hook" else {}
        if warmth == "result" and effect == "read":
            options = {"warm": "result", "cache_ttl_s": 60}

        @tool(name=f"t{number}", effect=effect, **options)
        async def call() -> str:
            """Take note."""
            ran.append(f"{effect} {warmth}")
            return "done"

        return call

    async def answer(request: ModelRequest) -> ModelReply:
        await anyio.sleep(1.5)
        return ModelReply(text="done")

    tools = [one(number, *pair) for number, pair in enumerate(made)]
    predictor = taught(*(f"t{number}" for number in range(len(made))), runs=runs, arguments=True)
    async with Engine(
        model=FunctionModel(answer), tools=tools, clock=LoopClock(), predictor=predictor,
        settings=warming(mode="on", waste=1.0, per_turn=9, at_once=9),
    ) as engine:  # fmt: skip
        await turns(engine, 2)
        await anyio.sleep(1.0)
    assert set(ran) <= {"read result"}
