"""Decides which calls of a whole engine may run now: one scheduler for all its sessions.

A call takes a ticket. The ticket is granted at once where the engine and the lane have a place, else it waits in its
lane and whoever took it is woken when it is granted; granting occupies the place, so nobody can snatch it. A place
stays occupied until the last hold on its ticket is given back: the thread of a call that was given up holds it until it
ends.

Waiting tickets are served by virtual arrival: a ticket counts as having come `HANDICAP` places in the queue later than
it did, by its priority. So equal priorities are first come, first served, and nothing starves: of all the tickets that
ever come after one of priority p, fewer than `HANDICAP[p]` are served before it in its lane (none where that is 0). A
place goes to the earliest ticket of any lane that has room.

Everything is synchronous and constant in time; no task, scope or timer is made. For one event loop; not thread-safe.
May import core. Must never wait, and never take a place away.
"""

from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import Field

from ..core.values import Priority, ToolEffect, Value

HANDICAP = {Priority.CRITICAL: 0, Priority.HIGH: 16, Priority.NORMAL: 32, Priority.LOW: 48}
"""How much later than it did a ticket of each priority counts as having come, in arrivals."""


class Lane(StrEnum):
    """What kind of work a place is for."""

    CONTROL = "control"
    QUERY = "query"
    EXECUTE = "execute"
    GENERATE = "generate"


def lane_of(effect: ToolEffect) -> Lane:
    """Return the lane of a tool call: reads query, everything that changes the world executes.

    Model calls are the lane GENERATE; probes of interrupted writes are CONTROL, so that a session that comes back never
    waits behind the calls of others.
    """
    return Lane.QUERY if effect == "read" else Lane.EXECUTE


_Size = Annotated[int, Field(ge=1)]


class LaneLimits(Value):
    """How many places an engine has, in all and in each lane, and at which length of its queue it says so."""

    total: _Size = 64
    control: _Size = 8
    query: _Size = 64
    execute: _Size = 32
    generate: _Size = 64
    queue_alert: _Size = 256


class Pressure(NamedTuple):
    """The queue has become longer than its bound, or, where `over`, has fallen to half of it again."""

    waiting: int
    bound: int
    over: bool


class LaneStats(NamedTuple):
    """How a lane stands: places occupied, tickets waiting, tickets granted so far."""

    running: int
    waiting: int
    granted: int


class Ticket:
    """One call's right to run. Once `granted`, it occupies a place until every hold on it is given back."""

    __slots__ = ("_holds", "_lanes", "_wake", "granted", "lane", "priority", "turn")

    def __init__(self, lanes: "Lanes", lane: Lane, priority: Priority, wake: Callable[[], None]) -> None:
        self._lanes = lanes
        self._wake = wake
        self._holds = 1
        self.lane = lane
        self.priority = priority
        self.turn = 0
        self.granted = False

    def hold(self) -> Callable[[], None]:
        """Hold the place beyond the call, until the returned function is called."""
        self._holds += 1
        held = True

        def release() -> None:
            # Once: it is handed to foreign adapters, and a second word would free the place of a running thread.
            nonlocal held
            if held:
                held = False
                self.give_back()

        return release

    def give_back(self) -> None:
        """Give one hold back; the last one frees the place, or takes a ticket that still waits out of the queue."""
        self._holds -= 1
        if not self._holds:
            self._lanes.leave(self)

    def grant(self) -> None:
        """Occupy a place and wake who waits for it. For `Lanes` alone."""
        self.granted = True
        self._wake()


def _ignore(pressure: Pressure) -> None:
    """Tell nobody."""


class _Queue:
    """The waiting tickets of a lane, each priority in the order it came, and what the lane has."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.running = self.granted = 0
        # Ordered: the first of a plain dict gets slow to find when many before it were removed.
        self.waiting: dict[Priority, OrderedDict[Ticket, None]] = {priority: OrderedDict() for priority in Priority}

    def first(self) -> Ticket | None:
        """Return the ticket that is served next, None where none waits."""
        heads = [next(iter(tickets)) for tickets in self.waiting.values() if tickets]
        return min(heads, key=_served) if heads else None


def _served(ticket: Ticket) -> tuple[int, int]:
    return ticket.turn + HANDICAP[ticket.priority], ticket.turn


class Lanes:
    """The places of an engine.

    Args:
        limits: how many there are.
        on_pressure: told once when the queue has become too long, and once when that is over. Must not raise.

    Attributes:
        most: how many there are while there is no pressure.
    """

    def __init__(self, limits: LaneLimits, on_pressure: Callable[[Pressure], None] = _ignore) -> None:
        self.most = self._cap = limits.total
        self._alert = limits.queue_alert
        self._on_pressure = on_pressure
        self._queues = {lane: _Queue(getattr(limits, lane.value)) for lane in Lane}
        self._running = self._waiting = self._arrived = 0
        self._pressed = False

    @property
    def cap(self) -> int:
        """How many places there are now."""
        return self._cap

    @property
    def running(self) -> int:
        """How many are occupied. More than `cap` only for as long as calls run that were let in before it shrank."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return self._waiting

    def stats(self, lane: Lane) -> LaneStats:
        """Return how a lane stands."""
        queue = self._queues[lane]
        return LaneStats(queue.running, sum(map(len, queue.waiting.values())), queue.granted)

    def take(self, lane: Lane, priority: Priority, wake: Callable[[], None]) -> Ticket:
        """Return a ticket: granted where there is a place, else waiting.

        Args:
            lane: what kind of work it is for.
            priority: how urgent it is.
            wake: called once if the ticket is granted later. Must be quick, not raise, and not take or give back here.
        """
        ticket = Ticket(self, lane, priority, wake)
        queue = self._queues[lane]
        # Whenever lane and engine have room, no ticket of the lane waits: nobody is overtaken here.
        if self._running < self._cap and queue.running < queue.size:
            ticket.granted = True
            self._occupy(queue)
            return ticket
        self._arrived += 1
        ticket.turn = self._arrived
        queue.waiting[priority][ticket] = None
        self._count(+1)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Free the place of a ticket, or take it out of the queue. For `Ticket` alone."""
        queue = self._queues[ticket.lane]
        if not ticket.granted:
            del queue.waiting[ticket.priority][ticket]
            self._count(-1)
            return
        queue.running -= 1
        self._running -= 1
        self._serve()

    def halve(self) -> int:
        """Halve the number of places, to no less than one, and return it. What runs goes on."""
        self._cap = max(1, self._cap // 2)
        return self._cap

    def restore(self) -> int:
        """Add one place, up to the configured number, and return how many there are now."""
        self._cap = min(self.most, self._cap + 1)
        self._serve()
        return self._cap

    def _serve(self) -> None:
        """Grant waiting tickets, the earliest first, as long as there is a place for one."""
        while self._waiting and self._running < self._cap:
            heads = [queue.first() for queue in self._queues.values() if queue.running < queue.size]
            ticket = min((head for head in heads if head is not None), key=_served, default=None)
            if ticket is None:
                return
            queue = self._queues[ticket.lane]
            del queue.waiting[ticket.priority][ticket]
            self._occupy(queue)
            self._count(-1)
            ticket.grant()

    def _occupy(self, queue: _Queue) -> None:
        queue.running += 1
        queue.granted += 1
        self._running += 1

    def _count(self, change: int) -> None:
        self._waiting += change
        crossed = self._waiting > self._alert if not self._pressed else self._waiting <= self._alert // 2
        if crossed:
            self._pressed = not self._pressed
            self._on_pressure(Pressure(self._waiting, self._alert, not self._pressed))
