"""Histories leave as OpenTelemetry's traces and come back record by record; the form is the published one."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from engine import Engine, ModelReply, Usage, tool
from engine.core.record import TransitionRecord
from engine.core.values import ToolCall
from engine.errors import ImportRefused, UsageError
from engine.journal import MemoryJournal
from engine.journal.codec import decode
from engine.models import FunctionModel
from engine.ports import Journal, ModelRequest
from engine.replay import Account, fork, prune, redact, verify_journal
from engine.replay.otlp import SCHEMA, export_otlp, import_otlp
from engine.testing.journals import YieldingJournal
from engine.testing.recording import Recording
from engine.testing.strategies import recordings
from tests.histories.make import FOLDER

from .logs import StoppedClock

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "otlp.schema.json"
RELEASED = [
    (entry["name"], [decode(line) for line in entry["lines"]])
    for path in sorted(FOLDER.glob("*.jsonl"))
    for entry in map(json.loads, path.read_text(encoding="ascii").splitlines())
    if all('"session_forked"' not in line for line in entry["lines"])
]
CHECK = Draft202012Validator(SCHEMA)


async def stored(records: Sequence[TransitionRecord]) -> MemoryJournal:
    journal = MemoryJournal()
    writer = await journal.claim(records[0].session)
    await writer.append(records)
    await writer.release()
    return journal


async def traces_of(journal: Journal) -> list[dict[str, Any]]:
    return [dict(trace) async for trace in export_otlp(journal)]


async def lines_of(journal: Journal) -> dict[str, list[str]]:
    """Return every stored line, as it is stored."""
    sessions = await journal.sessions()
    return {info.id: [line.text for line in await journal.read(info.id, 0, 10_000)] for info in sessions}


async def come_back(traces: Iterable[object]) -> dict[str, list[str]]:
    target = MemoryJournal()
    await import_otlp([json.dumps(trace) for trace in traces], target)
    assert all(verified.ok for verified in await verify_journal(target))
    return await lines_of(target)


def spans_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    [resource] = trace["resourceSpans"]
    [scope] = resource["scopeSpans"]
    return list(scope["spans"])


def attributes_of(span: dict[str, Any]) -> dict[str, Any]:
    return {entry["key"]: next(iter(entry["value"].values())) for entry in span["attributes"]}


async def same_after_a_round_trip(records: Sequence[TransitionRecord]) -> bool:
    """Check the form of an export; return whether the same lines come back."""
    journal = await stored(records)
    traces = await traces_of(journal)
    assert [error.message for trace in traces for error in CHECK.iter_errors(trace)] == []
    ids = [(span["traceId"], span["spanId"]) for trace in traces for span in spans_of(trace)]
    assert len(set(ids)) == len(ids)
    for trace in traces:
        first, *children = spans_of(trace)
        parents = {(child["traceId"], child["parentSpanId"]) for child in children}
        assert parents <= {(first["traceId"], first["spanId"])}
        assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in (first, *children))
    assert await traces_of(journal) == traces
    return await come_back(traces) == await lines_of(journal)


@settings(max_examples=30)
@given(recordings(max_events=30))
def test_any_history_comes_back_as_it_left(recording: Recording) -> None:
    """Every line comes back, ids differ and are the same each time, and the form is the published one."""
    assert anyio.run(same_after_a_round_trip, recording.records)


@pytest.mark.parametrize(("name", "records"), RELEASED, ids=[name for name, _ in RELEASED])
@pytest.mark.anyio
async def test_histories_of_releases_come_back(name: str, records: list[TransitionRecord]) -> None:
    """The same for what releases have recorded: faults, retries, shutdowns, answers, loans."""
    assert await same_after_a_round_trip(records)


async def ran(*, fails: bool = False) -> MemoryJournal:
    """Return a journal in which a turn called a tool."""

    @tool(effect="read")
    async def look_up(order: int) -> str:
        """Tell where an order is."""
        if fails:
            raise LookupError("there is no such order")
        return "on its way"

    def reply(request: ModelRequest) -> ModelReply:
        if request.round == 1:
            return ModelReply(tool_calls=[ToolCall(id="c1", name="look_up", arguments={"order": 1})], model="m")
        return ModelReply(text="Soon.", model="m", usage=Usage(input_tokens=7, output_tokens=2))

    journal = MemoryJournal()
    async with Engine(model=FunctionModel(reply), tools=[look_up], journal=journal) as engine:
        session = await engine.open("s")
        await session.ask("Where is it?")
        await session.ask("And now?")
    return journal


@pytest.mark.anyio
async def test_a_turn_is_a_trace_of_its_calls() -> None:
    """The spans of a turn carry the names, kinds and attributes of the conventions for generative AI."""
    opened, turn, again = await traces_of(await ran())
    assert [span["name"] for span in spans_of(opened)] == ["session"]
    names = ["invoke_agent", "chat m", "execute_tool look_up", "chat m"]
    assert [span["name"] for span in spans_of(turn)] == [span["name"] for span in spans_of(again)] == names
    assert [span["kind"] for span in spans_of(turn)] == [1, 3, 1, 3]
    root, _, run, last = map(attributes_of, spans_of(turn))
    assert {root["gen_ai.conversation.id"], run["gen_ai.conversation.id"]} == {"s"}
    assert (root["gen_ai.operation.name"], root["gen_ai.usage.input_tokens"]) == ("invoke_agent", "7")
    assert (run["gen_ai.operation.name"], run["gen_ai.tool.name"], run["gen_ai.tool.call.id"]) == (
        "execute_tool", "look_up", "c1",
    )  # fmt: skip
    assert (last["gen_ai.operation.name"], last["gen_ai.response.model"], last["gen_ai.usage.output_tokens"]) == (
        "chat", "m", "2",
    )  # fmt: skip
    assert not any("status" in span for span in spans_of(turn))
    outer, *inner = [(int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])) for span in spans_of(turn)]
    assert all(outer[0] <= start <= end <= outer[1] for start, end in inner)


@pytest.mark.anyio
async def test_a_failed_call_is_a_failed_span() -> None:
    """Its status is the error of OTLP, with the kind of the exception."""
    _, turn, _ = await traces_of(await ran(fails=True))
    run = spans_of(turn)[2]
    assert run["status"] == {"code": 2, "message": "LookupError"}
    assert attributes_of(run)["error.type"] == "LookupError"


@pytest.mark.anyio
async def test_rewritten_histories_come_back() -> None:
    """Redacted and pruned ones verify on the other side as they did here."""
    journal = await ran()
    await redact(journal, "s", "on its way", Account(StoppedClock()))
    assert await come_back(await traces_of(journal)) == await lines_of(journal)
    await prune(journal, "s", 9, Account(StoppedClock()))
    assert await come_back(await traces_of(journal)) == await lines_of(journal)


@pytest.mark.anyio
async def test_order_repetition_and_foreign_spans_do_not_matter() -> None:
    """What a collector does to a file is undone: lines in any order, twice, and traces of other programs."""
    journal = await ran()
    traces = await traces_of(journal)
    foreign = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "GET /", "events": [{"name": "x"}]}]}]}]}
    mixed = [*traces, *traces, foreign]
    random.Random(5).shuffle(mixed)  # noqa: S311 - an order, not a secret
    assert await come_back(mixed) == await lines_of(journal)


def damaged(text: str) -> list[str]:
    """Return what cannot be imported, made from the lines of an export."""
    first, second, *_ = text.splitlines()
    return ["{", "[]", '{"id": "x", "messages": []}', first.replace("session_opened", "session_opcned"), second,
            first.replace('"gen_ai.conversation.id"', '"x"'), first + "\n" + first.replace("hash", "hush")]  # fmt: skip


@pytest.mark.parametrize("case", range(7))
@pytest.mark.anyio
async def test_what_does_not_hold_is_refused_whole(case: int) -> None:
    """Something else, a changed record, a gap, a record of no session, two of one sequence: nothing is written."""
    text = "\n".join(json.dumps(trace) for trace in await traces_of(await ran()))
    target = MemoryJournal()
    with pytest.raises(ImportRefused, match="line "):
        await import_otlp(damaged(text)[case].splitlines(), target)
    assert await target.sessions() == []


@pytest.mark.anyio
async def test_a_session_that_exists_is_refused() -> None:
    """Importing twice neither doubles nor changes a history."""
    journal = await ran()
    before = await lines_of(journal)
    with pytest.raises(ImportRefused, match="in the journal already"):
        await import_otlp([json.dumps(trace) for trace in await traces_of(journal)], journal)
    assert await lines_of(journal) == before


def test_schema_is_the_published_one() -> None:
    """docs/otlp.schema.json is what the code says; REFRESH_GOLDEN=1 rewrites it."""
    text = json.dumps(SCHEMA, indent=2) + "\n"
    if os.environ.get("REFRESH_GOLDEN"):
        PUBLISHED.write_text(text, encoding="utf-8")
    assert PUBLISHED.read_text(encoding="utf-8") == text


@pytest.mark.anyio
async def test_forks_come_back_with_what_they_share() -> None:
    """Forks of forks, in whatever order their lines come, share again what they shared; each record leaves once."""
    journal = await ran()
    await fork(journal, "s", 5, clock=StoppedClock(), name="t")
    await fork(journal, "t", 6, clock=StoppedClock(), name="a")
    await fork(journal, "t", 3, clock=StoppedClock(), name="b")
    traces = await traces_of(journal)
    for trace in traces:
        CHECK.validate(trace)
    lines = [json.dumps(trace) for trace in traces]
    held = [event for trace in traces for span in spans_of(trace) for event in span.get("events", [])]
    assert len(held) == len({line for found in (await lines_of(journal)).values() for line in found})
    copy = MemoryJournal()
    assert await import_otlp(reversed(lines), copy) == 4
    assert await lines_of(copy) == await lines_of(journal)
    assert await copy.forks("t") == {"a": 6}
    assert await copy.forks("s") == {"t": 5, "b": 3}
    assert all(check.ok for check in await verify_journal(copy))
    alone = [json.dumps(trace) async for trace in export_otlp(journal, ["a"])]
    assert await import_otlp(alone, MemoryJournal()) == 3


@pytest.mark.anyio
async def test_a_fork_without_its_parent_is_refused() -> None:
    """What it begins with is not among the traces, or cannot be shared: nothing is written."""
    journal = await ran()
    await fork(journal, "s", 5, clock=StoppedClock(), name="t")
    lines = [json.dumps(trace) for trace in await traces_of(journal)]
    alone = [line for line in lines if '"stringValue": "t"' in line]
    copy = MemoryJournal()
    with pytest.raises(ImportRefused, match="a fork of 's', whose records are not among these"):
        await import_otlp(alone, copy)
    assert await copy.sessions() == []
    with pytest.raises(UsageError, match="cannot share histories"):
        await import_otlp(lines, YieldingJournal(MemoryJournal()))
