"""A chat log in the OpenAI format as the events of a history, and a session as such a log again.

The mapping loses nothing. What the core cannot hold as it stands is kept in the patch of its message: fields of other
kinds, the order and the ids in which calls were written. A call without a result in the log gets one, because no model
may see a call without a result; its patch drops every field of it, and that is how the log leaves again without it.

May import core and models.wire. Must never do I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.arguments import is_object, json_text
from ..core.events import ContextPrepared, KnownEvent, ModelReplied, PromptReceived, ToolFinished, TurnCancelled
from ..core.values import Message, ModelReply, PlannedCall, ToolCall, ToolStatus, WirePatch
from ..models.wire import as_list, as_object, from_wire, to_wire

LOG_ENDS = "the log ends here"
"""Why a turn was cancelled that a log leaves open at its end."""

LOG_GOES_ON = "the log goes on with another prompt"
"""Why a turn was cancelled that a log leaves open before its end."""

NOT_IN_LOG = WirePatch(drop=("role", "tool_call_id", "content"))
"""The patch of a result that no log holds: nothing of it is left."""

_INPUT = frozenset({"system", "developer", "user", "function"})
"""Roles that speak to the model. Runs of them open a turn; "function" is how results came before there were tools."""

_MAX_ID = 512
_MAX_NAME = 512


class _Read(NamedTuple):
    """A message of the log: what it is, and its number in the log, from 1."""

    number: int
    wire: dict[str, Any]
    message: Message


class _Asked(NamedTuple):
    """A call of the log: the id that the log gives it, as JSON, and the call as the core holds it."""

    written: str
    call: ToolCall


def read_chat(wires: Sequence[object]) -> list[KnownEvent]:
    """Return the events of a history that holds these messages, beginning with the first prompt.

    Raises:
        ValueError: the messages are no conversation; the text says which one, why, and what to do.
    """
    if not wires:
        raise ValueError("the log has no messages; remove the line, or add the conversation")
    messages = [_read(number, wire) for number, wire in enumerate(wires, 1)]
    events: list[KnownEvent] = []
    open_turn = False
    at = 0
    while at < len(messages):
        role = messages[at].message.role
        if role in _INPUT:
            if open_turn:
                events.append(TurnCancelled(reason=LOG_GOES_ON))
            end = _end_of_run(messages, at, _INPUT)
            events.append(PromptReceived(messages=tuple(_spoken(read) for read in messages[at:end])))
            open_turn = True
        elif role == "assistant":
            if not open_turn:
                events.append(PromptReceived())
            end = _end_of_run(messages, at + 1, frozenset({"tool"}))
            reply, ends = _round(messages[at], messages[at + 1 : end])
            events += [ContextPrepared(), reply, *ends]
            open_turn = bool(ends)
        else:
            raise ValueError(
                f"message {at + 1} is the result of a call, but does not follow the message that asked for it; "
                "put it there, or remove it"
            )
        at = end
    if open_turn:
        events.append(TurnCancelled(reason=LOG_ENDS))
    return events


def write_chat(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as a log: an imported one as it came, any other as the OpenAI format has it."""
    return [to_wire(message, provider=False) for message in messages if not _absent(message)]


def _absent(message: Message) -> bool:
    # No message of a log lacks its role.
    return message.patch is not None and "role" in message.patch.drop


def _read(number: int, wire: object) -> _Read:
    if not is_object(wire):
        raise ValueError(f'message {number} is no JSON object; a message looks like {{"role": …, "content": …}}')
    try:
        return _Read(number, wire, from_wire(wire))
    except ValueError as error:
        raise ValueError(f"message {number}: {error}") from None


def _end_of_run(messages: Sequence[_Read], start: int, roles: frozenset[str]) -> int:
    """Return where the run of messages with one of these roles ends that begins at `start`."""
    end = start
    while end < len(messages) and messages[end].message.role in roles:
        end += 1
    return end


def _spoken(read: _Read) -> Message:
    """Return a message of input: its role and text, the rest in its patch."""
    bare = Message(role=read.message.role, text=read.message.text)
    return bare.model_copy(update={"patch": _patch(bare, read.wire)})


def _round(read: _Read, results: Sequence[_Read]) -> tuple[ModelReplied, list[ToolFinished]]:
    """Return the reply of one round, and an end for each of its calls in the order of the results."""
    text = read.message.text
    open_calls = _calls(read.wire)
    ends: list[ToolFinished] = []
    calls: list[ToolCall] = []
    for result in results:
        asked = _claimed(open_calls, result, read.number)
        open_calls.remove(asked)
        calls.append(asked.call)
        ends.append(_end(asked.call, result))
    for _, call in open_calls:
        calls.append(call)
        ends.append(
            ToolFinished(
                call_id=call.id, status=ToolStatus.CANCELLED, content="no result was recorded", error="not_in_log",
                patch=NOT_IN_LOG,
            )
        )  # fmt: skip
    # The conversation holds results in the order of the calls: so the calls are held in the order of the results.
    bare = Message(role="assistant", text=text, tool_calls=calls)
    reply = ModelReply(
        text=text, tool_calls=calls, finish="tool_calls" if calls else "stop", patch=_patch(bare, read.wire)
    )
    plans = tuple(PlannedCall(call_id=call.id) for call in calls)
    return ModelReplied(reply=reply, plans=plans), ends


def _claimed(open_calls: Sequence[_Asked], result: _Read, number: int) -> _Asked:
    """Return the call that a result answers: the first open one of the same id."""
    written = json_text(result.wire.get("tool_call_id"))
    for asked in open_calls:
        if asked.written == written:
            return asked
    raise ValueError(
        f"message {result.number} is the result of call {written[:80]}, which message {number} does not ask for, or "
        "which has its result already; correct its tool_call_id, or remove it"
    )


def _calls(wire: Mapping[str, Any]) -> list[_Asked]:
    """Return the calls of a message, each under an id that is unique in it."""
    taken: set[str] = set()
    found: list[_Asked] = []
    for index, entry in enumerate(as_list(wire.get("tool_calls"))):
        if not is_object(entry):
            continue
        given = entry.get("id")
        call_id = given if isinstance(given, str) and 0 < len(given) <= _MAX_ID else f"call_{index}"
        while call_id in taken:
            call_id = f"{call_id[: _MAX_ID - 20]}#{index}"
        taken.add(call_id)
        found.append(_Asked(json_text(given), _held(call_id, entry)))
    return found


def _held(call_id: str, entry: dict[str, Any]) -> ToolCall:
    """Return a call as the core holds it; of one of another type than "function" that is no more than its name."""
    held = from_wire({"role": "assistant", "tool_calls": [{**entry, "id": call_id}]}).tool_calls
    if held:
        return held[0]
    kind = entry.get("type")
    name = as_object(entry.get(kind)).get("name") if isinstance(kind, str) else None
    return ToolCall(id=call_id, name=name[:_MAX_NAME] if isinstance(name, str) else "")


def _end(call: ToolCall, result: _Read) -> ToolFinished:
    content = result.message.text or ""
    bare = Message(role="tool", text=content, tool_call_id=call.id)
    return ToolFinished(call_id=call.id, content=content, patch=_patch(bare, result.wire))


def _patch(bare: Message, wire: Mapping[str, Any]) -> WirePatch | None:
    """Return what makes `bare` leave as `wire`, None where it does so by itself."""
    rendered = to_wire(bare, provider=False)
    put = {
        key: value for key, value in wire.items() if key not in rendered or json_text(rendered[key]) != json_text(value)
    }
    drop = tuple(key for key in rendered if key not in wire)
    return WirePatch(put=put, drop=drop) if put or drop else None
