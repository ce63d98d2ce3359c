"""Records to canonical text and back, with the hash chain between them.

A record has one byte sequence (see `canonical`): a line that is parsed and written again with sorted keys and no white
space is the same line. `hash` is the SHA-256 of that text without the `hash` member; `prev` chains it to the record
before. May import core and errors. Must never do I/O or read a clock.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any, Literal, Self, get_args

from pydantic import ConfigDict, StrictInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..core.arguments import is_object
from ..core.effects import Effect, KnownEffect
from ..core.events import (
    EVENT_TYPES,
    EVENTS,
    HISTORY_PRUNED,
    Event,
    KnownEvent,
    RecordsRewritten,
    RewrittenRecord,
    SessionForked,
    UnknownEvent,
)
from ..core.record import TransitionRecord
from ..core.values import State
from ..errors import JournalCorrupt, JournalTooNew
from .canonical import canonical

RECORD_VERSION = 1
"""Version of the record format. It grows when a reader of the version before could not read the new one."""

GENESIS = "0" * 64
"""`prev` of the first record of a session."""

_TAIL = {"mono_ns", "prev", "seq", "session", "source", "trigger", "v"}
_KEYS = frozenset(_TAIL | {"at", "dest", "effects", "event", "hash"})
_STATES = {state.value: state for state in State}
_EFFECTS: TypeAdapter[tuple[KnownEffect, ...]] = TypeAdapter(tuple[Effect, ...], config=ConfigDict(defer_build=True))
_EFFECT_KINDS = frozenset(kind.model_fields["kind"].default for kind in get_args(KnownEffect))

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the decoded record of one version into the next version's."""

UPCASTERS: dict[int, Upcaster] = {}
"""Version → the upcaster to the version after it. Empty while there is one version."""


def seal(
    *, session: str, seq: int, at: str, mono_ns: int, source: State, dest: State, event: KnownEvent,
    effects: tuple[KnownEffect, ...], prev: str,
) -> TransitionRecord:  # fmt: skip
    """Return the record with its hash and canonical text.

    Raises:
        EncodingError: the event holds a value that JSON cannot.
    """
    head = f'{{"at":"{at}","dest":"{dest}","effects":{canonical(effects)},"event":{canonical(event)},'
    rest = (
        f'"mono_ns":{mono_ns},"prev":"{prev}","seq":{seq},"session":"{session}",'
        f'"source":"{source}","trigger":"{event.kind}","v":{RECORD_VERSION}}}'
    )
    digest = sha256((head + rest).encode("ascii")).hexdigest()
    return TransitionRecord(
        RECORD_VERSION, session, seq, at, mono_ns, event.kind, source, dest, event, effects, prev, digest,
        f'{head}"hash":"{digest}",{rest}',
    )  # fmt: skip


def decode(line: str, where: str = "record", offset: int = 0) -> TransitionRecord:
    """Return the record that a canonical line holds, its own hash checked.

    Events of kinds that this release does not know come back as `UnknownEvent`. A record that was rewritten is checked
    by the digest of what it is; that this was declared is for `Chain.finish` to find.

    Raises:
        JournalCorrupt: the line is not such a record; `offset` is reported with it.
        JournalTooNew: it has a greater record version.
    """
    try:
        members = _reader()(line)
    except ValidationError:
        # Damaged, of another version, of a kind that is not known here, or with a lone surrogate in it.
        return _decode_other(line, where, offset)
    event, digest = members["event"], members["hash"]
    if not _is_intact(line, digest) or event.kind != members["trigger"]:
        return _decode_other(line, where, offset)
    return TransitionRecord(
        RECORD_VERSION, members["session"], members["seq"], members["at"], members["mono_ns"], event.kind,
        members["source"], members["dest"], event, members["effects"], members["prev"], digest, line,
    )  # fmt: skip


def rewrite(record: TransitionRecord, event: str, trigger: str, effects: str) -> TransitionRecord:
    """Return a record with another content in its place: it keeps its sequence, its times and its hash in the chain.

    Args:
        record: the record as it stands.
        event: the canonical text of the event that it is to hold.
        trigger: the kind of that event.
        effects: the canonical text of the effects.
    """
    head = f'{{"at":"{record.at}","dest":"{record.dest}","effects":{effects},"event":{event},'
    middle = f'"hash":"{record.hash}","mono_ns":{record.mono_ns},"prev":"{record.prev}",'
    rest = (
        f'"seq":{record.seq},"session":"{record.session}","source":"{record.source}","trigger":"{trigger}",'
        f'"v":{RECORD_VERSION}}}'
    )
    digest = sha256((head + middle + rest).encode("ascii")).hexdigest()
    return decode(f'{head}{middle}"rewritten":"{digest}",{rest}', record.session, record.seq)


class _Members(TypedDict):
    """A record of this version with an event of a known kind, as nearly every line holds it."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    v: Literal[1]
    session: str
    seq: StrictInt
    at: str
    mono_ns: StrictInt
    trigger: str
    source: State
    dest: State
    event: Event
    effects: tuple[Effect, ...]
    prev: str
    hash: str


@cache
def _reader() -> Callable[[str], _Members]:
    return TypeAdapter(_Members).validator.validate_json


def _is_intact(line: str, digest: str, name: str = "hash") -> bool:
    """Whether a line is what a digest in it covers: all but the digest's own member."""
    member = f'"{name}":"{digest}",'
    at = line.rfind(member)
    return (
        at >= 0
        and line.isascii()
        and sha256((line[:at] + line[at + len(member) :]).encode("ascii")).hexdigest() == digest
    )


def _decode_other(line: str, where: str, offset: int) -> TransitionRecord:
    """Decode member by member, to take what only another release writes and to say what exactly is wrong."""
    fields = _parse(line, where, offset)
    if not is_object(fields) or not isinstance(fields.get("hash"), str) or type(fields.get("v")) is not int:
        raise JournalCorrupt(where, offset, "not a transition record")
    rewritten = fields.pop("rewritten", "")
    if rewritten:
        if not isinstance(rewritten, str) or not _is_intact(line, rewritten, "rewritten"):
            raise JournalCorrupt(where, offset, "the digest does not match the rewritten record")
        return _build(_upcast(fields, where), line, where, offset)._replace(rewritten=rewritten)
    if not _is_intact(line, fields["hash"]):
        raise JournalCorrupt(where, offset, "the hash does not match the record")
    return _build(_upcast(fields, where), line, where, offset)


def _parse(line: str, where: str, offset: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise JournalCorrupt(where, offset, f"not a JSON record ({error})") from error


def _upcast(fields: dict[str, Any], where: str) -> dict[str, Any]:
    while fields["v"] != RECORD_VERSION:
        version = fields["v"]
        if version > RECORD_VERSION:
            raise JournalTooNew(
                f"{where} holds records of version {version}, this release reads up to {RECORD_VERSION}: "
                "upgrade agent-engine to read it"
            )
        if version not in UPCASTERS:
            raise JournalCorrupt(where, 0, f"no upcaster leads from record version {version} to {RECORD_VERSION}")
        fields = {**UPCASTERS[version](fields), "v": version + 1}
    return fields


def _build(fields: dict[str, Any], line: str, where: str, offset: int) -> TransitionRecord:
    try:
        if fields.keys() != _KEYS:
            raise ValueError(f"members {sorted(fields)} instead of {sorted(_KEYS)}")
        event, effects = _event(fields["trigger"], fields["event"]), fields["effects"]
        if isinstance(event, UnknownEvent):
            # A newer release's event may ask for a newer release's effects: they are left out with its meaning.
            effects = [effect for effect in effects if effect.get("kind") in _EFFECT_KINDS]
        return TransitionRecord(
            fields["v"], fields["session"], fields["seq"], fields["at"], fields["mono_ns"], fields["trigger"],
            _STATES[fields["source"]], _STATES[fields["dest"]], event, _effects(effects), fields["prev"],
            fields["hash"], line,
        )  # fmt: skip
    except (ValidationError, KeyError, ValueError, TypeError) as error:
        raise JournalCorrupt(where, offset, f"not a record of version {RECORD_VERSION}: {error}") from error


def _event(trigger: str, data: Mapping[str, Any]) -> KnownEvent | UnknownEvent:
    kind = EVENT_TYPES.get(trigger)
    if kind is None:
        return UnknownEvent(kind=trigger, data=dict(data))
    event: KnownEvent = kind.__pydantic_validator__.validate_python(data)
    return event


def _effects(data: Sequence[Mapping[str, Any]]) -> tuple[KnownEffect, ...]:
    return _EFFECTS.validate_python(data)


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of a journal line, as published in the documentation."""
    event = EVENTS.json_schema(ref_template="#/$defs/{model}")
    effects = _EFFECTS.json_schema(ref_template="#/$defs/{model}")
    definitions = {**event.pop("$defs"), **effects.pop("$defs")}
    state = {"type": "string", "enum": [state.value for state in State]}
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    count = {"type": "integer", "minimum": 0}
    properties: dict[str, Any] = {
        "v": {"const": RECORD_VERSION},
        "session": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"},
        "seq": {"type": "integer", "minimum": 1},
        "at": {"type": "string", "format": "date-time", "description": "UTC, ISO 8601 with microseconds"},
        "mono_ns": {**count, "description": "monotonic clock of the writing process, in nanoseconds"},
        "trigger": {"type": "string", "description": "equals event.kind"},
        "source": state,
        "dest": state,
        "event": event,
        "effects": effects,
        "prev": {**digest, "description": "hash of the record before; 64 zeros in the first"},
        "hash": {**digest, "description": "SHA-256 of the canonical text without this member"},
    }
    required = list(properties)
    properties["rewritten"] = {
        **digest,
        "description": "only in a record that was rewritten: SHA-256 of the canonical text without this member; "
        "`hash` is then that of the record as it was",
    }
    definitions["HistoryPruned"] = {
        "description": "what a pruned history begins with: the session that everything up to here led to",
        "type": "object",
        "properties": {"kind": {"const": HISTORY_PRUNED}, "messages": {"type": "array"}, "session": {"type": "object"}},
        "required": ["kind", "messages", "session"],
    }
    event["oneOf"].append({"$ref": "#/$defs/HistoryPruned"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TransitionRecord",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "$defs": definitions,
    }


class Chain:
    """Checks that decoded records follow one another: sequence without a gap, hash on hash, one session.

    The history of a fork begins with records of its parent; `holder` is whose record the last one was.

    Args:
        session: whose history it is; None where it is whoever's it ends with.
        seq: sequence of the record before the first that is to come.
        digest: its hash.
    """

    def __init__(self, session: str | None, seq: int = 0, digest: str = GENESIS) -> None:
        self.holder = session or ""
        self.seq = seq
        self.digest: str = digest
        self._name = session
        self._owed: dict[int, RewrittenRecord] = {}

    @property
    def session(self) -> str:
        """Whose history it is, as far as that is known."""
        return self._name or self.holder

    @classmethod
    def at(cls, line: str, session: str, offset: int = 0) -> Self:
        """Return a chain whose next record is the one in `line`: for reading from the middle of a history."""
        record = decode(line, session, offset)
        chain = cls(session, record.seq - 1, record.prev)
        chain.holder = record.event.parent if isinstance(record.event, SessionForked) else record.session
        return chain

    def decode(self, line: str, offset: int = 0) -> TransitionRecord:
        """Return the next record.

        Raises:
            JournalCorrupt: it does not follow from the one before.
            JournalTooNew: it has a greater record version.
        """
        record = decode(line, self.session, offset)
        self.check(record, offset)
        return record

    def check(self, record: TransitionRecord, offset: int | None = None) -> None:
        """Advance over a record that was decoded elsewhere.

        Raises:
            JournalCorrupt: it does not follow from the one before.
        """
        place = record.seq if offset is None else offset
        if record.session != self.holder:
            self._pass_on(record, place)
        if self.seq == 0 and record.begins:
            self.seq, self.digest = record.seq - 1, record.prev
        if record.seq != self.seq + 1:
            raise JournalCorrupt(self.session, place, f"sequence {record.seq} follows {self.seq}")
        if record.prev != self.digest:
            raise JournalCorrupt(self.session, place, "the chain is broken: prev is not the hash of the record before")
        self.seq = record.seq
        self.digest = record.hash
        if record.rewritten:
            rewritten = RewrittenRecord(seq=record.seq, hash=record.hash, digest=record.rewritten)
            self._owed[record.seq] = rewritten
        if isinstance(record.event, RecordsRewritten):
            for declared in record.event.records:
                if self._owed.get(declared.seq) == declared:
                    del self._owed[declared.seq]

    def finish(self) -> None:
        """Make sure, at the end of a history, that nothing is missing there.

        Raises:
            JournalCorrupt: it ends with a record of another session, so it is only that of a parent; or a record was
                rewritten that no later one declares: somebody changed it who had no right to append.
        """
        if self.seq and self.holder != self.session:
            raise JournalCorrupt(self.session, self.seq, f"a record of session {self.holder!r} stands here")
        for seq in self._owed:
            raise JournalCorrupt(self.session, seq, "the record was rewritten, and no later record says so")

    def _pass_on(self, record: TransitionRecord, place: int) -> None:
        event = record.event
        forked = isinstance(event, SessionForked) and (event.parent, event.session) == (self.holder, record.session)
        if self.seq and not forked:
            raise JournalCorrupt(self.session, place, f"a record of session {record.session!r} stands here")
        self.holder = record.session


__all__ = [
    "GENESIS",
    "RECORD_VERSION",
    "UPCASTERS",
    "Chain",
    "Upcaster",
    "decode",
    "record_schema",
    "rewrite",
    "seal",
]
