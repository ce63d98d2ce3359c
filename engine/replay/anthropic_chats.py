"""Chat logs in the format of Anthropic's messages, to and from the OpenAI format that import and export speak.

A log is a JSON object with `id`, `messages` and perhaps `system`; a message has `role` ("user" or "assistant") and
`content`, a text or a list of blocks `text`, `tool_use` and `tool_result`. Whatever else stands in a log is refused and
not lost on the way: `SCHEMA` is the whole of what is taken, and is published in the documentation. May import core and
models.wire. Must never do I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.arguments import is_list, is_object
from ..errors import ImportRefused
from ..models.wire import as_list, as_object

FORMAT_VERSION = 1
"""Version of the format. It grows when a reader of the version before could not read the new one."""

_TEXT = {"type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
         "required": ["type", "text"], "additionalProperties": False}  # fmt: skip
_TOOL_USE = {
    "type": "object",
    "properties": {
        "type": {"const": "tool_use"}, "id": {"type": "string", "minLength": 1}, "name": {"type": "string"},
        "input": {"type": "object"},
    },
    "required": ["type", "id", "name", "input"],
    "additionalProperties": False,
}  # fmt: skip
_TOOL_RESULT = {
    "type": "object",
    "properties": {
        "type": {"const": "tool_result"}, "tool_use_id": {"type": "string", "minLength": 1},
        "content": {"type": "string"}, "is_error": {"const": True},
    },
    "required": ["type", "tool_use_id", "content"],
    "additionalProperties": False,
}  # fmt: skip


def _message(role: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": list(blocks)}, "minItems": 1}]}
    return {
        "type": "object", "properties": {"role": {"const": role}, "content": content}, "required": ["role", "content"],
        "additionalProperties": False,
    }  # fmt: skip


SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": f"A conversation in the format of Anthropic's messages, version {FORMAT_VERSION}",
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "system": {"type": "string"},
        "messages": {
            "type": "array",
            "items": {"anyOf": [_message("user", _TEXT, _TOOL_RESULT), _message("assistant", _TEXT, _TOOL_USE)]},
        },
    },
    "required": ["id", "messages"],
    "additionalProperties": False,
}
"""The JSON Schema of a line."""


def converted(lines: Iterable[bytes | str], refused: list[ImportRefused] | None = None) -> Iterator[str]:
    """Iterate over lines in Anthropic's format as lines in the OpenAI format, for `import_chats`.

    Args:
        lines: those of a log.
        refused: takes what cannot be read; if not given, it is raised. An empty line stands in its place.

    Raises:
        ImportRefused: a line is none of `SCHEMA`.
    """
    for number, line in enumerate(lines, 1):
        text = line if isinstance(line, str) else line.decode("utf-8", "replace")
        try:
            yield json.dumps(from_anthropic(json.loads(text))) if text.strip() else ""
        except ValueError as error:
            refusal = ImportRefused(number, str(error))
            if refused is None:
                raise refusal from error
            refused.append(refusal)
            yield ""


def to_anthropic(chat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a conversation as `export_chats` gives it in Anthropic's format.

    What stands in one message there, as results and the prompt after them, is put into one. System messages become
    `system`, a blank line between them: their place in the conversation is lost.

    Raises:
        ValueError: a message holds what the format has no form for; the text says which.
    """
    systems: list[str] = []
    messages: list[dict[str, Any]] = []
    for number, wire in enumerate(as_list(chat.get("messages")), 1):
        message = as_object(wire)
        role, text = message.get("role"), _said(message.get("content"), number)
        if role in ("system", "developer"):
            systems.append(text or "")
        elif role == "assistant":
            messages.append({"role": "assistant", "content": _plain([*_texts(text), *_calls(message)])})
        elif role in ("user", "tool"):
            block = _result(message) if role == "tool" else {"type": "text", "text": text or ""}
            if not messages or messages[-1]["role"] != "user":
                messages.append({"role": "user", "content": []})
            messages[-1]["content"].append(block)
        else:
            raise ValueError(f"message {number} has the role {role!r}, which the format does not know")
    for message in messages:
        if message["role"] == "user":
            message["content"] = _plain(message["content"])
    system = {"system": "\n\n".join(systems)} if systems else {}
    return {"id": str(chat.get("id")), **system, "messages": messages}


def from_anthropic(entry: object) -> dict[str, Any]:
    """Return a line in Anthropic's format as one in the OpenAI format.

    Raises:
        ValueError: it is none of `SCHEMA`; the text says where and what to do.
    """
    if not is_object(entry):
        raise ValueError('a line must be a JSON object: {"id": …, "messages": […]}')
    _only(entry, {"id", "system", "messages"}, "the line")
    messages: list[dict[str, Any]] = []
    if "system" in entry:
        messages.append({"role": "system", "content": _text(entry["system"], "system")})
    if not is_list(entry.get("messages")):
        raise ValueError('the line has no messages: "messages" must be the list of them')
    for number, message in enumerate(as_list(entry["messages"]), 1):
        messages += _read(f"message {number}", message)
    return {"id": entry.get("id"), "messages": messages}


def _said(content: object, number: int) -> str | None:
    if content is None or isinstance(content, str):
        return content
    raise ValueError(f"message {number} holds parts that are no text; export it in the OpenAI format")


def _plain(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return the content of a message in its shortest form: one text as a text."""
    if not blocks:
        return ""
    return str(blocks[0]["text"]) if [block["type"] for block in blocks] == ["text"] else blocks


def _texts(text: str | None) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _calls(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for call in map(as_object, as_list(message.get("tool_calls"))):
        function = as_object(call.get("function"))
        text = function.get("arguments")
        try:
            arguments: object = json.loads(text) if isinstance(text, str) else text
        except ValueError:
            arguments = None
        given = arguments if is_object(arguments) else {"malformed_arguments": text}
        yield {"type": "tool_use", "id": str(call.get("id")), "name": str(function.get("name")), "input": given}


def _result(message: Mapping[str, Any]) -> dict[str, Any]:
    error = {"is_error": True} if message.get("is_error") is True else {}
    return {
        "type": "tool_result", "tool_use_id": str(message.get("tool_call_id")),
        "content": str(message.get("content") or ""), **error,
    }  # fmt: skip


def _read(where: str, message: object) -> Iterator[dict[str, Any]]:
    if not is_object(message) or message.get("role") not in ("user", "assistant"):
        raise ValueError(f'{where} is no message; one looks like {{"role": "user", "content": …}}')
    _only(message, {"role", "content"}, where)
    content = message.get("content")
    blocks: Sequence[object] = [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content)
    if not blocks:
        raise ValueError(f"{where} has no content; remove it, or give it a text")
    if message["role"] == "assistant":
        yield _reply(where, blocks)
        return
    for block in blocks:
        kind = block.get("type") if is_object(block) else None
        if is_object(block) and kind == "text":
            _only(block, {"type", "text"}, where)
            yield {"role": "user", "content": _text(block.get("text"), where)}
        elif is_object(block) and kind == "tool_result":
            _only(block, {"type", "tool_use_id", "content", "is_error"}, where)
            error = {"is_error": True} if block.get("is_error") is True else {}
            yield {
                "role": "tool", "tool_call_id": _text(block.get("tool_use_id"), where),
                "content": _text(block.get("content", ""), where), **error,
            }  # fmt: skip
        else:
            raise _unknown(where, kind)


def _reply(where: str, blocks: Sequence[object]) -> dict[str, Any]:
    reply: dict[str, Any] = {"role": "assistant", "content": None}
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if is_object(block) else None
        if is_object(block) and kind == "text":
            if reply["content"] is not None or calls:
                raise ValueError(f"{where} has a text after its first block; put its texts into one, before its calls")
            _only(block, {"type", "text"}, where)
            reply["content"] = _text(block.get("text"), where)
        elif is_object(block) and kind == "tool_use" and is_object(block.get("input")):
            _only(block, {"type", "id", "name", "input"}, where)
            function = {"name": _text(block.get("name"), where), "arguments": json.dumps(block["input"])}
            calls.append({"id": _text(block.get("id"), where), "type": "function", "function": function})
        else:
            raise _unknown(where, kind)
    return {**reply, "tool_calls": calls} if calls else reply


def _only(held: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(held.keys() - known)
    if unknown:
        raise ValueError(f"{where} has {unknown[0]!r}, which would be lost; take it out, or keep the log elsewhere")


def _text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{where} holds {type(value).__name__} where a text must be")


def _unknown(where: str, kind: object) -> ValueError:
    return ValueError(f"{where} has a block {kind!r} that its role cannot have or that would be lost; take it out")
