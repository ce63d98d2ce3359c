"""What the batches of one session share: the mailbox of its driver, and the places of its running tools.

May import anyio, core and its neighbours. Must never commit anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import anyio

from ..core.events import BudgetLent, BudgetSettled, GrantRevoked, KnownEvent, LateResult
from ..core.values import Priority, ToolEffect
from .bell import new_bell
from .crew import Crew
from .lanes import Lanes, Ticket, lane_of

Late: TypeAlias = LateResult | BudgetSettled
"""What happens beside whatever else a session does, and nobody waits for."""

Aside: TypeAlias = Late | GrantRevoked | BudgetLent
"""What happens beside whatever else a session does."""


class Ack:
    """Lets whoever posted an answer wait until it is durable or refused."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._error: Exception | None = None

    def settle(self, error: Exception | None = None) -> None:
        """Say what became of the answer; the first word counts."""
        if not self._done.is_set():
            self._error = error
            self._done.set()

    async def wait(self) -> None:
        """Wait for the word.

        Raises:
            InvalidEvent: the answer was refused.
            JournalError: it could not be made durable.
        """
        await self._done.wait()
        if self._error is not None:
            raise self._error


class Mailbox:
    """What has been posted to a session's driver and not been looked at yet. Bounded by calls and requests that are
    open.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[KnownEvent, Ack | None]] = deque()
        self._bell = new_bell()

    def __len__(self) -> int:
        return len(self._items)

    def post(self, event: KnownEvent, ack: Ack | None = None) -> None:
        """Add an event and wake the driver."""
        self._items.append((event, ack))
        self.ring()

    def ring(self) -> None:
        """Wake the driver without an event: a place has become free."""
        self._bell.ring()

    async def wait(self) -> None:
        """Wait until something is posted or the bell rings."""
        if not self._items:
            await self._bell.wait()

    def take_asides(self) -> list[tuple[Aside, Ack | None]]:
        """Return what was posted that is legal in every state of a turn and moves none, and leave everything else."""
        taken = [(event, ack) for event, ack in self._items if isinstance(event, Aside)]
        self._items = deque(item for item in self._items if not isinstance(item[0], Aside))
        return taken

    def take(self) -> list[tuple[KnownEvent, Ack | None]]:
        """Return everything that was posted."""
        items = list(self._items)
        self._items.clear()
        return items


class Places:
    """Counts what runs in one session, threads that outlived their calls included.

    Where the engine has a cap of its own, a place is one of the engine's too: it may have to be waited for.
    """

    def __init__(self, total: int, on_free: Callable[[], None], lanes: Lanes | None) -> None:
        self._total = total
        self._taken: dict[str, int] = {}
        self._on_free = on_free
        self._lanes = lanes
        self._tickets: dict[str, Ticket] = {}
        self._serial = 0

    @property
    def taken(self) -> int:
        """How many run."""
        return len(self._taken)

    def full(self, most: int) -> bool:
        """Whether no more may start where `most` may run at once, and never more than there are places."""
        taken = len(self._taken)
        return taken >= most or taken >= self._total

    def take(self, effect: ToolEffect, priority: Priority) -> str:
        """Occupy a place; return the ticket for it. The bell is rung when the engine grants it later."""
        self._serial += 1
        ticket = str(self._serial)
        self._taken[ticket] = 1
        if self._lanes is not None:
            self._tickets[ticket] = self._lanes.take(lane_of(effect), priority, self._on_free)
        return ticket

    def granted(self, ticket: str) -> bool:
        """Whether the engine has a place for it too."""
        return self._lanes is None or self._tickets[ticket].granted

    def keep(self, ticket: str) -> Callable[[], None]:
        """Keep a place beyond its task, until the returned function is called."""
        self._taken[ticket] += 1
        return lambda: self.give_back(ticket)

    def give_back(self, ticket: str) -> None:
        """Give one hold on a place back; the last one frees it."""
        self._taken[ticket] -= 1
        if not self._taken[ticket]:
            del self._taken[ticket]
            if self._lanes is not None:
                self._tickets.pop(ticket).give_back()
            self._on_free()


class Desk(NamedTuple):
    """What the batches of one session share. `left_behind` are the calls of the newest one that nobody waits for,
    `began_ns` says when its calls began to run, where somebody predicts how long they take.
    """

    mail: Mailbox
    places: Places
    crew: Crew
    left_behind: set[str]
    began_ns: dict[str, int]
