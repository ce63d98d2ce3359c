"""Records as lines that a person can follow: sequence, states, trigger, and what it was about.

May import core and terminal. Must never read a journal: it is told the records.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from ..core.events import (
    LateResult,
    ModelReplied,
    PromptReceived,
    Resumed,
    ToolFinished,
    ToolRetried,
    ToolStarted,
)
from ..core.notices import Notice
from ..core.record import TransitionRecord
from ..core.values import PlannedCall, State, ToolCall, ToolStatus
from ..inspect.wording import remark
from .terminal import Screen, clip

_WIDE = 110
"""From this width on, the state that was left is shown beside the one that was entered."""

_STATE_STYLES: dict[State, tuple[str, ...]] = {
    State.IDLE: ("green",), State.PROCESSING: ("blue",), State.GENERATING_RESPONSE: ("magenta",),
    State.EXECUTING_TOOLS: ("cyan",), State.WAITING_FOR_USER: ("yellow",), State.ERROR: ("red",),
    State.SHUTDOWN: ("dim",),
}  # fmt: skip

_STATE_WIDTH = max(len(state.value) for state in State)
_TRIGGER_WIDTH = len("shutdown_requested")
_BAR_CELLS = 24


def shown_call(call: ToolCall) -> str:
    """Return a call as one would write it."""
    inside = ", ".join(f"{name}={_literal(value)}" for name, value in call.arguments.items())
    return f"{call.name}({call.arguments_text if call.arguments_text and not call.arguments else inside})"


def _decided(plan: PlannedCall) -> str:
    """Return what was decided about a call, where it is not simply run."""
    if plan.decision == "ask":
        return ": a person is asked"
    if plan.decision in ("refuse", "halt"):
        return f": refused, {plan.refusal}"
    return "" if plan.note is None else ", with a note to the model"


def _literal(value: JsonValue) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


class Storyteller:
    """Prints each record of a session as it becomes durable. An observer; also usable on a history.

    Args:
        screen: where to.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._calls: dict[str, ToolCall] = {}
        self._ends: list[tuple[str, float, float]] = []
        self._open: set[str] = set()

    def on_record(self, record: TransitionRecord) -> None:
        """Print one record: a line, and one more for each further call that it asks for."""
        details = self._details(record)
        head = self._head(record)
        self._screen.line(f"{head}{self._cut(details[0])}".rstrip())
        blank = " " * self._head_width()
        for detail in details[1:]:
            self._screen.line(f"{blank}{self._cut(detail)}")
        if isinstance(record.event, ToolFinished):
            self._note_end(record, record.event)

    def listen(self, record: TransitionRecord) -> None:
        """Remember what a record is about without printing it."""
        self._details(record)

    def on_notice(self, session: str, notice: Notice) -> None:
        """Show nothing: what is volatile is not part of the story."""

    def _head_width(self) -> int:
        states = 2 * _STATE_WIDTH + 3 if self._screen.width >= _WIDE else _STATE_WIDTH + 2
        return 4 + 2 + states + 2 + _TRIGGER_WIDTH + 2

    def _head(self, record: TransitionRecord) -> str:
        paint = self._screen.paint
        source = paint(f"{record.source.value:>{_STATE_WIDTH}}", "dim")
        dest = f"{record.dest.value:<{_STATE_WIDTH}}"
        if record.source is record.dest:
            states, left = paint(f"· {dest}", "dim"), paint(" " * _STATE_WIDTH, "dim")
        else:
            states, left = f"→ {paint(dest, *_STATE_STYLES[record.dest])}", source
        before = f"{left} " if self._screen.width >= _WIDE else ""
        return f"{paint(f'{record.seq:>4}', 'dim')}  {before}{states}  {record.trigger:<{_TRIGGER_WIDTH}}  "

    def _cut(self, text: str) -> str:
        return clip(text, max(12, self._screen.width - self._head_width() - 1))

    def _details(self, record: TransitionRecord) -> list[str]:
        event = record.event
        match event:
            case PromptReceived():
                self._remember(event.direct_calls)
                words = next((message.text for message in reversed(event.messages) if message.role == "user"), None)
                return [f"“{words}”" if words else "", *(shown_call(call) for call in event.direct_calls)]
            case ModelReplied():
                return self._reply(event)
            case ToolStarted():
                return [f"{self._name(event.call_id)}: intent recorded"]
            case ToolFinished():
                return [self._finish(event)]
            case ToolRetried():
                return [f"{self._called(event.call_id)} = {event.status.value}, once more: {event.content}"]
            case LateResult():
                return [f"{self._name(event.call_id)} has ended after it was given up; its result is ignored"]
            case Resumed():
                verdicts = {True: "its probe says that it did happen", False: "its probe says that it did not happen"}
                return [f"{self._name(probe.call_id)}: {verdicts[probe.happened]}" for probe in event.probes] or [""]
            case _:
                return [remark(event)]

    def _reply(self, event: ModelReplied) -> list[str]:
        calls = event.reply.tool_calls
        self._remember(calls)
        if not calls:
            return [f"“{event.reply.text or ''}”"]
        self._ends, self._open = [], {call.id for call in calls}
        shown = [shown_call(call) + _decided(plan) for call, plan in zip(calls, event.plans, strict=True)]
        if len(calls) == 1:
            return shown
        marks = ["┬", *"├" * (len(calls) - 2), "└"]
        return [f"{mark} {call}" for mark, call in zip(marks, shown, strict=True)]

    def _finish(self, event: ToolFinished) -> str:
        status = "" if event.status is ToolStatus.COMPLETED else f"{event.status.value}: "
        return f"{self._called(event.call_id)} = {status}{event.content}"

    def _remember(self, calls: Sequence[ToolCall]) -> None:
        self._calls |= {call.id: call for call in calls}

    def _called(self, call_id: str) -> str:
        call = self._calls.get(call_id)
        return call_id if call is None else shown_call(call)

    def _name(self, call_id: str) -> str:
        call = self._calls.get(call_id)
        return call_id if call is None else call.name

    def _note_end(self, record: TransitionRecord, event: ToolFinished) -> None:
        """Collect the ends of a batch, and draw them side by side when two or more ran at a time."""
        end_s = record.mono_ns / 1e9
        self._ends.append((self._called(event.call_id), end_s - event.duration_s, end_s))
        self._open.discard(event.call_id)
        if self._open or len(self._ends) < 2:
            return
        first, last = min(start for _, start, _ in self._ends), max(end for _, _, end in self._ends)
        alone_s = sum(end - start for _, start, end in self._ends)
        if last - first >= alone_s:
            return
        width = min(40, max(len(name) for name, _, _ in self._ends))
        for name, start, end in self._ends:
            self._screen.line(
                f"      {clip(name, width):<{width}}  {self._bar(start - first, end - first, last - first)}"
            )
        self._screen.line(f"      in parallel: {last - first:.2f} s instead of {alone_s:.2f} s")

    def _bar(self, start: float, end: float, span: float) -> str:
        left = round(start / span * _BAR_CELLS)
        right = max(left + 1, round(end / span * _BAR_CELLS))
        bar = " " * left + "█" * (right - left) + " " * (_BAR_CELLS - right)
        return f"{self._screen.paint(bar, 'cyan')}  {end - start:.2f} s"
