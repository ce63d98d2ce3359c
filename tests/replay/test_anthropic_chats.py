"""Logs in Anthropic's format go in and come out equal; what would be lost on the way is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings, strategies as st
from jsonschema import Draft202012Validator

from engine.errors import ImportRefused
from engine.journal import MemoryJournal
from engine.replay import export_chats, import_chats
from engine.replay.anthropic_chats import SCHEMA, from_anthropic, to_anthropic
from engine.testing.recording import Recording
from engine.testing.strategies import recordings

from .logs import StoppedClock, exported, imported

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "anthropic.schema.json"
LOG: dict[str, Any] = {
    "id": "one",
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": "Weather in Oslo and Lima?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo", "days": [1, 2]}},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "7 degrees"},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no city", "is_error": True},
                {"type": "text", "text": "Hurry."},
            ],
        },
        {"role": "assistant", "content": "7 in Oslo."},
    ],
}

TEXTS = st.text(min_size=1, max_size=5)
CALLS = st.lists(st.tuples(TEXTS, st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=2)), max_size=3)


@st.composite
def logs(draw: st.DrawFn) -> dict[str, Any]:
    """Return a log in the format's normal form: roles in turn, results first, one text as a text."""
    messages: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        said = [{"type": "text", "text": text} for text in draw(st.lists(TEXTS, min_size=not results, max_size=2))]
        content: Any = [*results, *said]
        messages.append({"role": "user", "content": said[0]["text"] if len(content) == len(said) == 1 else content})
        calls = [
            {"type": "tool_use", "id": f"t{number}_{index}", "name": name, "input": given}
            for index, (name, given) in enumerate(draw(CALLS))
        ]
        text = draw(TEXTS)
        answer: Any = [{"type": "text", "text": text}, *calls] if calls else text
        messages.append({"role": "assistant", "content": answer})
        results = [{"type": "tool_result", "tool_use_id": call["id"], "content": draw(TEXTS)} for call in calls]
    return {"id": "x", "messages": messages}


async def round_trip(log: dict[str, Any]) -> dict[str, Any]:
    [chat] = await exported(await imported(from_anthropic(log)))
    return to_anthropic(chat)


@pytest.mark.anyio
async def test_log_leaves_as_it_came() -> None:
    """Texts, parallel calls, results, an error, a prompt beside results, the system prompt."""
    assert await round_trip(LOG) == LOG


@settings(max_examples=20)
@given(logs())
def test_any_log_in_normal_form_leaves_as_it_came(log: dict[str, Any]) -> None:
    """The same for any conversation that the format can hold."""
    assert anyio.run(round_trip, log) == log


@settings(max_examples=20)
@given(recordings(max_events=25))
def test_what_an_engine_recorded_comes_back(recording: Recording) -> None:
    """A session that ran here leaves, comes in, and leaves as the same log again."""

    async def check() -> None:
        journal = MemoryJournal()
        writer = await journal.claim(recording.session.id)
        await writer.append(recording.records)
        [chat] = [chat async for chat in export_chats(journal)]
        if not any(message["role"] != "system" for message in chat["messages"]):
            return
        try:
            once = to_anthropic(chat)
            history = from_anthropic(once)
        except ValueError:
            return  # a model's own text was no text: the format has no form for it, and says so
        target = MemoryJournal()
        await import_chats([json.dumps(history)], target, clock=StoppedClock())
        [again] = [to_anthropic(chat) async for chat in export_chats(target)]
        assert again["messages"] == once["messages"]

    anyio.run(check)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model": "m"}, "'model'"),
        ({"messages": None}, "no messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "message 1 is no message"),
        ({"messages": [{"role": "user", "content": []}]}, "no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]}, "cache_c"),
        ({"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}]}, "'thinking'"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b"}]}]}, "tool_use"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "int where a text"),
        ({"system": ["x"]}, "system holds list"),
    ],
)
def test_what_would_be_lost_is_refused(change: dict[str, Any], complaint: str) -> None:
    """What the format's schema does not have is refused with its place, never dropped."""
    with pytest.raises(ValueError, match=complaint):
        from_anthropic({**LOG, **change})


@pytest.mark.anyio
async def test_result_without_its_call_is_refused() -> None:
    """A log that no provider would take is refused as in the other format."""
    log = {
        "id": "x",
        "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": ""}]}],
    }
    with pytest.raises(ImportRefused, match="result of a call"):
        await imported(from_anthropic(log))


def test_schema_is_the_published_one() -> None:
    """docs/anthropic.schema.json is what the code says; REFRESH_GOLDEN=1 rewrites it."""
    text = json.dumps(SCHEMA, indent=2) + "\n"
    if os.environ.get("REFRESH_GOLDEN"):
        PUBLISHED.write_text(text, encoding="utf-8")
    assert PUBLISHED.read_text(encoding="utf-8") == text


@settings(max_examples=20)
@given(logs())
def test_logs_are_as_the_schema_says(log: dict[str, Any]) -> None:
    """What is taken and what is given has the published form."""
    assert list(Draft202012Validator(SCHEMA).iter_errors(log)) == []
    assert list(Draft202012Validator(SCHEMA).iter_errors(LOG)) == []
