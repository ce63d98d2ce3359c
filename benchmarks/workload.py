"""The work that is measured: turn(R, T), a fake model that is a pure function of its messages, a tool that doubles.

turn(R, T) is a prompt, R rounds of a model call that asks for T parallel tool calls, and a last model call that answers
in text: R + 1 + R·T steps. The answer is right only if every result was carried back. May import the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from engine import Engine, EngineSettings, ModelReply, ModelRequest, ToolCall, TurnResult, Usage, tool
from engine.models import FunctionModel
from engine.ports import Journal

from .numbers import check


class Shape(NamedTuple):
    """How a turn goes: rounds of tool calls, and parallel calls a round."""

    rounds: int
    calls: int

    @property
    def steps(self) -> int:
        """Model calls and tool calls of one turn."""
        return self.rounds + 1 + self.results

    @property
    def results(self) -> int:
        """Tool calls of one turn."""
        return self.rounds * self.calls


STANDARD = Shape(3, 2)
SMALL = Shape(1, 1)


def prompt(turn: int) -> str:
    """Return what is asked in a turn."""
    return f"turn {turn} please"


def answer(turn: int, shape: Shape) -> str:
    """Return the only right answer to `prompt(turn)`."""
    return f"turn {turn}: {shape.results} results"


def call_id(turn: int, number: int, place: int) -> str:
    """Return the id of one call: its turn, its round and its place in the round, each from 0."""
    return f"c{turn}_{number}_{place}"


def asked_for(turn: int, number: int, shape: Shape) -> tuple[ToolCall, ...]:
    """Return the calls that the fake model asks for in a round."""
    return tuple(
        ToolCall(id=call_id(turn, number, place), name="lookup", arguments={"q": f"r{number}j{place}", "n": number})
        for place in range(shape.calls)
    )


def fake_model(shape: Shape, usage: Usage | None = None) -> Callable[[ModelRequest], Awaitable[ModelReply]]:
    """Return the fake model of turns of this shape; it says that each reply used so much, where that is given."""

    async def think(request: ModelRequest) -> ModelReply:
        results, asked = 0, ""
        for message in reversed(request.messages):
            if message.role == "user":
                asked = message.text or ""
                break
            if message.role == "tool":
                results += 1
        turn, number = int(asked.split()[1]), results // shape.calls
        if number < shape.rounds:
            return ModelReply(tool_calls=asked_for(turn, number, shape), usage=usage)
        return ModelReply(text=f"turn {turn}: {results} results", usage=usage)

    return think


@tool(effect="read")
async def lookup(q: str, n: int) -> dict[str, object]:
    """Look a number up."""
    return {"q": q, "ok": True, "value": 2 * n}


@tool(effect="read", name="lookup")
async def slow_lookup(q: str, n: int) -> dict[str, object]:
    """Look a number up, in 10 ms."""
    await asyncio.sleep(TOOL_DELAY_S)
    return {"q": q, "ok": True, "value": 2 * n}


TOOL_DELAY_S = 0.01


def new_engine(
    shape: Shape, journal: Journal | None = None, *, slow: bool = False, checkpoint_records: int | None = 512
) -> Engine:
    """Return an engine for turns of this shape; everything else is left as hosts find it.

    Args:
        shape: of its turns.
        journal: in memory if not given.
        slow: whether tools take 10 ms (asyncio only).
        checkpoint_records: after how many records a session that is released leaves a checkpoint.
    """
    settings = EngineSettings(checkpoint_records=checkpoint_records)
    tools = [slow_lookup if slow else lookup]
    return Engine(model=FunctionModel(fake_model(shape)), tools=tools, journal=journal, settings=settings)


def check_turn(result: TurnResult, turn: int, shape: Shape) -> None:
    """Make sure that a turn came to the right end with every call.

    Raises:
        WrongResult: it did not.
    """
    check(result.text == answer(turn, shape), f"turn {turn} ended with {result.text!r} ({result.reason})")
    check(len(result.tool_calls) == shape.results, f"turn {turn} made {len(result.tool_calls)} calls")


def check_answers(answers: Sequence[str], turns: Sequence[int], shape: Shape) -> None:
    """Make sure that floors came to the right ends.

    Raises:
        WrongResult: one did not.
    """
    for turn, text in zip(turns, answers, strict=True):
        check(text == answer(turn, shape), f"turn {turn} of a floor ended with {text!r}")
