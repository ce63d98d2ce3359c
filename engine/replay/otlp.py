"""Histories as traces for OpenTelemetry: OTLP in its JSON form, a line a turn, and back without loss.

Each turn is a trace: the turn, the model calls in it and the runs of its tools are spans, named by the semantic
conventions for generative AI. Records between turns are a trace of one span. Every record stands beside the span as an
event that holds its canonical line; that is what comes back. A fork is the records of its own, its parent's stand with
that. Ids are taken from the hashes of the chain, so an export gives the same ids each time. May import anyio, core,
ports and the codec. Must never write to anything but a journal.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, TypeAlias

import anyio
from pydantic import JsonValue

from ..core.effects import CallModel
from ..core.events import Faulted, ModelReplied, PromptReceived, ToolFinished, ToolRetried
from ..core.record import TransitionRecord
from ..core.values import JsonObject, State, ToolStatus, check_id
from ..errors import EngineError, ImportRefused, UsageError
from ..journal.codec import Chain, decode
from ..journal.forking import Forking, parent_of, with_parents
from ..models.wire import as_list, as_object
from ..ports import Journal
from .reading import read_history

FORMAT_VERSION = 1
"""Version of what is put into OTLP. It grows when a reader of the version before could not read the new one."""

_SCOPE = "agent-engine"
_LINE = "agent_engine.record"
_SESSION = "gen_ai.conversation.id"
_SEQ = "agent_engine.seq"

_INTERNAL, _CLIENT = 1, 3
"""Kinds of spans."""

_ERROR = 2
"""The status of a span that failed; others are not given one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Value: TypeAlias = "str | int | list[str]"
_Name: TypeAlias = Literal["session", "invoke_agent"]


async def export_otlp(journal: Journal, sessions: Sequence[str] | None = None) -> AsyncIterator[JsonObject]:
    """Iterate over histories as OTLP trace data, one object a turn, each of the form of `SCHEMA`.

    Args:
        journal: where to read.
        sessions: ids of the sessions to export, those that they are forks of come with them; all of them, sorted, if
            not given.

    Raises:
        InvalidId, UnknownSession: one of `sessions` is no session of this journal.
        JournalCorrupt, JournalTooNew: a history does not hold; what precedes the damage was given.
    """
    if sessions is None:
        sessions = [info.id for info in await journal.sessions()]
    for name in await with_parents(journal, sessions):
        trace: _Trace | None = None
        tools: dict[str, str] = {}
        async for record in read_history(journal, name):
            if record.session != name:
                tools |= _names_in(record)
                continue
            if trace is None or trace.ended or (record.trigger == "prompt_received" and trace.name == "session"):
                if trace is not None:
                    yield trace.data()
                trace = _Trace(record, tools=tools)
                tools = {}
            trace.add(record)
        if trace is not None:
            yield trace.data()


def _names_in(record: TransitionRecord) -> dict[str, str]:
    """Return the tools of the calls that a record brings, by the ids of the calls."""
    event = record.event
    if isinstance(event, PromptReceived):
        return {call.id: call.name for call in event.direct_calls}
    return {call.id: call.name for call in event.reply.tool_calls} if isinstance(event, ModelReplied) else {}


@dataclass
class _Trace:
    """One turn, or what lies between two turns, while its records are read."""

    first: TransitionRecord
    records: list[TransitionRecord] = field(default_factory=list[TransitionRecord])
    tools: dict[str, str] = field(default_factory=dict[str, str])
    spans: list[JsonObject] = field(default_factory=list[JsonObject])
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    fault: str | None = None
    asked: TransitionRecord | None = None

    @property
    def name(self) -> _Name:
        """What the first span is called."""
        return "invoke_agent" if self.first.trigger == "prompt_received" else "session"

    @property
    def ended(self) -> bool:
        """Whether the turn is over."""
        return self.name == "invoke_agent" and self.records[-1].dest is State.IDLE

    def add(self, record: TransitionRecord) -> None:
        """Take the next record in, and the span that it ends."""
        self.records.append(record)
        event = record.event
        self.tools |= _names_in(record)
        if isinstance(event, ModelReplied):
            if event.reply.usage is not None:
                self.tokens[0] += event.reply.usage.input_tokens
                self.tokens[1] += event.reply.usage.output_tokens
        elif isinstance(event, ToolFinished | ToolRetried):
            self._end_run(record, event)
        elif isinstance(event, Faulted):
            self.fault = event.fault.kind
        if self.asked is not None and record.source is State.GENERATING_RESPONSE:
            self._end_model_call(self.asked, record)
            self.asked = None
        if any(isinstance(effect, CallModel) for effect in record.effects):
            self.asked = record

    def data(self) -> JsonObject:
        """Return the trace."""
        attributes: dict[str, _Value] = {_SESSION: self.first.session, _SEQ: self.first.seq}
        if self.name == "invoke_agent":
            attributes["gen_ai.operation.name"] = "invoke_agent"
            attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"] = self.tokens
        given_up = any(record.trigger == "recovery_failed" for record in self.records)
        span = _span(self.name, self.first, "", (_nanos(self.first.at), _nanos(self.records[-1].at)))
        span["attributes"] = _attributes(attributes)
        span["events"] = [_event(record) for record in self.records]
        if given_up:
            _fail(span, self.fault or "recovery_failed")
        spans: list[JsonValue] = [span]
        spans += [{**child, "parentSpanId": span["spanId"], "traceId": span["traceId"]} for child in self.spans]
        scope: JsonObject = {"name": _SCOPE, "version": str(FORMAT_VERSION)}
        service = _attributes({"service.name": _SCOPE})
        return {
            "resourceSpans": [{"resource": {"attributes": service}, "scopeSpans": [{"scope": scope, "spans": spans}]}]
        }

    def _end_model_call(self, asked: TransitionRecord, record: TransitionRecord) -> None:
        attributes: dict[str, _Value] = {"gen_ai.operation.name": "chat", _SESSION: record.session, _SEQ: record.seq}
        event, name = record.event, "chat"
        if isinstance(event, ModelReplied):
            reply = event.reply
            attributes["gen_ai.response.finish_reasons"] = [reply.finish]
            if reply.model is not None:
                name = f"chat {reply.model}"
                attributes["gen_ai.response.model"] = reply.model
            if reply.usage is not None:
                attributes["gen_ai.usage.input_tokens"] = reply.usage.input_tokens
                attributes["gen_ai.usage.output_tokens"] = reply.usage.output_tokens
        span = _span(name, asked, "model", (_nanos(asked.at), _nanos(record.at)), _CLIENT)
        span["attributes"] = _attributes(attributes)
        if not isinstance(event, ModelReplied):
            _fail(span, event.fault.kind if isinstance(event, Faulted) else record.trigger)
        self.spans.append(span)

    def _end_run(self, record: TransitionRecord, event: ToolFinished | ToolRetried) -> None:
        """Add the run of a tool. A call that was refused, denied or answered by a person has none."""
        began = event.started_at if isinstance(event, ToolFinished) else None
        if began is None and not event.duration_s:
            return
        end = _nanos(record.at)
        start = end - round(event.duration_s * 1e9) if began is None else _nanos(began)
        tool = self.tools.get(event.call_id, "")
        span = _span(f"execute_tool {tool}".rstrip(), record, "tool", (min(start, end), end))
        span["attributes"] = _attributes({
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool, "gen_ai.tool.call.id": event.call_id,
            "gen_ai.tool.type": "function", _SESSION: record.session, _SEQ: record.seq,
        })  # fmt: skip
        if event.status is not ToolStatus.COMPLETED:
            _fail(span, event.error or event.status.value)
        self.spans.append(span)


def _span(name: str, of: TransitionRecord, kind: str, times_ns: tuple[int, int], side: int = _INTERNAL) -> JsonObject:
    """Return a span with ids from the hash of a record; `kind` tells the spans of one record apart."""
    return {
        "traceId": of.hash[:32], "spanId": sha256(f"{of.hash}{kind}".encode()).hexdigest()[:16], "name": name,
        "kind": side, "startTimeUnixNano": str(times_ns[0]), "endTimeUnixNano": str(max(times_ns)),
    }  # fmt: skip


def _fail(span: JsonObject, kind: str) -> None:
    span["status"] = {"code": _ERROR, "message": kind}
    span["attributes"] = [*as_list(span["attributes"]), *_attributes({"error.type": kind})]


def _event(record: TransitionRecord) -> JsonObject:
    attributes = _attributes({_SESSION: record.session, _SEQ: record.seq, _LINE: record.line})
    return {"name": record.trigger, "timeUnixNano": str(_nanos(record.at)), "attributes": attributes}


def _attributes(values: Mapping[str, _Value]) -> list[JsonValue]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: _Value) -> JsonObject:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def _nanos(moment: str) -> int:
    return (datetime.fromisoformat(moment) - _EPOCH) // timedelta(microseconds=1) * 1000


# --- and back ---------------------------------------------------------------------------------------------------------


async def import_otlp(lines: Iterable[str | bytes], journal: Journal) -> int:
    """Write the histories that `export_otlp` has given, record by record the same; return how many there were.

    Lines may come in any order and more than once, as collectors pass them on, and with other programs' spans among
    them, which are left alone. All histories are held in memory and checked before the first is written.

    Args:
        lines: OTLP trace data, one JSON object a line; empty lines are passed over.
        journal: where the histories go.

    Raises:
        ImportRefused: a line is no trace data; a history has gaps or was changed on the way; its session exists. In the
            last case the histories before it, sorted by id, were written; in the others nothing was.
        UsageError: there is a fork among them, and the journal cannot share histories.
        JournalUnavailable, NotAJournal, …: see `ports.Journal`.
    """
    found: dict[str, dict[int, tuple[int, str]]] = {}
    for number, text in enumerate(lines, 1):
        for session, seq, line in _lines_of(number, text):
            known = found.setdefault(session, {}).setdefault(seq, (number, line))
            if known[1] != line:
                raise ImportRefused(number, f"session {session!r} has another record {seq} in line {known[0]}")
    histories: dict[str, list[TransitionRecord]] = {}
    for name in sorted(found):
        _check_line(name, found, histories)
    for name, records in histories.items():
        own = [record for record in records if record.session == name]
        if await journal.read(name, 0, 1):
            raise ImportRefused(found[name][own[0].seq][0], f"session {name!r} is in the journal already")
        if len(own) < len(records):
            if not isinstance(journal, Forking):
                raise UsageError(
                    f"session {name!r} is a fork, and {type(journal).__name__} cannot share histories: import into a "
                    "memory, JSONL or SQLite journal"
                )
            await journal.fork(own.pop(0))
        writer = await journal.claim(name)
        try:
            await writer.append(own)
        finally:
            with anyio.CancelScope(shield=True):
                await writer.release()
    return len(histories)


def _check_line(
    session: str, found: Mapping[str, Mapping[int, tuple[int, str]]], histories: dict[str, list[TransitionRecord]]
) -> None:
    """Check a history and, before it, those that it shares records of; put each after its parent."""
    line: list[tuple[str, int, str]] = []
    name: str | None = session
    while name is not None and name not in histories:
        first = min(found[name])
        number, text = found[name][first]
        parent = _parent_of(name, number, text)
        if parent is not None and (parent not in found or parent in [heir for heir, _, _ in line]):
            raise ImportRefused(number, f"session {name!r} is a fork of {parent!r}, whose records are not among these")
        line.append((name, first, parent or ""))
        name = parent
    for heir, first, parent in reversed(line):
        shared = [record for record in histories.get(parent, ()) if record.seq < first]
        histories[heir] = _checked(heir, shared, found[heir])


def _parent_of(session: str, number: int, line: str) -> str | None:
    try:
        return parent_of(decode(line, session))
    except EngineError as error:
        raise ImportRefused(number, f"a record of session {session!r} does not hold: {error}") from error


def _lines_of(number: int, text: str | bytes) -> Iterator[tuple[str, int, str]]:
    """Yield session, sequence and canonical line of every record that a line of trace data holds."""
    if not text.strip():
        return
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ImportRefused(number, f"this is no JSON: {error}") from None
    if "resourceSpans" not in as_object(data):
        raise ImportRefused(number, "this is no OTLP trace data: it has no `resourceSpans`")
    for resource in as_list(as_object(data)["resourceSpans"]):
        for scope in as_list(as_object(resource).get("scopeSpans")):
            for span in as_list(as_object(scope).get("spans")):
                for event in as_list(as_object(span).get("events")):
                    held = {
                        str(entry.get("key")): as_object(entry.get("value"))
                        for entry in map(as_object, as_list(as_object(event).get("attributes")))
                    }
                    if _LINE in held:
                        yield _record_of(number, held)


def _record_of(number: int, held: Mapping[str, Mapping[str, Any]]) -> tuple[str, int, str]:
    try:
        line, session = held[_LINE]["stringValue"], held[_SESSION]["stringValue"]
        return check_id(session), int(held[_SEQ]["intValue"]), str(line)
    except (KeyError, ValueError, TypeError, EngineError) as error:
        raise ImportRefused(number, f"an event with {_LINE} has no usable session or sequence: {error}") from None


def _checked(
    session: str, shared: Sequence[TransitionRecord], lines: Mapping[int, tuple[int, str]]
) -> list[TransitionRecord]:
    """Return the whole history of a session, what it shares first, every hash and link of it checked."""
    chain = Chain(session)
    records = list(shared)
    for record in shared:
        chain.check(record)
    for seq in sorted(lines):
        number, line = lines[seq]
        try:
            records.append(chain.decode(line, seq))
        except EngineError as error:
            raise ImportRefused(number, f"record {seq} of session {session!r} does not hold: {error}") from error
    try:
        chain.finish()
    except EngineError as error:
        raise ImportRefused(lines[records[-1].seq][0], f"session {session!r} does not hold: {error}") from error
    return records


# --- the form ---------------------------------------------------------------------------------------------------------


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _array(items: Any, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, **({"minItems": least} if least else {})}


_TEXT = {"type": "string"}
_DECIMAL = {"type": "string", "pattern": "^[0-9]+$"}
_SPAN_ID = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_STRING_VALUE = _object({"stringValue": _TEXT})
_ATTRIBUTES = _array(_object({"key": {"type": "string", "minLength": 1}, "value": {"anyOf": [
    _STRING_VALUE, _object({"intValue": _DECIMAL}), _object({"arrayValue": _object({"values": _array(_STRING_VALUE)})}),
]}}))  # fmt: skip
_SPAN = _object(
    {
        "traceId": {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "spanId": _SPAN_ID, "name": _TEXT,
        "kind": {"enum": [_INTERNAL, _CLIENT]}, "startTimeUnixNano": _DECIMAL, "endTimeUnixNano": _DECIMAL,
        "attributes": _ATTRIBUTES,
    },
    {
        "parentSpanId": _SPAN_ID, "status": _object({"code": {"const": _ERROR}, "message": _TEXT}),
        "events": _array(_object({"name": _TEXT, "timeUnixNano": _DECIMAL, "attributes": _ATTRIBUTES})),
    },
)  # fmt: skip

SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": f"A turn of a history as OTLP trace data, version {FORMAT_VERSION}",
    **_object({
        "resourceSpans": _array(_object({
            "resource": _object({"attributes": _ATTRIBUTES}),
            "scopeSpans": _array(_object({
                "scope": _object({"name": {"const": _SCOPE}, "version": {"const": str(FORMAT_VERSION)}}),
                "spans": _array(_SPAN, 1),
            }), 1),
        }), 1),
    }),
}  # fmt: skip
"""The JSON Schema of a line: the part of OTLP that is used."""

__all__ = ["FORMAT_VERSION", "SCHEMA", "export_otlp", "import_otlp"]
