"""A recorded history as a model: it gives the replies that were recorded, and complains when asked something else.

May import ports, core and the wire format. Must never call anything outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.arguments import arguments_complaint
from ..core.cursor import Cursor
from ..core.events import ModelReplied
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import reproduce
from ..core.values import Message, ModelReply, ToolCall, WirePatch
from ..errors import RecordedModelMismatch, ReplayError
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
        self._replies: dict[tuple[int, int], tuple[ModelReply, int]] = {}
        cursor: Cursor | None = None
        for record in records:
            cursor = cursor or Cursor(Session(record.session))
            if isinstance(record.event, ModelReplied) and cursor.turn is not None:
                place = (cursor.turn.number, cursor.turn.round)
                self._replies[place] = (record.event.reply, len(cursor.transcript))
            reproduce(cursor, record)
        if cursor is None:
            raise ReplayError("an empty history has no replies to give")
        self._messages: Sequence[Message] = cursor.transcript
        self._same: list[Message] = []

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return the recorded reply of this turn and round.

        Raises:
            RecordedModelMismatch: nothing was recorded there, or the conversation so far is another one.
        """
        place = f"turn {request.turn}, round {request.round}"
        recorded = self._replies.get((request.turn, request.round))
        if recorded is None:
            raise RecordedModelMismatch(f"the history holds no reply for {place}")
        reply, length = recorded
        if len(request.messages) != length:
            raise RecordedModelMismatch(
                f"at {place} the recorded model saw {length} messages, now there are {len(request.messages)}"
            )
        same = self._same
        for index, (given, recorded_one) in enumerate(zip(request.messages, self._messages, strict=False)):
            if index == len(same):
                same.append(recorded_one)
            # The very object that was compared for an earlier reply need not be compared again.
            if given is not same[index]:
                if _spoken(given) != _spoken(recorded_one):
                    raise RecordedModelMismatch(f"at {place} message {index} differs from the recorded one")
                same[index] = given
        return _admissible(reply)


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
