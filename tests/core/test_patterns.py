"""Patterns: what each form means, where a mistake is, and that nothing hostile makes them slow."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given, strategies as st
from pydantic import JsonValue

from engine.core.arguments import json_text
from engine.core.patterns import Glob, exactly, parse_pattern
from engine.core.values import JsonObject, ToolCall
from engine.errors import UsageError
from engine.testing.strategies import json_objects, texts


def matches(pattern: str, arguments: JsonObject | None = None, name: str = "pay") -> bool:
    """Return whether a pattern means a call, in doubt not."""
    return parse_pattern(pattern).matches(ToolCall(id="c", name=name, arguments=arguments or {}))


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("pay", "pay", True),
        ("pay", "payment", False),
        ("pay", "Pay", False),
        ("*", "pay", True),
        ("delete_*", "delete_", True),
        ("delete_*", "undelete_x", False),
        ("*_mail_*", "send_mail_now", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("mcp.files/*", "mcp.files/read", True),
        ("  pay ( * ) ", "pay", True),
    ],
)
def test_a11_names(pattern: str, name: str, meant: bool) -> None:
    """A star in a name stands for any text; everything else means itself."""
    assert matches(pattern, name=name) is meant


@pytest.mark.parametrize(
    ("pattern", "none", "exact", "more"),
    [
        ("pay", True, True, True),
        ("pay(*)", True, True, True),
        ("pay()", True, False, False),
        ("pay({})", True, False, False),
        ('pay({"n": 1})', False, True, False),
        ("pay(n=1)", False, True, True),
    ],
)
def test_a11_no_arguments_exact_arguments_and_any_arguments_are_three(
    pattern: str, none: bool, exact: bool, more: bool
) -> None:
    """What a pattern says about the arguments is never taken for one of the other cases."""
    cases: list[JsonObject] = [{}, {"n": 1}, {"n": 1, "m": 2}]
    assert [matches(pattern, given) for given in cases] == [none, exact, more]


@pytest.mark.parametrize(
    ("value", "given", "meant"),
    [
        ("*@example.com", "me@example.com", True),
        ("*@example.com", "me@example.com.evil.org", False),
        ("*", "", True),
        ('""', "", True),
        ('""', "x", False),
        ("  two words  ", "two words", True),
        ('" x "', " x ", True),
        ('" x "  ', " x ", True),
        ('"*"', "*", True),
        ('"*"', "x", False),
        ('*"*"', "3*", True),
        ('a"b,)("c', "ab,)(c", True),
        ('"\\u00e9\\n"*', "é\nx", True),
        ("https://x.org/?q=*", "https://x.org/?q=1", True),
        ("1", 1, True),
        ("1", "1", True),
        ("1", 1.0, False),
        ("1.0", 1.0, True),
        ("true", True, True),
        ("1", True, False),
        ("null", None, True),
        ("*", None, True),
    ],
)
def test_a11_values(value: str, given: JsonValue, meant: bool) -> None:
    """A string is compared as it is, another scalar as JSON writes it; quoted parts mean exactly themselves."""
    assert matches(f"pay(to={value})", {"to": given, "free": "x"}) is meant


@pytest.mark.parametrize(
    ("path", "given", "meant"),
    [
        ("a.b", {"a": {"b": "x"}}, True),
        ('"a.b"', {"a.b": "x"}, True),
        ('a."b c".d', {"a": {"b c": {"d": "x"}}}, True),
        (" a . b ", {"a": {"b": "x"}}, True),
        ("a.b", {"a.b": "x"}, False),
        ("a.b", {"a": "x"}, False),
        ("a.b", {}, False),
        ("a", {"b": "x"}, False),
    ],
)
def test_a11_paths(path: str, given: JsonObject, meant: bool) -> None:
    """Dots lead into objects, quoted keys hold any character, and what is not given matches nothing."""
    assert matches(f"pay({path}=*)", given) is meant


def test_a11_every_named_argument_must_match() -> None:
    """Several arguments are joined by and."""
    assert matches("pay(a=1, b=2)", {"b": 2, "a": 1})
    assert not matches("pay(a=1, b=2)", {"a": 1, "b": 3})


@pytest.mark.parametrize("arguments", [{"a": ["x"]}, {"a": {"b": "x"}}, {"a": []}])
@pytest.mark.parametrize("in_doubt", [True, False])
def test_a11_an_argument_without_a_text_is_the_askers_doubt(arguments: JsonObject, in_doubt: bool) -> None:
    """An object or array matches exactly where whoever asks wants doubts to count."""
    call = ToolCall(id="c", name="pay", arguments=arguments)
    assert parse_pattern("pay(a=y)").matches(call, in_doubt=in_doubt) is in_doubt


@pytest.mark.parametrize("in_doubt", [True, False])
def test_a11_a_path_into_an_array_is_the_askers_doubt(in_doubt: bool) -> None:
    """What lies in an array is not looked for."""
    call = ToolCall(id="c", name="pay", arguments={"a": [{"b": "x"}]})
    assert parse_pattern("pay(a.b=x)").matches(call, in_doubt=in_doubt) is in_doubt


@pytest.mark.parametrize(
    ("text", "column", "word"),
    [
        ("", 1, "name"),
        ("  ", 3, "name"),
        ("(a=1)", 1, "name"),
        ("two words", 5, "end of the pattern"),
        ("pay(", 5, "name of an argument"),
        ("pay(*", 5, "name of an argument"),
        ("pay(a)", 6, "="),
        ("pay(a=)", 7, "what the argument must be"),
        ("pay(a=1", 8, "comma or )"),
        ("pay(a=1,)", 9, "name of an argument"),
        ("pay(a=1) x", 10, "nothing may follow"),
        ("pay(a=f(x))", 8, "quoted"),
        ('pay(a="x)', 7, "JSON string"),
        ('pay(a="\\q")', 8, "JSON string"),
        ('pay("a=1)', 5, "JSON string"),
        ("pay(a*=1)", 6, "="),
        ("pay(a.=1)", 7, "name of an argument"),
        ("pay(*, a=1)", 5, "name of an argument"),
        ("pay({", 5, ") after the arguments"),
        ("pay({a: 1})", 5, "not valid JSON"),
        ('pay({"a": 1, "a": 2})', 5, "twice"),
        ('pay({"a": NaN})', 5, "NaN"),
        ("pay({} x)", 5, "not valid JSON"),
    ],
)
def test_a11_a_mistake_is_shown_with_its_place(text: str, column: int, word: str) -> None:
    """A text that is no pattern is refused with the column and what was expected there."""
    with pytest.raises(UsageError) as refused:
        parse_pattern(text)
    assert f"column {column}:" in str(refused.value)
    assert word in str(refused.value)


@given(st.text(' ab*()"=,.{}\\1\n', max_size=12))
def test_a11_any_text_is_a_pattern_or_a_typed_error(text: str) -> None:
    """Parsing raises nothing but the typed error, with a column inside the text or just behind it."""
    try:
        pattern = parse_pattern(text)
    except UsageError as error:
        found = re.search(r"column (\d+):", str(error))
        assert found is not None
        assert 1 <= int(found[1]) <= len(text) + 1
    else:
        assert pattern.text == text


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=5), st.text("ab", max_size=12))
def test_a11_globs_mean_what_a_shell_means(literals: list[str], text: str) -> None:
    """The linear matcher agrees with the pattern matcher of the standard library."""
    expected = fnmatch.fnmatchcase(text, "*".join(literals))
    assert Glob(tuple(literals)).matches(text) is expected
    assert parse_pattern(f"pay(a={'*'.join(literals) or chr(34) * 2})").matches(
        ToolCall(id="c", name="pay", arguments={"a": text})
    ) is (expected)


@given(json_objects(), json_objects())
def test_a11_exactly_means_one_call_and_no_other(one: JsonObject, other: JsonObject) -> None:
    """The pattern made of a call matches the arguments with its canonical JSON and no others."""
    pattern = exactly(ToolCall(id="c", name="pay", arguments=one))
    assert matches(pattern, one)
    assert matches(pattern, other) is (json_text(one) == json_text(other))
    assert not matches(pattern, one, name="pay2")


@pytest.mark.parametrize("name", ["", "*", "pay*", "a b", "pay(", "pay)", 'p"', "a,b", "a=b"])
def test_a11_a_name_that_would_say_more_is_refused(name: str) -> None:
    """A tool whose name reads like a pattern cannot widen what was allowed."""
    with pytest.raises(UsageError, match="cannot stand in a pattern"):
        exactly(ToolCall(id="c", name=name))


@given(texts(), texts())
def test_a11_quoting_makes_any_text_literal(text: str, other: str) -> None:
    """A quoted value matches itself and nothing else, whatever characters it holds."""
    pattern = f"pay(a={json_text(text)})"
    assert matches(pattern, {"a": text})
    assert matches(pattern, {"a": other}) is (text == other)


class Watched(str):
    """A text that counts how many characters are searched in it."""

    searched = 0

    def find(self, sub: str, start: object = None, end: object = None, /) -> int:
        assert isinstance(start, int)
        assert isinstance(end, int)
        found = str.find(self, sub, start, end)
        Watched.searched += (end if found < 0 else found + len(sub)) - start
        return found


@pytest.mark.parametrize("stars", [1, 20, 1000])
def test_a11_hostile_patterns_stay_linear(stars: int) -> None:
    """However many stars a pattern has, no character of the value is searched twice."""
    value = Watched("a" * 10_000)
    Watched.searched = 0
    assert not Glob(("", *["a"] * stars, "c", "")).matches(value)
    assert Watched.searched <= len(value)
