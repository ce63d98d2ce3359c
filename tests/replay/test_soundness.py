"""The table has no dead end under any settings, and a table that has one is told from it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from engine.core.table import ROWS
from engine.core.values import SessionSettings, State
from engine.replay.soundness import check_table

EVERY_SETTING: list[dict[str, Any]] = [
    {"on_unknown": unknown, "on_budget": budget, "max_model_retries": retries}
    for unknown, budget, retries in product(("ask", "tell_model"), ("fail", "ask", "wrap_up"), (0, 3))
]


@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_every_state_and_every_fault_has_a_way_out(settings: dict[str, Any]) -> None:
    """Whatever the settings decide about faults, the table carries it out."""
    assert check_table(SessionSettings(**settings)) == []


def test_dead_end_is_found() -> None:
    """Without the ways out of waiting, waiting is a dead end, and nothing else is."""
    kept = [row for row in ROWS if State.WAITING_FOR_USER not in row.sources or row.dest is None]
    assert check_table(SessionSettings(), kept) == ["waiting_for_user is a dead end: no way leads from it to idle"]


@pytest.mark.parametrize("trigger", ["recovered", "recovery_needs_user", "recovery_failed"])
def test_fault_without_a_way_out_is_found(trigger: str) -> None:
    """A plan that no row carries out is told of, with the faults that it is made for."""
    found = check_table(SessionSettings(), [row for row in ROWS if row.trigger != trigger])
    assert found
    assert all(trigger in one for one in found)
