"""The nouns: validated where they are made, immutable afterwards."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from engine.core.limits import Limits
from engine.core.values import ModelReply, SessionSettings, State, ToolCall, ToolStatus, Usage, check_id
from engine.errors import InvalidId


@pytest.mark.parametrize("good", ["a", "order-42", "A_b-9", "x" * 128])
def test_m3_good_id_is_returned(good: str) -> None:
    """What matches the pattern comes back as it is."""
    assert check_id(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 129, "a/b", "..", "a b", "a\n", "é", "\ud800", 7, None])
def test_m3_bad_id_is_refused(bad: object) -> None:
    """Anything else is refused with what was given, shortened, and what to do instead."""
    with pytest.raises(InvalidId, match="external_id=your_name") as caught:
        check_id(bad)
    assert caught.value.value == bad
    assert len(str(caught.value)) < 300


def test_v13_statuses() -> None:
    """There are the nine agreed statuses; a call moves on only from the first two."""
    agreed = "queued running completed failed cancelled timed_out memory_exceeded denied unknown"
    assert [status.value for status in ToolStatus] == agreed.split()
    assert [status.value for status in ToolStatus if not status.terminal] == ["queued", "running"]


def test_states_are_the_seven() -> None:
    """The value of a state is its lower-case name."""
    assert [state.value for state in State] == [state.name.lower() for state in State]
    assert len(State) == 7


def test_values_are_frozen() -> None:
    """A value cannot be changed after it was made."""
    call = ToolCall(id="c", name="n")
    with pytest.raises(ValidationError, match="frozen"):
        call.name = "m"


def test_misspelt_field_is_refused() -> None:
    """A field that a value does not have is an error where it is written."""
    with pytest.raises(ValidationError, match="argments"):
        ToolCall.model_validate({"id": "c", "name": "n", "argments": {}})


def test_sequences_become_tuples() -> None:
    """Calls may be given as a list; what is kept cannot be changed from outside."""
    given = [ToolCall(id="c", name="n")]
    reply = ModelReply(tool_calls=given)
    given.clear()
    assert reply.tool_calls == (ToolCall(id="c", name="n"),)


def test_usage_adds() -> None:
    """Tokens add up field by field."""
    total = Usage(input_tokens=1, output_tokens=2, cached_tokens=3) + Usage(input_tokens=10, output_tokens=20)
    assert total == Usage(input_tokens=11, output_tokens=22, cached_tokens=3)


def test_limits_hand_the_core_its_part() -> None:
    """Each setting of the core comes from the limit of the same name; the policy comes beside it."""
    limits = Limits(max_tool_rounds=4, max_parse_retries=5, max_model_retries=6, max_continuations=7, backoff_base_s=8)
    assert limits.settings("tell_model") == SessionSettings(
        max_tool_rounds=4, max_parse_retries=5, max_model_retries=6, max_continuations=7, backoff_base_s=8,
        on_unknown="tell_model",
    )  # fmt: skip


def test_defaults_of_limits_are_those_of_the_core() -> None:
    """Limits and settings agree about every default they share."""
    assert Limits().settings("ask") == SessionSettings()
