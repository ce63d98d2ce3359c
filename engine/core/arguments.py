"""The text of a tool call's arguments: read as strict JSON, or said what is wrong with it.

Models and servers write duplicate keys, NaN, numbers out of range and bottomless nesting; `json` takes the first three
and dies of the last. Here each is a complaint in words for the model. Pure. May import `values` only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import JsonValue

from .jsontext import writer
from .values import JsonObject, ToolCall

MAX_DEPTH = 100
"""How deep arguments and patches may nest. Records hold them some levels further down, and pydantic stops at 255."""

_write = writer(ensure_ascii=True, sort_keys=True)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the member {ascii(twice)[:80]} stands twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
_foreign = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def parse_json(text: str) -> JsonValue:
    """Return the JSON value that a server sent.

    Raises:
        ValueError: it is none, holds a number that JSON does not know, or nests deeper than `MAX_DEPTH`.
    """
    try:
        value: JsonValue = _foreign.decode(text)
    except RecursionError:
        raise ValueError(f"it nests deeper than {MAX_DEPTH} levels") from None
    check_json_value(value, "$")
    return value


def decode_value(text: str, start: int = 0) -> tuple[JsonValue, int]:
    """Return the strict JSON value that begins at `start`, and where it ends; what follows it is not looked at.

    Raises:
        ValueError: there is none, or one that `parse_arguments` would refuse.
    """
    try:
        found: tuple[JsonValue, int] = _decoder.raw_decode(text, start)
    except RecursionError:
        raise ValueError(f"it nests deeper than {MAX_DEPTH} levels") from None
    return found


def json_text(value: object) -> str:
    """Return the canonical JSON of a value: ASCII, keys sorted, no white space.

    Raises:
        ValueError: it holds a number that JSON does not know.
    """
    return _write(value)


def parse_arguments(text: str) -> JsonObject:
    """Return the arguments that a model wrote. Nothing at all counts as no arguments: some servers send that.

    Raises:
        ValueError: the text is no JSON object; the error says why, in words for the model.
    """
    if not text.strip():
        return {}
    try:
        value: object = _decoder.decode(text)
    except RecursionError:
        raise ValueError(f"the arguments nest deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"the arguments are not valid JSON: {error}") from None
    if not is_object(value):
        raise ValueError(f'the arguments must be a JSON object such as {{"name": "value"}}, not {kind_of(value)}')
    check_json_value(value, "$")
    return value


def call_from_text(call_id: str, name: str, arguments_text: str) -> ToolCall:
    """Return the call with its arguments parsed.

    The text is kept only where the canonical rendering of the arguments differs from it. Where it is no JSON object the
    arguments are empty and `arguments_complaint` says what is wrong.

    Raises:
        ValueError: id or name is outside what a `ToolCall` takes.
    """
    try:
        arguments = parse_arguments(arguments_text)
    except ValueError:
        return ToolCall(id=call_id, name=name, arguments_text=arguments_text)
    kept = None if json_text(arguments) == arguments_text else arguments_text
    return ToolCall(id=call_id, name=name, arguments=arguments, arguments_text=kept)


def arguments_complaint(call: ToolCall) -> str | None:
    """Return what is wrong with the text of a call's arguments, for the model; None where it is a JSON object."""
    if call.arguments_text is None or call.arguments:
        return None
    try:
        parse_arguments(call.arguments_text)
    except ValueError as error:
        return str(error)
    return None


def arguments_text(call: ToolCall) -> str:
    """Return the text of a call's arguments: the model's own, or the canonical JSON."""
    return json_text(call.arguments) if call.arguments_text is None else call.arguments_text


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a value of foreign origin is a JSON object."""
    return isinstance(value, dict)


def kind_of(value: object) -> str:
    """Name the JSON type of a value, for a sentence."""
    names = {"NoneType": "null", "bool": "a boolean", "int": "a number", "float": "a number", "str": "a string"}
    name = type(value).__name__
    return names.get(name, f"a {name}")


def check_json_value(root: object, path: str) -> None:
    """Refuse what canonical JSON cannot hold, without recursion: the depth is what is being checked."""
    open_: list[tuple[Any, str, int]] = [(root, path, 1)]
    while open_:
        value, where, depth = open_.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{where[:80]}… nests deeper than {MAX_DEPTH} levels")
        if is_mapping(value):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"{where} has the key {ascii(key)[:40]}, which is no string")  # noqa: TRY004
                open_.append((item, f"{where}.{key}", depth + 1))
        elif is_list(value):
            open_.extend((item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON cannot hold")
        elif value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"{where} is {kind_of(value)}, which JSON cannot hold")


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Return whether a value of foreign origin is a JSON array."""
    return isinstance(value, list)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Say whether a value is a mapping."""
    return isinstance(value, Mapping)
