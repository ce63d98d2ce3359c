"""Budgets of a turn that are lent to a child session, and given back when it ends.

The parent's record comes first: a child never uses what is not set aside. What a crash or a cancelled opening leaves
open stays set aside until the child is opened and closed again, or the parent's turn ends. May import core and the
driver. Must never wait for a parent when a child is closed: the parent may be waiting for just that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from ..core.budgets import offer, spent_before
from ..core.events import BudgetLent, BudgetSettled
from ..core.limits import Limits
from ..core.loans import Loan, Share
from ..core.session import Session
from ..errors import UsageError
from .driver import Driver
from .opening import Room

Opened = TypeVar("Opened")


async def borrow(
    parent: Driver | None, child: str, share: Share, open_with: Callable[[Loan], Awaitable[Opened]]
) -> Opened:
    """Set a part of the budgets of a parent's open turn aside for a child, and open the child with it.

    A child whose loan is still open, because it was interrupted, goes on with that.

    Args:
        parent: the parent's driver, if it is open in this engine.
        child: the session's id.
        share: what it is to get.
        open_with: opens it. Where that fails nothing stays set aside that was not before.

    Raises:
        UsageError: there is no such parent here, it has no open turn, or not so much left.
        JournalError: it is not durable.
    """
    if parent is None:
        raise UsageError("a share needs a parent whose session is open in this engine: open(id, parent=…, share=…)")
    if share.cost is not None and not parent.parts.limits.prices:
        raise UsageError("a share of the cost needs prices: Limits(prices={…})")
    known = _open_loan(parent.session, child)
    loan = known or await _lend(parent, child, share)
    try:
        return await open_with(loan)
    except BaseException:
        if known is None:
            parent.inlet.aside(BudgetSettled(loan=loan.id))
        raise


async def _lend(parent: Driver, child: str, share: Share) -> Loan:
    offered = offer(parent.session, share)
    if not isinstance(offered, Loan):
        raise UsageError(f"session {parent.session.id!r} cannot lend to {child!r}: {offered}")
    await parent.inlet.lend(BudgetLent(child=child, loan=offered))
    lent = _open_loan(parent.session, child)
    if lent is None:
        raise UsageError(f"session {parent.session.id!r} cannot lend to {child!r}: its turn has ended meanwhile")
    return lent


async def settle(child: Driver, drivers: Mapping[str, Driver]) -> None:
    """Give back what a child at rest has not used of its loan, if the turn that lent it is still open here.

    Args:
        child: the session that is about to be closed.
        drivers: those of the engine, by session.

    Raises:
        JournalError: the child's own record of it is not durable; the loan stays open.
    """
    session = child.session
    loan, parent = session.opened.loan, drivers.get(session.opened.parent or "")
    if loan is None or loan.settled or session.turn is not None or parent is None:
        return
    if _open_loan(parent.session, session.id) != loan:
        return
    settled = BudgetSettled(loan=loan.id, spent=spent_before(session))
    # The child first: it must not use what its parent has back.
    await child.note(lambda: (settled,))
    parent.inlet.aside(settled)


def room_of(parent: Driver | None, children: Iterable[Driver | None], limits: Limits) -> Room:
    """Return the room for children of a session: what it was lent, if it lives on a loan.

    Args:
        parent: its driver, if it is open in this engine.
        children: those of its open children, None for one that is paged out.
        limits: the engine's.
    """
    loan = None if parent is None else parent.session.opened.loan
    places = limits.max_parallel_tasks if loan is None else loan.parallel_tasks
    return Room(places, sum(1 if child is None else _places(child.session) for child in children))


def _places(session: Session) -> int:
    loan = session.opened.loan
    return 1 if loan is None or loan.settled else 1 + loan.parallel_tasks


def _open_loan(session: Session, child: str) -> Loan | None:
    lent = session.turn.lent if session.turn is not None else ()
    return next((one.loan for one in lent if one.child == child and one.spent is None), None)
