"""Tool calls in plain text: every form comes back as it was written, damage is mended or told, and text stays text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from engine.core.arguments import arguments_complaint, call_from_text
from engine.core.values import ToolSpec
from engine.models.text_calls import TEXT_CALL_FORMATS, CallReader, FoundCall, ReadText, TextCallFormat, read_calls
from tests.models.text_calls.writing import AS_ELEMENTS, WRITERS, Call, hermes

CITY = ToolSpec(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
OSLO: Call = ("get_weather", {"city": "Oslo"})


def offered(calls: Sequence[Call]) -> list[ToolSpec]:
    """Return tools for the calls, with the kind of every argument declared."""
    tools: dict[str, dict[str, Any]] = {}
    for name, arguments in calls:
        for key, value in arguments.items():
            kind = "string" if isinstance(value, str) else "object"
            tools.setdefault(name, {})[key] = {"type": kind}
        tools.setdefault(name, {})
    return [ToolSpec(name=name, parameters={"properties": properties}) for name, properties in tools.items()]


def in_pieces(text: str, cuts: Sequence[int], tools: Sequence[ToolSpec], *, cut: bool = False) -> list[str | FoundCall]:
    """Return what a reader gives out that gets the text in pieces."""
    reader = CallReader(tools=tools)
    places = sorted(min(place, len(text)) for place in cuts)
    found: list[str | FoundCall] = []
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        found += reader.feed(text[start:end])
    return found + reader.close(cut=cut)


def put_together(pieces: Sequence[str | FoundCall]) -> ReadText:
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    return ReadText(text, tuple(piece for piece in pieces if isinstance(piece, FoundCall)))


names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(names, texts | st.dictionaries(texts, values, max_size=3), max_size=3)


# --- every form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITERS)
@given(calls=st.lists(st.tuples(names, objects), min_size=1, max_size=3, unique_by=lambda call: call[0]))
def test_l9_every_form_comes_back_as_it_was_written(form: str, calls: list[Call]) -> None:
    """Property: what a model writes in the way of its template is read as that, whatever the arguments hold."""
    if form in AS_ELEMENTS and "</parameter>" in json.dumps(calls):
        return  # bare text has no escapes: an end that looks like one to the letter cannot be told from it
    found = read_calls(WRITERS[form](calls), tools=offered(calls))
    assert [(call.name, json.loads(call.arguments_text)) for call in found.calls] == calls
    assert all(not call.repairs for call in found.calls)
    assert found.text == ""


@pytest.mark.parametrize("form", sorted(WRITERS.keys() - {"llama_bare", "llama_tag"}))
@given(before=st.text(st.sampled_from("ab \n,.'"), min_size=1), calls=st.lists(st.just(OSLO), min_size=1, max_size=2))
def test_l9_text_around_the_calls_is_kept(form: str, before: str, calls: list[Call]) -> None:
    """Property: words before and behind the calls come out to the letter."""
    before = f"I look. {before}"
    behind = "" if form.startswith("mistral") else "\n Done."
    found = read_calls(f"{before}{WRITERS[form](calls)}{behind}", tools=[CITY])
    assert [(call.name, json.loads(call.arguments_text)) for call in found.calls] == calls
    assert found.text == before + ("\n" * (found.text.count("\n") - (before + behind).count("\n"))) + behind


def test_l9_llama_s_own_tools_and_mistral_s_ids_are_read() -> None:
    """`name.call(…)` behind the tag, an id beside a call, and text behind a call that nothing closes."""
    found = read_calls('<|python_tag|>brave_search.call(query="Oslo", n=3, all=True)<|eom_id|>')
    assert found.calls == (
        FoundCall("brave_search", '{"query": "Oslo", "n": 3, "all": true}', None, ("python_literal",)),
    )
    found = read_calls('[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"a": 1}\nSo far.</s>')
    assert found == ReadText("\nSo far.", (FoundCall("f", '{"a": 1}', "abc123def"),))
    found = read_calls('[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abc123def"}]')
    assert found.calls[0].id == "abc123def"


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "arguments": "{\\"a\\": 1}"}',
        '{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}',
        '{"type": "function", "function": "f", "parameters": {"a": 1}}',
        '[{"name": "f", "parameters": {"a": 1}}]',
        '<function=f>{"a": 1}</function>',
        '<function name="f">{"a": 1}</function>',
        '<invoke name="f">{"a": 1}</invoke>',
    ],
)
def test_l9_spellings_of_a_call_are_known(body: str) -> None:
    """Arguments as text, the shape of a chat completion, an array, an element inside the tag."""
    assert read_calls(f"<tool_call>{body}</tool_call>") == ReadText("", (FoundCall("f", '{"a": 1}'),))


def test_l9_a_parameter_is_what_its_schema_asks_for() -> None:
    """Bare text becomes a number or an object where the schema says so and it is one; else it stays text."""
    kinds: dict[str, Any] = {
        "n": {"type": "integer"}, "s": {"type": "string"}, "u": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        "o": {"$ref": "#/$defs/O"}, "r": {"$ref": "#/$defs/S"}, "b": {"type": ["integer", "null"]},
    }  # fmt: skip
    said = {"n": "5", "s": "5", "u": "True", "o": '{"x": [1,]}', "r": "7", "b": "seven", "new": "8"}
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in said.items())
    tool = ToolSpec(name="f", parameters={"properties": kinds})
    [call] = read_calls(f"<function=f>\n{written}</function>", tools=[tool]).calls
    assert json.loads(call.arguments_text) == {
        "n": 5, "s": "5", "u": True, "o": {"x": [1]}, "r": "7", "b": "seven", "new": "8",
    }  # fmt: skip
    assert call.repairs == ("python_literal", "trailing_comma")


# --- what is no call --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Wrap it in <tool_call> tags, or in [TOOL_CALLS], or write <function= and <invoke name.",
        '{"answer": 42}',
        '{"name": "Ada", "parameters": {}}',
        '```json\n{"name": "Ada", "arguments": {}}\n```',
        '```json\n{"city": "Oslo"}\n```\n```python\nprint({"name": "get_weather"})\n```',
        '<think>perhaps <tool_call>{"name": "get_weather"}</tool_call>?</think> No.',
        "<|python_tag|>print(1)",
        "[1] a source, <b>bold</b>, ``` and `<tool_call`",
        " \n ",
        "",
    ],
)
def test_l9_text_that_is_no_call_stays_text(text: str) -> None:
    """Mentions of a form, plain JSON, tools that were not offered, thoughts: all of it comes out to the letter."""
    assert read_calls(text, tools=[CITY]) == ReadText(text, ())
    assert put_together(in_pieces(text, range(len(text)), [CITY])) == ReadText(text, ())


def test_l9_only_the_formats_that_were_asked_for_are_read() -> None:
    """A form that is not looked for is text."""
    for form, write in WRITERS.items():
        text = write([OSLO])
        used = [name for name in TEXT_CALL_FORMATS if read_calls(text, [name], [CITY]).calls]
        assert len(used) in (1, 2), form
        rest: list[TextCallFormat] = [name for name in TEXT_CALL_FORMATS if name not in used]
        assert read_calls(text, rest, [CITY]) == ReadText(text, ())


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGED = [
    ('{"name": "f", "arguments": {"a": 1,},}', ("trailing_comma",)),
    ("{'name': 'f', 'arguments': {'a': 1}}", ("single_quotes",)),
    ("{“name”: “f”, “arguments”: {“a”: 1}}", ("smart_quotes",)),
    ("{‘name’: ‘f’, ‘arguments’: {‘a’: 1}}", ("smart_quotes",)),
    ('{name: "f", arguments: {a: 1}}', ("unquoted_key",)),
    ('{"name": "f", "arguments": {"a": 1', ("missing_brackets",)),
    ('{"name": "f", "arguments": {"a": 1}}}}', ()),
    ('```json\n{"name": "f", "arguments": {"a": 1}}\n```', ("code_fence",)),
    ("{'name': 'f', arguments: {'a': 1,}", ("missing_brackets", "single_quotes", "trailing_comma", "unquoted_key")),
]


@pytest.mark.parametrize(("body", "repairs"), DAMAGED)
def test_l9_the_usual_damage_is_repaired(body: str, repairs: tuple[str, ...]) -> None:
    """Every slip that has one reading is read as that, and it is said what was forgiven."""
    [call] = read_calls(f"<tool_call>{body}</tool_call>").calls
    assert (call.name, call.arguments_text, call.repairs) == ("f", '{"a": 1}', repairs)


MEANT: list[tuple[str, dict[str, Any]]] = [
    ('{"a": True, "b": None, "c": False}', {"a": True, "b": None, "c": False}),
    ("{'a': 'it\\'s', 'b': 'O'Neill'}", {"a": "it's", "b": "O'Neill"}),
    ('{"a": "it\\\'s"}', {"a": "it's"}),
    ('{"a": "two\nlines\t"}', {"a": "two\nlines\t"}),
    ("{'a': 'say \"x\"', b: [1.5, -2e3, null, [],],}", {"a": 'say "x"', "b": [1.5, -2000.0, None, []]}),
]


@pytest.mark.parametrize(("arguments", "expected"), MEANT)
def test_l9_repaired_values_are_the_ones_that_were_meant(arguments: str, expected: dict[str, Any]) -> None:
    """Literals of Python's, apostrophes, line breaks, quotes within quotes."""
    [call] = read_calls(f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>').calls
    assert json.loads(call.arguments_text) == expected
    assert call.repairs


BEYOND = [
    ('{"name": "f", "arguments": {"a": "cut in the mid', "Unterminated string"),
    ('{"name": "f", "arguments": {"a": ', "Expecting value"),
    ('{"name": "f", "arguments": {"a": 1, ', "property name"),
    ('{"name": "f", "arguments": {"a": 1, "a": 2}}', "'a' stands twice"),
    ('{"name": "f", "arguments": {"a": 1]}', "delimiter"),
    ('{"name": "f", "arguments": {"a": 1 "b": 2}}', "delimiter"),
    ('{"name": "f", "arguments": {"a": NaN}}', "NaN is not JSON"),
    ('{"name": "f", "arguments": {"a": 1e999}}', "too large"),
    ('{"name": "f", "arguments": {"a": "\\d"}}', "escape"),
    ('{"name": "f", "arguments": {"a": 1}}, "b": 2}', "Extra data"),
    ('{"name": "f", "arguments": [1, 2]}', "must be a JSON object"),
    ('{"name": "f", "arguments": "Oslo"}', "not valid JSON"),
    ('{"name": "f", "arguments": ' + '{"a":' * 120 + "1" + "}" * 120 + "}", "deeper than"),
    ("<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>", "'a' stands twice"),
    ("<function=f><parameter=a>no end", "Unterminated string"),
    ("<function=f>Oslo</function>", "not valid JSON"),
]


@pytest.mark.parametrize(("body", "complaint"), BEYOND)
def test_l9_a4_what_cannot_be_repaired_is_told_exactly(body: str, complaint: str) -> None:
    """Nothing is invented: the call comes back with its name, its text, and what is wrong with it."""
    found = read_calls(f"So: <tool_call>{body}</tool_call> Done.")
    [call] = found.calls
    assert call.name == "f"
    assert complaint in (arguments_complaint(call_from_text("c", call.name, call.arguments_text)) or "")
    assert found.text == "So:  Done."


def test_l9_a_reply_that_was_cut_off_is_not_completed() -> None:
    """Brackets are added where the model ended by itself, and nowhere else."""
    text = '<tool_call>{"name": "f", "arguments": {"a": 1'
    assert read_calls(text).calls == (FoundCall("f", '{"a": 1}', None, ("missing_brackets",)),)
    assert read_calls(text, cut=True).calls == (FoundCall("f", text.removeprefix("<tool_call>")),)
    bare = '{"name": "get_weather", "parameters": {"city": "Os'
    assert read_calls(bare, tools=[CITY], cut=True).calls == (FoundCall("get_weather", bare),)


def test_l9_a_call_without_a_name_is_a_call_without_a_name() -> None:
    """The model is told that no such tool exists, with those that do."""
    assert read_calls('<tool_call>{"city": "Oslo"}</tool_call>').calls == (FoundCall("", '{"city": "Oslo"}'),)


def test_l9_an_end_inside_a_string_is_no_end() -> None:
    """What an argument quotes does not end its call; a call that never ends loses no call behind it."""
    quoted: Call = ("f", {"a": "</tool_call><tool_call>", "b": "</function></parameter>"})
    for form in ("hermes", "llama_function"):
        [call] = read_calls(WRITERS[form]([quoted])).calls
        assert json.loads(call.arguments_text) == quoted[1]
    found = read_calls('<tool_call>{"name": "f", "arguments": {"a": "x</tool_call>' + " then " + hermes([OSLO]))
    assert [call.name for call in found.calls] == ["f", "get_weather"]
    assert found.text == " then "


# --- hostile text -----------------------------------------------------------------------------------------------------

SNIPPETS = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "f.call(", "```json",
        "```", "\n", "<function=f>", "</function>", "<parameter=a>", "</parameter>", '<invoke name="get_weather">',
        "</invoke>", "<function_calls>", "<think>", "</think>", '{"name": "get_weather", "arguments": ', "<|eom_id|>",
        '{"city": "Oslo"}', "{", "}", "[", "]", '"', "'", "“", "\\", ",", ":", ";", " ", "True", "1", "name", "\ud800",
    ]
)  # fmt: skip
hostile = st.lists(SNIPPETS | st.text(max_size=5), max_size=30).map("".join)


@given(text=hostile, cuts=st.lists(st.integers(0, 400), max_size=12), cut=st.booleans())
@example(text='[TOOL_CALLS] [{"name": "f"}]', cuts=[1, 2, 5], cut=False)
@example(text="<tool_call>{<tool_call>", cuts=list(range(30)), cut=False)
def test_l9_however_it_is_cut_the_same_is_read(text: str, cuts: list[int], cut: bool) -> None:
    """Property: whatever a model writes, nothing is raised, and pieces give what the whole does, as calls and text."""
    whole = read_calls(text, tools=[CITY], cut=cut)
    assert put_together(in_pieces(text, cuts, [CITY], cut=cut)) == whole
    for call in whole.calls:
        call_from_text("c", call.name, call.arguments_text)
    if not whole.calls:
        assert whole.text == text


@given(before=st.text(st.sampled_from("ab <[`{\n"), max_size=12), calls=st.lists(st.just(OSLO), min_size=1, max_size=2))
@pytest.mark.parametrize("form", WRITERS)
def test_l9_a_watcher_never_sees_half_a_call(form: str, before: str, calls: list[Call]) -> None:
    """Property: fed letter by letter, the text that comes out is a beginning of the text that is left in the end."""
    if form == "llama_bare":
        before = ""
    text = before + WRITERS[form](calls)
    final = read_calls(text, tools=[CITY])
    reader = CallReader(tools=[CITY])
    seen = ""
    for letter in text:
        seen += "".join(piece for piece in reader.feed(letter) if isinstance(piece, str))
        assert final.text.startswith(seen)
    seen += "".join(piece for piece in reader.close() if isinstance(piece, str))
    assert seen == final.text


@pytest.mark.parametrize(
    "snippet",
    [
        '<tool_call>{"', "<tool_call>{'a': '", '<tool_call>{"a":"</tool_call>', '[TOOL_CALLS]f{"a":"', "{name:1};",
        '```json\n{"name":"', "<function=get_weather><parameter=a>", "<function=f>", "<|python_tag|>f.call(a=1,", "\n<",
        '<function_calls><invoke name="f"><parameter name="a"></invoke>', "[", " ", "\\", "</parameter>x", '{"a":', "'",
    ],
)  # fmt: skip
@pytest.mark.parametrize("opener", ["", "<tool_call>{'name': 'f', 'arguments': '"])
def test_l9_repetition_without_end_is_read_in_linear_work(snippet: str, opener: str) -> None:
    """Hostile repetition, whole and in small pieces, gives the same; were the work quadratic, this would not end."""
    text = opener + snippet * (300_000 // len(snippet))
    whole = read_calls(text, tools=[CITY])
    assert put_together(in_pieces(text, range(0, len(text), 1000), [CITY])) == whole
