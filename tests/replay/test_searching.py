"""Search finds the records that a look at every one of them would find."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from engine import State
from engine.errors import JournalCorrupt, JournalUnavailable, UsageError
from engine.journal import MemoryJournal
from engine.ports import Journal, StoredLine
from engine.replay import Query, search
from engine.testing.journals import FailingJournal
from engine.testing.recording import Recording
from engine.testing.records import chain
from tests.core.scenarios import ASKED, RUN, SESSIONS, ended, reply, says


async def journal_of(**histories: Recording) -> MemoryJournal:
    journal = MemoryJournal()
    for name, recording in histories.items():
        writer = await journal.claim(name)
        await writer.append(recording.records)
        await writer.release()
    return journal


TOOLS = Recording("b").play([*ASKED, reply(RUN, RUN), ended(1), ended(2)])
TEXT = Recording("a").play([*ASKED, says("The Straße is closed.")])


async def places(journal: Journal, query: Query, sessions: Sequence[str] | None = None) -> list[tuple[str, int]]:
    return [(match.record.session, match.record.seq) async for match in search(journal, query, sessions)]


async def collect(found: list[int], journal: Journal) -> None:
    async for match in search(journal, Query(), ["s"]):
        found.append(match.record.seq)


async def both() -> MemoryJournal:
    return await journal_of(a=TEXT, b=TOOLS)


@pytest.mark.anyio
async def test_an_empty_query_finds_every_record() -> None:
    """What asks for nothing in particular finds all sessions in order, and in each all records."""
    wanted = [(r.session, r.seq) for recording in (TEXT, TOOLS) for r in recording.records]
    assert await places(await both(), Query()) == wanted


@pytest.mark.anyio
async def test_text_is_found_in_any_case_with_what_stands_around_it() -> None:
    """Text is found in values, not in names of fields; the excerpt shows it."""
    [match] = [match async for match in search(await both(), Query(text="STRASSE IS"))]
    assert (match.record.trigger, match.excerpt) == ("model_replied", "The Straße is closed.")
    assert await places(await both(), Query(text="model_replied")) == []
    assert await places(await both(), Query(text="reply")) == []


@pytest.mark.anyio
async def test_an_excerpt_is_short() -> None:
    """Of a long text only what stands around the find is shown."""
    journal = await journal_of(s=Recording().play([*ASKED, says("x" * 500 + " needle " + "y" * 500)]))
    [match] = [match async for match in search(journal, Query(text="needle"))]
    assert "needle" in match.excerpt
    assert len(match.excerpt) < 100


@pytest.mark.anyio
async def test_tools_are_found_wherever_their_calls_are_recorded() -> None:
    """The reply that asks for a call and the records of the call itself, which hold no name, are found by its tool."""
    name = TOOLS.session.turn.done[0].call.name if TOOLS.session.turn else ""
    found = await places(await both(), Query(tools=frozenset({name})))
    assert found == [("b", r.seq) for r in TOOLS.records if r.trigger in ("model_replied", "tool_finished")]
    assert await places(await both(), Query(tools=frozenset({"nothing"}))) == []


@pytest.mark.anyio
async def test_conditions_hold_together() -> None:
    """Trigger and state: both must be so; two of one kind: one of them."""
    query = Query(triggers=frozenset({"model_replied"}), states=frozenset({State.IDLE, State.ERROR}))
    assert await places(await both(), query) == [("a", TEXT.records[-1].seq)]


@pytest.mark.anyio
async def test_times_bound_what_is_found() -> None:
    """From `since` on, and before `until`; a time without a zone is UTC."""
    records = chain("s", 9)
    journal = MemoryJournal()
    await (await journal.claim("s")).append(records)
    at = [datetime.fromisoformat(record.at) for record in records]
    assert await places(journal, Query(since=at[3], until=at[5])) == [("s", 4), ("s", 5)]
    assert await places(journal, Query(since=at[7].astimezone(UTC).replace(tzinfo=None))) == [("s", 8), ("s", 9)]
    assert await places(journal, Query(until=at[0] - timedelta(days=1))) == []


@pytest.mark.anyio
async def test_only_the_sessions_that_are_named() -> None:
    """Where sessions are named, no other is read."""
    assert {session for session, _ in await places(await both(), Query(), ["b"])} == {"b"}


@pytest.mark.anyio
async def test_search_holds_one_page() -> None:
    """A journal that fails at its second page has given the first one's finds by then: nothing is collected first."""
    journal = MemoryJournal()
    await (await journal.claim("s")).append(chain("s", 2_000))
    found: list[int] = []
    with pytest.raises(JournalUnavailable):
        await collect(found, FailingJournal(journal, 3, operations={"read"}))
    assert found == list(range(1, 513))


@pytest.mark.anyio
async def test_damage_is_reported_after_what_precedes_it() -> None:
    """A damaged record ends the search of its session with its place."""

    class Damaged(MemoryJournal):
        async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
            page = list(await super().read(session, after, limit))
            return [line._replace(text=line.text.replace("done", "gone")) for line in page]

    journal = Damaged()
    recording = Recording().play(SESSIONS["idle after a turn"])
    await (await journal.claim("s")).append(recording.records)
    found: list[int] = []
    with pytest.raises(JournalCorrupt, match="hash"):
        await collect(found, journal)
    assert found == [1, 2, 3]


def test_query_for_an_event_that_is_none_is_refused() -> None:
    """A misspelt trigger finds nothing for ever: it is refused, and the right ones are named."""
    with pytest.raises(UsageError, match="prompt_received"):
        Query(triggers=frozenset({"promt_received"}))
