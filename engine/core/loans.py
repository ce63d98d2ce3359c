"""What a session lends of its turn's budgets to a child session, as data.

The parent's history says what was set aside and what of it was used, the child's what it may use; so replay and a
restart know both. The arithmetic is in `budgets`. Pure. May import `money` and `values`.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

from .money import Money
from .values import BudgetKind, Value

Amount = Annotated[int, Field(ge=0)]


class Share(Value):
    """What a child session gets of its parent's budgets: so much, or all that is left where nothing is said.

    Money is in the unit of `Limits.prices`. So many of the parent's places for children (`Limits.max_parallel_tasks`)
    go to the child's own children: `parallel_tasks`, beside its own.
    """

    tool_calls: Amount | None = None
    tokens: Amount | None = None
    cost: Money | None = None
    parallel_tasks: Amount = 0


class Spent(Value):
    """What was used of each budget; money in 10^-12 of its unit."""

    tool_calls: Amount = 0
    tokens: Amount = 0
    cost_pico: Amount = 0

    def of(self, kind: BudgetKind) -> int:
        """Return what was used of one budget."""
        return (self.tool_calls, self.tokens, self.cost_pico)[_PLACES[kind]]


class Loan(Value):
    """What was lent; None is not bounded by it. `id` is unique; one that is `settled` gives nothing more."""

    id: str = ""
    tool_calls: Amount | None = None
    tokens: Amount | None = None
    cost_pico: Amount | None = None
    parallel_tasks: Amount = 0
    settled: bool = False

    def of(self, kind: BudgetKind) -> int | None:
        """Return what was lent of one budget."""
        return (self.tool_calls, self.tokens, self.cost_pico)[_PLACES[kind]]


class Lent(NamedTuple):
    """A loan as its lender sees it: to which child, and what it used, once that is known."""

    child: str
    loan: Loan
    spent: Spent | None = None

    def of(self, kind: BudgetKind) -> int:
        """Return what it takes of a budget: what was used, and all that was lent before that is known."""
        return (self.loan.of(kind) or 0) if self.spent is None else self.spent.of(kind)


NOTHING_SPENT = Spent.trusted()

_PLACES: dict[BudgetKind, int] = {"tool_calls": 0, "tokens": 1, "cost": 2}
