"""The table under somebody's settings: can every state be left, and has every fault a way out?

Checked without running anything: over the rows, and over the plan that the settings make of each kind of fault. May
import core. Must never decide anything: it reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from ..core.recovery import plan_for
from ..core.session import Turn
from ..core.table import ROWS, Row
from ..core.values import BudgetKind, Fault, FaultKind, RecoveryPlan, SessionSettings, State

_CARRIED_OUT_BY = {
    "resume": "recovered", "ask": "recovery_needs_user", "park": "recovery_needs_user", "give_up": "recovery_failed",
}  # fmt: skip


def check_table(settings: SessionSettings, rows: Sequence[Row] = ROWS) -> list[str]:
    """Return what is wrong, in words; nothing is the good answer.

    Args:
        settings: by which sessions decide about faults.
        rows: the table.
    """
    moves = {(source, row.dest) for row in rows for source in row.sources if row.dest is not None}
    found: list[str] = []
    for state in _reached(State.IDLE, moves):
        if State.IDLE not in _reached(state, moves):
            found.append(f"{state.value} is a dead end: no way leads from it to idle")
    for fault, turn in _faults():
        plan = plan_for(fault, turn, settings)
        event = _CARRIED_OUT_BY[plan.action]
        if not any(row.trigger == event and State.ERROR in row.sources and _leads_out(row) for row in rows):
            found.append(f"{fault.kind}: the plan to {plan.action} has no way out of error: no row for {event}")
    return list(dict.fromkeys(found))


def _leads_out(row: Row) -> bool:
    return row.dest is not None and row.dest is not State.ERROR


def _reached(start: State, moves: set[tuple[State, State]]) -> list[State]:
    found = [start]
    for state in found:
        found += [dest for source, dest in sorted(moves) if source is state and dest not in found]
    return found


def _faults() -> Iterator[tuple[Fault, Turn]]:
    """Iterate over every kind of fault: the first of its kind and one too many, that passes and that does not."""
    kinds: tuple[FaultKind, ...] = get_args(FaultKind)
    budgets: tuple[BudgetKind, ...] = get_args(BudgetKind)
    for kind in kinds:
        for retryable in (False, True):
            for struck in (1, 1_000):
                turn = Turn(1, fault_counts=((kind, struck),), plan=RecoveryPlan(action="resume", attempt=struck))
                fault = Fault(kind=kind, message="", retryable=retryable)
                yield fault, turn
                for budget in budgets if kind == "budget" else ():
                    yield fault.model_copy(update={"budget": budget}), turn
                    yield fault.model_copy(update={"budget": budget}), turn._replace(concluding=True)
