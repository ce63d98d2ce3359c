"""The OpenAI chat format: what is read is given back, and what is sent is what providers accept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, strategies as st
from pydantic import JsonValue

from engine.core.arguments import arguments_complaint, arguments_text, call_from_text, parse_json
from engine.core.values import Message, Role, ToolCall, ToolSpec, WirePatch
from engine.models.wire import MALFORMED_KEY, from_wire, join_surrogates, scrub, to_wire, tools_to_wire

AIRLINE = Path(__file__).resolve().parents[3] / "shared" / "data" / "airline-conversations.jsonl"

texts = st.text(st.characters(), max_size=12)
anything = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(anything, values, max_size=3)
written = st.one_of(
    arguments.map(json.dumps), arguments.map(lambda a: json.dumps(a, indent=1, ensure_ascii=False)), anything,
    st.sampled_from(["", " ", "{}", "{ }", "[]", "null", "{", '{"a":1,"a":2}', '{"a":NaN}', '{"a":1e999}']), values,
)  # fmt: skip
wire_calls = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": anything, "type": st.sampled_from(["function", "custom"]), "index": st.integers(),
            "function": st.fixed_dictionaries({}, optional={"name": anything, "arguments": written, "x": values})
            | values,
        },
    ) | values,
    max_size=3,
)  # fmt: skip
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(get_args(Role))},
    optional={
        "content": values | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": values}), max_size=2),
        "tool_calls": wire_calls | values, "tool_call_id": values, "name": values, "refusal": values,
        "function_call": values,
    },
).flatmap(lambda known: st.dictionaries(anything, values, max_size=2).map(lambda more: {**more, **known}))  # fmt: skip


def dumped(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def wire_call(text: object, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "look", "arguments": text}, **more}


@given(messages)
def test_a_message_is_given_back_as_it_was_read(wire: dict[str, Any]) -> None:
    """Property: reading and rendering is the identity for every JSON object with a known role."""
    assert dumped(to_wire(from_wire(wire), provider=False)) == dumped(wire)


@given(messages)
def test_a_read_message_survives_its_own_json(wire: dict[str, Any]) -> None:
    """Property: a message goes through the journal's JSON unchanged."""
    message = from_wire(wire)
    assert Message.model_validate(json.loads(json.dumps(message.model_dump(mode="python")))) == message


@given(messages)
def test_what_a_provider_gets_is_unicode_with_arguments_that_parse(wire: dict[str, Any]) -> None:
    """Property: no lone surrogate, no arguments that are no JSON object, no content that is null beside nothing."""
    sent = to_wire(from_wire(wire))
    json.dumps(sent, ensure_ascii=False).encode()
    for call in sent.get("tool_calls") or ():
        if call["type"] == "function":
            held = json.loads(call["function"]["arguments"])
            assert isinstance(held, dict)
            json.dumps(held, ensure_ascii=False).encode()
    assert sent["content"] is not None or sent.get("tool_calls") or sent.get("function_call")


def test_real_conversations_are_given_back_as_they_were_read() -> None:
    """Every message of 25 recorded conversations goes in and out unchanged."""
    if not AIRLINE.exists():
        pytest.skip(f"{AIRLINE.name} is not beside this checkout (../shared/data)")
    count = 0
    for line in AIRLINE.read_text(encoding="utf-8").split("\n"):
        for wire in json.loads(line)["messages"] if line else ():
            assert dumped(to_wire(from_wire(wire), provider=False)) == dumped(wire)
            count += 1
    assert count > 300


def test_plain_messages_need_no_patch() -> None:
    """What the engine renders itself is held without a patch."""
    for wire in (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [wire_call('{"a":1}')]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
    ):
        assert from_wire(wire).patch is None


def test_fields_of_providers_are_kept_in_the_patch() -> None:
    """Parts, refusals, empty and missing contents are exactly what the patch holds."""
    parts: list[JsonValue] = [
        {"type": "text", "text": "see "},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
    ]
    message = from_wire({"role": "user", "content": parts, "name": "ann"})
    assert message.text == "see "
    assert message.patch == WirePatch(put={"content": parts, "name": "ann"})
    assert from_wire({"role": "assistant", "tool_calls": [wire_call("{}")]}).patch == WirePatch(drop=("content",))
    assert from_wire({"role": "assistant", "content": None}).patch == WirePatch(put={"content": None})


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        ([], "must be a JSON object, not a list"),
        ({"role": "robot"}, "unknown role 'robot'"),
        ({"content": "x"}, "unknown role None"),
        ({"role": "user", "content": float("nan")}, r"\$\.content is nan"),
        ({"role": "user", "content": {1: 2}}, "key 1, which is no string"),
        ({"role": "user", "content": b"x"}, "a bytes, which JSON cannot hold"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(wire: Any, complaint: str) -> None:
    """A ValueError says what is wrong."""
    with pytest.raises(ValueError, match=complaint):
        from_wire(wire)


def test_a_depth_bomb_is_refused_in_a_message_and_kept_as_text_in_arguments() -> None:
    """Nesting beyond the bound never reaches a record: refused beside a message, malformed as arguments."""
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]
    with pytest.raises(ValueError, match="deeper than 100"):
        from_wire({"role": "user", "content": deep})
    for text in ('{"a":' + json.dumps(deep) + "}", '{"a":' * 50_000):
        call = call_from_text("c1", "look", text)
        assert (call.arguments, call.arguments_text) == ({}, text)
        assert "deeper than 100" in (arguments_complaint(call) or "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{bad", "not valid JSON"),
        ("[1]", "not a list"),
        ("null", "not null"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a4_malformed_arguments_keep_their_text_and_have_a_complaint(text: str, complaint: str) -> None:
    """What is no JSON object leaves the arguments empty, keeps the text, and says what is wrong."""
    call = call_from_text("c1", "look", text)
    assert (call.arguments, call.arguments_text) == ({}, text)
    assert complaint in (arguments_complaint(call) or "")


@pytest.mark.parametrize("text", ["", " \n", "{}", "{ }"])
def test_no_arguments_are_the_empty_object(text: str) -> None:
    """Servers send nothing, or an object of any spelling, for a tool without parameters; a provider gets an object."""
    call = call_from_text("c1", "look", text)
    assert call.arguments == {}
    assert arguments_complaint(call) is None
    assert arguments_text(call) == text
    sent = to_wire(Message(role="assistant", tool_calls=[call]))["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {}


def test_the_text_of_arguments_is_kept_only_where_it_differs() -> None:
    """The canonical rendering needs no text beside it; other spacing, order or spelling does."""
    assert call_from_text("c", "f", '{"a":"\\u00e9","b":1}').arguments_text is None
    for text in ('{"b":1,"a":2}', '{"a": 1}', '{"a":"é"}', '{"a":1e2}'):
        call = call_from_text("c", "f", text)
        assert call.arguments == json.loads(text)
        assert call.arguments_text == text


def test_a_provider_sees_malformed_arguments_as_an_object() -> None:
    """Servers that parse a history answer the bare text with an error for ever after, so the text is wrapped."""
    message = Message(role="assistant", tool_calls=[call_from_text("c1", "look", "{bad")])
    sent = to_wire(message)["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {MALFORMED_KEY: "{bad"}
    assert to_wire(message, provider=False)["tool_calls"][0]["function"]["arguments"] == "{bad"


def test_a_provider_sees_no_surrogate_even_as_an_escape_in_arguments() -> None:
    """An escaped lone surrogate is invisible to the outer JSON and stops the server that parses the inner one."""
    for call in (ToolCall(id="c", name="f", arguments={"a": "x\ud800"}), call_from_text("c", "f", '{"a": "x\\ud800"}')):
        sent = to_wire(Message(role="assistant", tool_calls=[call]))["tool_calls"][0]["function"]["arguments"]
        assert json.loads(sent) == {"a": "x\ufffd"}


def test_a_provider_gets_its_signatures_back_and_nothing_dropped() -> None:
    """What stood beside a call is sent with it; a content that a log left out is sent as null."""
    wire = {"role": "assistant", "tool_calls": [wire_call('{"a": 1}', extra_content={"signature": "s"})]}
    sent = to_wire(from_wire(wire))
    assert sent == {"role": "assistant", "content": None, "tool_calls": wire["tool_calls"]}


def test_an_empty_assistant_message_is_sent_with_empty_content() -> None:
    """Null content beside nothing else is refused by providers."""
    assert to_wire(from_wire({"role": "assistant", "content": None}))["content"] == ""


def test_calls_that_the_engine_cannot_hold_stay_in_the_patch() -> None:
    """A call without id, and one of another type, go out as they came; only the latter is sent to a provider."""
    custom = {"id": "c2", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    wire = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}, custom]}
    message = from_wire(wire)
    assert message.tool_calls == ()
    assert to_wire(message, provider=False) == wire
    assert to_wire(message)["tool_calls"] == [custom]


def test_arguments_that_are_an_object_are_read() -> None:
    """Some logs hold the arguments parsed; they are read, given back as they were, and sent as text."""
    wire = {"role": "assistant", "content": None, "tool_calls": [wire_call({"b": 1, "a": 2})]}
    message = from_wire(wire)
    assert message.tool_calls[0].arguments == {"a": 2, "b": 1}
    assert to_wire(message, provider=False) == wire
    assert to_wire(message)["tool_calls"][0]["function"]["arguments"] == '{"a":2,"b":1}'


def test_tools_are_described_with_a_schema() -> None:
    """A tool without parameters gets the schema of the empty object, which strict servers demand."""
    named, bare = tools_to_wire(
        [ToolSpec(name="f", description="d", parameters={"type": "object"}), ToolSpec(name="g")]
    )
    assert named == {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
    }
    assert bare["function"]["parameters"] == {"type": "object", "properties": {}}


@given(anything)
def test_scrubbed_text_can_be_encoded_and_keeps_every_real_character(text: str) -> None:
    """Property: only lone surrogates change, one U+FFFD each; halves that belong together are joined."""
    clean = scrub(text)
    clean.encode()
    joined = join_surrogates(text)
    assert clean == "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in joined)


@given(texts)
def test_text_without_surrogates_is_left_alone(text: str) -> None:
    """Property: scrubbing and joining change nothing in proper text."""
    assert scrub(text) == text == join_surrogates(text)


@pytest.mark.parametrize("text", ["NaN", '{"a": 1e999}', "[" * 60_000, "[" * 150 + "]" * 150, "", "{"])
def test_foreign_json_outside_of_json_is_refused(text: str) -> None:
    """A number or a depth that a record could not hold never gets in."""
    with pytest.raises(ValueError):
        parse_json(text)
