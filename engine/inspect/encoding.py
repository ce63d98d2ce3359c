"""A history as the inspector's page reads it: columns and lines of text, in chunks that can follow one another.

What every row needs stands in columns of small numbers. What one selected record needs (its event, its effects, what it
changed) stands in lines of JSON text that the page parses when somebody looks. The state at a record is the nearest
whole state before it and the changes since. Every state is the pure core's own: this module folds the history and never
guesses. May import core, replay and its neighbours. Must never do I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from json import JSONDecoder
from typing import Any

from ..core.events import ModelReplied
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.table import ROWS
from ..core.values import JsonObject, Message, State, ToolStatus
from ..errors import ReplayError
from ..replay.folding import states
from .guessing import Guesser
from .viewing import References, changes
from .wording import Mark, Reader, Told

FORMAT = 1
"""Version of what the page is given; page and encoder come from one release, so it only names it."""

KEYFRAME = 512
"""So many records lie between two whole states: reaching any record applies at most as many changes."""

_ESCAPE = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|u([0-9a-f]{4})|.)")
"""Any escape of a JSON text: a pair of surrogates, one code unit, or a letter."""

_DECODER = JSONDecoder()
_STATES = {state: place for place, state in enumerate(State)}
_MARKS = {mark: place for place, mark in enumerate(Mark)}
_STATUSES = {status: place for place, status in enumerate(ToolStatus)}


def head(session: str, source: str, damage: str | None = None) -> JsonObject:
    """Return what the page has to know before any record: vocabularies, and the rows of the machine.

    Args:
        session: the id of the session.
        source: what to call the journal.
        damage: why nothing after the last record could be read, if so.
    """
    return {
        "format": FORMAT, "session": session, "source": source, "damage": damage, "keyframe": KEYFRAME,
        "states": [*_STATES], "marks": [*_MARKS], "statuses": [*_STATUSES],
        "rows": [
            [row.trigger, source_state.value, (row.dest or source_state).value, row.guard.__name__ if row.guard else ""]
            for row in ROWS
            for source_state in row.sources
        ],
    }  # fmt: skip


class Encoder:
    """Encodes one history, chunk by chunk; one chunk continues where the one before stopped.

    Args:
        session: its id.

    Attributes:
        broken: why the history stopped to hold, or None. From there on records are shown without a state.
    """

    def __init__(self, session: str) -> None:
        self.broken: JsonObject | None = None
        self._session = Session(session)
        self._references = References()
        self._reader = Reader()
        self._guesser = Guesser(session)
        self._words = {"triggers": _Words(), "tools": _Words(), "paths": _Words()}
        self._calls = 0
        self._messages = 0
        self._last: TransitionRecord | None = None
        self._feed: list[TransitionRecord] = []
        self._states = states(self._drain())

    def encode(self, records: Iterable[TransitionRecord]) -> JsonObject:
        """Return the next records of the history as a chunk."""
        chunk = _Chunk()
        for record in records:
            self._add(record, chunk)
        return chunk.as_json(self)

    def _add(self, record: TransitionRecord, chunk: _Chunk) -> None:
        told = self._reader.tell(record)
        place = {name: words.place for name, words in self._words.items()}
        chunk.at.append(record.at)
        chunk.mono.append(record.mono_ns - (self._last.mono_ns if self._last else 0))
        chunk.step_us.append(elapsed_us(self._last, record))
        chunk.hashes.append(record.hash)
        chunk.trigger.append(place["triggers"](record.trigger))
        chunk.moves.append(_STATES[record.source] * len(_STATES) + _STATES[record.dest])
        chunk.add_told(told)
        chunk.events.append(stored_text(record))
        for call in self._reader.calls[self._calls :]:
            chunk.calls.append([call.id, place["tools"](call.tool), call.words, call.turn, call.seq])
        self._calls = len(self._reader.calls)
        if isinstance(record.event, ModelReplied):
            chunk.usage.append(_used(record.seq, record.event))
        chunk.guesses += self._guesser.take(record)
        self._fold(record, chunk)
        self._last = record

    def _fold(self, record: TransitionRecord, chunk: _Chunk) -> None:
        """Add the state after a record: what changed, and now and then the whole."""
        if self.broken is not None:
            return
        if record.trigger == "prompt_received":
            self._references.forget()
        self._references.note(record.event, record.seq)
        self._feed.append(record)
        try:
            session = next(self._states)
        except ReplayError as error:
            self.broken = {"seq": record.seq, "text": str(error)}
            return
        path = self._words["paths"].place
        found = [[path(str(change[0])), *change[1:]] for change in changes(self._session, session, self._references)]
        chunk.changes.append(_compact(found))
        chunk.messages += [_compact(self._references.pointed(message)) for message in self._new_messages(session)]
        if record.seq % KEYFRAME == 0:
            chunk.keyframes.append([record.seq, _compact(self._references.pointed(session))])
        self._session = session

    def _new_messages(self, session: Session) -> Sequence[Message]:
        known, self._messages = self._messages, len(session.transcript)
        return session.transcript[known:]

    def _drain(self) -> Iterable[TransitionRecord]:
        """Yield what was fed; it is asked for only when there is something."""
        while True:
            yield self._feed.pop()

    @property
    def seq(self) -> int:
        """The sequence of the last record that was encoded; 0 before the first."""
        return 0 if self._last is None else self._last.seq

    def new_words(self) -> JsonObject:
        """Return the words of each vocabulary that were not in a chunk yet."""
        return {name: [*words.new()] for name, words in self._words.items()}


class _Words:
    """A vocabulary that grows: each word has the place where it was first met."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._told = 0

    def place(self, word: str) -> int:
        return self._places.setdefault(word, len(self._places))

    def new(self) -> list[str]:
        known, self._told = self._told, len(self._places)
        return list(self._places)[known:]


class _Chunk:
    """The columns and lines of a run of records."""

    def __init__(self) -> None:
        self.at: list[str] = []
        self.mono: list[int] = []
        self.step_us: list[int] = []
        self.hashes: list[str] = []
        self.trigger: list[int] = []
        self.moves: list[int] = []
        self.turn: list[int] = []
        self.call: list[int] = []
        self.mark: list[int] = []
        self.status: list[int] = []
        self.took_us: list[int] = []
        self.words: list[str] = []
        self.events: list[str] = []
        self.changes: list[str] = []
        self.messages: list[str] = []
        self.keyframes: list[Any] = []
        self.calls: list[Any] = []
        self.usage: list[Any] = []
        self.guesses: list[Any] = []

    def add_told(self, told: Told) -> None:
        self.turn.append(told.turn)
        self.call.append(told.call)
        self.mark.append(_MARKS[told.mark])
        self.status.append(-1 if told.status is None else _STATUSES[told.status])
        self.took_us.append(round(told.duration_s * 1e6))
        self.words.append(told.words)

    def as_json(self, encoder: Encoder) -> JsonObject:
        return {
            "first": encoder.seq - len(self.at) + 1, "count": len(self.at), "at": "\n".join(self.at),
            "mono": [*self.mono], "step_us": [*self.step_us],
            "hashes": "".join(self.hashes), "trigger": [*self.trigger], "moves": [*self.moves], "turn": [*self.turn],
            "call": [*self.call], "mark": [*self.mark], "status": [*self.status], "took_us": [*self.took_us],
            "words": "\n".join(self.words), "events": "\n".join(self.events), "changes": "\n".join(self.changes),
            "messages": "\n".join(self.messages), "keyframes": self.keyframes, "calls": self.calls,
            "usage": self.usage, "guesses": self.guesses, **encoder.new_words(), "broken": encoder.broken,
        }  # fmt: skip


def stored_text(record: TransitionRecord) -> str:
    """Return a record's event and effects as they are stored, with a tab between, but for letters beyond ASCII: they
    are written as themselves. This is what a word of a filter is looked for in.
    """
    line = record.line
    start = line.index('"effects":') + len('"effects":')
    _, middle = _DECODER.raw_decode(line, start)
    end = line.rindex(f',"hash":"{record.hash}","mono_ns":')
    event = line[middle + len(',"event":') : end]
    text = f"{event}\t{line[start:middle]}"
    return _ESCAPE.sub(_unescaped, text) if "\\u" in text else text


def _unescaped(match: re.Match[str]) -> str:
    """Return the letter that an escape beyond ASCII stands for; all else, a lone surrogate too, stays escaped."""
    high, low, unit = match.groups()
    if high is not None:
        return chr(0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00)
    if unit is None:
        return match[0]
    code = int(unit, 16)
    return match[0] if code < 0x80 or 0xD800 <= code <= 0xDFFF else chr(code)


def elapsed_us(before: TransitionRecord | None, record: TransitionRecord) -> int:
    """Return the time between two records, in µs: by the monotonic clock within a process, else by the time of day."""
    if before is None:
        return 0
    if record.mono_ns >= before.mono_ns and record.trigger not in ("session_opened", "resumed"):
        return (record.mono_ns - before.mono_ns) // 1000
    between = datetime.fromisoformat(record.at) - datetime.fromisoformat(before.at)
    return max(0, round(between.total_seconds() * 1e6))


def _used(seq: int, event: ModelReplied) -> list[Any]:
    """Return what a reply used: tokens, cost in 10^-12 of its unit as text, and the model's name."""
    usage = event.reply.usage
    tokens = [0, 0, 0] if usage is None else [usage.input_tokens, usage.output_tokens, usage.cached_tokens]
    return [seq, *tokens, str(event.cost_pico or 0), event.reply.model or ""]


_compact = json.JSONEncoder(separators=(",", ":")).encode


__all__ = ["FORMAT", "KEYFRAME", "Encoder", "elapsed_us", "head", "stored_text"]
