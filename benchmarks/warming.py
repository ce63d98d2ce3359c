"""warming: what a warmer saves on the live engine, beside none, a short start-up list and perfect foresight.

The engine runs recorded sessions again in virtual time: a scripted model that thinks one to two seconds asks for the
calls that were recorded, round by round; a tool starts up (0.2 to 5 s, by its name) where its session has not used or
warmed it yet, and then takes a tenth of a second. Predictors begin empty with each set. On the real llama.cpp it is
counted how many tokens of a prompt are evaluated, with and without reading its beginning ahead. May import what lies
beside it and the engine. Must never look at the names of tools but to tell them apart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any, NamedTuple

import anyio

from engine import (
    Engine,
    EngineSettings,
    Message,
    ModelReply,
    ModelRequest,
    Outcome,
    ToolCall,
    ToolContext,
    ToolSpec,
    tool,
)
from engine.core.notices import Notice, TextDelta, ToolInputDelta
from engine.models import FunctionModel, LlamaCppModel
from engine.models.llama_cpp import LlamaSettings
from engine.predict import Predictor
from engine.runtime.warm_settings import WarmSettings
from engine.testing.scheduling import virtual_time
from engine.tools.warm import Warm, WarmContext

from .numbers import Laps, Number, Result, check, distribution, mark
from .workload import STANDARD, check_turn, fake_model, lookup, prompt

SESSIONS = 25
"""Sessions of each set that are run."""

CALL_S = 0.1
"""What a call takes once its tool has started up."""

Turn = list[list[str]]
"""The rounds of a turn, each with the tools that it calls."""


class _LoopClock:
    """The clock of the event loop, whose time is virtual."""

    def time_ns(self) -> int:
        return 1_767_225_600_000_000_000 + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return round(anyio.current_time() * 1e9)


class _Oracle(Predictor):
    """Knows what comes: perfect foresight, within the same bounds as everybody else."""

    def __init__(self, futures: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self._futures = futures
        self._done: Counter[str] = Counter()

    def update(self, key: Any, tool: str, *told: Any, **more: Any) -> None:
        self._done[key] += 1

    def end_turn(self, key: Any, **more: Any) -> None:
        pass

    def record(self, *told: Any) -> None:
        pass

    def within(self, key: Any, horizon: int | None = None, k: int = 3) -> list[tuple[str, float]]:
        ahead = self._futures[key][self._done[key] :][: self.settings.horizon]
        return [(name, 1.0 - 1e-6 * place) for place, name in enumerate(dict.fromkeys(ahead))][:k]


class _Start(Predictor):
    """The baseline: the tools used by most sessions so far, warmed at the beginning of each."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()
        self._used: dict[str, set[str]] = {}

    def update(self, key: Any, tool: str, *told: Any, **more: Any) -> None:
        used = self._used.setdefault(key, set())
        if tool not in used:
            used.add(tool)
            self._counts[tool] += 1

    def end_turn(self, key: Any, **more: Any) -> None:
        pass

    def record(self, *told: Any) -> None:
        pass

    def within(self, key: Any, horizon: int | None = None, k: int = 3) -> list[tuple[str, float]]:
        if self._used.get(key):
            return []
        return [(name, min(0.99, count / len(self._used))) for name, count in self._counts.most_common(k)]


class _Way(NamedTuple):
    """One way to run a set: the settings, and who predicts."""

    mode: str
    waste: float
    predictor: Callable[[Mapping[str, Sequence[str]]], Predictor]


WAYS: Mapping[str, _Way] = {
    "off": _Way("off", 0.1, lambda futures: Predictor()),
    "start_up_list": _Way("on", 0.1, lambda futures: _Start()),
    "auto": _Way("auto", 0.1, lambda futures: Predictor()),
    "on": _Way("on", 0.1, lambda futures: Predictor()),
    "on_waste_25": _Way("on", 0.25, lambda futures: Predictor()),
    "foresight": _Way("on", 0.1, _Oracle),
}


class _Tools:
    """The tools of a set; each has to start up once in each session."""

    def __init__(self, names: Sequence[str]) -> None:
        self.waited_s = 0.0
        self._started: set[tuple[str, str]] = set()
        self._locks: dict[tuple[str, str], anyio.Lock] = {}
        self.tools = [self._tool(name) for name in names]

    async def _start(self, session: str, name: str) -> None:
        """Start up where that has not happened yet; whoever comes meanwhile waits for it."""
        async with self._locks.setdefault((session, name), anyio.Lock()):
            if (session, name) not in self._started:
                await anyio.sleep(_start_s(name))
                self._started.add((session, name))

    def _tool(self, name: str) -> Any:
        async def warm(context: WarmContext) -> None:
            await self._start(context.session, name)

        @tool(effect="read", name=name, warm=Warm(warm, cost_s=1.0, lifetime_s=1e6, per="session"), polls=True)
        async def call(context: ToolContext) -> str:
            """Do it."""
            began_s = anyio.current_time()
            await self._start(context.session, name)
            self.waited_s += anyio.current_time() - began_s
            await anyio.sleep(CALL_S)
            return "done"

        return call


def _share(text: str) -> float:
    """Return a number from 0 to 1 that depends on nothing but the text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") / 2**32


def _start_s(name: str) -> float:
    return float(0.2 * 25 ** _share(name))


def _safe(name: str) -> str:
    """Return a name that a tool can have."""
    kept = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-") else "_" for sign in name)[:64]
    return kept if kept == name else f"{kept}-{blake2b(name.encode(), digest_size=4).hexdigest()}"


def _sessions(path: Path) -> Iterator[list[Turn]]:
    """Yield recorded sessions as turns of rounds of calls."""
    with path.open(encoding="utf-8") as lines:
        for _, line in zip(range(SESSIONS), lines, strict=False):
            session = json.loads(line)
            turns: list[Turn] = []
            done = 0
            for end in session["turn_ends"]:
                rounds: dict[int, list[str]] = {}
                for call in session["calls"][done:end][:40]:
                    rounds.setdefault(call["s"], []).append(_safe(call["tool"]))
                turns.append(list(rounds.values()))
                done = end
            yield turns


class _Found(NamedTuple):
    """What one way of running a set took: all of it, waiting for start-ups, and what became of the preparations."""

    wall_s: float
    waited_s: float
    used: int
    wasted: int


async def _run(sessions: Sequence[list[Turn]], way: _Way) -> _Found:
    """Run the sessions one after the other."""
    futures = {
        f"s{n}": [name for turn in turns for calls in turn for name in calls] for n, turns in enumerate(sessions)
    }
    tools = _Tools(sorted({name for names in futures.values() for name in names}))

    async def think(request: ModelRequest) -> ModelReply:
        await anyio.sleep(1.0 + _share(f"{request.session} {request.turn} {request.round}"))
        rounds = sessions[int(request.session[1:])][request.turn - 1]
        if request.round > len(rounds):
            return ModelReply(text="done")
        calls = rounds[request.round - 1]
        return ModelReply(tool_calls=[ToolCall(id=f"c{place}", name=name) for place, name in enumerate(calls)])

    settings = EngineSettings(
        loop_limit_s=None,
        stuck_after_s=None,
        warming=WarmSettings.model_validate({"mode": way.mode, "waste": way.waste}),
    )
    predictor = way.predictor(futures)
    async with Engine(
        model=FunctionModel(think), tools=tools.tools, predictor=predictor, clock=_LoopClock(), settings=settings
    ) as engine:
        wall_s = 0.0
        for number, turns in enumerate(sessions):
            async with await engine.open(f"s{number}") as session:
                for _ in turns:
                    began_s = anyio.current_time()
                    result = await session.ask("go")
                    wall_s += anyio.current_time() - began_s
                    check(result.outcome is Outcome.COMPLETED, f"a turn ended {result.outcome}: {result.reason}")
        done = predictor.books.done
        return _Found(wall_s, tools.waited_s, done.used, done.wasted)


def saved(folder: Path, only: str = "") -> Result:
    """Return what each way saves on the sets in `folder` whose name contains `only`."""
    found: dict[str, list[_Found]] = {way: [] for way in WAYS}
    for path in sorted((folder / "dev").glob("*.jsonl")):
        if only in path.name:
            sessions = list(_sessions(path))
            for name, way in WAYS.items():
                backend, options = virtual_time("asyncio")
                found[name].append(anyio.run(_run, sessions, way, backend=backend, backend_options=options))
    numbers: list[Number] = []
    for name, rows in found.items():
        numbers.append(Number(f"warming.{name}.wall", "s", sum(row.wall_s for row in rows)))
        pairs = list(zip(rows, found["off"], strict=True))
        shares = [1 - row.wall_s / bare.wall_s for row, bare in pairs]
        hidden = [1 - row.waited_s / bare.waited_s for row, bare in pairs if bare.waited_s]
        numbers.append(Number(f"warming.{name}.saved", "%", 100 * mean(shares)))
        numbers.append(Number(f"warming.{name}.hidden", "%", 100 * mean(hidden)))
        prepared = sum(row.used + row.wasted for row in rows)
        numbers.append(Number(f"warming.{name}.wasted", "%", 100 * sum(row.wasted for row in rows) / max(1, prepared)))
    sets = len(found["off"])
    note = f"up to {SESSIONS} sessions of each of {sets} sets; shares are means over the sets, waste is pooled"
    return Result(tuple(numbers), (note,))


_SPECS = tuple(
    ToolSpec(
        name=name,
        description=f"{what} " * 3,
        parameters={"type": "object", "properties": {given: {"type": "string"}}, "required": [given]},
    )
    for name, what, given in (
        ("get_weather", "Tell the weather in a city.", "city"),
        ("write_note", "Write a note.", "text"),
    )
)


def prefix(runs: int = 7) -> Result:
    """Return the prompt tokens evaluated, and the time to the first sign of a reply, cold and read ahead."""
    return anyio.run(_prefix, runs)


async def _prefix(runs: int) -> Result:
    numbers: list[Number] = []
    system = Message(role="system", text="Be brief and polite, and never make anything up. " * 12)
    for name, ahead in (("cold", False), ("warmed", True)):
        evaluated: list[float] = []
        first_ms: list[float] = []
        for run in range(runs):
            model = LlamaCppModel(settings=LlamaSettings(prompt_cache_mib=0))
            await model.load()
            if ahead:
                # What is known before the prompt is: the system prompt and the tools.
                await model.warm(ModelRequest([system, Message(role="user", text="")], _SPECS))
            began_s, heard = perf_counter(), list[float]()

            def hear(notice: Notice, began_s: float = began_s, heard: list[float] = heard) -> None:
                if isinstance(notice, TextDelta | ToolInputDelta):
                    heard.append(perf_counter() - began_s)

            prompt = Message(role="user", text=f"weather in {('Oslo', 'Rome', 'Lima')[run % 3]}")
            reply = await model.generate(ModelRequest([system, prompt], _SPECS, {}, "s", 1, 1), hear)
            await model.aclose()
            check(reply.usage is not None and bool(reply.tool_calls), f"the model did not call its tool: {reply.text}")
            assert reply.usage is not None
            evaluated.append(reply.usage.input_tokens - reply.usage.cached_tokens)
            first_ms.append(heard[0] * 1e3)
        numbers.append(Number(f"warming.prefix.{name}.evaluated", "tokens", median(evaluated), samples=runs))
        numbers.append(distribution(f"warming.prefix.{name}.first", "ms", first_ms))
    return Result(tuple(numbers), ("the packaged model on one thread; the system prompt and two tools read ahead",))


async def _no_hook(context: WarmContext) -> None:
    """Prepare nothing."""


@tool(effect="read", name="lookup", warm=Warm(_no_hook, lifetime_s=1e9))
async def _warmed_lookup(q: str, n: int) -> dict[str, object]:
    """Look a number up; after the first time there is nothing left to prepare."""
    return {"q": q, "ok": True, "value": 2 * n}


def overhead(turns: int = 600) -> Result:
    """Return what a standard turn costs without a predictor, with one that learns, and with a warmer that looks each
    time and prepares nothing; the three take turns in blocks of ten.
    """
    return anyio.run(_overhead, turns)


async def _overhead(turns: int) -> Result:
    model = FunctionModel(fake_model(STANDARD))
    learning = EngineSettings(warming=WarmSettings(mode="off"))
    laps = [Laps() for _ in range(3)]
    async with (
        Engine(model=model, tools=[lookup]) as bare,
        Engine(model=model, tools=[lookup], predictor=Predictor(), settings=learning) as learns,
        Engine(model=model, tools=[_warmed_lookup], predictor=Predictor()) as looks,
    ):
        sessions = [await engine.open("bench") for engine in (bare, learns, looks)]
        for block in range(0, turns, 10):
            for session, lap in zip(sessions, laps, strict=True):
                for turn in range(block, block + 10):
                    since = mark()
                    result = await session.ask(prompt(turn))
                    if block:
                        lap.add(since)
                    check_turn(result, turn, STANDARD)
    names = ("bare", "learning", "abstaining")
    numbers = [lap.numbers(f"warming.turn.{name}")[1] for name, lap in zip(names, laps, strict=True)]
    numbers += [lap.ratios(f"warming.turn.{name}", laps[0])[2] for name, lap in zip(names[1:], laps[1:], strict=True)]
    numbers.append(laps[2].ratios("warming.turn.abstaining_above_learning", laps[1])[2])
    return Result(tuple(numbers), ())
