"""The floors of a transition: the package `transitions` alone and a plain dict, on the cycle of a turn.

Four states, no guard, no action, nothing kept: what deciding the next state costs by itself. May import transitions.
"""

from __future__ import annotations

from collections.abc import Sequence

from transitions import Machine

from .numbers import check

CYCLE: tuple[tuple[str, str, str], ...] = (
    ("prompted", "idle", "processing"),
    ("prepared", "processing", "generating"),
    ("asked", "generating", "tools"),
    ("finished", "tools", "processing"),
    ("answered", "generating", "idle"),
)
"""Trigger, source, destination."""

TURN: Sequence[str] = ("prompted", "prepared", "asked", "finished", "prepared", "answered")


def triggers(count: int) -> list[str]:
    """Return triggers of `count` transitions, rounded up to whole turns."""
    return [*TURN] * -(-count // len(TURN))


def run_dict(names: Sequence[str]) -> None:
    """Run the transitions by one dict of (trigger, state)."""
    table = {(trigger, source): dest for trigger, source, dest in CYCLE}
    state = "idle"
    for name in names:
        state = table[name, state]
    check(state == "idle", f"the dict ended in {state}")


class Bare:
    """A machine of the package `transitions`, with the one model that it wants."""

    def __init__(self) -> None:
        states = sorted({source for _, source, _ in CYCLE})
        machine = Machine(model=self, states=states, initial="idle", auto_transitions=False)
        for trigger, source, dest in CYCLE:
            machine.add_transition(trigger, source, dest)
        self._machine = machine
        self.state: str

    def run(self, names: Sequence[str]) -> None:
        """Run the transitions."""
        events = self._machine.events
        for name in names:
            events[name].trigger(self)
        check(self.state == "idle", f"the machine ended in {self.state}")
