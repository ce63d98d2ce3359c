"""The toolbox: what is decided about a call before it is recorded."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BeforeValidator

from engine import ToolCall, ToolStatus, tool
from engine.errors import ToolDefinitionError
from engine.tools.registry import Toolbox
from tests.runtime.scenes import Verdicts, call


@tool(effect="read", timeout_s=5)
async def look(at: str = "here") -> str:
    """Look."""
    return at


@tool
async def save() -> str:
    """Save."""
    return ""


@tool(effect="idempotent", conflict_key="account:{account}:{note}")
async def pay(account: str, note: str = "") -> str:
    """Pay."""
    return account + note


def fails(value: object) -> object:
    """Raise what no validator should."""
    raise KeyError(value)


@tool(effect="read")
async def odd(x: Annotated[int, BeforeValidator(fails)]) -> int:
    """Validate badly."""
    return x


TOOLS = Toolbox([look, save, pay, odd])


def test_plain_functions_become_writes() -> None:
    """A function without the decorator is a tool whose calls run at most once."""

    def plain(x: int) -> int:
        """Be plain."""
        return x

    box = Toolbox([plain])
    assert box["plain"].options.effect == "write"
    assert [spec.name for spec in box.specs] == ["plain"]
    assert box.get("other") is None


def test_names_are_unique() -> None:
    """Two tools of one name are refused."""
    with pytest.raises(ToolDefinitionError, match="two tools are called 'look'"):
        Toolbox([look, look])


def test_v10_plans_carry_effect_timeout_and_conflict_key() -> None:
    """A plan says how the call runs: writes without a key share one, reads have none, arguments fill a key."""
    asked = [call("look"), call("save"), call("pay", account="a"), call("pay", account="a", note="x")]
    calls, plans = TOOLS.admit(asked, None)
    assert calls is asked
    assert [(plan.effect, plan.conflict_key, plan.timeout_s) for plan in plans] == [
        ("read", None, 5.0),
        ("write", "write", 60.0),
        ("idempotent", "account:a:", 60.0),
        ("idempotent", "account:a:x", 60.0),
    ]
    assert all(plan.decision == "run" for plan in plans)


def test_a11_policy_decides_after_validation() -> None:
    """Asked and denied calls carry the reason; a malformed call is refused before any policy sees it."""
    asked = [call("look"), call("save"), call("pay", wrong=1)]
    _, plans = TOOLS.admit(asked, Verdicts(look="ask", save="deny"))
    assert [(plan.decision, plan.status, plan.malformed) for plan in plans] == [
        ("ask", ToolStatus.FAILED, False),
        ("refuse", ToolStatus.DENIED, False),
        ("refuse", ToolStatus.FAILED, True),
    ]
    assert plans[1].refusal == "denied: the rule about save"


def test_unknown_tool_is_no_malformed_call() -> None:
    """A call of a tool that is not there is refused with the names that are, and does not count as malformed."""
    _, (plan,) = TOOLS.admit([call("lokk")], None)
    assert (plan.decision, plan.malformed) == ("refuse", False)
    assert plan.refusal == "unknown tool 'lokk'; available: look, save, pay, odd"


def test_validator_that_breaks_is_a_malformed_call() -> None:
    """A validator that raises what it should not is a complaint to the model, not a failure of the turn."""
    _, (plan,) = TOOLS.admit([call("odd", x=1)], None)
    assert (plan.malformed, plan.refusal) == (True, "invalid arguments for odd: KeyError: 1")


def test_f8_arguments_that_json_cannot_hold_are_recorded_as_text() -> None:
    """The recorded call holds what can be written; what the model sent is kept as text."""
    calls, (plan,) = TOOLS.admit([ToolCall(id="c", name="look", arguments={"at": float("inf")})], None)
    assert plan.malformed
    assert (calls[0].arguments, calls[0].arguments_text) == ({}, "{'at': inf}")


@pytest.mark.parametrize("text", ["", "  ", "{}"])
def test_empty_argument_text_means_no_arguments(text: str) -> None:
    """A model that writes nothing, or an empty object, calls without arguments."""
    _, (plan,) = TOOLS.admit([ToolCall(id="c", name="look", arguments_text=text)], None)
    assert plan.decision == "run"
