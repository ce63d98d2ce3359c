"""Messages, calls and tools as the JSON of the OpenAI chat format, and back.

Pure functions, shared by the adapters that speak this format and by the import and export of chat logs. Reading is
lossless: what the engine's own rendering would not give back is kept in the message's patch. May import core and
errors. Must never do I/O, and never fetch a URL that stands in a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from ..core.arguments import (
    arguments_text,
    call_from_text,
    check_json_value,
    is_list,
    is_mapping,
    is_object,
    json_text,
    kind_of,
    parse_arguments,
)
from ..core.values import Message, Role, ToolCall, ToolSpec, WirePatch

MALFORMED_KEY = "malformed_arguments"
"""Under this key a provider sees arguments that are no JSON object: servers that parse a history refuse bare text."""

_ROLES = frozenset(get_args(Role))
_CALL_KEYS = frozenset({"id", "type", "function"})


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
        raise ValueError(f"a message must be a JSON object, not {kind_of(wire)}")  # noqa: TRY004
    role = wire.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"unknown role {ascii(role)[:80]}; a message has one of {', '.join(sorted(_ROLES))}")
    original = dict(wire)
    check_json_value(original, "$")
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
    if is_mapping(value):
        return {scrub(key): scrub(item) for key, item in value.items()}
    if is_list(value):
        return [scrub(item) for item in value]
    return value


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
        return json_text({MALFORMED_KEY: scrub(text)})
    # A surrogate may stand in the text as an escape, where only a server that parses the arguments stumbles over it.
    clean = scrub(arguments)
    return text if text.strip() and _encodable(text) and clean == arguments else json_text(clean)


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


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _same(left: object, right: object) -> bool:
    """Compare as JSON: 1, 1.0 and true are three values."""
    return json_text(left) == json_text(right)
