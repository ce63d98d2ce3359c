"""Messages, calls and tools as the JSON of the OpenAI chat format, and back.

Pure functions, shared by the adapters that speak this format and by the import and export of chat logs. Reading is
lossless: what the engine's own rendering would not give back is kept in the message's patch. May import core and
errors. Must never do I/O, and never fetch a URL that stands in a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard, get_args

from pydantic import JsonValue

from ..core.values import JsonObject, Message, Role, ToolCall, ToolSpec, WirePatch

MAX_DEPTH = 100
"""How deep arguments and patches may nest. Records hold them some levels further down, and pydantic stops at 255."""

MALFORMED_KEY = "malformed_arguments"
"""Under this key a provider sees arguments that are no JSON object: servers that parse a history refuse bare text."""

_ROLES = frozenset(get_args(Role))
_CALL_KEYS = frozenset({"id", "type", "function"})
_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


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
    _check_json(value, "$")
    return value


def json_text(value: object) -> str:
    """Return the canonical JSON of a value: ASCII, keys sorted, no white space.

    Raises:
        ValueError: it holds a number that JSON does not know.
    """
    return _encoder.encode(value)


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
        raise ValueError(f'the arguments must be a JSON object such as {{"name": "value"}}, not {_kind(value)}')
    _check_json(value, "$")
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
    kept = None if _encoder.encode(arguments) == arguments_text else arguments_text
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
    return _encoder.encode(call.arguments) if call.arguments_text is None else call.arguments_text


def to_wire(message: Message, *, provider: bool = True) -> dict[str, Any]:
    """Return a message in the OpenAI chat format.

    Args:
        message: any message, patched or not.
        provider: True renders what providers accept: no lone surrogates, arguments that parse, nothing left out
            that the patch drops. False renders exactly what `from_wire` was given.
    """
    wire = _render(message)
    patch = message.patch
    if not provider:
        if patch is not None:
            wire.update(patch.put)
            for key in patch.drop:
                wire.pop(key, None)
        return wire
    if patch is not None:
        wire.update(
            {key: value for key, value in patch.put.items() if key not in ("role", "tool_calls", "tool_call_id")}
        )
    calls = _provider_calls(message)
    if calls:
        wire["tool_calls"] = calls
    if wire.get("content") is None and not (calls or wire.get("function_call") or wire.get("audio")):
        wire["content"] = ""
    return as_object(scrub(wire))


def from_wire(wire: Mapping[str, Any]) -> Message:
    """Return the message that a wire object stands for, such that `to_wire(…, provider=False)` gives the object back.

    A call that the engine cannot hold (no id, no function) is kept in the patch only.

    Raises:
        ValueError: it is no object, its role is unknown, or it holds something that JSON cannot; the text says what.
    """
    if not isinstance(wire, Mapping):
        raise ValueError(f"a message must be a JSON object, not {_kind(wire)}")  # noqa: TRY004
    role = wire.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"unknown role {ascii(role)[:80]}; a message has one of {', '.join(sorted(_ROLES))}")
    original = dict(wire)
    _check_json(original, "$")
    call_id = original.get("tool_call_id")
    message = Message(
        role=role,  # type: ignore[arg-type]
        text=_text(original.get("content")),
        tool_calls=_calls(original.get("tool_calls")),
        tool_call_id=call_id if isinstance(call_id, str) else None,
    )
    rendered = _render(message)
    put = {key: value for key, value in original.items() if key not in rendered or not _same(rendered[key], value)}
    drop = tuple(key for key in rendered if key not in original)
    if not put and not drop:
        return message
    return message.model_copy(update={"patch": WirePatch(put=put, drop=drop)})


def tools_to_wire(specs: Iterable[ToolSpec]) -> list[dict[str, Any]]:
    """Return tool descriptions in the OpenAI chat format. Without parameters: the schema of the empty object."""
    tools: list[dict[str, Any]] = []
    for spec in specs:
        parameters = spec.parameters or {"type": "object", "properties": {}}
        function = {"name": spec.name, "description": spec.description, "parameters": parameters}
        tools.append({"type": "function", "function": {key: scrub(value) for key, value in function.items()}})
    return tools


def join_surrogates(text: str) -> str:
    """Return the text with the halves of characters that a server split between two deltas put together again."""
    if _encodable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def scrub(value: object) -> Any:
    """Return a JSON value with every lone surrogate replaced by U+FFFD; providers' parsers refuse them."""
    if isinstance(value, str):
        return value if _encodable(value) else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if _is_mapping(value):
        return {scrub(key): scrub(item) for key, item in value.items()}
    if is_list(value):
        return [scrub(item) for item in value]
    return value


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a value of foreign origin is a JSON object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Return whether a value of foreign origin is a JSON array."""
    return isinstance(value, list)


def as_object(value: object) -> dict[str, Any]:
    """Return a value of foreign origin if it is a JSON object, else an empty one."""
    return value if is_object(value) else {}


def as_list(value: object) -> list[Any]:
    """Return a value of foreign origin if it is a JSON array, else an empty one."""
    return value if is_list(value) else []


def text_of_parts(content: object, kind: str = "text") -> str:
    """Return the joined text of a list of content parts, held in their member `kind`; "" for anything else."""
    pieces: list[str] = []
    for part in as_list(content):
        held: object = as_object(part).get(kind)
        pieces.append(held if isinstance(held, str) else text_of_parts(held))
    return "".join(pieces)


def _render(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role}
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    wire["content"] = "" if message.text is None and not message.tool_calls else message.text
    if message.tool_calls:
        wire["tool_calls"] = [_call(call, arguments_text(call)) for call in message.tool_calls]
    return wire


def _call(call: ToolCall, text: str) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": text}}


def _provider_calls(message: Message) -> list[dict[str, Any]]:
    """Render the calls with what the patch says beside them, such as signatures, and calls of other types."""
    put = message.patch.put.get("tool_calls") if message.patch is not None else None
    known = {call.id for call in message.tool_calls}
    beside: dict[str, dict[str, Any]] = {}
    for entry in map(as_object, as_list(put)):
        if isinstance(entry.get("id"), str):
            beside[entry["id"]] = entry
    calls: list[dict[str, Any]] = []
    for call in message.tool_calls:
        extras = {key: value for key, value in beside.get(call.id, {}).items() if key not in _CALL_KEYS}
        calls.append({**_call(call, _sendable(call)), **extras})
    foreign = (entry for call_id, entry in beside.items() if call_id and call_id not in known)
    calls.extend(entry for entry in foreign if entry.get("type", "function") != "function")
    return calls


def _sendable(call: ToolCall) -> str:
    text = arguments_text(call)
    try:
        arguments = call.arguments if call.arguments_text is None else parse_arguments(text)
    except ValueError:
        return _encoder.encode({MALFORMED_KEY: scrub(text)})
    # A surrogate may stand in the text as an escape, where only a server that parses the arguments stumbles over it.
    clean = scrub(arguments)
    return text if text.strip() and _encodable(text) and clean == arguments else _encoder.encode(clean)


def _text(content: object) -> str | None:
    if isinstance(content, str):
        return content
    return text_of_parts(content) if is_list(content) else None


def _calls(entries: object) -> tuple[ToolCall, ...]:
    calls = (_read_call(as_object(entry)) for entry in as_list(entries))
    return tuple(call for call in calls if call is not None)


def _read_call(entry: dict[str, Any]) -> ToolCall | None:
    function = as_object(entry.get("function"))
    call_id, name, arguments = entry.get("id"), function.get("name"), function.get("arguments")
    if not isinstance(call_id, str) or not isinstance(name, str):
        return None
    try:
        if is_object(arguments):
            return ToolCall(id=call_id, name=name, arguments=arguments)
        return call_from_text(call_id, name, arguments if isinstance(arguments, str) else "{}")
    except ValueError:
        # An id or a name that no `ToolCall` takes: the patch keeps the entry as it is.
        return None


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _same(left: object, right: object) -> bool:
    """Compare as JSON: 1, 1.0 and true are three values."""
    return _encoder.encode(left) == _encoder.encode(right)


def _kind(value: object) -> str:
    names = {"NoneType": "null", "bool": "a boolean", "int": "a number", "float": "a number", "str": "a string"}
    name = type(value).__name__
    return names.get(name, f"a {name}")


def _check_json(root: object, path: str) -> None:
    """Refuse what canonical JSON cannot hold, without recursion: the depth is what is being checked."""
    open_: list[tuple[Any, str, int]] = [(root, path, 1)]
    while open_:
        value, where, depth = open_.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{where[:80]}… nests deeper than {MAX_DEPTH} levels")
        if _is_mapping(value):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"{where} has the key {ascii(key)[:40]}, which is no string")  # noqa: TRY004
                open_.append((item, f"{where}.{key}", depth + 1))
        elif is_list(value):
            open_.extend((item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON cannot hold")
        elif value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"{where} is {_kind(value)}, which JSON cannot hold")
