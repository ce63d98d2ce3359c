"""rate: fifty sessions at once on a key that is refused with Retry-After 2, and what an open gate costs.

The storm runs in virtual time, so its numbers say what is done and not how fast: requests sent for each that was
useful, when the first one followed the refusal, and how many came too early. May import the engine, `engine.testing`
and the numbers.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import anyio

from engine import Engine, ModelReply, ModelRequest
from engine.core.values import Outcome
from engine.errors import ModelError
from engine.ports import Emit
from engine.runtime.governor import Governor, Pass
from engine.runtime.quota import QuotaSettings
from engine.testing.scheduling import virtual_time

from .numbers import Effort, Laps, Number, Result, check, mark

SESSIONS = 50
RETRY_AFTER_S = 2.0
LATENCY_S = 0.3

_PASSES = 1_000


class _Refusing:
    """Refuses what is sent in the first two seconds, and remembers when everything was sent."""

    quota_key = "bench"

    def __init__(self) -> None:
        self.began = anyio.current_time()
        self.sent: list[float] = []

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        sent = anyio.current_time() - self.began
        self.sent.append(sent)
        await anyio.sleep(LATENCY_S)
        if sent < RETRY_AFTER_S:
            raise ModelError("slow down", kind="rate_limit", status=429, retry_after_s=RETRY_AFTER_S)
        return ModelReply(text="done")


def measure(effort: Effort, disk: Path) -> Result:
    """Return the storm's counts and the cost of a pass through an open gate."""
    backend, options = virtual_time("asyncio")
    sent = anyio.run(_storm, backend=backend, backend_options=options)
    told = sent[0] + LATENCY_S
    later = [moment for moment in sent if moment > told]
    early = [moment for moment in later if moment < told + RETRY_AFTER_S]
    return Result(
        (
            Number("rate.requests", "requests", len(sent)),
            Number("rate.requests_a_useful", "×", len(sent) / SESSIONS),
            Number("rate.too_early", "requests", len(early)),
            Number("rate.first_after_refusal", "s", later[0] - told),
            *anyio.run(_open_gate, effort).numbers("rate.open_gate"),
        )
    )


async def _storm() -> list[float]:
    model = _Refusing()
    outcomes: list[Outcome] = []

    async def ask(number: int) -> None:
        outcomes.append((await (await engine.open(f"bench{number}")).ask("go")).outcome)

    async with Engine(model=model) as engine, anyio.create_task_group() as group:
        for number in range(SESSIONS):
            group.start_soon(ask, number)
    check(outcomes == [Outcome.COMPLETED] * SESSIONS, f"{outcomes.count(Outcome.COMPLETED)} of {SESSIONS} turns ended")
    return model.sent


async def _open_gate(effort: Effort) -> Laps:
    governor = Governor(QuotaSettings(), Random(1))  # noqa: S311 - jitter is no secret
    laps = Laps()
    for _ in range(effort.folds):
        since = mark()
        for _ in range(_PASSES):
            right = await governor.admit("bench")
            assert isinstance(right, Pass)
            with right:
                right.succeeded()
        laps.add(since, _PASSES)
    return laps
