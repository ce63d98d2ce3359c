"""A recorded history as a model: it gives the replies that were recorded, and complains when asked something else.

May import ports, core and the wire format. Must never call anything outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..core.arguments import arguments_complaint
from ..core.cursor import Cursor
from ..core.events import ContextCompacted, Faulted, ModelReplied
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import reproduce
from ..core.values import Fault, Message, ModelReply, ToolCall, WirePatch
from ..core.view import ALL, Shown, View
from ..errors import ModelError, RecordedModelMismatch, ReplayError
from ..ports import Emit, ModelRequest
from .wire import to_wire


class RecordedModel:
    """Replay the replies of one history, found by turn and round, so that a resumed run finds its place too.

    Args:
        records: the whole history of one session.

    Raises:
        ReplayError: the history is empty or does not reproduce.
    """

    def __init__(self, records: Iterable[TransitionRecord]) -> None:
        self._replies: dict[tuple[int, int], dict[int, _Recorded]] = {}
        self._summaries: dict[tuple[int, int], deque[ContextCompacted]] = {}
        cursor: Cursor | None = None
        for record in records:
            cursor = cursor or Cursor(Session(record.session))
            if isinstance(record.event, ModelReplied) and cursor.turn is not None:
                place = (cursor.turn.number, cursor.turn.round)
                seen = _Recorded(record.event.reply, cursor.shown, len(cursor.transcript))
                self._replies.setdefault(place, {})[seen.length] = seen
            elif isinstance(record.event, Faulted) and record.event.fault.kind == "context_full" and cursor.turn:
                seen = _Recorded(record.event.fault, cursor.shown, len(cursor.transcript))
                self._replies.setdefault((cursor.turn.number, cursor.turn.round), {})[seen.length] = seen
            elif isinstance(record.event, ContextCompacted) and record.event.keeps:
                place = (cursor.turn.number, cursor.turn.round) if cursor.turn is not None else (0, 0)
                self._summaries.setdefault(place, deque()).append(record.event)
            reproduce(cursor, record)
        if cursor is None:
            raise ReplayError("an empty history has no replies to give")
        self._messages: Sequence[Message] = cursor.transcript
        self._same: tuple[Shown, list[Message]] = ALL, []

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return the recorded reply of this turn and round, or the recorded summary.

        Raises:
            RecordedModelMismatch: nothing was recorded there, or the conversation so far is another one.
        """
        place = f"turn {request.turn}, round {request.round}"
        if request.purpose == "summary":
            return recorded_summary(self._summaries.get((request.turn, request.round)), place)
        known = self._replies.get((request.turn, request.round))
        if known is None:
            raise RecordedModelMismatch(f"the history holds no reply for {place}")
        length = len(request.messages)
        recorded = known.get(length)
        if recorded is None:
            counts = " or ".join(map(str, known))
            raise RecordedModelMismatch(f"at {place} the recorded model saw {counts} messages, now there are {length}")
        seen = recorded.view(self._messages)
        shown, same = self._same
        if shown != recorded.shown:
            same = []
        self._same = recorded.shown, same
        for index, given in enumerate(request.messages):
            if index == len(same):
                same.append(seen[index])
            # The very object that was compared for an earlier reply need not be compared again.
            if given is not same[index]:
                if _spoken(given) != _spoken(seen[index]):
                    raise RecordedModelMismatch(f"at {place} message {index} differs from the recorded one")
                same[index] = given
        if isinstance(recorded.reply, Fault):
            fault = recorded.reply
            raise ModelError(fault.message, kind="context_full", retryable=False, status=fault.status)
        return _admissible(recorded.reply)


class _Recorded(NamedTuple):
    """A reply, or that it did not fit, and what had been shown: that much of a conversation of so many messages."""

    reply: ModelReply | Fault
    shown: Shown
    messages: int

    @property
    def length(self) -> int:
        return len(self.shown.kept) + 1 + self.messages - self.shown.through if self.shown.through else self.messages

    def view(self, conversation: Sequence[Message]) -> Sequence[Message]:
        return View(conversation, self.shown, self.messages)


def recorded_summary(left: deque[ContextCompacted] | None, place: str) -> ModelReply:
    """Return the next summary that was recorded at a place; the last one as often as it is asked for.

    Args:
        left: what was recorded there and is left.
        place: how to name it.

    Raises:
        ModelError: none was recorded there, or there was none then either.
    """
    if not left:
        raise RecordedModelMismatch(f"the history holds no summary for {place}")
    event = left.popleft() if len(left) > 1 else left[0]
    if event.reply is None:
        assert event.fault is not None
        raise ModelError(event.fault.message, retryable=False, status=event.fault.status)
    return event.reply


def _admissible(reply: ModelReply) -> ModelReply:
    """Return the reply such that its calls reach the recorded tools.

    Arguments that are no JSON object would be refused with a complaint of today; what became of the call is recorded.
    So the text moves from the calls to the patch, which gives it back to whoever exports the conversation.
    """
    calls = tuple(_admissible_call(call) for call in reply.tool_calls)
    if calls == reply.tool_calls:
        return reply
    patch = reply.patch or WirePatch()
    written = to_wire(Message(role="assistant", tool_calls=reply.tool_calls, patch=patch), provider=False)
    if "tool_calls" in written:
        patch = patch.model_copy(update={"put": {**patch.put, "tool_calls": written["tool_calls"]}})
    return reply.model_copy(update={"tool_calls": calls, "patch": patch})


def _admissible_call(call: ToolCall) -> ToolCall:
    return call if arguments_complaint(call) is None else call.model_copy(update={"arguments_text": None})


def _spoken(message: Message) -> tuple[object, ...]:
    calls = tuple(_admissible_call(call) for call in message.tool_calls)
    return (message.role, message.text, calls, message.tool_call_id)
