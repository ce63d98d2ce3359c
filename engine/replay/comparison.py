"""Compare: two histories side by side, aligned, with the first difference and counts.

What is compared is what happened: events and states, without times, measurements, hashes, and names that a run draws
for itself (calls, requests), which are replaced by what they stand for; nor in which order calls that ran side by side
came to their ends. Turns are aligned first;
turns that differ are aligned record by record. May import core and errors. Must never write anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from pydantic import JsonValue

from ..core.arguments import json_text
from ..core.effects import AskUser
from ..core.events import ModelReplied, PromptReceived
from ..core.record import TransitionRecord
from ..core.values import JsonObject, ToolCall
from ..errors import ReplayError

_MEASURED = frozenset({
    "binding", "blob", "cost_pico", "due_at", "duration_s", "expires_at", "jitter", "not_before", "patch", "resources",
    "retry_after_s", "started_at", "usage", "waited_s",
})  # fmt: skip
"""Fields that differ between two runs of the same thing."""

_NAMES = frozenset({"call_id", "grant", "grant_id", "id", "request_id", "tool_call_id"})
_VERBATIM = frozenset({"arguments", "metadata", "settings"})
"""Fields whose own keys mean nothing here."""

_LARGEST_BLOCK = 4_000_000
"""Up to how many pairs of records a stretch of different turns is aligned as a whole; beyond that, turn by turn."""

_SHOWN_CHARS = 160

PairKind: TypeAlias = Literal["changed", "only_left", "only_right"]


class Pair(NamedTuple):
    """Two records that stand beside each other and differ, or one that stands alone."""

    kind: PairKind
    left: TransitionRecord | None
    right: TransitionRecord | None

    def __str__(self) -> str:
        return " | ".join("-" if record is None else _told(record) for record in (self.left, self.right))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two histories have in common, and what not.

    Attributes:
        left: the session of the first.
        right: the session of the second.
        same: how many records say the same in both.
        differences: the others, aligned, in their order.
    """

    left: str
    right: str
    same: int
    differences: tuple[Pair, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the same happened in both."""
        return not self.differences

    @property
    def first(self) -> Pair | None:
        """The first difference."""
        return self.differences[0] if self.differences else None

    def count(self, kind: PairKind) -> int:
        """Return how many differences are of a kind."""
        return sum(pair.kind == kind for pair in self.differences)

    def lines(self) -> Iterator[str]:
        """Yield the comparison as text."""
        for pair in self.differences:
            yield f"{pair.kind}: {pair}"
        counts = ", ".join(f"{self.count(kind)} {kind.replace('_', ' ')}" for kind in _KINDS)
        yield f"{self.left} and {self.right}: {self.same:,} the same, {counts}"

    def as_json(self) -> JsonObject:
        """Return the comparison as JSON."""
        return {
            "left": self.left, "right": self.right, "same": self.same, "differ": not self.ok,
            **{kind: self.count(kind) for kind in _KINDS},
            "differences": [
                {
                    "kind": pair.kind,
                    "left": None if pair.left is None else pair.left.seq,
                    "right": None if pair.right is None else pair.right.seq,
                    "text": str(pair),
                }
                for pair in self.differences
            ],
        }  # fmt: skip


_KINDS: tuple[PairKind, ...] = ("changed", "only_left", "only_right")


def compare(left: Iterable[TransitionRecord], right: Iterable[TransitionRecord]) -> Comparison:
    """Return what two histories have in common and what not.

    Args:
        left: the whole history of one session, from sequence 1; it is not verified.
        right: another one's.

    Raises:
        ReplayError: one of them is empty.
    """
    one, other = list(left), list(right)
    if not one or not other:
        raise ReplayError("an empty history cannot be compared: give the records of one session, from sequence 1")
    here, there = _turns(one), _turns(other)
    same = 0
    pairs: list[Pair] = []
    for tag, a, b, c, d in _blocks([turn.said for turn in here], [turn.said for turn in there]):
        if tag == "equal":
            same += sum(len(turn.records) for turn in here[a:b])
        elif _records(here[a:b]) * _records(there[c:d]) <= _LARGEST_BLOCK:
            same += _align(_joined(here[a:b]), _joined(there[c:d]), pairs)
        else:
            for index in range(max(b - a, d - c)):
                same += _align(_joined(here[a:b][index : index + 1]), _joined(there[c:d][index : index + 1]), pairs)
    return Comparison(one[-1].session, other[-1].session, same, tuple(pairs))


class _Turn(NamedTuple):
    """The records of one turn, and what each says."""

    records: tuple[TransitionRecord, ...]
    said: tuple[str, ...]


def _turns(records: Sequence[TransitionRecord]) -> list[_Turn]:
    names = _Names()
    turns: list[tuple[list[TransitionRecord], list[str]]] = []
    for record in records:
        if record.trigger == "prompt_received" or not turns:
            turns.append(([], []))
        turns[-1][0].append(record)
        turns[-1][1].append(names.said(record))
    return [_in_order(held, said) for held, said in turns]


def _in_order(records: Sequence[TransitionRecord], said: Sequence[str]) -> _Turn:
    """Return a turn in which the ends of calls that ran side by side stand in one order, whichever they came in."""
    ordered: list[tuple[TransitionRecord, str]] = []
    for ended, group in groupby(zip(records, said, strict=True), lambda entry: entry[0].trigger == "tool_finished"):
        entries = list(group)
        ordered += sorted(entries, key=lambda entry: entry[1]) if ended else entries
    return _Turn(tuple(record for record, _ in ordered), tuple(text for _, text in ordered))


def _joined(turns: Sequence[_Turn]) -> _Turn:
    return _Turn(sum((turn.records for turn in turns), ()), sum((turn.said for turn in turns), ()))


def _records(turns: Sequence[_Turn]) -> int:
    return sum(len(turn.records) for turn in turns)


def _align(left: _Turn, right: _Turn, pairs: list[Pair]) -> int:
    """Align the records of two stretches; add what differs, return how many do not."""
    same = 0
    for tag, a, b, c, d in _blocks(left.said, right.said):
        if tag == "equal":
            same += b - a
        else:
            pairs += _beside(left.records[a:b], right.records[c:d])
    return same


def _beside(left: Sequence[TransitionRecord], right: Sequence[TransitionRecord]) -> Iterator[Pair]:
    """Put records of the same kind beside each other."""
    for tag, a, b, c, d in _blocks([record.trigger for record in left], [record.trigger for record in right]):
        if tag == "equal":
            yield from (Pair("changed", one, other) for one, other in zip(left[a:b], right[c:d], strict=True))
        else:
            yield from (Pair("only_left", record, None) for record in left[a:b])
            yield from (Pair("only_right", None, record) for record in right[c:d])


def _blocks(left: Sequence[object], right: Sequence[object]) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield how two sequences align, their common beginning and end first put aside: most differ in the middle."""
    start, shorter = 0, min(len(left), len(right))
    while start < shorter and left[start] == right[start]:
        start += 1
    end = 0
    while end < shorter - start and left[-1 - end] == right[-1 - end]:
        end += 1
    if start:
        yield "equal", 0, start, 0, start
    inner = SequenceMatcher(None, left[start : len(left) - end], right[start : len(right) - end], autojunk=False)
    for tag, a, b, c, d in inner.get_opcodes():
        yield tag, a + start, b + start, c + start, d + start
    if end:
        yield "equal", len(left) - end, len(left), len(right) - end, len(right)


class _Names:
    """Replaces the names that a run draws for itself by what they stand for."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def said(self, record: TransitionRecord) -> str:
        """Return what a record says, as a text that another run's record can equal."""
        event = record.event
        calls: Sequence[ToolCall] = ()
        if isinstance(event, ModelReplied):
            calls = event.reply.tool_calls
        elif isinstance(event, PromptReceived):
            calls = event.direct_calls
        for call in calls:
            self._known[call.id] = f"{call.name}({call.arguments_text or json_text(call.arguments)})"
        plain = self._plain(event.model_dump(mode="json", exclude_defaults=True, exclude={"kind"}))
        for effect in record.effects:
            if isinstance(effect, AskUser):
                request = effect.request
                self._known[request.id] = f"{request.kind} of {self._known.get(request.call_id)}"
        # Which of several calls ended last is chance, and the last moves the state.
        states = [] if record.trigger == "tool_finished" else [record.source.value, record.dest.value]
        return json_text([record.trigger, *states, plain])

    def _plain(self, value: JsonValue) -> JsonValue:
        if isinstance(value, dict):
            return {name: self._field(name, item) for name, item in value.items() if name not in _MEASURED}
        return [self._plain(item) for item in value] if isinstance(value, list) else value

    def _field(self, name: str, item: JsonValue) -> JsonValue:
        if name in _NAMES and isinstance(item, str):
            return self._known.get(item, item)
        return item if name in _VERBATIM else self._plain(item)


def _told(record: TransitionRecord) -> str:
    said = json_text(record.event.model_dump(mode="json", exclude_defaults=True, exclude={"kind"}))
    shown = said if len(said) <= _SHOWN_CHARS else said[:_SHOWN_CHARS] + "…"
    return f"{record.seq} {record.trigger} → {record.dest.value} {shown}"


__all__ = ["Comparison", "Pair", "PairKind", "compare"]
