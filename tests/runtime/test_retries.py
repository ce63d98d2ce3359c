"""Calls that fail: tried again where the tool allows it, told to the model, or the end of the turn."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from engine import Engine, Limits, ModelReply, Outcome, ToolContext, ToolStatus, tool
from engine.core.effects import RunTool
from engine.core.events import ToolRetried
from engine.errors import ToolDefinitionError
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.ports import Tool
from tests.runtime.scenes import call, calls, check_closed, check_sound, history, triggers

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Flaky:
    """A service that fails so often, and remembers when it was called and under which key."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.times_s: list[float] = []
        self.keys: set[str] = set()

    def tool(self, effect: Literal["read", "idempotent"] = "read") -> Tool:
        """Return a tool that asks it."""

        @tool(effect=effect, on_failure="retry")
        async def ask_service(context: ToolContext) -> str:
            self.times_s.append(anyio.current_time())
            self.keys.add(context.idempotency_key)
            if len(self.times_s) <= self.failures:
                raise ConnectionError("no answer")
            return "it answers"

        return ask_service


@pytest.mark.parametrize("effect", ["read", "idempotent"])
@pytest.mark.parametrize("beside", [(), ("look",)])
async def test_v16_v22_m10_a_failure_is_tried_again_with_doubling_waits(
    effect: Literal["read", "idempotent"], beside: tuple[str, ...]
) -> None:
    """Two failures, then a success: each failed attempt is a record of its own, the key stays, the waits are 0.5 s and
    1 s as the effects say, and the model sees the success alone. Alone and beside another call.
    """

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    flaky, journal = Flaky(2), MemoryJournal()
    model = ScriptedModel([calls("ask_service", *beside), "done"])
    async with Engine(model=model, tools=[flaky.tool(effect), look], journal=journal) as engine:
        result = await (await engine.open("s")).ask("go")
        assert not engine.dead_letters
        assert engine.tool_metrics["ask_service"][:3] == (3, 1, 2)
    made = result.tool_calls[0]
    assert (made.status, made.content, made.attempts) == (ToolStatus.COMPLETED, "it answers", 3)
    assert len(flaky.keys) == 1
    first, second, third = flaky.times_s
    assert [second - first, third - second] == pytest.approx([0.5, 1.0])
    records = await history(journal)
    check_closed(records)
    retried = [record for record in records if isinstance(record.event, ToolRetried)]
    assert [record.event.content for record in retried] == ["ConnectionError: no answer"] * 2  # type: ignore[union-attr]
    again = [effect for record in retried for effect in record.effects if isinstance(effect, RunTool)]
    assert [effect.delay_s for effect in again] == [0.5, 1.0]


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_v16_max_tool_retries_holds(retries: int) -> None:
    """A tool that always fails runs once and `max_tool_retries` times more; then the model reads the failure, and the
    call is a dead letter if there were retries.
    """
    flaky, journal = Flaky(99), MemoryJournal()
    limits = Limits(max_tool_retries=retries)
    model = ScriptedModel([calls("ask_service"), "sorry"])
    async with Engine(model=model, tools=[flaky.tool()], journal=journal, limits=limits) as engine:
        result = await (await engine.open("s")).ask("go")
        letters = list(engine.dead_letters)
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "sorry")
    assert (result.tool_calls[0].status, result.tool_calls[0].content) == (
        ToolStatus.FAILED, "ConnectionError: no answer",
    )  # fmt: skip
    assert len(flaky.times_s) == retries + 1
    assert [(letter.session, letter.tool, letter.error, letter.attempts) for letter in letters] == (
        [("s", "ask_service", "ConnectionError", retries + 1)] if retries else []
    )
    check_closed(await history(journal))


async def test_v16_retries_are_counted_over_a_restart() -> None:
    """Interrupted while it waits for its second attempt, a call goes on with the second one, after the wait: no attempt
    is won by a restart.
    """
    flaky, journal = Flaky(99), MemoryJournal()
    parts: dict[str, Any] = {"tools": [flaky.tool()], "journal": journal, "limits": Limits(max_tool_retries=2)}
    async with Engine(model=ScriptedModel([calls("ask_service")]), **parts) as engine:
        session = await engine.open("s")
        async with session.stream("go") as stream:
            async for item in stream:
                if getattr(item, "trigger", "") == "tool_retried":
                    await session.close()
                    break
    assert len(flaky.times_s) == 1
    assert check_sound(await history(journal)).turn is not None
    opened_s = anyio.current_time()
    async with Engine(model=ScriptedModel(["sorry"]), **parts) as engine:
        result = await (await engine.open("s")).result()
        assert [letter.attempts for letter in engine.dead_letters] == [3]
    assert result.tool_calls[0].attempts == 3
    assert len(flaky.times_s) == 3
    assert flaky.times_s[1] - opened_s == pytest.approx(0.5)
    check_closed(await history(journal))


async def test_v22_a_timeout_is_tried_again() -> None:
    """A read that times out once is run again, and nothing of the timeout is left for the model."""
    runs = 0

    @tool(effect="read", on_failure="retry", timeout_s=1)
    async def slow() -> str:
        nonlocal runs
        runs += 1
        await anyio.sleep(10 if runs == 1 else 0)
        return "there"

    async with Engine(model=ScriptedModel([calls("slow"), "done"]), tools=[slow]) as engine:
        result = await (await engine.open("s")).ask("go")
    assert (result.tool_calls[0].status, result.tool_calls[0].content, runs) == (ToolStatus.COMPLETED, "there", 2)


async def test_v10_retries_keep_the_order_of_a_conflict_key() -> None:
    """While a call waits for its next attempt, no later call of its conflict key overtakes it; others run."""
    log: list[str] = []

    @tool(effect="idempotent", on_failure="retry", conflict_key="account:{account}")
    async def put(account: str, n: int) -> str:
        log.append(f"{account}{n}")
        if n == 0 and log.count("a0") == 1:
            raise ConnectionError("no answer")
        return "put"

    asked = [call("put", f"c{n}", account=account, n=n) for n, account in enumerate("aab")]
    async with Engine(model=ScriptedModel([ModelReply(tool_calls=asked), "done"]), tools=[put]) as engine:
        result = await (await engine.open("s")).ask("go")
    assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED] * 3
    assert [line for line in log if line.startswith("a")] == ["a0", "a0", "a1"]
    assert log.index("b2") < log.index("a1")


async def test_v22_cancelled_between_two_attempts_a_call_has_its_end() -> None:
    """Cancelling a turn while a call waits for its next attempt ends the call, and no attempt follows."""
    flaky, journal = Flaky(99), MemoryJournal()
    async with Engine(
        model=ScriptedModel([calls("ask_service"), "b"]), tools=[flaky.tool()], journal=journal
    ) as engine:
        session = await engine.open("s")
        async with session.stream("go") as stream:
            async for item in stream:
                if getattr(item, "trigger", "") == "tool_retried":
                    await session.cancel()
        assert (await session.ask("again")).text == "b"
    assert len(flaky.times_s) == 1
    records = await history(journal)
    check_closed(records)
    assert "turn_cancelled" in triggers(records)


async def test_m9_a_failure_that_stops_ends_the_turn() -> None:
    """A failed call of a tool with on_failure="stop" ends the turn as failed after its siblings; the model is not asked
    again, every call has its result, and the session takes the next prompt.
    """

    @tool(effect="read", on_failure="stop")
    async def check() -> str:
        raise PermissionError("not allowed")

    @tool(effect="read")
    async def look() -> str:
        await anyio.sleep(1)
        return "seen"

    journal = MemoryJournal()
    model = ScriptedModel([calls("check", "look"), "next"])
    async with Engine(model=model, tools=[check, look], journal=journal) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.reason) == (Outcome.FAILED, "tool failure: check")
        assert [made.status for made in result.tool_calls] == [ToolStatus.FAILED, ToolStatus.COMPLETED]
        assert (await session.ask("on")).text == "next"
    check_closed(await history(journal))


async def test_m9_a_success_does_not_stop() -> None:
    """on_failure="stop" is about failures only."""

    @tool(effect="read", on_failure="stop")
    async def check() -> str:
        return "fine"

    async with Engine(model=ScriptedModel([calls("check"), "done"]), tools=[check]) as engine:
        assert (await (await engine.open("s")).ask("go")).outcome is Outcome.COMPLETED


async def test_a_result_that_no_attempt_mends_is_not_tried_again() -> None:
    """A result that cannot be recorded would not be better the next time: it is told to the model at once."""
    runs = 0

    @tool(effect="read", on_failure="retry")
    async def odd() -> object:
        nonlocal runs
        runs += 1
        return object()

    async with Engine(model=ScriptedModel([calls("odd"), "done"]), tools=[odd]) as engine:
        result = await (await engine.open("s")).ask("go")
    assert (result.tool_calls[0].error, runs) == ("result_not_encodable", 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on_failure": "retry"}, "could do a write twice"),
        ({"on_failure": "retry", "effect": "read", "external": True}, "never run"),
        ({"on_failure": "again"}, "none of tell_model, retry, stop"),
        ({"cache_ttl_s": 5}, 'effect="read"'),
        ({"cache_ttl_s": 0, "effect": "read"}, "positive"),
        ({"max_output_bytes": 1023}, "at least 1024"),
    ],
)  # fmt: skip
async def test_m10_options_that_cannot_hold_are_refused(options: Any, says: str) -> None:
    """A write is never retried or cached, an external tool never retried, a preview has its room; the text says so."""
    with pytest.raises(ToolDefinitionError, match=says):

        @tool(**options)
        def made() -> str:
            return ""
