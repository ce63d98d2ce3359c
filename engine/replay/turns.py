"""Turns as a projection of the history: what was asked, what was answered, which tools ran, when and for how long.

May import core and journal. Must never perform anything.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from ..core.record import TransitionRecord
from ..core.session import CallState, Turn
from ..core.snapshot import restore_turn
from ..core.values import JsonObject, Outcome, ResourceUsage, ToolStatus, Usage


class CallResult(NamedTuple):
    """One tool call of a turn and how it ended. `content` is the text that the model got, `duration_s` in seconds;
    `attempts` counts its runs, the failed ones before it included. `started_at` is when the last of them began (UTC),
    None where it never ran or was cut off; `resources` is what it used, None where nobody can measure that: a call that
    shares its process with others.
    """

    id: str
    name: str
    arguments: JsonObject
    status: ToolStatus
    content: str
    error: str | None
    duration_s: float
    resources: ResourceUsage | None = None
    attempts: int = 1
    started_at: str | None = None


def call_results(turn: Turn) -> tuple[CallResult, ...]:
    """Return every call of a turn, in order."""
    return tuple(_call_result(call) for call in turn.calls)


def _call_result(call: CallState) -> CallResult:
    return CallResult(
        call.call.id, call.call.name, call.call.arguments, call.status, call.content, call.error, call.duration_s,
        call.resources, call.attempt, call.started_at,
    )  # fmt: skip


class ConversationTurn(NamedTuple):
    """One ended turn. `at` is when it was opened (UTC), `duration_s` the time from there to its end, in seconds."""

    id: str
    number: int
    prompt: str
    response: str | None
    tool_calls: tuple[CallResult, ...]
    at: str
    duration_s: float
    outcome: Outcome
    reason: str
    usage: Usage


class TurnLog:
    """Collects the newest ended turns of a session while its records go by; they are made up when somebody looks.

    Args:
        size: how many to keep; older ones are in the journal.
    """

    def __init__(self, size: int) -> None:
        self._ended: deque[EndedTurn] = deque(maxlen=size)
        self._last: Turn | None = None
        self._opened_at = ""

    def __iter__(self) -> Iterator[ConversationTurn]:
        return (_conversation_turn(ended) for ended in self._ended)

    def __len__(self) -> int:
        return len(self._ended)

    def kept(self) -> tuple[Sequence["EndedTurn"], str]:
        """Return the turns, oldest first, and when the newest of all was opened: what a checkpoint holds."""
        return tuple(self._ended), self._opened_at

    def begin(self, ended: Sequence["EndedTurn"], last: Turn | None, opened_at: str) -> None:
        """Go on from what a checkpoint held; `last` is the newest turn that has ended."""
        self._ended.extend(ended)
        self._last, self._opened_at = last, opened_at

    def see(self, records: Sequence[TransitionRecord], last: Turn | None) -> None:
        """Take note of records, of which at most one ended a turn; `last` is the newest that has ended by now."""
        for record in records:
            if record.trigger == "prompt_received":
                self._opened_at = record.at
        if last is not self._last and last is not None:
            self._last, record = last, records[-1]
            self._ended.append(EndedTurn(record.session, last, self._opened_at or record.at, record.at))


class EndedTurn(NamedTuple):
    """A turn that ended, with the times of its first and last record. One from a checkpoint is the text it was written
    as until somebody looks.
    """

    session: str
    turn: Turn | str
    opened_at: str
    ended_at: str


def _conversation_turn(ended: EndedTurn) -> ConversationTurn:
    turn = restore_turn(json.loads(ended.turn)) if isinstance(ended.turn, str) else ended.turn
    took = datetime.fromisoformat(ended.ended_at) - datetime.fromisoformat(ended.opened_at)
    return ConversationTurn(
        id=f"{ended.session}:{turn.opened_seq}",
        number=turn.number,
        prompt="\n".join(message.text or "" for message in turn.prompt if message.role == "user"),
        response=turn.text,
        tool_calls=call_results(turn),
        at=ended.opened_at,
        duration_s=max(0.0, took.total_seconds()),
        outcome=turn.outcome or Outcome.FAILED,
        reason=turn.reason,
        usage=turn.usage,
    )
