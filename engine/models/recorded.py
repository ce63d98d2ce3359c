"""A recorded history as a model: it gives the replies that were recorded, and complains when asked something else.

May import ports and core. Must never call anything outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.events import ModelReplied
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import advance
from ..core.values import Message, ModelReply
from ..errors import RecordedModelMismatch, ReplayError
from ..ports import Emit, ModelRequest


class RecordedModel:
    """Replay the replies of one history, found by turn and round, so that a resumed run finds its place too.

    Args:
        records: the whole history of one session.

    Raises:
        ReplayError: the history is empty or does not reproduce.
    """

    def __init__(self, records: Iterable[TransitionRecord]) -> None:
        self._replies: dict[tuple[int, int], tuple[ModelReply, int]] = {}
        session: Session | None = None
        for record in records:
            session = session or Session(record.session)
            if isinstance(record.event, ModelReplied) and session.turn is not None:
                place = (session.turn.number, session.turn.round)
                self._replies[place] = (record.event.reply, len(session.transcript))
            session = advance(session, record)
        if session is None:
            raise ReplayError("an empty history has no replies to give")
        self._messages: Sequence[Message] = session.transcript
        self._checked = 0

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
        # What was compared for an earlier reply need not be compared again: conversations only grow.
        start = self._checked if self._checked <= length else 0
        for index in range(start, length):
            if _spoken(request.messages[index]) != _spoken(self._messages[index]):
                raise RecordedModelMismatch(f"at {place} message {index} differs from the recorded one")
        self._checked = length
        return reply


def _spoken(message: Message) -> tuple[object, ...]:
    return (message.role, message.text, message.tool_calls, message.tool_call_id)
