"""What the tests of the living engine share: scenes, tools that count, and the checks that always hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import anyio
import anyio.lowlevel

from engine import (
    Message,
    ModelReply,
    ModelRequest,
    Prompt,
    Session,
    State,
    ToolCall,
    ToolContext,
    TransitionRecord,
    TurnResult,
    tool,
)
from engine.api import read_history
from engine.core.events import ToolFinished, ToolStarted
from engine.core.session import Session as Snapshot
from engine.models import FunctionModel
from engine.ports import Decision, Journal, Tool, ToolOptions
from engine.testing.checks import check_history, check_messages


def call(name: str, call_id: str = "c1", **arguments: str | int) -> ToolCall:
    """Return a call of a tool."""
    return ToolCall(id=call_id, name=name, arguments=dict(arguments))


def calls(*names: str) -> ModelReply:
    """Return a reply that calls these tools without arguments, as c0, c1, …"""
    return ModelReply(tool_calls=[call(name, f"c{index}") for index, name in enumerate(names)])


def calling(*names: str) -> FunctionModel:
    """Return a model that calls these tools in the first round of every turn, and then is done."""
    return FunctionModel(lambda request: ModelReply(text="done") if request.round > 1 else calls(*names))


class VirtualClock:
    """Both clocks follow the event loop's time, which may be virtual; the time of day can be moved."""

    def __init__(self, offset_s: float = 1_800_000_000.0) -> None:
        self.offset_s = offset_s

    def time_ns(self) -> int:
        """Return the time of day."""
        return int((self.offset_s + anyio.current_time()) * 1e9)

    def monotonic_ns(self) -> int:
        """Return the loop's time."""
        return int(anyio.current_time() * 1e9)


class Crowd:
    """Counts those who are inside at once.

    Attributes:
        most: how many there were at most.
    """

    def __init__(self) -> None:
        self.most = self._inside = 0

    async def visit(self, steps: int = 1) -> None:
        """Be inside for so many steps of the event loop."""
        self._inside += 1
        self.most = max(self.most, self._inside)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        self._inside -= 1


class Verdicts:
    """A policy that knows a verdict for some call ids or tools and allows everything else."""

    def __init__(self, **verdicts: Literal["allow", "ask", "deny"]) -> None:
        self._verdicts = verdicts

    def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
        """Return the verdict about the call."""
        verdict = self._verdicts.get(call.id) or self._verdicts.get(call.name, "allow")
        return Decision(verdict, f"the rule about {call.name}")


async def history(journal: Journal, session: str = "s") -> list[TransitionRecord]:
    """Return every record of a session, hashes and order checked."""
    return [record async for record in read_history(journal, session)]


def check_sound(records: Sequence[TransitionRecord]) -> Snapshot:
    """Assert that a history replays and that every prefix of it projects to a conversation that providers accept."""
    return check_history(records[0].session, [record.line for record in records])


def check_closed(records: Sequence[TransitionRecord]) -> None:
    """Assert that a sound history rests in IDLE and that every durable intent has exactly one durable end (F1)."""
    session = check_sound(records)
    assert session.state is State.IDLE
    starts: Counter[tuple[int, str]] = Counter()
    ends: Counter[tuple[int, str]] = Counter()
    batch = 0
    for record in records:
        batch += record.trigger in ("prompt_received", "model_replied")
        if isinstance(record.event, ToolStarted):
            starts[batch, record.event.call_id] += 1
        if isinstance(record.event, ToolFinished):
            ends[batch, record.event.call_id] += 1
    assert all(ends[key] == count for key, count in starts.items()), (starts, ends)
    assert all(count == 1 for count in ends.values()), ends


def check_conversation(messages: Sequence[Message]) -> None:
    """Assert that a model provider accepts the conversation."""
    check_messages(messages)


def triggers(records: Sequence[TransitionRecord]) -> list[str]:
    """Return the kinds of the events, in order."""
    return [record.trigger for record in records]


@dataclass(frozen=True)
class Scene:
    """A turn to be disturbed: what the model says in it, and how the host goes about it."""

    name: str
    replies: tuple[ModelReply, ...] = ()
    prompt: Prompt = field(default_factory=lambda: Prompt(text="go"))
    streaming: bool = False
    breaking: bool = False


SCENES = (
    Scene("text"),
    Scene("parallel reads", (calls("look", "look", "look"),)),
    Scene("writes in order", (calls("save", "save"), calls("save"))),
    Scene("read beside write", (calls("look", "save"),)),
    Scene("threads", (calls("compute", "compute"), calls("compute"))),
    Scene("streaming", (calls("look", "save"),), streaming=True),
    Scene("approval", (ModelReply(tool_calls=[call("save", "ask"), call("look", "c1")]),)),
    Scene("recovery", (calls("look"),), breaking=True),
    Scene("direct calls", prompt=Prompt(text="go", calls=[call("save", "d0"), call("look", "d1")])),
    Scene("streamed text", streaming=True),
    Scene("streamed threads", (calls("compute", "compute"),), streaming=True),
    Scene("continued text", (ModelReply(text="a", finish="length"), ModelReply(text="b", finish="length"))),
    Scene("more reads than places", (calls(*["look"] * 6),)),
    Scene("five rounds", tuple(calls("look") for _ in range(5))),
    Scene("every kind of tool at once", (calls("compute", "look", "save", "fail"),)),
    Scene("a write that fails", (calls("fail"), calls("fail", "save"))),
    Scene("an unknown tool", (calls("nowhere"), calls("nowhere", "look"))),
    Scene("malformed arguments", (ModelReply(tool_calls=[call("look", n=1), call("save", "c2")]),)),
    Scene("recovery before writes", (calls("save"), calls("save", "look")), breaking=True),
    Scene("an approval alone", (ModelReply(tool_calls=[call("save", "ask")]),)),
    Scene("two approvals", (calls("ask", "ask"), calls("ask"))),
    Scene("a direct call to approve", prompt=Prompt(text="go", calls=[call("save", "ask"), call("nowhere", "d1")])),
)


class World:
    """What the tools of a scene touch: it counts executions and looks over the journal's shoulder.

    Attributes:
        done: how often each call took effect, by idempotency key.
        reads: keys of the calls that may run again.
        undeclared: keys of writes that started before their intent was durable (I3).
    """

    def __init__(self, journal: Journal) -> None:
        self.done: Counter[str] = Counter()
        self.reads: set[str] = set()
        self.undeclared: list[str] = []
        self._journal = journal

    def tools(self) -> tuple[Tool, ...]:
        """Return a read, a write, one that needs an approval, one that runs in a thread, and one that fails."""

        @tool(effect="read")
        async def look(context: ToolContext) -> str:
            """Look."""
            await anyio.lowlevel.checkpoint()
            self.done[context.idempotency_key] += 1
            self.reads.add(context.idempotency_key)
            return "seen"

        @tool
        async def save(context: ToolContext) -> str:
            """Save."""
            await self._expect_intent(context)
            self.done[context.idempotency_key] += 1
            await anyio.lowlevel.checkpoint()
            return "saved"

        @tool
        def compute(context: ToolContext) -> str:
            """Compute in a thread."""
            self.done[context.idempotency_key] += 1
            return "computed"

        @tool
        async def ask(context: ToolContext) -> str:
            """Write with an approval."""
            return await save(context)

        @tool
        async def fail(context: ToolContext) -> str:
            """Write, and fail."""
            await save(context)
            raise RuntimeError("no luck")

        return look, save, compute, ask, fail

    async def _expect_intent(self, context: ToolContext) -> None:
        records = await history(self._journal, context.session)
        newest = [r.event.call_id for r in records if isinstance(r.event, ToolStarted)]
        if context.call_id not in newest:
            self.undeclared.append(context.idempotency_key)


def model_of(scene: Scene) -> FunctionModel:
    """Return a model that plays the scene when it is told to go and answers at once otherwise."""
    failures = iter([True] * scene.breaking)

    async def think(request: ModelRequest) -> ModelReply:
        await anyio.lowlevel.checkpoint()
        if next(failures, False):
            return ModelReply()
        prompt = next(message.text for message in reversed(request.messages) if message.role == "user")
        if prompt == "go" and request.round <= len(scene.replies):
            return scene.replies[request.round - 1]
        return ModelReply(text="done")

    return FunctionModel(think)


async def play(scene: Scene, session: Session) -> None:
    """Do what the scene's host does, answering whatever is asked."""
    if scene.streaming:
        async with session.stream(scene.prompt) as stream:
            async for _ in stream:
                pass
        return
    await answer_all(session, await session.ask(scene.prompt))


async def answer_all(session: Session, result: TurnResult) -> TurnResult:
    """Say yes to whatever is asked, until nothing is."""
    while result.pending:
        result = await session.answer(result.pending[0].id, approve=True)
    return result
