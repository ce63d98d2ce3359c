"""Pieces of a chat completion, in the OpenAI format, to one reply.

Takes the chunks of a stream or the one body of an unstreamed answer, tells `emit` about every piece, and judges at
the end whether the reply is whole. Shared by every adapter whose server speaks this format. May import core, errors
and ports. Must never do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from ..core.arguments import call_from_text, is_object, json_text, parse_arguments
from ..core.notices import ReasoningDelta, TextDelta, ToolInputDelta
from ..core.values import FinishReason, JsonObject, Message, ModelReply, ToolCall, Usage, WirePatch
from ..errors import ModelError
from ..ports import Emit
from .text_calls import CallReader
from .text_calls.reader import Piece
from .text_calls.replies import note_repairs, was_cut
from .wire import as_list, as_object, join_surrogates, scrub, text_of_parts, to_wire

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "length": "length", "max_tokens": "length",
    "model_length": "context_full", "stop_sequence": "stop_sequence", "tool_calls": "tool_calls",
    "tool_use": "tool_calls", "function_call": "tool_calls", "content_filter": "content_filter",
}  # fmt: skip
"""What servers call the end of a reply, in the engine's words."""


class _Call:
    """One call while it grows."""

    def __init__(self, index: int | None, call_id: str | None) -> None:
        self.index = index
        self.id = call_id
        self.name = ""
        self.pieces: list[str] = []
        self.extras: dict[str, Any] = {}

    def whole(self) -> bool:
        """Whether the arguments so far are a JSON object."""
        text = "".join(self.pieces)
        if not text.rstrip().endswith("}"):
            return False
        try:
            parse_arguments(text)
        except ValueError:
            return False
        return True


class ReplyBuilder:
    """Grows one reply out of chunks.

    Args:
        emit: is told about every piece.
        reader: finds tool calls in the text; None where the server does.
        id_prefix: of the ids of calls that have none, before their index. "" draws one.
    """

    def __init__(self, emit: Emit, reader: CallReader | None = None, id_prefix: str = "") -> None:
        self._emit = emit
        self._reader = reader
        self._id_prefix = id_prefix
        self._heard = False
        self._text: list[str] = []
        self._calls: list[_Call] = []
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._model: str | None = None

    @property
    def finished(self) -> bool:
        """Whether a finish reason arrived: nothing but the usage can follow."""
        return self._finish is not None

    @property
    def started(self) -> bool:
        """Whether anything of a reply arrived."""
        return bool(self._heard or self._calls)

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in a chunk of a stream, or the body of a whole answer. Choices beside the first are left out."""
        model = chunk.get("model")
        if isinstance(model, str) and model:
            self._model = scrub(model)
        self._usage = _usage(chunk.get("usage")) or self._usage
        for choice in map(as_object, as_list(chunk.get("choices"))):
            if choice.get("index", 0) in (0, None):
                self._choice(choice)

    def reply(self) -> ModelReply:
        """Return the reply.

        Raises:
            ModelError: no finish reason arrived, the server gave up, or a call has no usable id or name.
        """
        if self._finish is None:
            what = "after a part of the reply" if self.started else "before the reply began"
            raise ModelError(f"the model's answer ended {what}, without a finish reason; nothing of it was kept")
        finish = _FINISH.get(self._finish)
        if finish is None and self._finish in ("error", "abort", "cancelled", "insufficient_system_resource"):
            raise ModelError(f"the server broke the reply off with finish reason {self._finish!r}")
        if self._reader is not None:
            self._pieces(self._reader.close(cut=was_cut(finish or "stop")))
        try:
            calls = tuple(self._call(call) for call in self._calls)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            raise ModelError(
                f"the reply holds a tool call that cannot be used: {problem['loc']}: {problem['msg']}"
            ) from None
        if calls and finish in (None, "stop"):
            finish = "tool_calls"
        text = join_surrogates("".join(self._text))
        return ModelReply(
            text=text or None, tool_calls=calls, finish=finish or "stop", usage=self._usage, model=self._model,
            patch=self._patch(calls),
        )  # fmt: skip

    def _choice(self, choice: Mapping[str, Any]) -> None:
        self._piece(as_object(choice.get("delta")) or as_object(choice.get("message")))
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            self._finish = finish

    def _piece(self, piece: Mapping[str, Any]) -> None:
        content = piece.get("content")
        reasoning = piece.get("reasoning_content") or piece.get("reasoning") or text_of_parts(content, "thinking")
        if isinstance(reasoning, str) and reasoning:
            self._emit(ReasoningDelta(reasoning))
        # A refusal is what the model says instead of an answer: the user should read it.
        for text in (content if isinstance(content, str) else text_of_parts(content), piece.get("refusal")):
            if isinstance(text, str) and text:
                self._heard = True
                self._pieces([text] if self._reader is None else self._reader.feed(text))
        for delta in as_list(piece.get("tool_calls")):
            if is_object(delta):
                self._tool(delta)

    def _pieces(self, pieces: list[Piece]) -> None:
        """Take in text, and calls that were found in it."""
        for piece in pieces:
            if isinstance(piece, str):
                self._text.append(piece)
                self._emit(TextDelta(piece))
                continue
            note_repairs(piece)
            taken = {call.id for call in self._calls}
            call = _Call(None, None if piece.id in taken else piece.id)
            call.name, call.pieces = piece.name, [piece.arguments_text]
            self._calls.append(call)
            self._emit(ToolInputDelta(len(self._calls) - 1, call.name, piece.arguments_text))

    def _tool(self, delta: Mapping[str, Any]) -> None:
        function = as_object(delta.get("function"))
        name, text = function.get("name"), function.get("arguments")
        name = name if isinstance(name, str) else ""
        text = json_text(text) if is_object(text) else text if isinstance(text, str) else ""
        call_id = delta.get("id") or None
        call_id = call_id if isinstance(call_id, str) else None
        call = self._find(delta.get("index"), call_id, name, text)
        if name and name != call.name and not call.pieces:
            call.name += name
        call.id = call.id or call_id
        call.extras.update(
            {key: value for key, value in delta.items() if key not in ("index", "id", "type", "function")}
        )
        if text:
            call.pieces.append(text)
        if text or name:
            self._emit(ToolInputDelta(self._calls.index(call), call.name, text))

    def _find(self, index: object, call_id: str | None, name: str, text: str) -> _Call:
        """Return the call that a delta belongs to, a new one if none.

        Servers differ: most number their calls; some number all of them 0, some none, some repeat id and name in every
        delta, some send each call whole. A new id with a name begins a call, and so does a name after whole arguments.
        """
        number = index if isinstance(index, int) and not isinstance(index, bool) else None
        call: _Call | None
        if number is not None:
            call = next((call for call in reversed(self._calls) if call.index == number), None)
            if call is not None and name:
                other = bool(call_id and call.id and call_id != call.id)
                again = not call_id and bool(text) and ((name != call.name and bool(call.pieces)) or call.whole())
                call = None if other or again else call
        elif call_id is not None:
            call = next((call for call in self._calls if call.id == call_id), None)
        else:
            call = self._calls[-1] if self._calls else None
            if call is not None and name and (call.whole() or (call.pieces and name != call.name)):
                call = None
        if call is None:
            call = _Call(number, call_id)
            self._calls.append(call)
        return call

    def _call(self, call: _Call) -> ToolCall:
        # Where a server gives no id, one is made: the result must be able to name its call.
        call.id = scrub(call.id or self._new_id(self._calls.index(call)))
        assert call.id is not None
        text = join_surrogates("".join(call.pieces))
        return call_from_text(call.id, scrub(call.name), text or "{}")

    def _new_id(self, index: int) -> str:
        if not self._id_prefix:
            return f"call_{uuid4().hex}"
        taken = {call.id for call in self._calls}
        return next(made for n in count(index) if (made := f"{self._id_prefix}_{n}") not in taken)

    def _patch(self, calls: tuple[ToolCall, ...]) -> WirePatch | None:
        """Keep what stands beside the calls, such as a signature that the provider wants to see again."""
        if not any(call.extras for call in self._calls):
            return None
        entries = to_wire(Message(role="assistant", tool_calls=calls), provider=False)["tool_calls"]
        put: JsonObject = {"tool_calls": [{**e, **call.extras} for e, call in zip(entries, self._calls, strict=True)]}
        return WirePatch(put=put)


def _usage(counts: object) -> Usage | None:
    held = as_object(counts)
    if not held:
        return None
    details = as_object(held.get("prompt_tokens_details"))
    cached = _count(details.get("cached_tokens", held.get("prompt_cache_hit_tokens")))
    given = _count(held.get("prompt_tokens"))
    return Usage(
        input_tokens=given, output_tokens=_count(held.get("completion_tokens")), cached_tokens=min(cached, given)
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
