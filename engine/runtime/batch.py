"""Runs the open batch of calls: the one place where several things of a session happen at once.

The host task is the scheduler. It alone commits; the tasks it starts only run a tool or ask an approver and post what
came of it. Calls start when a place is free and no call of the same conflict key runs or waits before them; a write
starts only after its intent is durable. Everything that is posted between two looks is committed together. May import
anyio, core, ports.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup

from ..core.effects import AskUser, KnownEffect, RunTool
from ..core.events import KnownEvent, ToolFinished, ToolStarted, UserAnswered
from ..core.notices import ToolRunning
from ..core.session import CallState
from ..core.values import Request, State
from ..errors import InvalidEvent
from ..log import logger
from .broadcast import Broadcast
from .ledger import Ledger
from .parts import Parts
from .performers import conflict_free, run_tool


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
        self._wake: anyio.Event | None = None

    def __len__(self) -> int:
        return len(self._items)

    def post(self, event: KnownEvent, ack: Ack | None = None) -> None:
        """Add an event and wake the driver."""
        self._items.append((event, ack))
        self.ring()

    def ring(self) -> None:
        """Wake the driver without an event: a place has become free."""
        if self._wake is not None:
            self._wake.set()

    async def wait(self) -> None:
        """Wait until something is posted or the bell rings."""
        if self._items:
            return
        self._wake = anyio.Event()
        await self._wake.wait()
        self._wake = None

    def take(self) -> list[tuple[KnownEvent, Ack | None]]:
        """Return everything that was posted."""
        items = list(self._items)
        self._items.clear()
        return items


class Places:
    """Counts what runs in one session, threads that outlived their calls included."""

    def __init__(self, total: int, on_free: Callable[[], None]) -> None:
        self._total = total
        self._taken: dict[str, int] = {}
        self._on_free = on_free
        self._serial = 0

    @property
    def free(self) -> int:
        """How many more may start."""
        return self._total - len(self._taken)

    def take(self) -> str:
        """Occupy a place; return the ticket for it."""
        self._serial += 1
        ticket = str(self._serial)
        self._taken[ticket] = 1
        return ticket

    def keep(self, ticket: str) -> Callable[[], None]:
        """Keep a place beyond its task, until the returned function is called."""
        self._taken[ticket] += 1
        return lambda: self.give_back(ticket)

    def give_back(self, ticket: str) -> None:
        """Give one hold on a place back; the last one frees it."""
        self._taken[ticket] -= 1
        if not self._taken[ticket]:
            del self._taken[ticket]
            self._on_free()


class BatchRunner:
    """Carries the session from EXECUTING_TOOLS (or a question to an approver) to wherever the batch leads."""

    def __init__(self, parts: Parts, ledger: Ledger, mail: Mailbox, places: Places, broadcast: Broadcast) -> None:
        self._parts = parts
        self._ledger = ledger
        self._mail = mail
        self._places = places
        self._broadcast = broadcast
        self._waiting: list[CallState] = []
        self._running: dict[str, CallState] = {}
        self._asking = 0

    async def run(self, effects: Sequence[KnownEffect]) -> list[KnownEffect]:
        """Run the batch until it settles, or until only a person can move it on.

        Returns:
            What the last commit asked for; nothing when the session now waits for `session.answer`.
        """
        self._accept(effects)
        if self._is_single():
            return await self._run_alone(self._waiting.pop())
        asked: list[KnownEffect] = []
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            try:
                asked = await self._host(group, effects)
            except Exception as error:
                # Raised after the group has ended, as itself: a caller waits for JournalUnavailable, not for a group.
                failure = error
            if self._running or self._asking:
                group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return asked

    async def _host(self, group: TaskGroup, effects: Sequence[KnownEffect]) -> list[KnownEffect]:
        self._ask(group, effects)
        while True:
            await self._start(group)
            if not self._running and not self._waiting and not self._asking and not self._mail:
                return []
            await self._mail.wait()
            asked = await self._commit_mail()
            if self._ledger.session.state not in (State.EXECUTING_TOOLS, State.WAITING_FOR_USER):
                return asked
            self._accept(asked)
            self._ask(group, asked)

    def _accept(self, effects: Sequence[KnownEffect]) -> None:
        calls = {call.call.id: call for call in self._open_calls()}
        self._waiting.extend(calls[effect.call_id] for effect in effects if isinstance(effect, RunTool))

    def _open_calls(self) -> tuple[CallState, ...]:
        turn = self._ledger.session.turn
        return turn.batch.calls if turn is not None and turn.batch is not None else ()

    def _is_single(self) -> bool:
        """Whether there is just one thing to do, so that no task is needed for it."""
        return (
            len(self._waiting) == 1
            and self._places.free > 0
            and not self._ledger.session.pending
            and sum(call.runs for call in self._open_calls()) == 1
        )

    async def _run_alone(self, call: CallState) -> list[KnownEffect]:
        if call.plan.effect == "write":
            await self._ledger.commit([ToolStarted(call_id=call.call.id)])
        return await self._ledger.commit([await self._perform(call, self._places.take())])

    async def _start(self, group: TaskGroup) -> None:
        """Start every waiting call that may start; the intents of all writes among them become durable together."""
        starting = conflict_free(self._waiting, tuple(self._running.values()))[: self._places.free]
        if not starting:
            return
        intents = [ToolStarted(call_id=call.call.id) for call in starting if call.plan.effect == "write"]
        if intents:
            await self._ledger.commit(intents)
        for call in starting:
            self._waiting.remove(call)
            self._running[call.call.id] = call
            group.start_soon(self._run, call, self._places.take())

    async def _run(self, call: CallState, ticket: str) -> None:
        self._mail.post(await self._perform(call, ticket))

    async def _perform(self, call: CallState, ticket: str) -> ToolFinished:
        if self._broadcast.watched:
            self._broadcast.notice(ToolRunning(call.call.id, call.call.name))
        try:
            return await run_tool(
                self._parts, self._ledger.session, call, self._broadcast.notice, lambda: self._places.keep(ticket)
            )
        finally:
            self._places.give_back(ticket)

    def _ask(self, group: TaskGroup, effects: Sequence[KnownEffect]) -> None:
        if self._parts.approver is None:
            return
        for effect in effects:
            if isinstance(effect, AskUser):
                self._asking += 1
                group.start_soon(self._ask_approver, effect.request)

    async def _ask_approver(self, request: Request) -> None:
        approver = self._parts.approver
        assert approver is not None
        call = next(call.call for call in self._open_calls() if call.call.id == request.call_id)
        answer = None
        try:
            answer = await approver.answer(request, call)
        except Exception:
            logger.exception("approver failed", session=self._ledger.session.id, request=request.id)
        self._asking -= 1
        if answer is None:
            self._mail.ring()
        else:
            approve, text, by = answer
            self._mail.post(UserAnswered(request_id=request.id, approve=approve, text=text, by=by), Ack())

    async def _commit_mail(self) -> list[KnownEffect]:
        """Commit everything posted. An answer that came too late is refused and disturbs nobody."""
        items = self._mail.take()
        pending = {request.id for request in self._ledger.session.pending}
        events: list[KnownEvent] = []
        accepted: list[Ack] = []
        for event, ack in items:
            if isinstance(event, UserAnswered):
                assert ack is not None
                if event.request_id not in pending:
                    ack.settle(InvalidEvent(f"request {event.request_id!r} has already been answered"))
                    continue
                pending.discard(event.request_id)
                accepted.append(ack)
            elif isinstance(event, ToolFinished):
                self._running.pop(event.call_id, None)
            events.append(event)
        try:
            effects = await self._ledger.commit(events) if events else []
        except Exception as error:
            for ack in accepted:
                ack.settle(error)
            raise
        for ack in accepted:
            ack.settle()
        return effects
