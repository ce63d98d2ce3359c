"""The transition table: the only place where a state is decided.

`ROWS` is the theory of operation in one list. A row says: on this event, in these states, if the guard holds, go there
and do that. Rows of one event and state are tried from top to bottom; the last of them has no guard, so an event is
either legal, and then has exactly one outcome, or it is refused.

The package `transitions` is the authority: one module-level synchronous `Machine` is built from the rows, with no model
of its own (a machine a session costs 20 kB, a registered model 6 kB and is held for ever; a cursor costs a hundred
bytes). It accepts silently what would be a mistake here: misspelt states, duplicate rows, groups of guards that can all
be false, ways out of a final state. `validate` turns each into a `TableError` at import. Firing through the machine
costs about three times what the work behind it does, most of it in two log lines, so `fire` answers from an index
compiled *from the machine's own events*; `fire_through_machine` is the slow way, and a test proves both equal for every
state, event and guard.

Must stay pure. Nothing outside this module may assign a state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from transitions import Machine

from ..errors import TableError
from . import actions as do, compacting as view, guards as given, resuming as then
from .cursor import Cursor
from .events import EVENT_TYPES
from .values import State

Guard = Callable[[Cursor], bool]
Action = Callable[[Cursor], None]

IDLE, PROCESSING, GENERATING, TOOLS, WAITING, ERROR, SHUTDOWN = State
IN_TURN = (PROCESSING, GENERATING, TOOLS, WAITING, ERROR)


class Row(NamedTuple):
    """One declared transition. `dest` None is internal: the state stays."""

    trigger: str
    sources: tuple[State, ...]
    guard: Guard | None
    dest: State | None
    action: Action


ROWS: tuple[Row, ...] = (
    Row("session_opened", (IDLE, *IN_TURN, SHUTDOWN), None, None, do.note_opening),
    # A fork begins shut down, whatever its parent was doing: it is resumed by the rules of a shutdown there.
    Row("session_forked", (IDLE, *IN_TURN), None, SHUTDOWN, then.begin_fork),
    Row("session_forked", (SHUTDOWN,), None, None, then.begin_fork),
    # A turn begins.
    Row("prompt_received", (IDLE,), None, PROCESSING, do.open_turn),
    # The context is ready: ask the model if a budget has room for it, unless the host asked for calls.
    Row("context_prepared", (PROCESSING,), given.cannot_afford_reply, ERROR, do.take_context_in_vain),
    Row("context_prepared", (PROCESSING,), given.no_call_is_planned, GENERATING, do.take_context),
    Row("context_prepared", (PROCESSING,), given.some_call_runs, TOOLS, do.take_direct_calls),
    Row("context_prepared", (PROCESSING,), given.some_call_asks, WAITING, do.take_direct_calls),
    Row("context_prepared", (PROCESSING,), None, PROCESSING, do.take_refused_direct_calls),
    # The model is shown less: because it gets too much, because that did not fit, or because the host says so.
    Row("context_compacted", (IDLE,), None, None, view.compact),
    Row("context_compacted", (PROCESSING,), None, None, view.compact_and_prepare),
    Row("context_compacted", (ERROR,), view.gives_room, GENERATING, view.compact_and_ask),
    Row("context_compacted", (ERROR,), None, None, view.compact_in_vain),
    # The model answered: text first, then the limits, then calls.
    Row("model_replied", (GENERATING,), given.outgrew, ERROR, do.take_outgrown_reply),
    Row("model_replied", (GENERATING,), given.wants_continuation, PROCESSING, do.continue_reply),
    Row("model_replied", (GENERATING,), given.no_call_is_planned, IDLE, do.finish_turn),
    Row("model_replied", (GENERATING,), given.rounds_exhausted, ERROR, do.take_surplus_calls),
    Row("model_replied", (GENERATING,), given.parsing_exhausted, ERROR, do.take_hopeless_calls),
    Row("model_replied", (GENERATING,), given.halted, ERROR, do.take_halted_calls),
    Row("model_replied", (GENERATING,), given.some_call_runs, TOOLS, do.take_calls),
    Row("model_replied", (GENERATING,), given.some_call_asks, WAITING, do.take_calls),
    Row("model_replied", (GENERATING,), None, PROCESSING, do.take_refused_calls),
    # Tools run. The batch settles as a whole: one call's trouble never cancels its siblings.
    Row("tool_started", (TOOLS,), None, None, do.note_start),
    Row("tool_retried", (TOOLS,), None, None, do.retry_call),
    Row("tool_finished", (TOOLS,), given.others_run, None, do.note_finish),
    Row("tool_finished", (TOOLS,), given.answers_missing, WAITING, do.note_finish),
    Row("tool_finished", (TOOLS,), given.finished_in_trouble, ERROR, do.fail_batch),
    Row("tool_finished", (TOOLS,), None, PROCESSING, do.finish_batch),
    # A person answers, in any order, while siblings run or while nothing does.
    Row("user_answered", (WAITING,), given.answer_extends_budget, PROCESSING, then.extend_budget),
    Row("user_answered", (WAITING,), given.answer_refuses_budget, IDLE, then.refuse_budget),
    Row("user_answered", (WAITING,), given.answer_unparks, GENERATING, then.resume_parked),
    Row("user_answered", (WAITING,), given.answer_gives_up, IDLE, then.give_up),
    Row("user_answered", (TOOLS, WAITING), given.answer_hands_over, None, then.hand_over),
    Row("user_answered", (TOOLS, WAITING), given.answer_starts_call, TOOLS, then.start_answered_call),
    Row("user_answered", (TOOLS,), None, None, then.close_answered_call),
    Row("user_answered", (WAITING,), given.other_answers_missing, None, then.close_answered_call),
    Row("user_answered", (WAITING,), given.answered_in_trouble, ERROR, then.recover_answered_batch),
    Row("user_answered", (WAITING,), None, PROCESSING, then.settle_answered_call),
    # What was allowed for calls to come can be taken back at any time.
    Row("grant_revoked", (IDLE, *IN_TURN), None, None, then.drop_grant),
    # A turn lends to a child session, and takes back what it did not use; at rest a session ends its own loan.
    Row("budget_lent", IN_TURN, None, None, do.lend),
    Row("budget_settled", (IDLE,), None, None, do.end_loan),
    Row("budget_settled", IN_TURN, None, None, do.settle_loan),
    # A thread that was given up has ended.
    Row("late_result", (IDLE, *IN_TURN), None, None, do.ignore_late_result),
    # Earlier records were redacted or pruned: what they led to is what it was.
    Row("records_rewritten", (IDLE, *IN_TURN, SHUTDOWN), None, None, do.note_rewriting),
    # Something failed that is nobody's result.
    Row("faulted", IN_TURN, None, ERROR, then.note_fault),
    Row("recovery_planned", (ERROR,), None, None, then.replan),
    Row("recovered", (ERROR,), given.plan_resumes_generating, GENERATING, then.resume_generating),
    Row("recovered", (ERROR,), None, PROCESSING, then.resume_processing),
    Row("recovery_needs_user", (ERROR,), given.plan_extends_budget, WAITING, then.ask_for_more),
    Row("recovery_needs_user", (ERROR,), given.plan_parks, WAITING, then.park),
    Row("recovery_needs_user", (ERROR,), None, WAITING, then.ask_about_outcomes),
    Row("recovery_failed", (ERROR,), given.plan_shuts_down, SHUTDOWN, then.shut_down),
    Row("recovery_failed", (ERROR,), None, IDLE, then.give_up),
    Row("turn_cancelled", IN_TURN, None, IDLE, then.cancel_turn),
    # The session comes back after a crash (inside a turn) or after a shutdown (to the state it left).
    Row("resumed", (PROCESSING,), None, None, then.prepare_again),
    Row("resumed", (GENERATING,), None, None, then.call_model_again),
    Row("resumed", (WAITING,), None, None, then.ask_again),
    Row("resumed", (ERROR,), None, None, then.recover_again),
    Row("resumed", (SHUTDOWN,), given.left_idle, IDLE, then.wake),
    Row("resumed", (SHUTDOWN,), given.left_processing, PROCESSING, then.prepare_again),
    Row("resumed", (SHUTDOWN,), given.left_generating, GENERATING, then.call_model_again),
    Row("resumed", (SHUTDOWN,), given.left_waiting, WAITING, then.ask_again),
    Row("resumed", (SHUTDOWN,), given.left_in_error, ERROR, then.recover_again),
    # … where tools were running: by what may run again, what is still to be answered, what nobody can know.
    Row("resumed", (TOOLS, SHUTDOWN), given.reruns_some, TOOLS, then.run_again),
    Row("resumed", (TOOLS, SHUTDOWN), given.answers_missing, WAITING, then.wait_again),
    Row("resumed", (TOOLS, SHUTDOWN), given.interrupted_in_trouble, ERROR, then.recover_interrupted),
    Row("resumed", (TOOLS, SHUTDOWN), None, PROCESSING, then.settle_interrupted),
    Row("shutdown_requested", (IDLE, *IN_TURN), None, SHUTDOWN, then.close),
)


def validate(rows: tuple[Row, ...]) -> None:
    """Refuse a table that `transitions` would accept and that could not be meant.

    Raises:
        TableError: an event without rows, or rows without an event; a row twice; a group of rows for one event and
            state that does not end in exactly one row without a guard; a way out of SHUTDOWN other than `resumed`; a
            state that cannot be reached or left.
    """
    if {row.trigger for row in rows} != set(EVENT_TYPES):
        raise TableError(f"rows and events differ: {sorted({row.trigger for row in rows} ^ set(EVENT_TYPES))}")
    groups: dict[tuple[str, State], list[Row]] = {}
    for row in rows:
        for source in row.sources:
            groups.setdefault((row.trigger, source), []).append(row)
    for (trigger, source), group in groups.items():
        guards = [row.guard for row in group]
        if len(set(guards)) != len(guards):
            raise TableError(f"{trigger} in {source}: the same guard twice")
        if guards[-1] is not None or None in guards[:-1]:
            raise TableError(f"{trigger} in {source}: exactly the last row must have no guard")
        if source is SHUTDOWN and trigger != "resumed" and any(row.dest is not None for row in group):
            raise TableError(f"{trigger} leaves {SHUTDOWN}; only resumed may")
    moves = {(source, row.dest) for row in rows for source in row.sources if row.dest not in (None, source)}
    for state in State:
        if state is not IDLE and all(dest is not state for _, dest in moves):
            raise TableError(f"{state} cannot be reached")
        if all(source is not state for source, _ in moves):
            raise TableError(f"{state} cannot be left")


def build(rows: tuple[Row, ...]) -> Machine:
    """Return the `transitions` machine of a validated table."""
    validate(rows)
    machine = Machine(
        model=None,
        states=[state.value for state in State],
        initial=IDLE.value,
        auto_transitions=False,
        send_event=False,
    )
    for row in rows:
        machine.add_transition(
            row.trigger,
            [source.value for source in row.sources],
            None if row.dest is None else row.dest.value,
            conditions=[] if row.guard is None else [row.guard],
            after=[row.action],
        )
    return machine


MACHINE = build(ROWS)
"""The authority. Never give it a model; never add to it."""


class _Branch(NamedTuple):
    guard: Guard | None
    dest: State | None
    action: Action


def _compile(machine: Machine) -> dict[tuple[str, str], tuple[_Branch, ...]]:
    """Return the machine's own transitions as (event, state) → branches in their order."""
    return {
        (name, source): tuple(
            _Branch(
                cast(Guard, arrow.conditions[0].func) if arrow.conditions else None,
                None if arrow.dest is None else State(arrow.dest),
                cast(Action, arrow.after[0]),
            )
            for arrow in arrows
        )
        for name, event in machine.events.items()
        for source, arrows in event.transitions.items()
    }


_INDEX = _compile(MACHINE)
LEGAL = _INDEX.keys()
"""Every (kind of event, state) that has a row."""


def legal(state: str) -> tuple[str, ...]:
    """Return the kinds of the events that are legal in a state, sorted."""
    return tuple(sorted(name for name, source in _INDEX if source == state))


def fire(cursor: Cursor) -> None:
    """Move the cursor by its event and run the row's action. The event must be legal here."""
    for guard, dest, action in _INDEX[cursor.event.kind, cursor.state]:
        if guard is None or guard(cursor):
            if dest is not None:
                cursor.state = dest
            action(cursor)
            return
    raise AssertionError("every group of rows ends without a guard")


def fire_through_machine(cursor: Cursor) -> None:
    """Do what `fire` does by the machine itself."""
    # A plain string: `transitions` takes an enum member for the name of a state.
    plain: Any = cursor
    plain.state = cursor.state.value
    MACHINE.events[cursor.event.kind].trigger(cursor, cursor)
    cursor.state = State(cursor.state)
