"""guards: what the limits cost that nobody runs into, as a share of what the engine adds to a turn.

The standard turn in memory, by turns in blocks of ten: the floor's, and that of three engines. *out* has no guard that
can be left out; *default* is an engine as it comes; *all* has every guard switched on. A share is what the guards add,
by all that the engine adds above the floor.

What is out: the guard against loops, the memory governor, the watchdog of the event loop, the watch for sessions that
do not get on, dwell times, and the samples of all these. What *all* has beside those: a policy of rules, redaction,
budgets for calls, tokens and money, lanes, and the gate with its quota and circuit breaker. What is in every turn and
cannot be taken out, because the turn is made of it: deadlines as cancel scopes, the places of running tools, counters
in the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from statistics import median

import anyio

from engine import (
    Engine,
    EngineSettings,
    LaneLimits,
    Limits,
    ModelReply,
    ModelRequest,
    Redactor,
    TransitionRecord,
    Usage,
)
from engine.core.budgets import ToolLimits
from engine.core.money import Price
from engine.ports import Emit
from engine.runtime.clock import SystemClock
from engine.runtime.monitor import Monitor, Watching
from engine.tools.policy import RulePolicy

from .floors import Floor, gather
from .numbers import Effort, Laps, Number, Result, mark
from .workload import STANDARD, check_answers, check_turn, fake_model, lookup, prompt

_BLOCK = 10
_UNGUARDED = Limits(loops=None, max_memory_mb=None)
_NEVER_REACHED = 10**9 - 1


def measure(effort: Effort, disk: Path) -> Result:
    """Return the turn without, with the default and with all guards, and their shares."""
    return Result(anyio.run(_measure, effort.turns))


class Unwatched(Monitor):
    """A monitor that sees nothing: the part that an engine without one would have."""

    def turn(self) -> AbstractContextManager[None]:
        """Take no samples."""
        return nullcontext()

    def see(self, records: Sequence[TransitionRecord]) -> None:
        """Look away."""


class _Model:
    """The fake model of the standard turn, which also says what it used.

    Args:
        quota_key: the name of its quota; None for no gate.
    """

    def __init__(self, quota_key: str | None = None) -> None:
        self.quota_key = quota_key
        self._think = fake_model(STANDARD, Usage(input_tokens=100, output_tokens=20))

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return the next reply."""
        return await self._think(request)


def without_guards() -> Engine:
    """Return an engine without any guard that can be left out."""
    settings = EngineSettings(loop_limit_s=None, stuck_after_s=None)
    engine = Engine(model=_Model(), tools=[lookup], limits=_UNGUARDED, settings=settings)
    # There is no switch for dwell times and samples: a null part stands in for the monitor.
    engine._parts = engine._parts._replace(monitor=Unwatched(Watching(_UNGUARDED, SystemClock())))
    return engine


def as_it_comes() -> Engine:
    """Return an engine with the guards that nobody has to ask for."""
    return Engine(model=_Model(), tools=[lookup])


def with_all_guards() -> Engine:
    """Return an engine with every guard switched on, and none of them reached."""
    limits = Limits(
        max_tool_calls=_NEVER_REACHED,
        max_tokens=_NEVER_REACHED,
        max_cost=str(_NEVER_REACHED),
        prices={"*": Price(input="3", output="15")},
        tools={"lookup": ToolLimits(max_calls=_NEVER_REACHED)},
        requests_per_minute=_NEVER_REACHED,
    )
    return Engine(
        model=_Model("bench"),
        tools=[lookup],
        limits=limits,
        settings=EngineSettings(lanes=LaneLimits()),
        policy=RulePolicy(["allow lookup", "deny delete_*"]),
        redactor=Redactor({"db": "a-secret-that-nobody-says"}),
    )


ENGINES = {"out": without_guards, "default": as_it_comes, "all": with_all_guards}
"""Name → how the engine is made."""


async def _measure(count: int) -> tuple[Number, ...]:
    floor, laps = Floor(STANDARD, gather), {name: Laps() for name in ("floor", *ENGINES)}
    async with AsyncExitStack() as stack:
        engines = {name: await stack.enter_async_context(make()) for name, make in ENGINES.items()}
        sessions = {name: await engine.open("bench") for name, engine in engines.items()}
        for start in range(0, _BLOCK + count, _BLOCK):
            block = range(start, min(start + _BLOCK, _BLOCK + count))
            warm = start > 0
            answers: list[str] = []
            for turn in block:
                since = mark()
                answers.append(await floor.turn(turn))
                if warm:
                    laps["floor"].add(since)
            check_answers(answers, block, STANDARD)
            for name, session in sessions.items():
                for turn in block:
                    since = mark()
                    result = await session.ask(prompt(turn))
                    if warm:
                        laps[name].add(since)
                    check_turn(result, turn, STANDARD)
    return (
        *(lap.numbers(f"guards.{name}")[1] for name, lap in laps.items()),
        _share("default", laps),
        _share("all", laps),
    )


def _share(name: str, laps: Mapping[str, Laps]) -> Number:
    """Return what guards add to a turn as a share of what the engine adds, by medians of processor time."""
    floor, out, guarded = (median(laps[each].cpu_ns) for each in ("floor", "out", name))
    return Number(f"guards.{name}.cpu_share", "of the overhead", (guarded - out) / (guarded - floor))
