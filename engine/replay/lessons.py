"""What a history teaches a predictor: the calls that ran, in the order they were asked for, and the ends of turns.

A `Follower` reads the records of one session and gives lessons; `teach` tells them to a predictor. The live observer
and the commands on journals use the same two, so that replaying a history teaches exactly what watching it taught. A
lesson's situation says only what was known before the call was. May import core and predict. Must never do I/O.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..core.arguments import parse_json
from ..core.events import ModelReplied, PromptReceived, ToolFinished
from ..core.record import TransitionRecord
from ..core.session import NO_METADATA, Session
from ..core.values import State, ToolCall, ToolStatus
from ..predict import END, START, Execution, Predictor, Situation

RESERVED = frozenset({END, START})
"""Names that mean something else to a predictor. A tool that is called so is passed over: it must not end a turn."""

_OPEN = frozenset({State.EXECUTING_TOOLS, State.WAITING_FOR_USER})
_NOT_IN_TURN = frozenset({State.IDLE, State.SHUTDOWN})
_OK = {ToolStatus.COMPLETED: True, ToolStatus.CANCELLED: None, ToolStatus.UNKNOWN: None}


class Lesson(NamedTuple):
    """A call and how it ended; or, with the tool `END`, that the turn is over.

    `ok` is None where it is not known, as for a call that was cut off. `duration_s` and `memory_bytes` are None where
    none was recorded.
    """

    tool: str
    situation: Situation
    ok: bool | None = None
    arguments: Mapping[str, object] = NO_METADATA
    duration_s: float | None = None
    content: str = ""
    memory_bytes: int | None = None


class _Asked(NamedTuple):
    """A call that was asked for: in which round, and whether the reply that asked for it began with text."""

    call: ToolCall
    round: int
    after_text: bool | None


class Follower:
    """Reads one session, record by record.

    Calls that ran side by side are taught in the order they were asked for, whichever ended first: a call waits here
    for those before it until they have ended or their batch is settled. Calls that were refused never run and teach
    nothing.

    Args:
        session: where the session stands, if it is not followed from its beginning.
    """

    def __init__(self, session: Session | None = None) -> None:
        self._round = 0
        self._asked: dict[str, _Asked] = {}
        self._ends: dict[str, ToolFinished] = {}
        self._situation = Situation(State.PROCESSING)
        turn = None if session is None else session.turn
        if turn is not None:
            self._round = turn.round
            self._ask([call.call for call in turn.batch.calls if not call.status.terminal] if turn.batch else (), None)

    @property
    def situation(self) -> Situation:
        """What is known about the next decision: a fault since the last call, the last round, how its reply began."""
        return self._situation

    def take(self, record: TransitionRecord) -> list[Lesson]:
        """Return what a record teaches."""
        event, dest = record.event, record.dest
        lessons: list[Lesson] = []
        if isinstance(event, ToolFinished):
            self._ends[event.call_id] = event
            lessons = self._told(settled=False)
        elif isinstance(event, ModelReplied):
            lessons = self._told(settled=True)
            self._round += 1
            self._ask(event.reply.tool_calls, bool(event.reply.text))
        elif isinstance(event, PromptReceived):
            self._round = 0
            self._ask(event.direct_calls, None)
        if record.source in _OPEN and dest is State.PROCESSING:
            lessons += self._told(settled=True)
        elif dest is State.ERROR:
            self._situation = self._situation._replace(state=State.ERROR)
        elif record.source not in _NOT_IN_TURN and (dest is State.IDLE or record.trigger == "recovery_failed"):
            lessons += self._told(settled=True)
            lessons.append(Lesson(END, self._situation))
            self._situation = Situation(State.PROCESSING)
        return lessons

    def _ask(self, calls: Sequence[ToolCall], after_text: bool | None) -> None:
        self._asked = {call.id: _Asked(call, self._round, after_text) for call in calls}
        self._ends = {}

    def _told(self, *, settled: bool) -> list[Lesson]:
        """Return the calls that have ended and wait for no earlier one; of a settled batch all that have ended."""
        lessons: list[Lesson] = []
        while self._asked:
            call_id, asked = next(iter(self._asked.items()))
            end = self._ends.get(call_id)
            if end is None and not settled:
                break
            del self._asked[call_id]
            if end is not None and asked.call.name not in RESERVED:
                lessons.append(_lesson(asked.call, end, self._situation))
                self._situation = Situation(State.PROCESSING, asked.round, asked.after_text)
        return lessons


def teach(predictor: Predictor, key: Hashable, lesson: Lesson) -> None:
    """Tell a predictor one lesson of the session `key`."""
    if lesson.tool == END:
        predictor.end_turn(key, situation=lesson.situation)
        return
    predictor.update(key, lesson.tool, lesson.ok, lesson.arguments, situation=lesson.situation)
    result = _result(lesson.content) if predictor.settings.arguments else None
    predictor.record(key, lesson.tool, Execution(lesson.ok, lesson.duration_s, lesson.memory_bytes, result))


def learn(predictor: Predictor, key: Hashable, records: Iterable[TransitionRecord]) -> int:
    """Teach a predictor a whole history, and that its session is over.

    Args:
        predictor: who learns.
        key: what to call the session.
        records: its history, from sequence 1; it is not verified.

    Returns:
        How many lessons it held.
    """
    follower = Follower()
    count = 0
    for record in records:
        for lesson in follower.take(record):
            teach(predictor, key, lesson)
            count += 1
    predictor.forget(key)
    return count


def _lesson(call: ToolCall, end: ToolFinished, situation: Situation) -> Lesson:
    ok = _OK.get(end.status, False)
    memory_bytes = None if end.resources is None else end.resources.peak_memory_bytes
    return Lesson(call.name, situation, ok, call.arguments, end.duration_s or None, end.content, memory_bytes)


def _result(content: str) -> object:
    try:
        return parse_json(content)
    except ValueError:
        return content


__all__ = ["RESERVED", "Follower", "Lesson", "learn", "teach"]
