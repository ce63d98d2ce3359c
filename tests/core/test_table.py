"""Every state against every event: exhaustive, because it is finite."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from engine.core import checks, guards, table
from engine.core.cursor import Cursor
from engine.core.events import EVENT_TYPES, KnownEvent
from engine.core.session import Session
from engine.core.step import Step, legal, step
from engine.core.table import ROWS, Row, fire, fire_through_machine, validate
from engine.core.values import State
from engine.errors import IllegalTransition, InvalidEvent, TableError
from engine.testing.checks import check_session

from .scenarios import SESSIONS, VARIANTS, attempts, session

ALWAYS = {"session_opened", "session_forked", "records_rewritten"}
NEARLY = {"grant_revoked", "late_result", "budget_settled", "shutdown_requested"} | ALWAYS
WORKING = {"budget_lent", "turn_cancelled", "resumed"} | NEARLY
LEGAL = {
    State.IDLE: {"prompt_received", "context_compacted"} | NEARLY,
    State.PROCESSING: {"context_prepared", "context_compacted", "faulted"} | WORKING,
    State.GENERATING_RESPONSE: {"model_replied", "faulted"} | WORKING,
    State.EXECUTING_TOOLS: {"tool_started", "tool_finished", "tool_retried", "user_answered", "faulted"} | WORKING,
    State.WAITING_FOR_USER: {"user_answered", "faulted"} | WORKING,
    State.ERROR: {
        "context_compacted",
        "faulted",
        "recovery_planned",
        "recovered",
        "recovery_needs_user",
        "recovery_failed",
    }
    | WORKING,
    State.SHUTDOWN: {"resumed"} | ALWAYS,
}
"""The legal kinds of every state, written down a second time."""


def deep(of: Session) -> object:
    """Return everything a session holds, apart from it."""
    return copy.deepcopy((of, tuple(of.transcript)))


def checked(of: Session, event: KnownEvent) -> Cursor:
    """Return a cursor whose event was found to refer to what is open, as guards get it."""
    cursor = Cursor(of, event)
    if event.kind in checks.CHECKS:
        checks.CHECKS[event.kind](cursor)
    return cursor


def chosen_row(of: Session, event: KnownEvent) -> Row:
    """Return the row that `ROWS` says is to fire: the first whose guard holds."""
    for row in ROWS:
        if (
            row.trigger == event.kind
            and of.state in row.sources
            and (row.guard is None or row.guard(checked(of, event)))
        ):
            return row
    raise AssertionError(f"no row for {event.kind} in {of.state}")


def outcome(of: Session, event: KnownEvent, move: Callable[[Cursor], None]) -> Any:
    """Return what a step gives, or the refusal as data."""
    try:
        return step(of, event, move)
    except (IllegalTransition, InvalidEvent) as error:
        return type(error), str(error)


def test_sessions_cover_every_state() -> None:
    """The representatives stand in all seven states, and were let go of in every state that can be left."""
    reached = [session(name) for name in SESSIONS]
    assert {one.state for one in reached} == set(State)
    assert {one.left for one in reached} == {None, *State} - {State.SHUTDOWN}


def test_variants_cover_every_event() -> None:
    """Every kind of event is tried."""
    assert VARIANTS.keys() == EVENT_TYPES.keys()


@pytest.mark.parametrize("state", State)
def test_legal_events_are_these(state: State) -> None:
    """Each state accepts exactly the kinds that the list above says, and `legal` names them sorted."""
    assert legal(state) == tuple(sorted(LEGAL[state]))


@pytest.mark.parametrize("name", SESSIONS)
def test_v2_every_event_moves_by_its_row_or_is_refused(name: str) -> None:
    """An event leads where its row says, into a sound session, or is refused as typed; the old session stays."""
    before = session(name)
    held = deep(before)
    allowed = LEGAL[before.state] if before.seq else {"session_opened"}
    for event in attempts(before):
        taken = outcome(before, event, fire)
        if isinstance(taken, Step):
            assert event.kind in allowed, event
            assert taken.session.state is (chosen_row(before, event).dest or before.state), event
            assert taken.session.seq == before.seq + 1
            check_session(taken.session)
        else:
            assert (taken[0] is IllegalTransition) == (event.kind not in allowed), event
            assert taken[0] is InvalidEvent or taken[1].endswith(f"legal there: {', '.join(sorted(allowed))}")
        assert deep(before) == held, event


@pytest.mark.parametrize("name", SESSIONS)
def test_v3_index_decides_as_the_machine_does(name: str) -> None:
    """For every event and guard the compiled index and the `transitions` machine give the same step or refusal."""
    before = session(name)
    for event in attempts(before):
        assert outcome(before, event, fire) == outcome(before, event, fire_through_machine), event


def test_every_row_is_exercised() -> None:
    """Each row of the table fires in each of its states: none is dead."""
    fired: set[tuple[int, State]] = set()
    for name in SESSIONS:
        before = session(name)
        for event in attempts(before):
            if isinstance(outcome(before, event, fire), Step):
                fired.add((ROWS.index(chosen_row(before, event)), before.state))
    declared = {(index, source) for index, row in enumerate(ROWS) for source in row.sources}
    assert {(ROWS[index].trigger, source, ROWS[index].dest) for index, source in declared - fired} == set()


def test_nothing_but_an_opening_is_legal_before_the_first_record() -> None:
    """A session without a record accepts session_opened only, and the refusal says so."""
    with pytest.raises(IllegalTransition, match="before its first record; legal there: session_opened"):
        step(Session("s"), VARIANTS["prompt_received"](Session("s")).__next__())


def without(trigger: str) -> tuple[Row, ...]:
    return tuple(row for row in ROWS if row.trigger != trigger)


def changed(index: int, **changes: Any) -> tuple[Row, ...]:
    return (*ROWS[:index], ROWS[index]._replace(**changes), *ROWS[index + 1 :])


def at(trigger: str, guard: Any = None) -> int:
    return next(i for i, row in enumerate(ROWS) if row.trigger == trigger and row.guard is guard)


LAST_END = at("tool_finished")
SHUTTING = at("shutdown_requested")
MISTAKES: dict[str, tuple[tuple[Row, ...], str]] = {
    "an event without rows": (without("recovered"), "rows and events differ: .'recovered'"),
    "a row without an event": (
        (*ROWS, ROWS[0]._replace(trigger="promt_received")), "rows and events differ: .'promt_received'",
    ),
    "a row twice": ((*ROWS, ROWS[LAST_END]), "tool_finished in executing_tools: the same guard twice"),
    "a guard twice": (
        (*ROWS[:LAST_END], ROWS[at("tool_finished", guards.others_run)], *ROWS[LAST_END:]),
        "tool_finished in executing_tools: the same guard twice",
    ),
    "an unguarded row that is not the last": (
        (*ROWS[: LAST_END + 1], ROWS[LAST_END]._replace(guard=guards.some_call_asks), *ROWS[LAST_END + 1 :]),
        "tool_finished in executing_tools: exactly the last row must have no guard",
    ),
    "no row for the case that no guard holds": (
        (*ROWS[:LAST_END], *ROWS[LAST_END + 1 :]),
        "tool_finished in executing_tools: exactly the last row must have no guard",
    ),
    "a way out of shutdown": (
        changed(SHUTTING, sources=(*ROWS[SHUTTING].sources, State.SHUTDOWN)), "shutdown_requested leaves shutdown",
    ),
    "a state that nothing leads to": (
        tuple(row._replace(dest=None) if row.dest is State.SHUTDOWN else row for row in ROWS),
        "shutdown cannot be reached",
    ),
    "a state that nothing leaves": (
        tuple(row._replace(dest=None) if row.trigger == "resumed" else row for row in ROWS), "shutdown cannot be left",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_validate_refuses(mistake: str) -> None:
    """What `transitions` accepts silently and cannot be meant is a TableError that names the place."""
    rows, complaint = MISTAKES[mistake]
    with pytest.raises(TableError, match=complaint):
        validate(rows)


def test_validate_accepts_the_table() -> None:
    """The table itself is total, unique and connected, and the machine holds a transition for each row and source."""
    validate(ROWS)
    arrows = sum(len(found) for event in table.MACHINE.events.values() for found in event.transitions.values())
    assert arrows == sum(len(row.sources) for row in ROWS)


def test_fire_never_falls_through() -> None:
    """`fire` on an event that no row allows is a programming error, not a silent nothing."""
    before = session("idle")
    with pytest.raises(KeyError):
        fire(Cursor(before, VARIANTS["recovered"](before).__next__()))
