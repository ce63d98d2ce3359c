"""Rules hold where they hold, are violated where they are, and say so in as few records as it takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from engine import Engine, ModelReply, TransitionRecord
from engine.core.events import KnownEvent
from engine.errors import UsageError
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.replay.monitors import LiveRules, Rule, Violation, before, check, check_journal, leads_to, never, on, within
from engine.testing.recording import Recording
from engine.testing.strategies import recordings
from tests.core.scenarios import ASKED, CONTEXT, RUN, SESSIONS, ended, prompt, reply, says

PROMPT, TOOL, DONE = on(trigger="prompt_received"), on(tool="pay"), on(state="idle")


def history(*events: KnownEvent) -> list[TransitionRecord]:
    return Recording().play([*SESSIONS["idle"], *events]).records


TURN: list[KnownEvent] = [prompt(), CONTEXT, reply(RUN), ended(1), CONTEXT, says("paid")]
SAY: list[KnownEvent] = [prompt(), CONTEXT, says("hello")]


def places(rule: Rule, *events: KnownEvent) -> list[tuple[int, ...]]:
    return [violation.seqs for violation in check([rule], history(*events))]


def test_never() -> None:
    """What must never happen is shown by the one record in which it did; what did not happen holds."""
    assert places(never(on(text="PAID")), *TURN, *SAY, *TURN) == [(7,), (16,)]
    assert places(never(on(trigger="faulted")), *TURN) == []


def test_before() -> None:
    """What needs something before it is violated without it, in its own scope."""
    rule = before(on(text="hello", trigger="model_replied"), TOOL)
    assert places(rule, *SAY, *TURN) == []
    assert places(rule, *TURN, *SAY, *TURN) == [(4,), (5,)]
    assert places(before(on(text="hello", trigger="model_replied"), TOOL, scope="turn"), *SAY, *TURN) == [(7,), (8,)]


def test_within_so_many_records() -> None:
    """What must follow soon may take as many records as it says; a history that ends earlier violates nothing."""
    assert places(within(PROMPT, DONE, records=5), *TURN, *SAY) == []
    assert places(within(PROMPT, DONE, records=4), *TURN, *SAY) == [(2, 7)]
    assert places(within(PROMPT, DONE, records=4), *TURN[:4]) == []


def test_within_so_many_seconds() -> None:
    """Records of the test are a millisecond apart."""
    assert places(within(PROMPT, DONE, seconds=0.005), *TURN) == []
    assert places(within(PROMPT, DONE, seconds=0.0045), *TURN) == [(2, 7)]


def test_leads_to() -> None:
    """What must follow must do so before the turn ends, or before the history does."""
    rule = leads_to(PROMPT, on(tool="pay", trigger="tool_finished"))
    assert places(rule, *TURN, *SAY, *TURN) == [(8, 10)]
    assert places(leads_to(PROMPT, TOOL, scope="session"), *SAY, *TURN) == []
    assert places(leads_to(PROMPT, TOOL, scope="session"), *TURN, *SAY) == [(8,)]


@settings(max_examples=60)
@given(recordings(max_events=25))
def test_rules_say_what_their_definitions_say(recording: Recording) -> None:
    """Over any history the rules agree with their definitions over the whole list of records."""
    records = recording.records
    happened = [record.seq for record in records if record.trigger == "prompt_received"]
    idle = [record.seq for record in records if record.dest == "idle"]
    assert [v.seqs for v in check([never(PROMPT)], records)] == [(seq,) for seq in happened]
    early = [seq for seq in idle if not any(earlier <= seq for earlier in happened)]
    assert [v.seqs for v in check([before(PROMPT, DONE)], records)] == [(seq,) for seq in early]
    unanswered = [seq for seq in happened if not any(later > seq for later in idle)]
    assert [v.seqs for v in check([leads_to(PROMPT, DONE, scope="session")], records)] == [(s,) for s in unanswered]


@pytest.mark.anyio
async def test_shortest_counter_example_of_a_journal() -> None:
    """Over all sessions, every violation is counted and the one that takes the fewest records is shown."""
    journal = MemoryJournal()
    long = Recording("a").play([*SESSIONS["idle"], prompt(), CONTEXT, reply(RUN), ended(1), CONTEXT, says()])
    short = Recording("b").play([*ASKED, says()])
    for recording in (long, short):
        await (await journal.claim(recording.session.id)).append(recording.records)
    [standing, held] = await check_journal([leads_to(PROMPT, on(text="never said")), never(on(state="error"))], journal)
    assert (standing.violations, standing.shortest) == (
        2,
        Violation("leads_to", "b", (2, 4), "the turn ended first"),
    )
    assert (held.violations, held.shortest) == (0, None)


@pytest.mark.anyio
async def test_rules_watch_an_engine_that_runs() -> None:
    """The same rules as an observer report a violation when it happens, each session for itself."""

    async def think(request: object) -> ModelReply:
        return ModelReply(text="hello")

    found: list[Violation] = []
    rules = LiveRules([leads_to(PROMPT, TOOL, name="pays"), never(on(text="HELLO"), name="polite")], found.append)
    async with Engine(model=FunctionModel(think), observers=[rules]) as engine:
        for name in ("a", "b"):
            await (await engine.open(name)).ask("hi")
    assert [(one.session, one.rule, one.seqs) for one in found] == [
        ("a", "pays", (2, 4)),
        ("a", "polite", (4,)),
        ("b", "pays", (2, 4)),
        ("b", "polite", (4,)),
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: on(),
        lambda: on(trigger="promt_received"),
        lambda: on(state="idel"),
        lambda: within(PROMPT, DONE),
        lambda: within(PROMPT, DONE, records=0),
        lambda: within(PROMPT, DONE, seconds=-1),
    ],
)
def test_rules_that_mean_nothing_are_refused(make: object) -> None:
    """A rule about everything, a misspelt name, a bound that is none."""
    assert callable(make)
    with pytest.raises(UsageError):
        make()
