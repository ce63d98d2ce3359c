"""The real input: whole conversations of a customer-service agent go in, come out, run again, and survive kill -9.

The conversations lie beside the checkout, in `shared/data`; where they are absent, these tests run over the samples
that the project ships alone. A re-run is a live engine with a recorded model and recorded tools.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine import ModelReply
from engine.core.events import ToolFinished
from engine.counterfactual import counterfactual
from engine.journal import SqliteJournal
from engine.models import FunctionModel
from engine.replay import compare, fork, import_chats, verify, verify_journal
from engine.testing.records import read_all
from engine.tools.recorded import recorded_tools

from .replay.children import run_and_die
from .replay.logs import SAMPLES, StoppedClock, exported, history_of, imported, run_again, stored

pytestmark = pytest.mark.anyio

AIRLINE = Path(__file__).resolve().parents[2] / "shared" / "data" / "airline-conversations.jsonl"
PLACES = random.Random
"""Seeded, so that a failing place is found again; nobody's secret depends on it."""

CUTS = 4
"""At how many random places each conversation is cut."""

KILLED = {"airline-4-0", "airline-18-0", "airline-28-0", "shop-1", "odd-unanswered"}
"""The conversations whose process is really killed; a process takes its time."""


class Case(NamedTuple):
    """One conversation of a file."""

    path: Path
    line: int
    chat: dict[str, Any]


def cases() -> list[Any]:
    files = [AIRLINE, *SAMPLES] if AIRLINE.exists() else SAMPLES
    found = [
        pytest.param(Case(path, line, chat), id=str(chat["id"]))
        for path in files
        for line, chat in enumerate(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    ]
    if not AIRLINE.exists():
        reason = f"the airline conversations are not at {AIRLINE.name} in shared/data beside the checkout"
        found.append(pytest.param(None, id="airline", marks=pytest.mark.skip(reason=reason)))
    return found


CASES = cases()
everyone = pytest.mark.parametrize("case", CASES)
killed = pytest.mark.parametrize("case", [param for param in CASES if param.id in KILLED])


@everyone
async def test_conversation_leaves_as_it_came(case: Case) -> None:
    """An imported conversation is exported equal to the original, member by member."""
    assert await exported(await imported(case.chat)) == [case.chat]


@everyone
async def test_v1_imported_history_verifies(case: Case) -> None:
    """Every record of an imported history has its hash, its place in the chain, and is what a step gives."""
    found = verify(await history_of(case.chat))
    assert (found.ok, found.unknown) == (True, ())
    assert found.records > len(case.chat["messages"])


@everyone
async def test_run_again_equals_the_original(case: Case, tmp_path: Path) -> None:
    """Run again through a live engine into SQLite, the conversation projects to the original messages, and verifies."""
    records = await history_of(case.chat)
    journal = SqliteJournal(tmp_path / "runs.db")
    assert await run_again(records, journal) == case.chat["messages"]
    [found] = await verify_journal(journal)
    assert found.ok
    await journal.aclose()


@everyone
async def test_m6_cut_anywhere_it_still_ends_equal(case: Case) -> None:
    """From any prefix of its journal a re-run goes on to the original messages; finished calls are not run again."""
    records = await history_of(case.chat)
    journal = await stored(())
    await run_again(records, journal)
    whole = await read_all(journal, records[0].session)
    for cut in PLACES(str(case.chat["id"])).sample(range(len(whole)), min(CUTS, len(whole))):
        prefix = await stored(whole[:cut])
        assert await run_again(records, prefix) == case.chat["messages"], f"cut after record {cut}"
        continued = await read_all(prefix, records[0].session)
        assert verify(continued).ok
        ends = [record.event for record in continued if record.trigger == "tool_finished"]
        assert len(ends) == sum(record.trigger == "tool_finished" for record in whole), f"cut after record {cut}"


@everyone
async def test_m6_imported_prefix_goes_on_live(case: Case) -> None:
    """A live engine takes an imported history over at any record and goes on to the original messages."""
    records = await history_of(case.chat)
    for cut in PLACES(f"live {case.chat['id']}").sample(range(1, len(records)), 2):
        prefix = await stored(records[:cut])
        assert await run_again(records, prefix) == case.chat["messages"], f"cut after record {cut}"


@killed
async def test_m6_killed_for_real_it_still_ends_equal(case: Case, tmp_path: Path, anyio_backend: str) -> None:
    """A process that is killed with SIGKILL in a re-run leaves a journal from which another one ends equal."""
    records = await history_of(case.chat)
    whole = await stored(())
    await run_again(records, whole)
    length = len(await read_all(whole, records[0].session))
    count = PLACES(f"kill {anyio_backend} {case.chat['id']}").randrange(2, length)
    database = tmp_path / "runs.db"
    assert run_and_die(case.path, case.line, database, count) == -9
    journal = SqliteJournal(database)
    assert len(await read_all(journal, records[0].session)) >= count
    assert await run_again(records, journal) == case.chat["messages"], f"killed at record {count}"
    [found] = await verify_journal(journal)
    assert found.ok
    await journal.aclose()


@everyone
async def test_conversation_is_forked_changed_and_compared(case: Case) -> None:
    """Any conversation can be forked and goes on to the original messages; changed in one result, what was recorded is
    reused, and the comparison begins at the change.
    """
    original = await history_of(case.chat)
    journal, session = await stored(()), original[0].session
    await run_again(original, journal)
    records = list(await read_all(journal, session))
    cut = PLACES(f"fork {case.chat['id']}").randrange(1, len(records) + 1)
    name = await fork(journal, session, cut, clock=StoppedClock())
    assert await run_again(original, journal, name=name) == case.chat["messages"], f"forked after record {cut}"
    assert compare(records, await read_all(journal, name)).count("only_left") == 0
    ends = [record for record in records if isinstance(record.event, ToolFinished)]
    if not ends:
        return
    changed = PLACES(f"change {case.chat['id']}").choice(ends)
    assert isinstance(changed.event, ToolFinished)
    found = await counterfactual(
        journal, session, changed.seq, changed.event.model_copy(update={"content": "Something else."}),
        model=FunctionModel(lambda request: ModelReply(text="I see.")), tools=recorded_tools(original),
    )  # fmt: skip
    assert changed.seq in {use.seq for use in found.reused}
    assert next(pair.left.seq for pair in found.comparison.differences if pair.left) == changed.seq
    assert verify(await read_all(journal, found.session)).ok
    assert list(await read_all(journal, session)) == records


async def test_all_conversations_share_one_journal(tmp_path: Path) -> None:
    """Whole files are imported into one journal, each conversation under its own id, and all of them verify."""
    files = [AIRLINE, *SAMPLES] if AIRLINE.exists() else SAMPLES
    journal = SqliteJournal(tmp_path / "all.db")
    originals: dict[str, object] = {}
    for path in files:
        report = await import_chats(path, journal, clock=StoppedClock())
        lines = path.read_text(encoding="utf-8").splitlines()
        assert report.sessions == len(lines)
        originals |= {chat["id"]: chat for chat in map(json.loads, lines)}
    assert {chat["id"]: chat for chat in await exported(journal)} == originals
    assert all(found.ok for found in await verify_journal(journal))
    await journal.aclose()
