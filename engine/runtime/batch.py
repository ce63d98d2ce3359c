"""Runs the open batch of calls: the one place where several things of a session happen at once.

The host task is the scheduler. It alone commits; the tasks it starts only run a tool or ask an approver and post what
came of it. Calls start when a place is free and no call of the same conflict key runs or waits before them; a write
starts only after its intent is durable. Everything that is posted between two looks is committed together. May import
anyio, core, ports.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import anyio

from ..core.effects import AskUser, KnownEffect, RunTool
from ..core.events import GrantRevoked, KnownEvent, ToolFinished, ToolStarted, UserAnswered
from ..core.notices import ToolRunning
from ..core.session import CallState
from ..core.values import Request, State
from ..errors import InvalidEvent
from ..log import logger
from .answering import with_plan
from .bell import new_bell
from .broadcast import Broadcast
from .crew import Crew
from .ledger import Ledger
from .parts import Parts
from .performers import Tooling, conflict_free, run_tool


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

    def take_revocations(self) -> list[tuple[GrantRevoked, Ack]]:
        """Return the revocations that were posted, and leave everything else."""
        taken = [(event, ack) for event, ack in self._items if isinstance(event, GrantRevoked) and ack is not None]
        self._items = deque(item for item in self._items if not isinstance(item[0], GrantRevoked))
        return taken

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


class Desk(NamedTuple):
    """What the batches of one session share."""

    mail: Mailbox
    places: Places
    crew: Crew


class BatchRunner:
    """Carries the session from EXECUTING_TOOLS (or a question to an approver) to wherever the batch leads."""

    def __init__(self, parts: Parts, ledger: Ledger, desk: Desk, broadcast: Broadcast) -> None:
        self._parts = parts
        self._ledger = ledger
        self._mail = desk.mail
        self._places = desk.places
        self._crew = desk.crew
        self._broadcast = broadcast
        self._waiting: list[CallState] = []
        self._running: dict[str, CallState] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._left: anyio.Event | None = None

    async def run(self, effects: Sequence[KnownEffect]) -> list[KnownEffect]:
        """Run the batch until it settles, or until only a person can move it on.

        Returns:
            What the last commit asked for; nothing when the session now waits for `session.answer`.
        """
        self._accept(effects)
        if self._is_single():
            return await self._run_alone(self._waiting.pop())
        try:
            return await self._host(effects)
        finally:
            if self._scopes:
                await self._leave()

    async def _host(self, effects: Sequence[KnownEffect]) -> list[KnownEffect]:
        self._ask(effects)
        while True:
            await self._start()
            if not self._scopes and not self._waiting and not self._mail:
                return []
            await self._mail.wait()
            asked = await self._commit_mail()
            if self._ledger.session.state not in (State.EXECUTING_TOOLS, State.WAITING_FOR_USER):
                return asked
            self._accept(asked)
            self._ask(asked)

    async def _leave(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        self._left = anyio.Event()
        for scope in self._scopes.values():
            scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._left.wait()

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
        finished = await self._perform(call, self._places.take(), anyio.CancelScope())
        return await self._ledger.commit([finished])

    async def _start(self) -> None:
        """Start every waiting call that may start; the intents of all writes among them become durable together."""
        if not self._waiting:
            return
        starting = conflict_free(self._waiting, tuple(self._running.values()))[: self._places.free]
        intents = [ToolStarted(call_id=call.call.id) for call in starting if call.plan.effect == "write"]
        if intents:
            await self._ledger.commit(intents)
        for call in starting:
            self._waiting.remove(call)
            self._running[call.call.id] = call
            self._crew.start(partial(self._run, call, self._places.take(), self._scope(call.call.id)))

    def _scope(self, name: str) -> anyio.CancelScope:
        scope = self._scopes[name] = anyio.CancelScope()
        return scope

    def _ended(self, name: str) -> None:
        del self._scopes[name]
        if self._left is not None and not self._scopes:
            self._left.set()

    async def _run(self, call: CallState, ticket: str, scope: anyio.CancelScope) -> None:
        try:
            finished = await self._perform(call, ticket, scope)
            if self._left is None or not scope.cancelled_caught:
                self._mail.post(finished)
        finally:
            self._ended(call.call.id)

    async def _perform(self, call: CallState, ticket: str, scope: anyio.CancelScope) -> ToolFinished:
        if self._broadcast.watched:
            self._broadcast.notice(ToolRunning(call.call.id, call.call.name))
        try:
            return await run_tool(self._tooling(ticket), self._ledger.session, call, scope)
        finally:
            self._places.give_back(ticket)

    def _tooling(self, ticket: str) -> Tooling:
        return Tooling(self._parts, self._broadcast.notice, lambda: self._places.keep(ticket))

    def _ask(self, effects: Sequence[KnownEffect]) -> None:
        if self._parts.approver is None:
            return
        for effect in effects:
            # An approver judges calls; a budget is `session.answer`'s.
            if isinstance(effect, AskUser) and effect.request.kind != "budget":
                self._crew.start(partial(self._ask_approver, effect.request, self._scope(effect.request.id)))

    async def _ask_approver(self, request: Request, scope: anyio.CancelScope) -> None:
        approver = self._parts.approver
        assert approver is not None
        call = next(call.call for call in self._open_calls() if call.call.id == request.call_id)
        answer = None
        try:
            with scope:
                said = await approver.answer(request, call)
                if said is not None:
                    event = UserAnswered.model_validate({"request_id": request.id, **said._asdict()})
                    answer = with_plan(self._parts, self._ledger.session, event)
        except Exception:
            logger.exception("approver failed", session=self._ledger.session.id, request=request.id)
        finally:
            self._ended(request.id)
        if answer is None:
            self._mail.ring()
        else:
            self._mail.post(answer, Ack())

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
            elif isinstance(event, GrantRevoked):
                assert ack is not None
                if all(grant.id != event.grant_id for grant in self._ledger.session.grants):
                    ack.settle(InvalidEvent(f"grant {event.grant_id!r} has already been revoked"))
                    continue
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
