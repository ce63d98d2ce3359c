"""Import loses nothing, refuses what is no conversation with its line, and writes whole conversations only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from engine import State
from engine.core.events import ModelReplied, PromptReceived, SessionOpened, ToolFinished, TurnCancelled
from engine.core.session import Session
from engine.core.step import advance
from engine.errors import ImportRefused
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.models.wire import to_wire
from engine.ports import SessionInfo
from engine.replay import ImportReport, fold, import_chats, verify

from .logs import SAMPLE_CHATS, SAMPLES, StoppedClock, exported, history_of, imported

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "hello"}
REPLY = {"role": "assistant", "content": "hi"}


def call(call_id: str, name: str = "look", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def asking(*ids: str) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call(name) for name in ids]}


def result(call_id: object, content: object = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def chat(*messages: object, name: object = "c") -> dict[str, Any]:
    return {"id": name, "messages": list(messages)}


LOSSLESS = {
    "no reply": [USER],
    "reply first": [REPLY, USER],
    "two replies": [USER, REPLY, REPLY],
    "several inputs": [{"role": "system", "content": "a"}, USER, {"role": "developer", "content": "b"}, USER, REPLY],
    "results out of order": [USER, asking("a", "b", "c"), result("c"), result("a"), result("b"), REPLY],
    "partly answered": [USER, asking("a", "b"), result("b"), REPLY],
    "partly answered at the end": [USER, asking("a", "b"), result("b")],
    "answered at the end": [USER, asking("a"), result("a")],
    "unanswered, then a prompt": [USER, asking("a", "b"), USER, REPLY],
    "unanswered, then a reply": [USER, asking("a"), asking("a"), result("a"), REPLY],
    "same id twice in a message": [USER, asking("a", "a", "a#1"), result("a", "1"), result("a", "2"), REPLY],
    "same id in two rounds": [USER, asking("a"), result("a"), asking("a"), result("a"), REPLY],
    "calls without ids": [
        USER,
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "1"},
        REPLY,
    ],
    "id is empty or null": [USER, asking("", "x"), result("", "1"), result("x"), REPLY],
    "call of another type": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "k", "type": "custom", "custom": {"name": "n"}}]},
        result("k"),
        {"role": "assistant", "tool_calls": [{"id": "l", "type": "custom"}, {"id": 7}, {"type": "n", "n": 1}, "what"]},
        result(7),
        USER,
    ],
    "arguments that are no JSON": [
        USER, {**asking(), "tool_calls": [call("a", arguments="{oops")]}, result("a"), REPLY
    ],
    "arguments spelt freely": [
        USER, {**asking(), "tool_calls": [call("a", arguments='{ "b": 1.0, "a": 1e3 }')]}, result("a"), REPLY
    ],
    "arguments twice the same member": [
        USER, {**asking(), "tool_calls": [call("a", arguments='{"b":1,"b":2}')]}, result("a"), REPLY
    ],
    "no content": [{"role": "user"}, {"role": "assistant"}],
    "null content": [{"role": "user", "content": None}, {"role": "assistant", "content": None}],
    "null result": [USER, asking("a"), result("a", None), asking("b"), {"role": "tool", "tool_call_id": "b"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "file"}]}, REPLY],
    "result in parts": [USER, asking("a"), result("a", [{"type": "text", "text": "x"}]), REPLY],
    "content of other types": [{"role": "user", "content": 7}, {"role": "assistant", "content": {"a": [True, None]}}],
    "more fields": [{**USER, "name": "x"}, {**REPLY, "refusal": None, "audio": {"id": "y"}, "annotations": []}],
    "no calls in the list": [USER, {**REPLY, "tool_calls": []}, USER, {**REPLY, "tool_calls": None}],
    "calls in odd places": [{**USER, "tool_calls": [call("z")], "tool_call_id": "q"}, {**REPLY, "tool_call_id": "w"}],
    "function call of old": [
        USER, {**REPLY, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"}, REPLY,
    ],
    "characters": [{"role": "user", "content": "ä\u2028\x00\ud800 \U0001f600"}, REPLY],
    "sixty rounds": [USER, *[message for _ in range(60) for message in (asking("a"), result("a"))], REPLY],
    "an integer and a float": [{**USER, "x": 1, "y": 1.0, "z": True}, REPLY],
}  # fmt: skip


@pytest.mark.parametrize("messages", LOSSLESS.values(), ids=LOSSLESS.keys())
async def test_log_leaves_as_it_came(messages: list[dict[str, Any]]) -> None:
    """What is imported verifies, ends idle, and is exported as the very same JSON."""
    given_chat = chat(*messages)
    records = await history_of(given_chat)
    assert verify(records).ok
    assert fold(records).state is State.IDLE
    [back] = await exported(await imported(given_chat))
    assert json.dumps(back, sort_keys=True) == json.dumps(given_chat, sort_keys=True)


@pytest.mark.parametrize("messages", LOSSLESS.values(), ids=LOSSLESS.keys())
async def test_every_prefix_is_accepted_by_providers(messages: list[dict[str, Any]]) -> None:
    """At each record of an imported history every call has one result and every result its call, also on the wire."""
    session = Session("c")
    for record in await history_of(chat(*messages)):
        session = advance(session, record)
        open_calls: list[str] = []
        for wire in map(to_wire, session.messages()):
            if wire["role"] == "tool":
                open_calls.remove(wire["tool_call_id"])
            else:
                assert open_calls == []
                open_calls = [entry["id"] for entry in wire.get("tool_calls", ())]
        assert open_calls == []


_texts = st.one_of(
    st.none(), st.text(max_size=8), st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}))
)
_fields = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key not in ("role", "content", "tool_calls", "tool_call_id")),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=2,
)


@st.composite
def _conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 6))):
        role = draw(st.sampled_from(["system", "developer", "user", "assistant", "assistant"]))
        message: dict[str, Any] = {"role": role, **draw(_fields)}
        if draw(st.booleans()):
            message["content"] = draw(_texts)
        messages.append(message)
        if role != "assistant" or not draw(st.booleans()):
            continue
        ids = draw(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=4))
        arguments = st.one_of(st.just("{}"), st.just('{"b":1, "a":[]}'), st.text(max_size=6))
        message["tool_calls"] = [call(name, "f", draw(arguments)) for name in ids]
        answered = draw(st.permutations(ids))[: draw(st.integers(0, len(ids)))]
        messages += [{**result(name, draw(_texts)), **draw(_fields)} for name in answered]
    return messages


@given(messages=_conversations())
async def test_any_conversation_leaves_as_it_came(messages: list[dict[str, Any]]) -> None:
    """For all conversations: imported, verified, exported, the JSON is the same."""
    given_chat = chat(*messages)
    records = await history_of(given_chat)
    assert verify(records).ok
    assert json.dumps(await exported(await imported(given_chat)), sort_keys=True) == json.dumps(
        [given_chat], sort_keys=True
    )


async def test_first_prompt_holds_the_leading_messages() -> None:
    """System and developer messages open the first turn together with the user's."""
    messages = [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, USER, REPLY]
    opening = [record.event for record in await history_of(chat(*messages)) if isinstance(record.event, PromptReceived)]
    assert [[message.role for message in event.messages] for event in opening] == [["system", "developer", "user"]]


async def test_each_call_becomes_a_planned_write_with_its_end() -> None:
    """Calls are planned to run as writes, nobody knows better; each result is the end of its call."""
    events = [
        record.event for record in await history_of(chat(USER, asking("a", "b"), result("b", "2"), result("a"), REPLY))
    ]
    [plans] = [event.plans for event in events if isinstance(event, ModelReplied) and event.plans]
    assert {(plan.decision, plan.effect) for plan in plans} == {("run", "write")}
    assert [(e.call_id, e.content) for e in events if isinstance(e, ToolFinished)] == [("b", "2"), ("a", "ok")]


async def test_open_turns_are_cancelled_with_the_reason() -> None:
    """Where the log leaves a turn open, the history says that the log ends, or goes on."""
    events = [record.event for record in await history_of(chat(USER, asking("a"), USER))]
    reasons = [event.reason for event in events if isinstance(event, TurnCancelled)]
    assert reasons == ["the log goes on with another prompt", "the log ends here"]


@pytest.mark.parametrize("name", ["two words", "ä/../b", "x" * 129, "\ud800", "../../etc/passwd", " ", 17])
async def test_odd_ids_are_kept_beside_the_session(name: object) -> None:
    """An id that no session can have becomes its external id, under an id made from it, and is given back."""
    journal = await imported(chat(USER, name=name))
    [info] = await journal.sessions()
    assert info.external_id == (None if name == 17 else name)
    assert [back["id"] for back in await exported(journal)] == [name]
    assert [again.id for again in await (await imported(chat(USER, name=name))).sessions()] == [info.id]


async def test_other_members_of_the_line_are_given_back() -> None:
    """What a line says beside id and messages stays with the session."""
    line = {**chat(USER, REPLY), "reward": 0.5, "tools": [{"type": "function"}], "metadata": {"a": None}}
    assert await exported(await imported(line)) == [line]


REFUSED = {
    "{": "not JSON",
    "\x80": "not JSON",
    '{"id": "x", "messages": [{"role": "user", "content": NaN}]}': "not JSON",
    "[]": "JSON object",
    '{"messages": []}': "no id",
    '{"id": "", "messages": []}': "no id",
    '{"id": null, "messages": []}': "no id",
    '{"id": true, "messages": []}': "no id",
    '{"id": "x"}': "no messages",
    '{"id": "x", "messages": {}}': "no messages",
    '{"id": "x", "messages": []}': "no messages",
    '{"id": "x", "messages": ["hello"]}': "message 1 is no JSON object",
    '{"id": "x", "messages": [{"content": "hello"}]}': "message 1: unknown role",
    '{"id": "x", "messages": [{"role": "king"}]}': "message 1: unknown role",
    json.dumps(chat(USER, result("a"), name="x")): "message 2 is the result of a call",
    json.dumps(
        chat(USER, REPLY, result("a"), name="x")
    ): 'message 3 is the result of call "a", which message 2 does not',
    json.dumps(chat(USER, asking("a"), result("b"), name="x")): "which message 2 does not ask for",
    json.dumps(chat(USER, asking("a"), result("a"), result("a"), name="x")): "has its result already",
    json.dumps(
        chat(USER, asking("a", "b"), result("a"), USER, result("b"), name="x")
    ): "message 5 is the result of a call",
    json.dumps(chat(USER, name="first")): "stands on line 1 already",
    json.dumps(chat(USER, name="old")): "in the journal already",
}


@pytest.mark.parametrize(("line", "reason"), REFUSED.items())
async def test_what_is_no_history_is_refused_with_its_line(line: str, reason: str) -> None:
    """The refusal names line and reason; earlier lines are imported, nothing of this one or after it is."""
    journal = await imported(chat(USER, name="old"))
    last = json.dumps(chat(USER, name="last"))
    lines: list[str | bytes] = [json.dumps(chat(USER, name="first")), "", line.encode("latin-1"), last]
    with pytest.raises(ImportRefused) as caught:
        await import_chats(lines, journal, clock=StoppedClock())
    assert caught.value.line == 3
    assert reason in caught.value.reason
    assert caught.value.__notes__ == ["1 conversations were imported before it and stay"]
    assert [info.id for info in await journal.sessions()] == ["first", "old"]


async def test_bad_lines_can_be_skipped_and_are_listed() -> None:
    """With `skip_bad` every good line is imported, and the report names every other one."""
    lines = [json.dumps(chat(USER, name="a")), "{", json.dumps(chat(USER, name="a")), json.dumps(chat(USER, name="b"))]
    journal = MemoryJournal()
    report = await import_chats(lines, journal, clock=StoppedClock(), skip_bad=True)
    assert (report.ok, report.lines, report.sessions, report.records) == (False, 4, 2, 6)
    assert [refusal.line for refusal in report.refused] == [2, 3]
    assert [info.id for info in await journal.sessions()] == ["a", "b"]


async def test_session_made_meanwhile_is_not_touched() -> None:
    """A session that another writer makes during the import is refused, and stays as it is."""

    class Late(MemoryJournal):
        async def sessions(self) -> list[SessionInfo]:
            return []

    journal = Late()
    await imported(chat(USER, name="c"), journal=journal)
    before = await journal.read("c")
    with pytest.raises(ImportRefused, match="already"):
        await imported(chat(USER, REPLY, name="c"), journal=journal)
    assert await journal.read("c") == before


async def test_progress_tells_what_has_been_done() -> None:
    """Progress is told in reports that grow up to the returned one."""
    seen: list[ImportReport] = []
    lines = [json.dumps(chat(USER, REPLY, name=f"c{number}")) for number in range(150)]
    report = await import_chats(lines, MemoryJournal(), clock=StoppedClock(), progress=seen.append)
    assert [each.lines for each in seen] == sorted({each.lines for each in seen})
    assert seen[-1] == report == ImportReport(lines=150, sessions=150, records=600)


async def test_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Some editors put a mark at the beginning of a file in UTF-8; the lines may end as they do on any system."""
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(line).encode() for line in SAMPLE_CHATS))
    journal = MemoryJournal()
    await import_chats(str(path), journal, clock=StoppedClock())
    assert sorted(map(json.dumps, await exported(journal))) == sorted(
        map(json.dumps, [*await exported(await imported(*SAMPLE_CHATS))])
    )


async def test_missing_file_is_the_systems_own_error(tmp_path: Path) -> None:
    """A file that is not there is reported as such, and nothing is made."""
    with pytest.raises(FileNotFoundError):
        await import_chats(tmp_path / "none.jsonl", MemoryJournal(), clock=StoppedClock())


@pytest.mark.parametrize("kind", ["runs.db", "runs.jsonl", "runs"])
async def test_files_are_imported_into_every_journal(tmp_path: Path, kind: str) -> None:
    """The shipped samples go into each kind of journal, and leave it equal."""
    journal = SqliteJournal(tmp_path / kind) if kind.endswith(".db") else JsonlJournal(tmp_path / kind)
    for path in SAMPLES:
        await import_chats(path, journal, clock=StoppedClock())
    by_id = {str(line["id"]): line for line in SAMPLE_CHATS}
    assert {str(line["id"]): line for line in await exported(journal)} == by_id
    await journal.aclose()


async def test_recorded_time_is_the_clocks() -> None:
    """All records of a conversation carry the moment of the import."""
    records = await history_of(chat(USER, REPLY))
    assert {(record.at, record.mono_ns) for record in records} == {("2026-01-01T00:00:00.000000Z", 1_000)}
    assert isinstance(records[0].event, SessionOpened)


async def test_cancelled_import_leaves_whole_conversations() -> None:
    """However early an import is cancelled, what is in the journal verifies and ends idle, and nobody holds it."""
    lines = [json.dumps(line) for line in SAMPLE_CHATS]
    journal = MemoryJournal()
    with anyio.CancelScope() as scope:
        await import_chats(lines, journal, clock=StoppedClock(), progress=lambda _: scope.cancel())
    for info in await journal.sessions():
        writer = await journal.claim(info.id)
        await writer.release()
    assert len(await exported(journal)) == len(SAMPLE_CHATS)
