"""What a record is about in one line, which call it is about, and how it went: the words of every view of a run.

A `Reader` goes through a history once and tells each record as a `Told`. May import core. Must never read a journal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, assert_never

from ..core.events import (
    HISTORY_PRUNED,
    BudgetLent,
    BudgetSettled,
    ContextCompacted,
    ContextPrepared,
    Faulted,
    GrantRevoked,
    KnownEvent,
    LateResult,
    ModelReplied,
    PromptReceived,
    RecordsRewritten,
    Recovered,
    RecoveryFailed,
    RecoveryNeedsUser,
    RecoveryPlanned,
    Resumed,
    SessionForked,
    SessionOpened,
    ShutdownRequested,
    ToolFinished,
    ToolRetried,
    ToolStarted,
    TurnCancelled,
    UnknownEvent,
    UserAnswered,
)
from ..core.record import TransitionRecord
from ..core.values import State, ToolCall, ToolStatus

LONGEST = 200
"""How many characters of a record's words are kept; the whole stands in the record itself."""


class Mark(StrEnum):
    """How what a record tells went."""

    PLAIN = "plain"
    DONE = "done"
    PROBLEM = "problem"
    WAITS = "waits"
    CUT = "cut"


_OF_STATUS = {
    ToolStatus.COMPLETED: Mark.DONE, ToolStatus.CANCELLED: Mark.CUT, ToolStatus.DENIED: Mark.CUT,
    ToolStatus.QUEUED: Mark.PLAIN, ToolStatus.RUNNING: Mark.PLAIN,
}  # fmt: skip

_LATE = "has ended after it was given up; its result is ignored"


class Asked(NamedTuple):
    """A call that was asked for: by which record, in which turn, and how one would write it."""

    id: str
    tool: str
    words: str
    turn: int
    seq: int


class Told(NamedTuple):
    """What a record tells: its turn (0 outside of turns), the place of its call among all calls (-1: none), its words.

    `duration_s` is what a call or a run of it took, `status` how that ended.
    """

    turn: int
    call: int
    mark: Mark
    words: str
    status: ToolStatus | None = None
    duration_s: float = 0.0


class Reader:
    """Goes through one history.

    Attributes:
        calls: every call that was asked for so far, in order.
    """

    def __init__(self) -> None:
        self.calls: list[Asked] = []
        self._turn = 0
        self._open: dict[str, int] = {}
        self._requests: dict[str, str] = {}

    def tell(self, record: TransitionRecord) -> Told:
        """Return what the next record tells."""
        event = record.event
        if isinstance(event, PromptReceived):
            self._turn += 1
            self._ask(event.direct_calls, record.seq)
        elif isinstance(event, ModelReplied):
            self._ask(event.reply.tool_calls, record.seq)
        for effect in record.effects:
            if effect.kind == "ask_user":
                self._requests[effect.request.id] = effect.request.call_id
        inside = record.source not in (State.IDLE, State.SHUTDOWN) or record.dest not in (State.IDLE, State.SHUTDOWN)
        call = self._call_of(event)
        told = Told(self._turn if inside else 0, call, self._mark(record), _one_line(self._words(event, call)))
        if isinstance(event, ToolFinished | ToolRetried):
            told = told._replace(status=event.status, duration_s=event.duration_s)
        return told

    def _ask(self, calls: Sequence[ToolCall], seq: int) -> None:
        for call in calls:
            self._open[call.id] = len(self.calls)
            self.calls.append(Asked(call.id, call.name, _one_line(written(call)), self._turn, seq))

    def _call_of(self, event: KnownEvent | UnknownEvent) -> int:
        if isinstance(event, ToolStarted | ToolFinished | ToolRetried | LateResult):
            return self._open.get(event.call_id, -1)
        if isinstance(event, UserAnswered):
            return self._open.get(self._requests.get(event.request_id, ""), -1)
        return -1

    def _mark(self, record: TransitionRecord) -> Mark:
        event = record.event
        if isinstance(event, ToolFinished | ToolRetried):
            return _OF_STATUS.get(event.status, Mark.PROBLEM)
        if isinstance(event, TurnCancelled):
            return Mark.CUT
        unknown = isinstance(event, UnknownEvent) and event.kind != HISTORY_PRUNED
        if record.dest is State.ERROR or unknown or event.kind == "recovery_failed":
            return Mark.PROBLEM
        if record.dest is State.WAITING_FOR_USER:
            return Mark.WAITS
        ends = record.dest is State.IDLE and record.source not in (State.IDLE, State.SHUTDOWN)
        return Mark.DONE if ends else Mark.PLAIN

    def _words(self, event: KnownEvent | UnknownEvent, call: int) -> str:
        name = self.calls[call].tool if call >= 0 else ""
        match event:
            case PromptReceived():
                return _of_prompt(event)
            case ModelReplied():
                return "  ".join([event.reply.text or "", *map(written, event.reply.tool_calls)]).strip()
            case ToolStarted():
                return f"{name}: intent recorded"
            case ToolFinished():
                return f"{name}: {event.content}"
            case ToolRetried():
                return f"{name}: once more after {event.content}"
            case LateResult():
                return f"{name} {_LATE}"
            case UserAnswered():
                return f"{name}: {_of_answer(event)}" if name else _of_answer(event)
            case _:
                return remark(event)


def written(call: ToolCall) -> str:
    """Return a call as one would write it."""
    if call.arguments_text and not call.arguments:
        return f"{call.name}({call.arguments_text})"
    inside = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    return f"{call.name}({inside})"


def _of_prompt(event: PromptReceived) -> str:
    text = next((message.text for message in reversed(event.messages) if message.role == "user"), None)
    return "  ".join([text or "", *map(written, event.direct_calls)]).strip()


def _of_answer(event: UserAnswered) -> str:
    said = "nobody answered in time" if event.overdue else "yes" if event.approve else "no"
    return f"{said}, {event.text}" if event.text else said


Remarkable = (
    SessionOpened | SessionForked | ContextPrepared | ContextCompacted | UserAnswered | GrantRevoked | BudgetLent
    | BudgetSettled | Faulted | RecoveryPlanned | Recovered | RecoveryNeedsUser | RecoveryFailed | TurnCancelled
    | Resumed | RecordsRewritten | ShutdownRequested | UnknownEvent
)  # fmt: skip
"""What is neither about the conversation nor about a call of a tool."""


def remark(event: Remarkable) -> str:
    """Return what there is to say about an event beside its kind; nothing about many."""
    match event:
        case Faulted():
            return f"{event.fault.kind}: {event.fault.message}"
        case RecoveryPlanned():
            return f"a handler decided: {event.plan.action.replace('_', ' ')}"
        case UserAnswered():
            return _of_answer(event)
        case GrantRevoked():
            return event.grant_id
        case SessionForked() | RecordsRewritten() | BudgetLent() | BudgetSettled():
            return _beyond_the_turn(event)
        case TurnCancelled() | ShutdownRequested():
            return event.reason
        case ContextPrepared() | ContextCompacted() | Recovered() | Resumed():
            return _way_on(event)
        case SessionOpened():
            return event.user or ""
        case RecoveryNeedsUser() | RecoveryFailed():
            return ""
        case UnknownEvent():
            return "pruned up to here" if event.kind == HISTORY_PRUNED else "an event of a newer release"
        case _:
            assert_never(event)


def _way_on(event: ContextPrepared | ContextCompacted | Recovered | Resumed) -> str:
    if isinstance(event, ContextCompacted):
        return _of_compaction(event)
    if isinstance(event, ContextPrepared):
        return f"{len(event.messages)} messages added" if event.messages else ""
    if isinstance(event, Recovered):
        return f"after {event.waited_s:.2f} s" if event.waited_s else ""
    return f"{len(event.probes)} calls probed" if event.probes else ""


def _of_compaction(event: ContextCompacted) -> str:
    if not event.text:
        return f"nothing left out: {event.reason}"
    how = "the record's facts alone" if event.fault is not None else "a summary"
    tokens = f"{event.tokens_before:,} to {event.tokens_after:,} tokens"
    return f"{tokens}: {how} before the newest {event.keeps} messages"


def _beyond_the_turn(event: SessionForked | RecordsRewritten | BudgetLent | BudgetSettled) -> str:
    match event:
        case SessionForked():
            return f"{event.session} from {event.parent}"
        case RecordsRewritten():
            places = ", ".join(str(record.seq) for record in event.records)
            return f"{event.action}: {places}{f', {event.reason}' if event.reason else ''}"
        case BudgetLent():
            return f"to {event.child}"
        case BudgetSettled():
            return f"{event.spent.tokens} tokens and {event.spent.tool_calls} tool calls were used of a loan"


def _one_line(text: str) -> str:
    line = " ".join(text[: 2 * LONGEST].split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


__all__ = ["LONGEST", "Asked", "Mark", "Reader", "Remarkable", "Told", "remark", "written"]
