"""Two histories are compared by what happened: aligned, with the first difference and counts."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from engine import Engine, ModelReply, ToolCall, tool
from engine.core.events import ContextPrepared, KnownEvent, ModelReplied, PromptReceived, SessionOpened, ToolFinished
from engine.core.record import TransitionRecord
from engine.core.values import PlannedCall
from engine.errors import ReplayError
from engine.models import FunctionModel
from engine.replay import compare
from engine.replay.comparison import _blocks
from engine.testing.recording import Recording
from engine.testing.records import chain, read_all

pytestmark = pytest.mark.anyio


@tool(effect="read")
def look(at: str) -> str:
    """Look at something."""
    return f"saw {at}"


async def told(session: str, *turns: Sequence[str], prefix: str = "c") -> list[TransitionRecord]:
    """Return a history of turns, each of which looks at these things, one after the other."""
    waiting: list[ModelReply] = []
    for number, things in enumerate(turns):
        for place, thing in enumerate(things):
            call = ToolCall(id=f"{prefix}{number}-{place}", name="look", arguments={"at": thing})
            waiting.append(ModelReply(tool_calls=(call,)))
        waiting.append(ModelReply(text=f"turn {number}"))
    engine = Engine(model=FunctionModel(lambda request: waiting.pop(0)), tools=[look])
    async with engine:
        opened = await engine.open(session)
        for number in range(len(turns)):
            await opened.ask(f"prompt {number}")
    return list(await read_all(engine.journal, session))


async def test_the_same_thing_under_other_names_is_the_same() -> None:
    """Times, sessions and the ids that a model draws make no difference."""
    left, right = await told("a", ["x", "y"]), await told("b", ["x", "y"], prefix="other-")
    found = compare(left, right)
    assert (found.ok, found.same, found.first) == (True, len(left), None)


async def test_first_difference_and_counts() -> None:
    """Another argument is one changed call and one changed result; everything else stays aligned."""
    left, right = await told("a", ["x", "y", "z"], ["w"]), await told("b", ["x", "q", "z"], ["w"])
    found = compare(left, right)
    assert [pair.kind for pair in found.differences] == ["changed", "changed"]
    assert found.first is not None
    assert found.first.left is not None
    assert found.first.left.trigger == "model_replied"
    assert found.same == len(left) - 2


async def test_missing_turn_leaves_the_others_aligned() -> None:
    """A turn that only one history has is on one side, whole; the turns after it are the same."""
    left, right = await told("a", ["x"], ["y", "y2"], ["z"]), await told("b", ["x"], ["z"])
    found = compare(left, right)
    assert found.count("only_left") == 9
    assert found.count("only_right") == 0


async def test_missing_call_is_found_inside_a_turn() -> None:
    """A round that only one side has is listed alone."""
    left, right = await told("a", ["x", "y", "z"]), await told("b", ["x", "z"])
    found = compare(left, right)
    assert [pair.kind for pair in found.differences] == ["only_left"] * 3


async def test_calls_side_by_side_may_end_in_any_order() -> None:
    """Two ends that came the other way round are no difference, and another content of one of them is."""
    call = [ToolCall(id=name, name="look", arguments={"at": name}) for name in ("x", "y")]
    asking = ModelReplied(reply=ModelReply(tool_calls=call), plans=tuple(PlannedCall(call_id=c.id) for c in call))
    start: list[KnownEvent] = [SessionOpened(), PromptReceived(), ContextPrepared(), asking]
    ends = [ToolFinished(call_id="x", content="1"), ToolFinished(call_id="y", content="2")]
    there = Recording("a").play([*start, *ends]).records
    assert compare(there, Recording("b").play([*start, *reversed(ends)]).records).ok
    other = ToolFinished(call_id="x", content="3")
    assert [
        pair.kind for pair in compare(there, Recording("b").play([*start, ends[1], other]).records).differences
    ] == ["changed"]


async def test_as_text_and_json() -> None:
    """Both forms hold the same differences."""
    found = compare(await told("a", ["x"]), await told("b", ["y"]))
    data = json.loads(json.dumps(found.as_json()))
    assert (data["changed"], data["differ"], len(data["differences"])) == (2, True, 2)
    assert list(found.lines())[-1].endswith("2 changed, 0 only left, 0 only right")


@pytest.mark.parametrize(
    ("left", "right"),
    [("", ""), ("abc", "abc"), ("aaa", "aa"), ("abab", "ab"), ("xay", "xby"), ("abc", ""), ("ab", "ba")],
)
def test_blocks_cover_both_sides_once(left: str, right: str) -> None:
    """Every record of both sides stands in exactly one block, in order, and equal blocks are equal."""
    blocks = list(_blocks(left, right))
    assert "".join(left[a:b] for _, a, b, _, _ in blocks) == left
    assert "".join(right[c:d] for _, _, _, c, d in blocks) == right
    assert all(left[a:b] == right[c:d] for tag, a, b, c, d in blocks if tag == "equal")


def test_nothing_to_compare_is_an_error() -> None:
    """An empty history has no session to compare."""
    with pytest.raises(ReplayError, match="empty"):
        compare(chain("s", 2), [])
