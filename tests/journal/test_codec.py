"""The record as text: one byte sequence for one record, every damage seen, other versions read or refused.

`REFRESH_GOLDEN=1 pytest tests/journal/test_codec.py` rewrites docs/record.schema.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from jsonschema import Draft202012Validator

from engine.core.effects import CallModel, Close, KnownEffect, PrepareContext, Recover, RunTool
from engine.core.events import (
    EVENT_TYPES,
    Faulted,
    KnownEvent,
    PromptReceived,
    SessionOpened,
    ToolFinished,
    ToolStarted,
    TurnCancelled,
    UnknownEvent,
)
from engine.core.record import TransitionRecord
from engine.core.session import Session
from engine.core.step import advance
from engine.core.values import Fault, JsonObject, Message, RecoveryPlan, State, ToolCall, WirePatch
from engine.errors import EncodingError, JournalCorrupt, JournalTooNew
from engine.journal.codec import GENESIS, UPCASTERS, Chain, Upcaster, decode, record_schema, seal
from engine.testing.checks import check_history
from engine.testing.recording import Recording, replayed
from engine.testing.strategies import events, histories, recordings

SCHEMA = Path(__file__).resolve().parent.parent.parent / "docs" / "record.schema.json"
VALIDATOR = Draft202012Validator(record_schema())


def sealed(event: KnownEvent, effects: tuple[KnownEffect, ...] = ()) -> TransitionRecord:
    return seal(
        session="s", seq=7, at="2026-01-01T00:00:00.000001+00:00", mono_ns=12, source=State.IDLE, dest=State.PROCESSING,
        event=event, effects=effects, prev=GENESIS,
    )  # fmt: skip


def rehashed(line: str, **changes: Any) -> str:
    """Return the line with other members and the right hash for them, as another release would have written it."""
    members = json.loads(line) | changes
    del members["hash"]
    digest = sha256(text_of(members).encode()).hexdigest()
    return text_of(members | {"hash": digest})


def text_of(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def typed(event: KnownEvent | UnknownEvent) -> str:
    """Return a text in which 1, 1.0, true and -0.0 differ, and the order of members does not count."""
    return text_of(event.model_dump())


@contextmanager
def upcasting(version: int, upcaster: Upcaster) -> Iterator[None]:
    UPCASTERS[version] = upcaster
    try:
        yield
    finally:
        del UPCASTERS[version]


LINE = sealed(
    ToolFinished(call_id="c1", content='ß "quoted" \u2028', duration_s=0.25, error="E"),
    (PrepareContext(), CallModel(round=2)),
).line


@pytest.mark.parametrize("kind", EVENT_TYPES)
@given(data=st.data())
@settings(max_examples=20)
def test_a1_every_event_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    """Seal and decode are inverse for every kind of event, down to the types of numbers, and the line is canonical."""
    event = data.draw(events(kind))
    record = sealed(event)
    read = decode(record.line)
    assert read == record
    assert typed(read.event) == typed(event)
    assert text_of(json.loads(record.line)) == record.line


@given(histories())
@settings(max_examples=25)
def test_v1_history_comes_back_as_it_was(records: list[TransitionRecord]) -> None:
    """Whole histories, effects included, decode to equal records that chain; each line keeps the schema."""
    links = Chain("s")
    for record in records:
        assert links.decode(record.line) == record
        VALIDATOR.validate(json.loads(record.line))
        assert text_of(json.loads(record.line)) == record.line


@given(recordings())
@settings(max_examples=25)
def test_m21_replay_equals_the_live_session(recording: Recording) -> None:
    """Folding the lines gives the very session that wrote them, sound after every record."""
    assert replayed("s", recording.lines) == recording.session
    assert check_history("s", recording.lines) == recording.session


def test_members_are_those_of_the_contract() -> None:
    """A line has the twelve agreed members, no more and no fewer."""
    agreed = "v, session, seq, at, mono_ns, trigger, source, dest, event, effects, prev, hash"
    assert set(json.loads(LINE)) == set(agreed.split(", "))


def test_hash_covers_everything_else() -> None:
    """The hash is the SHA-256 of the canonical text without it, as the schema says; anyone can check it."""
    members = json.loads(LINE)
    digest = members.pop("hash")
    assert sha256(text_of(members).encode()).hexdigest() == digest


def test_every_single_bit_flip_is_detected() -> None:
    """No line with one bit changed is read: each is reported as damaged, with the offset it was found at."""
    raw = LINE.encode()
    for place in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[place // 8] ^= 1 << (place % 8)
        with pytest.raises(JournalCorrupt) as caught:
            decode(damaged.decode("latin-1"), "runs.jsonl", 4096)
        assert caught.value.offset == 4096


def test_every_truncation_is_detected() -> None:
    """No proper prefix of a line is read."""
    for end in range(len(LINE)):
        with pytest.raises(JournalCorrupt):
            decode(LINE[:end])


def hashed(text: str) -> str:
    return text.replace("HASH", sha256(text.replace('"hash":"HASH",', "").encode()).hexdigest())


@pytest.mark.parametrize(
    "line",
    [
        "", "null", "[]", "{}", "7", '"x"', '{"hash":1,"v":1}', '{"hash":"","v":"1"}', "[" * 100_000, "9" * 5000,
        hashed('{"hash":"HASH","v":1}'),
    ],
    ids=["empty", "null", "list", "object", "number", "text", "hash", "version", "deep", "long", "bare"],
)  # fmt: skip
def test_what_is_no_record_is_refused(line: str) -> None:
    """Any other JSON, and what is none, is damage, never another exception."""
    with pytest.raises(JournalCorrupt):
        decode(line)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"source": "nowhere"},
        {"dest": 3},
        {"trigger": "tool_started"},
        {"trigger": ["tool_finished"]},
        {"event": {"kind": "tool_finished"}},
        {"event": 5},
        {"effects": [{"kind": "call_model"}]},
        {"effects": [5]},
        {"effects": [{}]},
        {"event": {"kind": "tool_finished", "call_id": "c", "status": "great"}},
        {"event": {"kind": "tool_finished", "call_id": "c", "unheard_of": 1}},
    ],
    ids=str,
)
def test_record_of_another_shape_is_refused(changes: dict[str, Any]) -> None:
    """A right hash does not make a record: members and fields have to be those of this version."""
    with pytest.raises(JournalCorrupt, match="not a record of version 1"):
        decode(rehashed(LINE, **changes))


@pytest.mark.parametrize("changes", [{"seq": "7"}, {"session": 5}, {"prev": None}], ids=str)
def test_link_of_another_type_is_refused(changes: dict[str, Any]) -> None:
    """What links a record to its history is compared as it stands: text is no number."""
    with pytest.raises(JournalCorrupt):
        Chain("s", 6).decode(rehashed(LINE, **changes))


def test_a1_unknown_event_is_kept_and_tolerated() -> None:
    """A kind of a newer minor release is read as it stands, and folding moves only the state and the sequence."""
    recording = Recording().play([SessionOpened(), PromptReceived(messages=(Message(role="user", text="x"),))])
    newer: JsonObject = {"kind": "mood_changed", "mood": "good"}
    last = recording.records[-1]
    line = rehashed(
        last.line, event=newer, trigger="mood_changed", seq=3, prev=last.hash, source="processing",
        dest="generating_response", effects=[],
    )  # fmt: skip
    links = Chain("s", 2, last.hash)
    record = links.decode(line)
    assert record.event == UnknownEvent(kind="mood_changed", data=newer)
    after = advance(recording.session, record)
    assert after == recording.session._replace(seq=3, state=State.GENERATING_RESPONSE)


def test_newer_version_is_refused_as_such() -> None:
    """A record of a later version says that the release is too old, not that the journal is damaged."""
    with pytest.raises(JournalTooNew, match="version 2, this release reads up to 1: upgrade"):
        decode(rehashed(LINE, v=2, another="member"))


def test_newer_version_with_a_wrong_hash_is_damage() -> None:
    """The version is believed only under a right hash."""
    with pytest.raises(JournalCorrupt, match="hash"):
        decode(LINE.replace('"v":1}', '"v":2}'))


def test_older_version_is_upcast() -> None:
    """A registered upcaster turns an older record into this version's; its own hash is what the chain goes on from."""

    def rename(fields: dict[str, Any]) -> dict[str, Any]:
        event = {("content" if name == "output" else name): held for name, held in fields["event"].items()}
        return fields | {"v": 1, "event": event}

    old = rehashed(LINE, v=0, event={"kind": "tool_finished", "call_id": "c1", "output": "fine"})
    with upcasting(0, rename):
        record = decode(old)
    assert record.event == ToolFinished(call_id="c1", content="fine")
    assert (record.v, record.hash, record.line) == (1, json.loads(old)["hash"], old)


def test_older_version_without_an_upcaster_is_refused() -> None:
    """A version that nothing leads on from is refused, and the text names it."""
    with pytest.raises(JournalCorrupt, match="version 0"):
        decode(rehashed(LINE, v=0))


@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "\u2028\u2029",
        "\ud800",
        "\udfff\ud800",
        "x" * 1_000_000,
        "😀" * 250_000,
        '","hash":"' + "0" * 64 + '",',
        "\\u0000",
        "\x7f",
    ],
    ids=["NUL", "separators", "surrogate", "surrogates", "1 MB", "1 MB of emoji", "hash member", "escape", "DEL"],
)
def test_awkward_text_comes_back(text: str) -> None:
    """Whatever a tool's text holds survives, in one line of ASCII."""
    record = sealed(ToolFinished(call_id="c", content=text))
    assert record.line.isascii()
    assert len(record.line.splitlines()) == 1
    read = decode(record.line).event
    assert isinstance(read, ToolFinished)
    assert read.content == text


def test_numbers_keep_their_kind() -> None:
    """1 stays an integer and 1.0 a float; -0.0, a tiny and a huge float, and big integers come back."""
    arguments: JsonObject = {"i": 1, "f": 1.0, "z": -0.0, "t": True, "tiny": 5e-324, "huge": 1.5e308, "big": 2**200}
    call = ToolCall(id="c", name="n", arguments=arguments)
    read = decode(sealed(PromptReceived(direct_calls=(call,))).line).event
    assert isinstance(read, PromptReceived)
    assert text_of(read.direct_calls[0].arguments) == text_of(arguments)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_number_that_json_lacks_is_refused(number: float) -> None:
    """NaN and the infinities cannot enter a record: the error is typed and nothing was written."""
    call = ToolCall.model_construct(id="c", name="n", arguments={"x": number}, arguments_text=None)
    with pytest.raises(EncodingError):
        sealed(PromptReceived().model_copy(update={"direct_calls": (call,)}))


def test_value_that_is_no_json_is_refused() -> None:
    """A set or an object inside arguments is an EncodingError, never another exception."""
    for held in ({1}, object(), b"x"):
        call = ToolCall.model_construct(id="c", name="n", arguments={"x": held}, arguments_text=None)
        with pytest.raises(EncodingError):
            sealed(PromptReceived(direct_calls=()).model_copy(update={"direct_calls": (call,)}))


def test_defaults_are_left_out() -> None:
    """A field at its default takes no room, and comes back."""
    record = sealed(ToolStarted(call_id="c"), (Close(),))
    assert '"event":{"call_id":"c","kind":"tool_started"}' in record.line
    assert '"event":{"kind":"turn_cancelled"}' in sealed(TurnCancelled()).line


def test_nested_values_come_back() -> None:
    """Values inside values (a fault, a plan, a patch) keep every field that is not at its default."""
    patch = WirePatch(put={"name": None, "n": [1, {"a": []}]}, drop=("content",))
    fault = Fault(kind="rate_limit", message="m", retryable=True, status=429, retry_after_s=1.5)
    plan = RecoveryPlan(action="resume", resume=State.GENERATING_RESPONSE, delay_s=1.5, attempt=2, attempts_left=1)
    effects = (Recover(plan=plan), RunTool(call_id="c", key="s:1:0"))
    for event in (Faulted(fault=fault), PromptReceived(messages=(Message(role="user", text="", patch=patch),))):
        record = sealed(event, effects)
        assert decode(record.line) == record


class TestChain:
    """Records have to follow one another."""

    records = Recording().play([SessionOpened(), PromptReceived(), TurnCancelled()]).records

    def test_history_without_a_gap_is_read(self) -> None:
        """A whole chain decodes, from the beginning or from the middle."""
        links = Chain("s")
        assert [links.decode(record.line) for record in self.records] == self.records
        middle = Chain.at(self.records[1].line, "s")
        assert [middle.decode(record.line) for record in self.records[1:]] == self.records[1:]

    def test_missing_record_is_damage(self) -> None:
        """A gap in the sequence is reported at the record after it."""
        links = Chain("s")
        links.decode(self.records[0].line)
        with pytest.raises(JournalCorrupt, match="sequence 3 follows 1") as caught:
            links.check(self.records[2])
        assert (caught.value.where, caught.value.offset) == ("s", 3)

    def test_repeated_record_is_damage(self) -> None:
        """A record twice is reported with the offset that was given."""
        links = Chain("s")
        links.decode(self.records[0].line)
        with pytest.raises(JournalCorrupt, match="sequence 1 follows 1") as caught:
            links.decode(self.records[0].line, 512)
        assert caught.value.offset == 512

    def test_exchanged_record_is_damage(self) -> None:
        """A record with a right hash of its own that does not chain is reported."""
        links = Chain("s")
        links.decode(self.records[0].line)
        with pytest.raises(JournalCorrupt, match="prev is not the hash"):
            links.decode(rehashed(self.records[1].line, prev=GENESIS))

    def test_record_of_another_session_is_damage(self) -> None:
        """A record of another session does not belong here; before all others it may be a parent's, until the end."""
        links = Chain("s")
        links.decode(self.records[0].line)
        with pytest.raises(JournalCorrupt, match="a record of session 't'"):
            links.decode(rehashed(self.records[1].line, session="t"))
        links = Chain("t")
        links.decode(self.records[0].line)
        with pytest.raises(JournalCorrupt, match="a record of session 's'"):
            links.finish()

    def test_refused_record_does_not_move_the_chain(self) -> None:
        """After a refusal the chain stands where it was."""
        links = Chain("s")
        with pytest.raises(JournalCorrupt):
            links.decode(self.records[1].line)
        assert links.decode(self.records[0].line) == self.records[0]


def test_schema_is_a_valid_schema() -> None:
    """The published text is itself correct JSON Schema."""
    Draft202012Validator.check_schema(record_schema())
    assert VALIDATOR.is_valid(json.loads(LINE))


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"session": "a/b"},
        {"seq": 0},
        {"mono_ns": -1},
        {"source": "away"},
        {"hash": "0"},
        {"extra": 1},
        {"effects": [{"kind": "x"}]},
    ],
    ids=str,
)
def test_schema_refuses(changes: dict[str, Any]) -> None:
    """What is no record of this version does not pass the schema."""
    assert not VALIDATOR.is_valid(json.loads(LINE) | changes)


def test_published_schema_is_up_to_date() -> None:
    """docs/record.schema.json is what the code says; REFRESH_GOLDEN=1 rewrites it."""
    text = json.dumps(record_schema(), indent=2, sort_keys=True, ensure_ascii=True) + "\n"
    if os.environ.get("REFRESH_GOLDEN"):
        SCHEMA.write_text(text, encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == text


def test_session_without_records_folds_to_itself() -> None:
    """Nothing recorded, nothing happened."""
    assert replayed("s", []) == Session("s")
