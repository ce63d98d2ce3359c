"""The table of bad input (docs/errors.md), row by row: a typed error or a fault as data, and a usable session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import pytest

from engine import (
    Engine,
    Limits,
    ModelReply,
    ModelRequest,
    Outcome,
    Prompt,
    Session,
    State,
    ToolCall,
    ToolOutput,
    ToolSpec,
    ToolStatus,
    tool,
)
from engine.core.events import TurnCancelled
from engine.core.session import Session as Snapshot
from engine.core.step import step
from engine.errors import (
    EngineClosed,
    IllegalTransition,
    InvalidEvent,
    InvalidId,
    JournalCorrupt,
    JournalError,
    JournalTooNew,
    JournalUnavailable,
    ModelError,
    NotAJournal,
    SessionBusy,
    StaleWriter,
    ToolDefinitionError,
    UnknownSession,
    UsageError,
)
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.models import FunctionModel, ScriptedModel
from engine.ports import Decision, Journal, ToolContext, ToolOptions
from engine.testing.scheduling import virtual_time
from tests.runtime.scenes import Verdicts, call, calls, check_closed, check_sound, history

pytestmark = pytest.mark.anyio

QUICK = Limits(backoff_base_s=0)


async def check_usable(session: Session) -> None:
    """Assert that a session takes another turn, and that its history is whole."""
    result = await session.ask("once more")
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "fine")
    assert session.state is State.IDLE
    check_closed([record async for record in session.history()])


def fine(*first: ModelReply | ToolCall | list[ToolCall] | str | Exception) -> ScriptedModel:
    """Return a model that gives these replies and then says fine, often enough."""
    return ScriptedModel([*first, *["fine"] * 9])


@tool(effect="read")
async def look(at: int = 0) -> str:
    """Look."""
    return f"saw {at}"


# --- misuse of the engine ---------------------------------------------------------------------------------------------


def test_illegal_event_is_refused_with_what_is_legal() -> None:
    """An event that the state does not allow: IllegalTransition names the legal ones, the snapshot stays."""
    session = Snapshot("s")
    with pytest.raises(IllegalTransition) as refused:
        step(session, TurnCancelled())
    assert refused.value.legal == ("session_opened",)
    assert session == Snapshot("s")


async def test_prompt_while_waiting_is_refused_with_what_is_legal() -> None:
    """A prompt to a session that waits for an answer: the error names what to do, the question stays."""
    async with Engine(model=fine(calls("look")), tools=[look], policy=Verdicts(look="ask")) as engine:
        session = await engine.open("s")
        request = (await session.ask("go")).pending[0]
        with pytest.raises(IllegalTransition, match="user_answered"):
            await session.ask("hello?")
        assert session.pending == (request,)
        await session.answer(request.id, approve=False)
        await check_usable(session)


async def test_answer_to_nothing_is_refused() -> None:
    """An answer to a request that is not pending: InvalidEvent, nothing recorded."""
    async with Engine(model=fine()) as engine:
        session = await engine.open("s")
        with pytest.raises(InvalidEvent, match="no request 'r' is pending"):
            await session.answer("r", approve=True)
        with pytest.raises(InvalidEvent, match="approve"):
            await session.answer("r", approve=cast(bool, "perhaps"))
        assert session.seq == 1
        await check_usable(session)


async def test_prompt_of_another_type_is_refused() -> None:
    """A prompt that is neither text nor Prompt: UsageError says what to give; streams too."""
    async with Engine(model=fine()) as engine:
        session = await engine.open("s")
        with pytest.raises(UsageError, match="not int"):
            await session.ask(cast(str, 12))
        with pytest.raises(UsageError, match="not list"):
            session.stream(cast(str, []))
        await check_usable(session)


async def test_direct_calls_with_one_id_twice_are_refused() -> None:
    """Two direct calls with the same id: InvalidEvent, nothing recorded."""
    async with Engine(model=fine(), tools=[look]) as engine:
        session = await engine.open("s")
        with pytest.raises(InvalidEvent, match="id of its own"):
            await session.ask(Prompt(text="go", calls=[call("look"), call("look")]))
        assert session.seq == 1
        await check_usable(session)


async def test_unknown_session_is_refused() -> None:
    """The history of a session that is not there: UnknownSession, wherever reading starts."""
    async with Engine(model=fine()) as engine:
        for after in (0, 1, 5):
            with pytest.raises(UnknownSession, match="agent-engine stats"):
                assert [record async for record in engine.history("nobody", after)]
        with pytest.raises(UsageError, match="counts from 0"):
            assert [record async for record in engine.history("nobody", -1)]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0", "ä", "x" * 129, 5, None])
async def test_f15_bad_session_id_is_refused(name: object, tmp_path: Path) -> None:
    """An id that could leave its place: InvalidId says which ids there are and where the host's own name goes."""
    async with Engine(model=fine(), journal=JsonlJournal(tmp_path / "runs")) as engine:
        if name is not None:
            with pytest.raises(InvalidId, match="external_id"):
                await engine.open(cast(str, name))
        with pytest.raises(InvalidId):
            assert [record async for record in engine.history(cast(str, name))]
        await check_usable(await engine.open("s"))


@pytest.mark.parametrize(
    "who", [{"external_id": 42}, {"user": ["x"]}, {"metadata": {"a": object()}}, {"metadata": {"a": float("nan")}}]
)
async def test_bad_particulars_of_a_session_are_refused(who: dict[str, Any]) -> None:
    """What the journal could not be read with later is refused by `open`; nothing is recorded, the id stays free."""
    journal = MemoryJournal()
    async with Engine(model=fine(), journal=journal) as engine:
        with pytest.raises(UsageError, match="cannot be opened with this"):
            await engine.open("s", **who)
        assert await journal.sessions() == []
        await check_usable(await engine.open("s"))


@pytest.mark.parametrize("kind", ["memory", "sqlite", "jsonl"])
async def test_busy_session_is_refused_and_can_be_taken_over(kind: str, tmp_path: Path) -> None:
    """A second writer: SessionBusy names the way out; after a takeover the first one's append is refused, unwritten."""
    made: dict[str, Callable[[], Journal]] = {
        "sqlite": lambda: SqliteJournal(tmp_path / "runs.db"),
        "jsonl": lambda: JsonlJournal(tmp_path / "runs.jsonl"),
    }
    one = MemoryJournal() if kind == "memory" else made[kind]()
    other = one if kind == "memory" else made[kind]()
    async with Engine(model=fine(), journal=one) as first, Engine(model=fine(), journal=other) as second:
        mine = await first.open("s")
        with pytest.raises(SessionBusy, match="takeover=True"):
            await second.open("s")
        theirs = await second.open("s", takeover=True)
        await theirs.ask("hello")
        with pytest.raises(StaleWriter, match="open the session again"):
            await mine.ask("hello?")
        await check_usable(theirs)
        await theirs.close()
        await check_usable(await first.open("s", takeover=True))


async def test_closed_engine_is_refused() -> None:
    """Before, after and at the end of `async with`: EngineClosed says to use the engine inside it."""
    engine = Engine(model=fine())
    with pytest.raises(EngineClosed, match="async with"):
        await engine.open("s")
    async with engine:
        session = await engine.open("s")
        with pytest.raises(EngineClosed, match="already open"):
            await engine.__aenter__()
        await check_usable(session)
        await engine.shutdown()
        with pytest.raises(EngineClosed):
            await engine.open("s")
        with pytest.raises(EngineClosed, match="open it again"):
            await session.ask("hello?")
    with pytest.raises(EngineClosed, match="async with"):
        await engine.open("s")


async def test_closed_session_opens_again() -> None:
    """A closed session refuses prompts and says to open it again; then it goes on."""
    async with Engine(model=fine()) as engine:
        session = await engine.open("s")
        await session.close()
        await session.close()
        with pytest.raises(EngineClosed, match=r"engine\.open"):
            await session.ask("hello?")
        await check_usable(await engine.open("s"))


# --- tools that cannot be defined -------------------------------------------------------------------------------------


def bare(x) -> str:  # type: ignore[no-untyped-def]
    return str(x)


def positional(x: int, /) -> str:
    """Take what cannot be named."""
    return str(x)


def several(*x: int) -> str:
    """Take any number."""
    return str(x)


def opaque(x: Callable[[], int]) -> str:
    """Take what JSON has not."""
    return str(x)


@pytest.mark.parametrize(
    ("function", "says"),
    [(bare, "has no annotation; annotate it"), (positional, "by name"), (several, "by name"),
     (opaque, "no JSON Schema"), (lambda: "", "give the tool a name")],
    ids=["bare", "positional", "several", "opaque", "lambda"],
)  # fmt: skip
def test_function_that_cannot_be_a_tool_is_refused(function: Callable[..., object], says: str) -> None:
    """No annotation, a parameter without a name, a type without a schema, no name: refused where it is defined."""
    with pytest.raises(ToolDefinitionError, match=says):
        Engine(model=fine(), tools=[function])


def test_duplicate_tool_name_is_refused() -> None:
    """Two tools of one name: refused before the engine opens, with the way to rename one."""
    with pytest.raises(ToolDefinitionError, match=r"rename one: @tool\(name=…\)"):
        Engine(model=fine(), tools=[look, tool(effect="read", name="look")(positional_free)])


def positional_free() -> str:
    """Do nothing."""
    return ""


def test_something_that_is_no_tool_is_refused() -> None:
    """A value that is neither tool nor function: ToolDefinitionError."""
    with pytest.raises(ToolDefinitionError, match="decorate a function"):
        Engine(model=fine(), tools=[cast(Any, 5)])


# --- what models send -------------------------------------------------------------------------------------------------


async def test_l11_unknown_tool_is_a_result_that_names_the_known_ones() -> None:
    """A call of a tool that is not there fails as data; the model reads which there are, and goes on."""
    async with Engine(model=fine(calls("loook")), tools=[look]) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.tool_calls[0].status) == (Outcome.COMPLETED, ToolStatus.FAILED)
        assert result.tool_calls[0].content == "unknown tool 'loook'; available: look"
        await check_usable(session)


BAD_ARGUMENTS = {
    "wrong type": (ToolCall(id="c", name="look", arguments={"at": "there"}), "at: Input should be a valid integer"),
    "surplus": (ToolCall(id="c", name="look", arguments={"to": 1}), "to: Extra inputs are not permitted"),
    "NaN": (ToolCall(id="c", name="look", arguments={"at": float("nan")}), "has no JSON form"),
    "no JSON": (ToolCall(id="c", name="look", arguments_text='{"at": 1'), "delimiter"),
    "a list": (ToolCall(id="c", name="look", arguments_text="[1]"), "not a list"),
    "huge": (ToolCall(id="c", name="look", arguments={"at": 10**5000}), "bits is no JSON number"),
    "depth": (ToolCall(id="c", name="look", arguments_text="[" * 100_000), "levels"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
async def test_a4_malformed_arguments_go_back_with_the_exact_complaint(case: str) -> None:
    """Arguments that do not fit, or are no JSON, never reach the tool; the model reads what is wrong with them."""
    bad, complaint = BAD_ARGUMENTS[case]
    model = fine(bad)
    async with Engine(model=model, tools=[look]) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.COMPLETED
        assert complaint in result.tool_calls[0].content
        assert result.tool_calls[0].content.startswith("invalid arguments for look: ")
        assert model.requests[1].messages[-1].text == result.tool_calls[0].content
        await check_usable(session)


async def test_a4_malformed_arguments_three_times_in_a_row_end_the_turn() -> None:
    """The third malformed reply in a row ends the turn with the complaint; a good one in between starts anew."""
    bad = call("look", at="there")
    async with Engine(model=fine(bad, bad, call("look", at=1), bad, bad, bad), tools=[look]) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.FAILED
        assert "malformed arguments 3 times in a row" in result.reason
        assert "at: Input should be a valid integer" in result.reason
        assert len(result.tool_calls) == 6
        await check_usable(session)


async def test_a3_max_tool_rounds_ends_the_turn() -> None:
    """A model that never stops calling tools is stopped after its rounds; the surplus calls are denied on record."""
    ran: list[int] = []

    @tool(effect="read", name="look")
    async def count() -> str:
        ran.append(1)
        return ""

    limits = Limits(max_tool_rounds=2)
    async with Engine(model=fine(*[calls("look")] * 3), tools=[count], limits=limits) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.reason) == (Outcome.FAILED, "the turn used all of its 2 tool rounds")
        assert [made.status.value for made in result.tool_calls] == ["completed", "completed", "denied"]
        assert len(ran) == 2
        await check_usable(session)


BAD_REPLIES: dict[str, tuple[Any, str]] = {
    "no content": (ModelReply(), "neither text nor calls"),
    "duplicate call ids": (ModelReply(tool_calls=[call("look"), call("look")]), "a call id twice: c1, c1"),
}


@pytest.mark.parametrize("case", BAD_REPLIES)
async def test_m8_bad_reply_is_tried_again_and_then_given_up(case: str) -> None:
    """An empty reply or one with a call id twice is tried again; once more than the limit fails the turn."""
    reply, says = BAD_REPLIES[case]
    limits = Limits(backoff_base_s=0, max_model_retries=2)
    async with Engine(model=fine(reply, reply, "fine", reply, reply, reply), tools=[look], limits=limits) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).text == "fine"
        result = await session.ask("go on")
        assert result.outcome is Outcome.FAILED
        assert says in result.reason
        await check_usable(session)


@pytest.mark.parametrize("reply", ["a plain text", None, 5, {"text": "hello"}])
async def test_reply_of_another_type_fails_the_turn(reply: object) -> None:
    """A model that returns something else than a ModelReply fails the turn, which says what came."""
    replies = iter([reply])

    def think(request: ModelRequest) -> ModelReply:
        return cast(ModelReply, next(replies, ModelReply(text="fine")))

    async with Engine(model=FunctionModel(think)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.FAILED
        assert result.reason == f"the model returned {type(reply).__name__}, not a ModelReply"
        await check_usable(session)


async def test_model_that_raises_fails_the_turn() -> None:
    """An exception of a model is a fault with its name and text; the session goes on."""
    async with Engine(model=fine(KeyError("weights"))) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.reason) == (Outcome.FAILED, "the model failed: KeyError: 'weights'")
        await check_usable(session)


async def test_model_that_refuses_for_good_is_not_asked_again() -> None:
    """A model error that is not retryable fails the turn at the first time."""
    model = fine(ModelError("no such model: choose another", retryable=False, status=404))
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).reason == "no such model: choose another"
        assert len(model.requests) == 1
        await check_usable(session)


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__
)
async def test_model_that_raises_what_it_should_not_fails_the_turn(error: BaseException) -> None:
    """SystemExit, KeyboardInterrupt or a spurious cancellation of a model fail the turn, and nothing else."""
    errors = iter([error])

    def think(request: ModelRequest) -> ModelReply:
        for one in errors:
            raise one
        return ModelReply(text="fine")

    async with Engine(model=FunctionModel(think)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.FAILED
        assert result.reason.startswith(f"the model failed: {type(error).__name__}")
        await check_usable(session)


# --- what tools do ----------------------------------------------------------------------------------------------------


class Numpyish:
    """Looks like a number and is none."""

    dtype = "float64"

    def item(self) -> float:
        """Return the number."""
        return 1.0


class Unprintable:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __repr__


def nested(depth: int) -> list[Any]:
    """Return a list in a list in a list …"""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cycle() -> dict[str, Any]:
    """Return a dict that contains itself."""
    value: dict[str, Any] = {}
    value["again"] = value
    return value


BAD_RESULTS: dict[str, tuple[Callable[[], object], str]] = {
    "NaN": (lambda: {"rows": [1.0, float("nan")]}, "$.rows[1]"),
    "infinity": (lambda: float("inf"), "$"),
    "bytes": (lambda: {"file": b"\x00"}, "$.file"),
    "a set": (lambda: [{1}], "$[0]"),
    "a cycle": (cycle, "contains itself"),
    "depth 2000": (lambda: nested(2000), "nested deeper than"),
    "a key that is no string": (lambda: {(1, 2): 3}, "is no string"),
    "numpy-like": (lambda: {"mean": Numpyish()}, "$.mean: a value of type Numpyish"),
    "unprintable": (lambda: [Unprintable()], "$[0]: a value of type Unprintable"),
    "a huge integer": (lambda: 10**5000, "bits is no JSON number"),
}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("case", BAD_RESULTS)
async def test_a_result_that_json_cannot_hold_is_a_failure_that_names_the_place(case: str, is_async: bool) -> None:
    """The call fails as data, the model reads where in the value the trouble is, the turn goes on."""
    make, says = BAD_RESULTS[case]

    async def later() -> object:
        return make()

    get = tool(effect="read", name="get")(later if is_async else make)
    async with Engine(model=fine(calls("get")), tools=[get]) as engine:
        session = await engine.open("s")
        (made,) = (await session.ask("go")).tool_calls
        assert (made.status, made.error) == (ToolStatus.FAILED, "result_not_encodable")
        assert says in made.content
        assert made.content.startswith("the tool ran, but its result cannot be recorded")
        await check_usable(session)


@pytest.mark.parametrize(
    "value",
    ["\0", "a\ud800b", {"\udfff": "\0\ud800"}, "x" * 10_000_000, ""],
    ids=["NUL", "surrogate", "in a dict", "10 MB", "empty"],
)
@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_strange_text_is_kept_as_it_is(value: object, kind: str, tmp_path: Path) -> None:
    """NUL, lone surrogates and ten megabytes pass through journal and reopening unchanged."""

    def journal() -> Journal:
        return SqliteJournal(tmp_path / "runs.db") if kind == "sqlite" else JsonlJournal(tmp_path / "runs.jsonl")

    @tool(effect="read", max_output_bytes=2**26)
    async def get() -> object:
        return value

    async with Engine(model=fine(calls("get")), tools=[get], journal=journal()) as engine:
        session = await engine.open("s")
        (made,) = (await session.ask("go")).tool_calls
        assert made.status is ToolStatus.COMPLETED
    async with Engine(model=fine(), tools=[get], journal=journal()) as engine:
        session = await engine.open("s")
        assert session.turns[0].tool_calls[0].content == made.content
        await check_usable(session)


class Odd(BaseException):
    """An exception of nobody's family."""


class Silent(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "Odd": lambda: Odd("strange"),
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": lambda: asyncio.CancelledError("spurious"),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("two", [Odd("a")]),
    "Silent": Silent,
    "TimeoutError": lambda: TimeoutError("mine"),
    "surrogate": lambda: OSError("no file \udcff"),
}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside"])
@pytest.mark.parametrize("case", RAISED)
async def test_l12_whatever_a_tool_raises_is_a_failed_result(case: str, alone: bool, is_async: bool) -> None:
    """SystemExit, a spurious cancellation, a group, an error without text: a failed call; its sibling completes."""

    def fail() -> str:
        raise RAISED[case]()

    async def fail_later() -> str:
        return fail()

    broken = tool(effect="read", name="broken")(fail_later if is_async else fail)
    names = ["broken"] if alone else ["look", "broken"]
    async with Engine(model=fine(calls(*names)), tools=[look, broken]) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.COMPLETED
        assert result.tool_calls[-1].status is ToolStatus.FAILED
        assert result.tool_calls[-1].content != ""
        assert all(made.status is ToolStatus.COMPLETED for made in result.tool_calls[:-1])
        await check_usable(session)


@dataclass
class Foreign:
    """A tool of somebody else's that keeps none of the port's promises."""

    output: object
    spec: ToolSpec = field(default_factory=lambda: ToolSpec(name="foreign"))
    options: ToolOptions = field(default_factory=lambda: ToolOptions(effect="read"))

    def bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Accept anything."""
        return arguments

    async def run(self, bound: object, context: ToolContext) -> ToolOutput:
        """Return what it was made with."""
        return cast(ToolOutput, self.output)


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside"])
@pytest.mark.parametrize(
    "output",
    [
        None,
        "text",
        ToolOutput(cast(str, 5)),
        ToolOutput("x", ToolStatus.RUNNING),
        ToolOutput("x", cast(ToolStatus, "odd")),
    ],
    ids=["None", "text", "content 5", "running", "odd status"],
)
async def test_output_of_a_foreign_tool_that_is_none_is_a_failed_result(output: object, alone: bool) -> None:
    """A tool of the host's own making that returns no proper output fails as data, like any other."""
    names = ["foreign"] if alone else ["look", "foreign"]
    async with Engine(model=fine(calls(*names)), tools=[look, Foreign(output)]) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.COMPLETED
        assert result.tool_calls[-1].status is ToolStatus.FAILED
        await check_usable(session)


# --- what the host's own parts do -------------------------------------------------------------------------------------


class BadPolicy:
    """A policy that says something else every time."""

    def __init__(self, *decisions: object) -> None:
        self._decisions = iter(decisions)

    def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
        """Return, or raise, the next decision; then allow."""
        decision = next(self._decisions, Decision("allow"))
        if isinstance(decision, Exception):
            raise decision
        return cast(Decision, decision)


@pytest.mark.parametrize(
    "decision", [ValueError("no rule"), None, Decision(cast(Any, "Deny"), "no"), Decision("ask", cast(str, 5))]
)
async def test_f17_policy_that_fails_lets_nothing_run(decision: object) -> None:
    """A policy that raises or says what is no verdict fails the turn; the call does not run."""
    ran: list[int] = []

    @tool
    async def pay() -> str:
        ran.append(1)
        return ""

    async with Engine(model=fine(calls("pay")), tools=[pay], policy=BadPolicy(decision)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.FAILED
        assert result.reason.startswith("the policy failed: ")
        assert ran == []
        await check_usable(session)


async def test_context_provider_that_fails_fails_the_turn() -> None:
    """A provider that raises fails the turn with its text; the next turn asks it again."""
    failures = iter([ConnectionError("no memory today")])

    class Provider:
        async def provide(self, session: str, messages: object) -> list[Any]:
            for error in failures:
                raise error
            return []

    async with Engine(model=fine(), providers=[Provider()]) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.FAILED
        assert result.reason == "a context provider failed: ConnectionError: no memory today"
        await check_usable(session)


async def test_a18_a_context_provider_has_its_own_time() -> None:
    """A provider that gives nothing in time fails the turn, and says so; the next turn asks it again."""

    class Provider:
        """Hangs the first time."""

        def __init__(self) -> None:
            self.asked = 0
            self.cancelled = False

        async def provide(self, session: str, messages: object) -> list[Any]:
            self.asked += 1
            if self.asked == 1:
                try:
                    await anyio.sleep_forever()
                finally:
                    self.cancelled = True
            return []

    provider = Provider()
    async with Engine(model=fine(), providers=[provider], limits=Limits(provider_timeout_s=0.02)) as engine:
        session = await engine.open("s")
        with anyio.fail_after(30):
            result = await session.ask("go")
        assert (result.outcome, result.reason) == (Outcome.FAILED, "a context provider gave nothing within 0.02 s")
        assert provider.cancelled
        await check_usable(session)
        assert provider.asked == 2


# --- limits of time, without waiting for them -------------------------------------------------------------------------


def in_virtual_time(backend: Literal["asyncio", "trio"], main: Callable[[], Any]) -> None:
    """Run an async function where no timer takes time."""
    name, options = virtual_time(backend)
    anyio.run(main, backend=name, backend_options=options)


both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@both
def test_model_that_hangs_is_a_fault_after_its_time(backend: Literal["asyncio", "trio"]) -> None:
    """A model beyond model_timeout_s is asked again; after the last try the turn fails and says the limit."""

    async def main() -> None:
        asked: list[float] = []

        async def think(request: ModelRequest) -> ModelReply:
            asked.append(anyio.current_time())
            if len(asked) <= 4:
                await anyio.sleep_forever()
            return ModelReply(text="fine")

        async with Engine(model=FunctionModel(think), limits=Limits(model_timeout_s=20)) as engine:
            session = await engine.open("s")
            result = await session.ask("go")
            assert (result.outcome, result.reason) == (Outcome.FAILED, "the model did not answer within 20 s")
            # 20 s each, and a share of the back-off of 0.5, 1 and 2 s between them.
            waits = [round(b - a - 20, 3) for a, b in pairwise(asked)]
            assert [0 <= wait <= most for wait, most in zip(waits, (0.5, 1.0, 2.0), strict=True)] == [True] * 3
            await check_usable(session)

    in_virtual_time(backend, main)


@both
def test_v24_rate_limit_waits_as_long_as_it_is_told(backend: Literal["asyncio", "trio"]) -> None:
    """A rate limit with retry_after_s is waited out, not a moment less, and the interrupted step is done again."""

    async def main() -> None:
        limit = ModelError("slow down", kind="rate_limit", status=429, retry_after_s=37)
        model = fine(limit)
        async with Engine(model=model) as engine:
            session = await engine.open("s")
            began = anyio.current_time()
            result = await session.ask("go")
            assert 37 <= anyio.current_time() - began <= 37 + 5
            assert result.outcome is Outcome.COMPLETED
            assert len(model.requests) == 2
            await check_usable(session)

    in_virtual_time(backend, main)


@both
def test_a10_execution_limit_ends_the_turn(backend: Literal["asyncio", "trio"]) -> None:
    """A turn beyond max_execution_time_s is stopped: its calls end on record, the reason is the limit."""

    async def main() -> None:
        @tool(effect="read", timeout_s=1000)
        async def hang() -> None:
            await anyio.sleep_forever()

        limits = Limits(max_execution_time_s=30)
        async with Engine(model=fine(calls("hang", "hang")), tools=[hang], limits=limits) as engine:
            session = await engine.open("s")
            began = anyio.current_time()
            result = await session.ask("go")
            assert anyio.current_time() - began == pytest.approx(30)
            assert (result.outcome, result.reason) == (Outcome.FAILED, "the turn ran longer than 30 s")
            assert [made.status for made in result.tool_calls] == [ToolStatus.CANCELLED] * 2
            await check_usable(session)

    in_virtual_time(backend, main)


@both
def test_a10_execution_limit_beside_a_timed_out_call(backend: Literal["asyncio", "trio"]) -> None:
    """The limit strikes while a sibling has already timed out: the turn ends as failed, every call on record."""

    async def main() -> None:
        @tool(effect="read", timeout_s=1)
        async def late() -> None:
            await anyio.sleep_forever()

        @tool(effect="read", timeout_s=1000)
        async def hang() -> None:
            await anyio.sleep_forever()

        limits = Limits(max_execution_time_s=30)
        async with Engine(model=fine(calls("late", "hang")), tools=[late, hang], limits=limits) as engine:
            session = await engine.open("s")
            result = await session.ask("go")
            assert result.outcome is Outcome.FAILED
            assert [made.status.value for made in result.tool_calls] == ["timed_out", "cancelled"]
            await check_usable(session)

    in_virtual_time(backend, main)


@both
def test_a10_execution_limit_during_a_recovery(backend: Literal["asyncio", "trio"]) -> None:
    """A recovery that would wait beyond the limit of the turn is not begun: the turn is put aside at once."""

    async def main() -> None:
        limit = ModelError("slow down", kind="rate_limit", retry_after_s=10_000)
        async with Engine(model=fine(limit), limits=Limits(max_execution_time_s=30)) as engine:
            session = await engine.open("s")
            began = anyio.current_time()
            assert (await session.ask("go")).outcome is Outcome.WAITING
            assert anyio.current_time() == began
            await session.cancel()
            await check_usable(session)

    in_virtual_time(backend, main)


# --- journals ---------------------------------------------------------------------------------------------------------


async def written(path: Path) -> Journal:
    """Return a journal at `path` that holds a session with two turns."""
    journal = journal_at(path)
    async with Engine(model=fine(), journal=journal) as engine:
        session = await engine.open("s")
        await session.ask("one")
        await session.ask("two")
    return journal


def journal_at(path: Path) -> Journal:
    """Return the journal that the name of a file stands for."""
    return SqliteJournal(path) if path.suffix == ".db" else JsonlJournal(path)


async def open_error(path: Path) -> Exception:
    """Return what opening the session at `path` raises; nothing of the file may change."""
    content = path.read_bytes
    before = content()
    async with Engine(model=fine(), journal=journal_at(path)) as engine:
        with pytest.raises(JournalError) as raised:
            await engine.open("s")
    assert content() == before
    return raised.value


async def test_f8_truncated_journal_loses_only_its_torn_line(tmp_path: Path) -> None:
    """A file cut inside its last line: that line is cut off and reported, all before it is there, work goes on."""
    path = tmp_path / "runs.jsonl"
    await written(path)
    text = path.read_bytes()
    path.write_bytes(text[:-40])
    async with Engine(model=fine(), journal=journal_at(path)) as engine:
        session = await engine.open("s")
        await session.result()
        assert session.cut_bytes == len(text.splitlines(keepends=True)[-1]) - 40
        assert session.turns[0].prompt == "one"
        await check_usable(session)


async def test_f9_flipped_bit_is_reported_with_its_place(tmp_path: Path) -> None:
    """One bit changed before the tail: JournalCorrupt names the file and the offset, nothing is skipped or changed."""
    path = tmp_path / "runs.jsonl"
    await written(path)
    damaged = bytearray(path.read_bytes())
    start = damaged.index(b"\n") + 1
    damaged[start + 20] ^= 1
    path.write_bytes(bytes(damaged))
    error = await open_error(path)
    assert isinstance(error, JournalCorrupt)
    assert error.offset == start
    assert "backup" in str(error)


async def test_newer_journal_is_refused_with_the_advice_to_upgrade(tmp_path: Path) -> None:
    """A record of a newer version, hash in order: JournalTooNew says to upgrade."""
    import hashlib
    import json

    path = tmp_path / "runs.jsonl"
    await written(path)
    lines = path.read_text(encoding="ascii").splitlines()
    fields = json.loads(lines[-1])
    del fields["hash"]
    fields["v"] = 99
    fields["hash"] = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    lines[-1] = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    error = await open_error(path)
    assert isinstance(error, JournalTooNew)
    assert "upgrade" in str(error)


@pytest.mark.parametrize("name", ["runs.db", "runs.jsonl"])
async def test_file_of_another_program_is_not_touched(name: str, tmp_path: Path) -> None:
    """A file that is something else: NotAJournal, and not a byte of it changes."""
    path = tmp_path / name
    path.write_bytes(b"GIF89a, dear diary\nsecond line of a text that nobody may lose\n" * 40)
    assert isinstance(await open_error(path), NotAJournal)


@pytest.mark.parametrize("name", ["runs.db", "runs.jsonl"])
async def test_journal_in_a_folder_that_is_not_there(name: str, tmp_path: Path) -> None:
    """A path that cannot be written: JournalUnavailable from `open`, and another journal still works."""
    async with Engine(model=fine(), journal=journal_at(tmp_path / "nowhere" / name)) as engine:
        with pytest.raises(JournalUnavailable):
            await engine.open("s")
    await written(tmp_path / name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to write to")
async def test_f12_full_disk_is_a_journal_that_is_unavailable(tmp_path: Path) -> None:
    """A device without space: JournalUnavailable from `open` and nothing hangs."""
    path = tmp_path / "runs.jsonl"
    path.symlink_to("/dev/full")
    async with Engine(model=fine(), journal=JsonlJournal(path)) as engine:
        with pytest.raises(JournalError):
            await engine.open("s")


async def test_f12_sqlite_without_room_stops_the_turn_and_goes_on_with_room(tmp_path: Path) -> None:
    """A database that may not grow: the turn stops with JournalUnavailable; with room again the next turn goes on."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "runs.db"
    journal = await written(path)
    async with Engine(model=fine(), journal=journal) as engine:
        session = await engine.open("s")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal_before = _ignore_file_size_signal()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            with pytest.raises(JournalUnavailable):
                await session.ask("no room")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal_before()
        before = [turn.prompt for turn in session.turns]
        await check_usable(session)
    assert before == ["one", "two"]
    check_sound(await history(journal))


def _ignore_file_size_signal() -> Callable[[], object]:
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGXFSZ, before)


def abs_of(n: int) -> int:
    """Return the absolute value."""
    return abs(n)


class Doubler:
    """Holds a method."""

    def twice(self, n: int) -> int:
        """Return the double."""
        return 2 * n


@pytest.mark.parametrize("kind", [GeneratorExit, SystemExit, KeyboardInterrupt])
async def test_l12_tool_that_raises_an_exit_has_failed(kind: type[BaseException]) -> None:
    """Whatever class of exception an async tool raises, its call has failed and the session goes on."""

    @tool
    async def leave() -> None:
        raise kind

    call = ModelReply(tool_calls=[ToolCall(id="c1", name="leave", arguments={})])
    async with Engine(model=ScriptedModel([call, "done", "again"]), tools=[leave]) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.text, result.tool_calls[0].status.value) == ("done", "failed")
        assert (await session.ask("once more")).text == "again"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"model": len}, "FunctionModel"),
        ({"model": None}, "engine.models"),
        ({"journal": "runs.db"}, "SqliteJournal"),
        ({"limits": {"max_tool_rounds": 3}}, "must be Limits"),
        ({"tools": tool(abs_of)}, r"tools=\[abs_of\]"),
    ],
)
def test_argument_of_another_kind_is_refused_with_what_to_write(given: dict[str, Any], text: str) -> None:
    """A function as a model, a path as a journal, a dict as limits, one tool as a list: told before anything runs."""
    arguments: dict[str, Any] = {"model": ScriptedModel(["x"]), **given}
    with pytest.raises(UsageError, match=text):
        Engine(**arguments)


def test_misspelt_argument_of_an_engine_is_refused() -> None:
    """An argument that no engine has is not dropped: a misspelt approver would approve nothing."""
    misspelt: dict[str, Any] = {"aprover": None}
    with pytest.raises(TypeError, match="'aprover'; it has approver"):
        Engine(model=ScriptedModel(["x"]), **misspelt)


@pytest.mark.parametrize(
    ("options", "text"), [({"efect": "read"}, "no option 'efect'"), ({"timeout_s": None}, "timeout_s")]
)
def test_misspelt_option_of_a_tool_is_refused(options: dict[str, Any], text: str) -> None:
    """An option that no tool has is not dropped, and one of another kind is a typed error."""
    with pytest.raises(ToolDefinitionError, match=text):
        tool(**options)(abs_of)


def test_decorator_with_a_text_and_method_without_its_object_are_refused() -> None:
    """`@tool("name")` and a tool made of an unbound method say what to write instead."""
    not_a_function: Any = "lookup"
    with pytest.raises(ToolDefinitionError, match="name="):
        tool(not_a_function)
    with pytest.raises(ToolDefinitionError, match="without its object"):
        tool(Doubler.twice)
