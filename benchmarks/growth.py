"""growth: what a turn costs in a long session, beside the same turns of a young one; the two take turns."""

from __future__ import annotations

from pathlib import Path

import anyio

from .numbers import Effort, Laps, Number, Result, mark
from .workload import SMALL, check_turn, new_engine, prompt

_YOUNG = 20


def measure(effort: Effort, disk: Path) -> Result:
    """Return the cost of small turns around turn 20 and around each of the effort's lengths, in memory."""
    return Result(tuple(number for length in effort.lengths for number in anyio.run(_grow, length, effort.window)))


async def _grow(length: int, window: int) -> tuple[Number, ...]:
    young, old = Laps(), Laps()
    async with new_engine(SMALL) as engine:
        long = await engine.open("long")
        for turn in range(length - window // 2):
            check_turn(await long.ask(prompt(turn)), turn, SMALL)
        short = await engine.open("short")
        for turn in range(max(0, _YOUNG - window // 2)):
            check_turn(await short.ask(prompt(turn)), turn, SMALL)
        for place in range(window):
            turn = max(0, _YOUNG - window // 2) + place
            since = mark()
            result = await short.ask(prompt(turn))
            young.add(since)
            check_turn(result, turn, SMALL)
            turn = length - window // 2 + place
            since = mark()
            result = await long.ask(prompt(turn))
            old.add(since)
            check_turn(result, turn, SMALL)
    name = f"growth.turn_{length}"
    return *young.numbers(f"{name}.young"), *old.numbers(f"{name}.old"), *old.ratios(name, young)
