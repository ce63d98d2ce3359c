"""A run for other programs: Chrome's trace format for Perfetto and speedscope, Mermaid diagrams, and plain text.

The trace format is that of "Trace Event Format" (Google, 2016): complete events in µs, a thread for the session's
states and one for each lane of tools. May import core and its neighbours. Must never read a journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..core.effects import AskUser, CallModel, RunTool
from ..core.events import (
    Faulted,
    ModelReplied,
    PromptReceived,
    Recovered,
    RecoveryFailed,
    Resumed,
    ShutdownRequested,
    ToolFinished,
    ToolRetried,
    TurnCancelled,
    UserAnswered,
)
from ..core.record import TransitionRecord
from ..core.table import ROWS
from ..core.values import JsonObject, State
from .filtering import filtered
from .spans import spans_of
from .wording import Told

_SESSION_THREAD = 1
_LONGEST_LABEL = 80


def trace(records: Sequence[TransitionRecord]) -> JsonObject:
    """Return a history in Chrome's trace format: turns with the states in them, and lanes of tools.

    Args:
        records: the history of one session, from sequence 1.
    """
    spans = spans_of(records)
    lanes = 1 + max((run.lane for run in spans.runs), default=-1)
    threads = ["session", *(f"tools {lane + 1}" for lane in range(lanes))]
    events: list[Any] = [_named("process_name", 0, records[0].session if records else "")]
    events += [_named("thread_name", _SESSION_THREAD + place, name) for place, name in enumerate(threads)]
    for kind, found in (("turn", spans.turns), ("state", spans.states)):
        events += [
            _complete(span.name, kind, _SESSION_THREAD, (span.start_us, span.end_us))
            for span in found
            if span.end_us > span.start_us
        ]
    for run in spans.runs:
        event = _complete(run.call.tool, run.mark.value, _SESSION_THREAD + 1 + run.lane, (run.start_us, run.end_us))
        events.append({**event, "args": {"call": run.call.words, "status": run.status.value, "seq": run.seq}})
    for record, at_us in zip(records, spans.times_us, strict=True):
        if record.dest is State.ERROR and record.source is not State.ERROR:
            events.append(
                {
                    "name": record.trigger, "cat": "problem", "ph": "i", "ts": at_us, "pid": 1, "tid": _SESSION_THREAD,
                    "s": "t", "args": {"seq": record.seq},
                }
            )  # fmt: skip
    return {"displayTimeUnit": "ms", "traceEvents": events}


def sequence(records: Iterable[TransitionRecord], wanted: str = "") -> str:
    """Return a history as a Mermaid sequence diagram.

    Args:
        records: the history of one session, from sequence 1.
        wanted: a filter: only records that it leaves are drawn.
    """
    cast = _Cast()
    lines = [line for record, told in filtered(records, wanted) for line in cast.says(record, told)]
    return "\n".join(["sequenceDiagram", *cast.introduced(), *lines]) + "\n"


class _Cast:
    """Who takes part in a sequence: user, session, model, and each tool from its first appearance."""

    def __init__(self) -> None:
        self._called: dict[str, str] = {}
        self._tools: dict[str, str] = {}

    def introduced(self) -> Iterator[str]:
        """Yield everybody with the name they go by."""
        for short, name in {"u": "user", "s": "session", "m": "model"}.items():
            yield f"  participant {short} as {name}"
        for name, short in self._tools.items():
            yield f"  participant {short} as {_label(name)}"

    def says(self, record: TransitionRecord, told: Told) -> Iterator[str]:
        """Yield what a record says, who says it and to whom, and what it asks for."""
        event, words = record.event, _label(told.words)
        if isinstance(event, PromptReceived):
            self._called |= {call.id: call.name for call in event.direct_calls}
            yield f"  u->>s: {words}"
        elif isinstance(event, ModelReplied):
            self._called |= {call.id: call.name for call in event.reply.tool_calls}
            yield f"  m-->>s: {words}"
        elif isinstance(event, ToolFinished | ToolRetried):
            yield f"  {self._tool(event.call_id)}-->>s: {event.status.value.replace('_', ' ')}"
        elif isinstance(event, UserAnswered):
            yield f"  u->>s: {words}"
        elif isinstance(event, Faulted | Recovered | Resumed | TurnCancelled | ShutdownRequested | RecoveryFailed):
            yield f"  Note over s: {_label(event.kind.replace('_', ' '))} {words}".rstrip()
        for effect in record.effects:
            if isinstance(effect, CallModel):
                yield f"  s->>m: round {effect.round}"
            elif isinstance(effect, RunTool):
                yield f"  s->>{self._tool(effect.call_id)}: {_label(self._name(effect.call_id))}"
            elif isinstance(effect, AskUser):
                yield f"  s->>u: {_label(effect.request.text)}"

    def _name(self, call_id: str) -> str:
        return self._called.get(call_id, call_id)

    def _tool(self, call_id: str) -> str:
        return self._tools.setdefault(self._name(call_id), f"t{len(self._tools)}")


def states(records: Iterable[TransitionRecord]) -> str:
    """Return the state machine as a Mermaid diagram, with how often this history made each move.

    Moves that it never made are drawn without a number; records that stay in a state are not drawn.
    """
    counts = Counter((record.source, record.dest) for record in records)
    possible = {
        (source, row.dest): None
        for row in ROWS
        for source in row.sources
        if row.dest is not None and row.dest != source
    }
    moves = list(possible) + [move for move in counts if move not in possible and move[0] is not move[1]]
    lines = ["stateDiagram-v2", "  direction LR", "  [*] --> idle"]
    for move in moves:
        lines.append(f"  {move[0]} --> {move[1]}" + (f": {counts[move]}" if counts[move] else ""))
    return "\n".join(lines) + "\n"


def text(records: Iterable[TransitionRecord], wanted: str = "") -> Iterator[str]:
    """Iterate over a history as lines: sequence, time of day, move, event, words; turns apart.

    Args:
        records: the history of one session, from sequence 1.
        wanted: a filter: only records that it leaves are given.
    """
    turn = 0
    for record, told in filtered(records, wanted):
        if told.turn != turn:
            turn = told.turn
            yield f"turn {turn}" if turn else "between turns"
        stays = record.source is record.dest
        move = record.dest.value if stays else f"{record.source.value} → {record.dest.value}"
        yield f"{record.seq:>6}  {record.at[11:23]}  {move:<42}  {record.trigger:<18}  {told.words}".rstrip()


def _named(what: str, thread: int, name: str) -> JsonObject:
    return {"name": what, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}


def _complete(name: str, category: str, thread: int, span: tuple[int, int]) -> JsonObject:
    start, end = span
    return {
        "name": name, "cat": category, "ph": "X", "ts": start, "dur": end - start, "pid": 1, "tid": thread,
    }  # fmt: skip


def _label(text: str) -> str:
    """Return a text that Mermaid takes for nothing but a text: everything it could act on as an entity."""
    shown = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return "".join(char if char.isalnum() or char in " .,!?'()=_-/…" else f"#{ord(char)};" for char in shown)


__all__ = ["sequence", "states", "text", "trace"]
