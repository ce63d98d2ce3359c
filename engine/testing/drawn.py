"""Hypothesis strategies for the values that events are made of.

Needs `hypothesis`. Must never draw outside of hypothesis: a failure has to shrink and to come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from hypothesis import strategies as st
from pydantic import JsonValue

from ..core.values import (
    Fault,
    FaultKind,
    JsonObject,
    Message,
    OnBudget,
    PlannedCall,
    RecoveryPlan,
    SessionSettings,
    State,
    ToolCall,
    ToolEffect,
    ToolStatus,
    WirePatch,
)

AMOUNTS = st.integers(0, 1000)
TERMINAL = tuple(status for status in ToolStatus if status.terminal)
NAMES = ("lookup", "book", "pay")
"""Tool names that drawn calls use."""


def texts(max_size: int = 20) -> st.SearchStrategy[str]:
    """Return texts, awkward ones among them: NUL, line separators, quotes, characters beyond the BMP."""
    awkward = st.sampled_from(
        ["", "\0", "\u2028\u2029", '"\\', "\x7f\x80", "😀", "ß\u0301", "\r\n", '","hash":"', "1e999"]
    )
    return st.text(max_size=max_size) | awkward


def ids() -> st.SearchStrategy[str]:
    """Return ids of calls, as providers make them."""
    return st.text("abcXYZ0189_-:.é", min_size=1, max_size=8)


def json_values() -> st.SearchStrategy[JsonValue]:
    """Return JSON values: finite numbers, nested a few levels deep."""
    leaves: st.SearchStrategy[JsonValue] = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts()
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(8), inner, max_size=3),
        max_leaves=4,
    )


def json_objects() -> st.SearchStrategy[JsonObject]:
    """Return JSON objects."""
    return st.dictionaries(texts(8), json_values(), max_size=2)


def patches() -> st.SearchStrategy[WirePatch]:
    """Return what a provider's message says beside the engine's words."""
    return st.builds(WirePatch, put=json_objects(), drop=st.lists(texts(8), max_size=2).map(tuple))


def tool_calls() -> st.SearchStrategy[ToolCall]:
    """Return single tool calls."""
    return st.builds(
        ToolCall, id=ids(), name=st.sampled_from(NAMES) | texts(8), arguments=json_objects(),
        arguments_text=st.none() | texts(),
    )  # fmt: skip


def call_lists(min_size: int = 0, max_size: int = 3) -> st.SearchStrategy[tuple[ToolCall, ...]]:
    """Return the calls of one reply: no id twice."""
    return st.lists(tool_calls(), min_size=min_size, max_size=max_size, unique_by=lambda call: call.id).map(tuple)


def plans(call_id: str) -> st.SearchStrategy[PlannedCall]:
    """Return decisions about one call; one with malformed arguments is always refused."""
    seconds = st.none() | st.floats(0.1, 1000)
    allowed = st.builds(
        PlannedCall, call_id=st.just(call_id), decision=st.sampled_from(["run", "run", "ask"]),
        effect=st.sampled_from(["write", *get_args(ToolEffect)]), timeout_s=seconds, conflict_key=st.none() | texts(8),
        retries=st.integers(0, 2), stops=st.booleans(), external=st.sampled_from([False, False, True]),
    )  # fmt: skip
    refused = st.builds(
        PlannedCall, call_id=st.just(call_id), decision=st.just("refuse"), refusal=st.none() | texts(),
        status=st.sampled_from([ToolStatus.FAILED, ToolStatus.DENIED]), malformed=st.booleans(),
    )  # fmt: skip
    return st.one_of(allowed, allowed, refused)


def planned(calls: Sequence[ToolCall]) -> st.SearchStrategy[tuple[PlannedCall, ...]]:
    """Return one decision a call, in the order of the calls."""
    return st.tuples(*(plans(call.id) for call in calls))


def messages() -> st.SearchStrategy[Message]:
    """Return messages that stand alone: of a system or a user, without calls."""
    return st.builds(
        Message, role=st.sampled_from(["user", "system", "developer"]), text=texts(), patch=st.none() | patches()
    )


def settings() -> st.SearchStrategy[SessionSettings]:
    """Return settings with small limits, so that short histories reach them."""
    small = st.integers(0, 2)
    return st.builds(
        SessionSettings, max_tool_rounds=st.integers(1, 3), max_parse_retries=small, max_model_retries=small,
        max_continuations=small, backoff_base_s=st.floats(0, 10), on_unknown=st.sampled_from(["ask", "tell_model"]),
        max_tokens=st.none() | st.integers(1, 10_000), call_tokens=st.integers(0, 10_000),
        on_budget=st.sampled_from(get_args(OnBudget)),
    )  # fmt: skip


def faults(kinds: Sequence[FaultKind] = get_args(FaultKind)) -> st.SearchStrategy[Fault]:
    """Return faults of the given kinds."""
    return st.builds(
        Fault, kind=st.sampled_from(kinds), message=texts(), retryable=st.booleans(),
        status=st.none() | st.integers(400, 599), retry_after_s=st.none() | st.floats(0, 100),
        jitter=st.none() | st.floats(0, 1), not_before=st.none() | moments(),
    )  # fmt: skip


def recovery_plans() -> st.SearchStrategy[RecoveryPlan]:
    """Return plans as a host may make them, fitting or not."""
    return st.builds(
        RecoveryPlan, action=st.sampled_from(("resume", "ask", "park", "give_up")), delay_s=st.floats(0, 1000),
        resume=st.sampled_from((None, State.PROCESSING, State.GENERATING_RESPONSE)),
        not_before=st.none() | moments(),
    )  # fmt: skip


def moments() -> st.SearchStrategy[str]:
    """A time of day as records hold it."""
    return st.just("2027-01-15T08:00:00.000000Z")
