"""A history is judged by other code and configuration: every change of behaviour is reported, nothing else is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest

from engine import Engine, EngineSettings, Limits, ModelReply, State, ToolCall, Usage, tool
from engine.core.actions import finish_turn
from engine.core.cursor import Cursor
from engine.core.events import (
    ContextPrepared,
    Faulted,
    ModelReplied,
    PromptReceived,
    RecoveryFailed,
    SessionOpened,
    ToolFinished,
)
from engine.core.loops import LoopLimits
from engine.core.money import Price
from engine.core.record import TransitionRecord
from engine.core.table import ROWS, Row, fire_through_machine, validate
from engine.core.values import Message, PlannedCall, ResourceUsage, SessionSettings, Surroundings, ToolStatus
from engine.errors import ReplayError
from engine.journal import MemoryJournal
from engine.journal.codec import UPCASTERS, decode
from engine.models import FunctionModel
from engine.ports import Decision, ModelRequest, Tool, ToolContext, ToolOptions, ToolOutput
from engine.replay import diverge
from engine.testing.recording import Recording
from engine.testing.records import chain, read_all
from engine.tools.function import FunctionTool
from engine.tools.policy import DENY_CHANGES, RulePolicy
from engine.tools.workers import WorkerLimits

pytestmark = pytest.mark.anyio

SYSTEM = "You look after a shop."
USAGE = Usage(input_tokens=90, output_tokens=10)


@tool(effect="read")
def stock(item: str) -> int:
    """Return how many there are."""
    return len(item)


@tool(effect="write")
def order(item: str, count: int) -> str:
    """Order more."""
    return f"{count} {item}"


@tool(effect="read", on_failure="retry")
def price(item: str) -> int:
    """Return the price."""
    raise ConnectionError("no line")


TOOLS = (stock, order, price)


def replies() -> list[ModelReply]:
    """One turn: four looks at the same thing, an order, a price that cannot be had, and words."""
    asked = [
        *(ToolCall(id=f"c{number}", name="stock", arguments={"item": "nails"}) for number in range(1, 5)),
        ToolCall(id="c5", name="order", arguments={"item": "nails", "count": 5}),
        ToolCall(id="c6", name="price", arguments={"item": "nails"}),
    ]
    return [*(ModelReply(tool_calls=(call,), usage=USAGE) for call in asked), ModelReply(text="done", usage=USAGE)]


class Scripted(FunctionModel):
    """Gives the replies, one after the other."""

    def __init__(self) -> None:
        waiting = replies()
        super().__init__(lambda request: waiting.pop(0))


def shop(**changes: Any) -> Engine:
    """Return the engine that the history is recorded with, but for the changes."""
    limits = {"backoff_base_s": 0.0, "max_tool_retries": 1, "loops": LoopLimits(repeats=5), **changes.pop("limits", {})}
    parts: dict[str, Any] = {
        "model": Scripted(),
        "tools": TOOLS,
        "limits": Limits(**limits),
        "policy": RulePolicy(["allow order(item=nails)"], version="1"),
        "settings": EngineSettings(system=SYSTEM),
        **changes,
    }
    return Engine(**parts)


async def recorded(
    engine: Engine | None = None, prompts: Sequence[str] = ("look after the nails",)
) -> list[TransitionRecord]:
    """Return the history of a session of an engine."""
    engine = engine or shop()
    async with engine:
        session = await engine.open("s")
        for prompt in prompts:
            await session.ask(prompt)
    return list(await read_all(engine.journal, "s"))


def through(rows: Iterable[Row]) -> Callable[[Cursor], None]:
    """Return how to consult another table."""
    rows = tuple(rows)
    validate(rows)

    def move(cursor: Cursor) -> None:
        for row in rows:
            if row.trigger != cursor.event.kind or cursor.state not in row.sources:
                continue
            if row.guard is None or row.guard(cursor):
                cursor.state = row.dest or cursor.state
                row.action(cursor)
                return

    return move


def swapped(name: str, **changes: Any) -> Callable[[Cursor], None]:
    """Return the table with the rows of one guard or action changed."""
    return through(
        row._replace(**changes) if name in (getattr(row.guard, "__name__", ""), row.action.__name__) else row
        for row in ROWS
    )


@tool(effect="read", name="stock")
def stock_by_number(number: int) -> int:
    """Return how many there are."""
    return number


@tool(effect="idempotent", name="order")
def order_once(item: str, count: int) -> str:
    """Order more."""
    return f"{count} {item}"


@tool(effect="read", name="find_stock")
def stock_renamed(item: str) -> int:
    """Return how many there are."""
    return len(item)


@tool(effect="write", name="order", timeout_s=5)
def order_hurried(item: str, count: int) -> str:
    """Order more."""
    return f"{count} {item}"


@tool(effect="write", name="order", conflict_key="{item}")
def order_by_item(item: str, count: int) -> str:
    """Order more."""
    return f"{count} {item}"


CHANGED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a limit of rounds": ({"limits": {"max_tool_rounds": 2}}, "budget", "model_replied"),
    "a policy": ({"policy": RulePolicy(["deny order"])}, "approval", "model_replied"),
    "an approval default": ({"policy": RulePolicy([], version="1")}, "approval", "model_replied"),
    "an approval default, without anybody": (
        {"policy": RulePolicy([], version="1", default=DENY_CHANGES)}, "approval", "model_replied",
    ),
    "the schema of a tool": ({"tools": (stock_by_number, order, price)}, "argument", "model_replied"),
    "the effect of a tool": ({"tools": (stock, order_once, price)}, "order", "model_replied"),
    "the time of a tool": ({"tools": (stock, order_hurried, price)}, "budget", "model_replied"),
    "what a tool conflicts with": ({"tools": (stock, order_by_item, price)}, "order", "model_replied"),
    "a retry count": ({"limits": {"max_tool_retries": 3}}, "budget", "model_replied"),
    "a loop threshold": ({"limits": {"loops": LoopLimits(repeats=3)}}, "prompt", "model_replied"),
    "a removed tool": ({"tools": (order, price)}, "missing_tool", "model_replied"),
    "a renamed tool": ({"tools": (stock_renamed, order, price)}, "missing_tool", "model_replied"),
    "a system prompt": ({"settings": EngineSettings(system="You own a shop.")}, "prompt", "prompt_received"),
    "a budget of calls": ({"limits": {"max_tool_calls": 2}}, "budget", "model_replied"),
    "a budget of tokens": ({"limits": {"max_tokens": 150}}, "budget", "context_prepared"),
    "a price": (
        {"limits": {"prices": {"*": Price(input="1", output="2")}, "max_cost": "1"}}, "budget", "model_replied",
    ),
}  # fmt: skip
"""What is changed → its class, and the first kind of record that shows it."""


@pytest.mark.parametrize(("changes", "kind", "trigger"), CHANGED.values(), ids=CHANGED)
async def test_changed_configuration_is_reported(changes: dict[str, Any], kind: str, trigger: str) -> None:
    """A change of configuration that a history shows is reported first, with its class and its place."""
    records = await recorded()
    report = diverge(records, shop(**changes))
    assert report.first is not None
    assert (report.first.kind, records[report.first.seq - 1].trigger) == (kind, trigger), str(report.first)
    assert report.records == len(records)


TABLES: dict[str, tuple[Callable[[Cursor], None], str]] = {
    "a guard": (swapped("no_call_is_planned", guard=lambda cursor: True), "terminal_state"),
    "an action": (swapped("take_calls", action=finish_turn), "missing_tool"),
    "a destination": (swapped("finish_turn", dest=State.PROCESSING), "terminal_state"),
}


@pytest.mark.parametrize(("move", "kind"), TABLES.values(), ids=TABLES)
async def test_changed_table_is_reported(move: Callable[[Cursor], None], kind: str) -> None:
    """A change of the code that decides is reported with its class, also in every later turn."""
    calls = [ModelReply(tool_calls=(ToolCall(id="c1", name="stock", arguments={"item": "x"}),)), ModelReply(text="yes")]
    waiting = [*calls, *calls]
    engine = shop(model=FunctionModel(lambda request: waiting.pop(0)))
    records = await recorded(engine, ("one", "two"))
    report = diverge(records, shop(), move)
    prompts = [record.seq for record in records if record.trigger == "prompt_received"]
    assert report.first is not None
    assert report.first.kind == kind, str(report.first)
    assert prompts[0] < report.first.seq < prompts[1] < report.divergences[-1].seq


async def test_all_divergences_of_a_history_are_listed() -> None:
    """One divergence hides no other: three changes at once are each reported at their own record."""
    records = await recorded()
    report = diverge(
        records,
        shop(
            tools=(stock, order_once, price), limits={"max_tool_retries": 0}, settings=EngineSettings(system="Hello.")
        ),
    )
    assert [divergence.kind for divergence in report.divergences] == ["prompt", "order", "budget"]
    assert not report.ok


async def test_consequence_is_told_with_its_cause() -> None:
    """A decision that leads elsewhere says where to, and is one divergence, not two."""
    records = await recorded()
    report = diverge(records, shop(tools=(order, price)))
    assert [divergence.kind for divergence in report.divergences] == ["missing_tool"] * 4
    assert all(divergence.now.endswith("then processing") for divergence in report.divergences)


class Masking:
    """A middleware that changes nothing in these tests: that it is there is what they look at."""

    def __init__(self, recorded_as: str | None = "Masking") -> None:
        self.recorded_as = recorded_as

    async def around_model(
        self, request: ModelRequest, call: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        """Ask the model."""
        return await call(request)

    async def around_tool(
        self, context: ToolContext, call: Callable[[ToolContext], Awaitable[ToolOutput]]
    ) -> ToolOutput:
        """Run the tool."""
        return await call(context)


class Weather:
    """A context provider."""

    async def provide(self, session: str, messages: Sequence[Message]) -> Sequence[Message]:
        """Say what the weather is like."""
        return [Message(role="user", text="It rains.")]


AROUND: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str, str, str]]]] = {
    "middleware that is new": (
        {}, {"middleware": [Masking()]}, [("middleware", "none", "Masking", "model_replied")],
    ),
    "middleware that is gone": (
        {"middleware": [Masking()]}, {}, [("middleware", "Masking", "none", "model_replied")],
    ),
    "middleware of another version": (
        {"middleware": [Masking("Masking 1")]}, {"middleware": [Masking("Masking 2")]},
        [("middleware", "Masking 1", "Masking 2", "model_replied")],
    ),
    "middleware in another order": (
        {"middleware": [Masking("A"), Masking("B")]}, {"middleware": [Masking("B"), Masking("A")]},
        [("middleware", "A, B", "B, A", "model_replied")],
    ),
    "a context provider that is gone": (
        {"providers": [Weather()]}, {}, [("prompt", "Weather", "none", "context_prepared")],
    ),
    "a context provider that is new": (
        {}, {"providers": [Weather()]}, [("prompt", "none", "Weather", "context_prepared")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("was", "now", "found"), AROUND.values(), ids=AROUND)
async def test_what_stands_around_a_session_is_judged_by_name(
    was: dict[str, Any], now: dict[str, Any], found: list[tuple[str, str, str, str]]
) -> None:
    """Other middleware and other context providers are told at the first record that shows them, and as a change."""
    records = await recorded(shop(**was))
    report = diverge(records, shop(**now))
    assert [
        (divergence.kind, divergence.recorded, divergence.now, records[divergence.seq - 1].trigger)
        for divergence in report.divergences
    ] == found
    assert [(change.recorded, change.now) for change in report.changes] == [(found[0][1], found[0][2])]


async def test_each_opening_says_what_it_stood_in() -> None:
    """A session that went on with other middleware is judged by what each of its turns had."""
    journal = MemoryJournal()
    for version in ("1", "2"):
        await recorded(shop(journal=journal, middleware=[Masking(f"Masking {version}")]))
    records = list(await read_all(journal, "s"))
    report = diverge(records, shop(middleware=[Masking("Masking 2")]))
    assert [(found.recorded, found.now) for found in report.divergences] == [("Masking 1", "Masking 2")]
    assert report.changes == ()


def limited(**limits: int) -> FunctionTool[..., object]:
    """Return a tool of one name in a process with these limits."""
    return tool(effect="read", isolation="process", limits=WorkerLimits(**limits))(weigh)


def weigh(item: str) -> int:
    """Weigh it."""
    return len(item)


def weighed(peak_mb: int, status: ToolStatus = ToolStatus.COMPLETED, limit_mb: int = 64) -> list[TransitionRecord]:
    """Return a history of a call that used so much memory, and of a turn that met the limit of the process."""
    call = ToolCall(id="c1", name="weigh", arguments={"item": "x"})
    used = ResourceUsage(peak_memory_bytes=peak_mb << 20)
    events = (
        SessionOpened(around=Surroundings(max_memory_mb=limit_mb)),
        PromptReceived(messages=(Message(role="user", text="weigh it"),)),
        ContextPrepared(),
        ModelReplied(
            reply=ModelReply(tool_calls=(call,)), plans=(PlannedCall(call_id="c1", effect="read", timeout_s=60),)
        ),
        ToolFinished(call_id="c1", status=status, content="1", resources=used),
        Faulted.of("memory_limit", "no memory"),
        RecoveryFailed(),
    )
    return Recording().play(events).records


WEIGHED: dict[str, tuple[list[TransitionRecord], Tool, list[str]]] = {
    "a smaller limit of a call": (weighed(90), limited(tree_memory_mb=64), ["90 MiB used → up to 64 MiB"]),
    "a limit that still holds it": (weighed(40), limited(tree_memory_mb=64), []),
    "a greater limit of a call": (
        weighed(90, ToolStatus.MEMORY_EXCEEDED), limited(tree_memory_mb=640), ["90 MiB were too much → up to 640 MiB"],
    ),
    "a call that nothing bounds now": (
        weighed(90, ToolStatus.MEMORY_EXCEEDED), tool(weigh), ["90 MiB were too much → up to any amount"],
    ),
    "a limit on what is mapped": (weighed(90, ToolStatus.MEMORY_EXCEEDED), limited(address_space_mb=640), []),
}  # fmt: skip


@pytest.mark.parametrize(("records", "now", "found"), WEIGHED.values(), ids=WEIGHED)
def test_memory_of_a_call_is_judged_by_what_was_measured(
    records: list[TransitionRecord], now: Tool, found: list[str]
) -> None:
    """A limit that the recorded peak is beyond, and one that it would have kept, are told; no process is started."""
    report = diverge(records, Engine(model=Scripted(), tools=[now], limits=Limits(max_memory_mb=64)))
    assert [f"{one.recorded} → {one.now}" for one in report.divergences if one.kind == "budget"] == found


@pytest.mark.parametrize(("limit_mb", "found"), [(64, []), (32, []), (512, ["up to 512 MiB"]), (None, ["no limit"])])
def test_memory_of_the_process_is_judged_by_its_limit(limit_mb: int | None, found: list[str]) -> None:
    """A turn that ended for want of memory would not have under a greater limit; a smaller one is only a change."""
    now = limited(tree_memory_mb=640)
    report = diverge(weighed(40), Engine(model=Scripted(), tools=[now], limits=Limits(max_memory_mb=limit_mb)))
    assert [one.now for one in report.divergences] == found
    assert [change.name for change in report.changes] == ["max_memory_mb"] * (limit_mb != 64)


class Nails:
    """A policy that decides as the rules do, written anew."""

    version = "1"

    def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
        """Allow reads, and orders of nails."""
        allowed = options.effect == "read" or call.arguments.get("item") == "nails"
        return Decision("allow" if allowed else "ask")


@tool(effect="read", name="stock")
def counted(item: str) -> int:
    """Return how many there are."""
    total = 0
    for _ in item:
        total += 1
    return total


PRESERVED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "the code of a tool": {"tools": (counted, order, price)},
    "the order of the tools": {"tools": (price, order, stock)},
    "one more rule, in another order": {"policy": RulePolicy(["deny launch", "allow order(item=nails)"], version="1")},
    "a policy written anew": {"policy": Nails()},
    "limits that nothing reaches": {"limits": {"max_tool_rounds": 60, "max_tool_calls": 50, "max_tokens": 10**6}},
    "middleware that histories need not name": {"middleware": [Masking(None)]},
    "how much is kept in memory": {"limits": {"history_ring": 10, "turns_ring": 3, "stream_buffer": 8}},
}


@pytest.mark.parametrize("changes", PRESERVED.values(), ids=PRESERVED)
async def test_behaviour_that_is_preserved_is_not_reported(changes: dict[str, Any]) -> None:
    """A refactor that changes nothing about what happens gives no divergence."""
    report = diverge(await recorded(), shop(**changes))
    assert report.ok, list(report.lines())


async def test_table_fired_in_another_way_is_not_reported() -> None:
    """The machine and its index are one table."""
    assert diverge(await recorded(), shop(), fire_through_machine).ok


async def test_setting_that_no_record_shows_is_named_as_a_change() -> None:
    """A limit that is another one now is named, though nothing diverges."""
    report = diverge(await recorded(), shop(limits={"max_tool_rounds": 60}))
    assert [(change.name, change.recorded, change.now) for change in report.changes] == [
        ("max_tool_rounds", "50", "60")
    ]
    assert report.ok


async def test_settings_alone_judge_the_core() -> None:
    """Without an engine only what the core decides by is judged."""
    report = diverge(await recorded(), SessionSettings(max_tool_rounds=1, backoff_base_s=0))
    assert [divergence.kind for divergence in report.divergences] == ["budget"] * 5


async def test_f2_diverging_performs_nothing_and_leaves_the_session() -> None:
    """No model and no tool is called, and the journal holds what it held."""
    journal = MemoryJournal()
    records = await recorded(shop(journal=journal))
    before = [record.line for record in records]
    touched: list[str] = []

    @tool(effect="write", name="stock")
    def touching(item: str) -> int:
        """Return how many there are."""
        touched.append(item)
        return 0

    model = FunctionModel(lambda request: touched.append("model") or ModelReply(text="no"))  # type: ignore[func-returns-value]
    assert not diverge(records, shop(model=model, tools=(touching,), journal=journal)).ok
    assert touched == []
    assert [record.line for record in await read_all(journal, "s")] == before


async def test_history_of_an_older_release_is_judged_after_its_upcast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of an earlier version goes through its upcaster, and diverges by what it means today."""
    monkeypatch.setitem(UPCASTERS, 0, lambda fields: fields)
    records = [decode(_of_version_0(record.line)) for record in (await recorded())[:1]]
    assert diverge(records, shop()).ok


def _of_version_0(line: str) -> str:
    from hashlib import sha256

    fields = {**json.loads(line), "v": 0}
    del fields["hash"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return json.dumps({**fields, "hash": sha256(text.encode()).hexdigest()}, sort_keys=True, separators=(",", ":"))


async def test_report_as_text_and_json() -> None:
    """The report says the same in words and as JSON, which survives a round trip."""
    report = diverge(await recorded(), shop(tools=(order, price)))
    data = json.loads(json.dumps(report.as_json()))
    assert [entry["seq"] for entry in data["divergences"]] == [divergence.seq for divergence in report.divergences]
    assert data["diverged"] is True
    assert list(report.lines())[-1].endswith("4 divergences")


def test_history_with_a_gap_is_refused() -> None:
    """Records that do not follow one another are no history, and neither are none."""
    records = chain("s", 4)
    with pytest.raises(ReplayError, match="sequence 4 follows 2"):
        diverge([*records[:2], records[3]], SessionSettings())
    with pytest.raises(ReplayError, match="empty"):
        diverge([], SessionSettings())
