"""Calls that are written as elements: `<function=name>` and `<invoke name="name">`, with JSON or parameters inside.

    <function=get_weather>{"city": "Oslo"}</function>
    <function=get_weather><parameter=city>Oslo</parameter></function>
    <invoke name="get_weather"><parameter name="city">Oslo</parameter></invoke>

Parameters are bare text, without escapes: what a value is follows from the tool's schema. A value may hold what looks
like its own end; it ends where another parameter, or nothing, follows. Pure. May import the core and its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from pydantic import JsonValue

from ...core.arguments import is_list, is_object
from .repair import Repair, Unfinished, read_only_value

_SPACE = r"(?:antml:)?"
_HEAD = re.compile(
    rf"""\s*+<(?:{_SPACE}invoke\s++name=|function(?:=|\s++name=))\s*+["']?([^<>"'\s{{}}]{{1,512}}+)["']?\s*+>"""
)
_TAIL = re.compile(rf"\s*+</(?:{_SPACE}invoke|function)>")
_CLOSER = re.compile(_TAIL.pattern.removeprefix(r"\s*+"))
_PARAMETER = re.compile(rf"""\s*+<{_SPACE}parameter(=|\s++name=)\s*+["']?([^<>"']{{1,512}}+)["']?[^<>]*+>""")
_VALUE_END = re.compile(rf"</{_SPACE}parameter>(?=\s*+(?:<{_SPACE}parameter[=\s]|</(?:{_SPACE}invoke|function)>|\Z))")

_MAX_ENDS = 4
"""How many ends of an element are tried."""


Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Name of a tool that was offered → the JSON Schema of its arguments."""


class How(NamedTuple):
    """How to read a text that is taken for the inside of a form.

    `whole`: the model ended it, or ended there. `first`: no other end was tried before. `last`: none will be.
    """

    schemas: Schemas
    whole: bool
    first: bool
    last: bool

    def may_be_damaged(self, error: ValueError) -> None:
        """Raise an error that is no damage of the call's, because the text may have been taken for the wrong one.

        Raises:
            Unfinished: the end may stand in a string: a later one should be tried.
            ValueError: the end is not where the first one that was tried is: that was the right one.
        """
        if not self.last and (isinstance(error, Unfinished) or not self.first):
            raise error


class _Call(NamedTuple):
    name: str
    arguments_text: str
    id: None
    repairs: tuple[Repair, ...]


def elements(text: str, how: How) -> list[_Call]:
    """Return the calls of a text that is a row of elements; the last one need not be closed.

    Where the last one ends inside the value of a parameter, and no other end is to be tried, its arguments are a JSON
    text that ends so too.

    Raises:
        ValueError: as `How.may_be_damaged`.
    """
    calls: list[_Call] = []
    at = 0
    while (head := _HEAD.match(text, at)) is not None:
        call, at = _call(head.group(1), text, head.end(), how)
        calls.append(call)
    return calls


def _call(name: str, text: str, at: int, how: How) -> tuple[_Call, int]:
    tail = _TAIL.match(text, at)
    if tail is not None:
        return _Call(name, "{}", None, ()), tail.end()
    if _PARAMETER.match(text, at) is None:
        return _json_call(name, text, at, how)
    schema = how.schemas.get(name, {})
    members: list[str] = []
    repairs: set[Repair] = set()
    while (parameter := _PARAMETER.match(text, at)) is not None:
        end = _VALUE_END.search(text, parameter.end())
        key = parameter.group(2).strip()
        if end is None:
            how.may_be_damaged(Unfinished("a parameter does not end"))
            members.append(f"{_text(key)}: {_text(text[parameter.end() :])[:-1]}")
            return _Call(name, f"{{{', '.join(members)}", None, ()), len(text)
        value, more = _typed(_inner(parameter, text, end.start()), _schema_of(schema, key))
        repairs.update(more)
        # A name that stands twice stands twice in the JSON too, and is complained about as such.
        members.append(f"{_text(key)}: {_text(value)}")
        at = end.end()
    tail = _TAIL.match(text, at)
    return _Call(name, f"{{{', '.join(members)}}}", None, tuple(sorted(repairs))), tail.end() if tail else at


def _json_call(name: str, text: str, at: int, how: How) -> tuple[_Call, int]:
    """Read the JSON of an element: up to its end, or to one of the next, should that stand in a string."""
    tails = islice(_CLOSER.finditer(text, at), _MAX_ENDS)
    ends = [(tail.start(), tail.end()) for tail in tails] or [(len(text), len(text))]
    damage: ValueError | None = None
    for end, after in ends:
        body = text[at:end]
        if not body.strip():
            return _Call(name, "{}", None, ()), after
        try:
            read = read_only_value(body)
        except ValueError as error:
            damage = damage or error
            if not isinstance(error, Unfinished):
                break
        else:
            return _Call(name, _text(read.value), None, read.repairs), after
    assert damage is not None
    how.may_be_damaged(damage)
    return _Call(name, text[at : ends[0][0]].strip(), None, ()), ends[0][1]


def _text(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _inner(parameter: re.Match[str], text: str, end: int) -> str:
    """Return a value: between tags of the form `<parameter=name>` it has lines of its own."""
    value = text[parameter.end() : end]
    return value.removeprefix("\n").removesuffix("\n") if parameter.group(1) == "=" else value


def _schema_of(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    properties = schema.get("properties")
    found = properties.get(name) if is_object(properties) else None
    return found if is_object(found) else {}


def _typed(text: str, schema: Mapping[str, Any]) -> tuple[JsonValue, tuple[Repair, ...]]:
    """Return what a text stands for: itself, unless the schema asks for something else and the text is that."""
    kinds = set(_kinds(schema))
    if "string" in kinds or not (kinds or "$ref" in schema):
        return text, ()
    try:
        read = read_only_value(text)
    except ValueError:
        return text, ()
    if not kinds and not isinstance(read.value, dict | list):
        # Behind the reference may be a string; numbers and words stay what they were written as.
        return text, ()
    return read.value, read.repairs


def _kinds(schema: Mapping[str, Any]) -> Iterator[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        yield kind
    elif is_list(kind):
        yield from (one for one in kind if isinstance(one, str))
    for word in ("anyOf", "oneOf"):
        choices = schema.get(word)
        for choice in choices if is_list(choices) else ():
            if is_object(choice):
                yield from _kinds(choice)
