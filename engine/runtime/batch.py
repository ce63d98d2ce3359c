"""Runs the open batch of calls: the one place where several things of a session happen at once.

The host task is the scheduler. It alone commits; the tasks it starts only run a tool or ask an approver and post what
came of it. Calls start when a place is free and no call of the same conflict key runs or waits before them; a write
starts only after its intent is durable. Everything that is posted between two looks is committed together.

Nothing can end a coroutine that swallows its cancellation. It is waited for as long as `limits.cancel_grace_s` says and
then left behind: its end is on record, its place stays taken until it really ends, what it returns then is dropped. May
import anyio, core, ports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ..core.effects import AskUser, KnownEffect, RunTool
from ..core.events import KnownEvent, ToolFinished, ToolRetried, ToolStarted, UserAnswered
from ..core.notices import ToolRunning
from ..core.session import CallState
from ..core.values import Request, State, ToolStatus
from ..errors import InvalidEvent
from ..log import logger
from .answering import with_plan
from .broadcast import Broadcast
from .desk import Ack, Aside, Desk
from .hiding import shown
from .ledger import Ledger
from .parts import Parts
from .performers import Tooling, conflict_free, run_tool
from .pipeline import tried_again
from .watchdog import ends_in_time

if TYPE_CHECKING:
    from .inlet import Inlet


class BatchRunner:
    """Carries the session from EXECUTING_TOOLS (or a question to an approver) to wherever the batch leads."""

    def __init__(self, parts: Parts, ledger: Ledger, desk: Desk, broadcast: Broadcast, inlet: Inlet) -> None:
        self._parts = parts
        self._ledger = ledger
        self._mail = desk.mail
        self._places = desk.places
        self._crew = desk.crew
        self._left_behind = desk.left_behind
        self._began_ns = desk.began_ns
        self._broadcast = broadcast
        self._inlet = inlet
        self._held: dict[str, str] = {}
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
        self._left_behind.clear()
        self._began_ns.clear()
        monitor = self._parts.monitor
        monitor.batches.add(self)
        try:
            return await self._host(effects)
        finally:
            while self._held:
                self._places.give_back(self._held.popitem()[1])
            monitor.batches.discard(self)
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
            self._inlet.mind()
            self._accept(asked)
            self._ask(asked)

    async def _leave(self) -> None:
        """Cancel what still runs and wait until it has ended, or has had its time for that."""
        self._left = anyio.Event()
        for scope in self._scopes.values():
            scope.cancel()
        if not await ends_in_time(self._left, self._parts.limits.cancel_grace_s):
            for name in list(self._scopes):
                self._leave_behind(name)

    @property
    def waiting(self) -> int:
        """How many calls wait for a place or for a call of the same conflict key."""
        return len(self._waiting)

    def wake(self) -> None:
        """Look again whether a call may start."""
        self._mail.ring()

    def leave_overdue(self, now_s: float) -> None:
        """Give calls up that have not ended within the grace after their deadline; their siblings go on.

        Args:
            now_s: `anyio.current_time()`.
        """
        latest_s = now_s - self._parts.limits.cancel_grace_s
        for name in [name for name, scope in self._scopes.items() if scope.deadline < latest_s]:
            self._leave_behind(name)
            call = self._running[name]
            text = "timed out and did not end when it was cancelled"
            if call.plan.effect == "write":
                end = ToolFinished(
                    call_id=name,
                    status=ToolStatus.UNKNOWN,
                    content=f"{text}; it may still take effect",
                    error="timed_out",
                )
            else:
                end = ToolFinished(call_id=name, status=ToolStatus.TIMED_OUT, content=text, error="timed_out")
            self._mail.post(end)

    def _leave_behind(self, name: str) -> None:
        """Wait for a call no more. Its task keeps its place until it ends, and drops what came of it."""
        del self._scopes[name]
        self._left_behind.add(name)
        logger.error("a tool does not end when it is cancelled", session=self._ledger.session.id, call=name)

    def _accept(self, effects: Sequence[KnownEffect]) -> None:
        calls = {call.call.id: call for call in self._ledger.session.open_calls}
        for effect in effects:
            if isinstance(effect, RunTool):
                call = calls[effect.call_id]
                if effect.delay_s:
                    # Calls of the same conflict key wait with it: their order stays.
                    self._running[effect.call_id] = call
                    self._crew.start(partial(self._put_off, call, effect.delay_s, self._scope(effect.call_id)))
                else:
                    self._waiting.insert(len(self._waiting) if call.attempt == 1 else 0, call)

    async def _put_off(self, call: CallState, delay_s: float, scope: anyio.CancelScope) -> None:
        """Let a call run that failed, before all others that wait, when its time has come."""
        try:
            with scope:
                await anyio.sleep(delay_s)
                self._waiting.insert(0, self._running.pop(call.call.id))
        finally:
            self._ended(call.call.id, scope)
            self._mail.ring()

    def _may_start(self, call: CallState) -> bool:
        """Whether a call has its place. Where the engine has none free, it waits for one by its priority."""
        place = self._held.get(call.call.id)
        if place is None:
            turn = self._ledger.session.turn
            if turn is None or self._places.full(self._parts.monitor.places):
                return False
            place = self._held[call.call.id] = self._places.take(call.plan.effect, turn.priority)
        return self._places.granted(place)

    def _bury(self, call: CallState | None, event: KnownEvent) -> None:
        if call is not None and call.plan.retries and isinstance(event, ToolFinished):
            self._parts.pipeline.bury(self._ledger.session.id, call, event, self._parts.clock.time_ns())

    async def _start(self) -> None:
        """Start every waiting call that may start; the intents of all writes among them become durable together."""
        if not self._waiting:
            return
        ready = conflict_free(self._waiting, tuple(self._running.values()))
        starting: list[CallState] = []
        for call in ready:
            if self._has_memory(call, starting) and self._may_start(call):
                starting.append(call)
        intents = [ToolStarted(call_id=call.call.id) for call in starting if call.plan.effect == "write"]
        if intents:
            await self._ledger.commit(intents)
        for call in starting:
            self._waiting.remove(call)
            self._running[call.call.id] = call
            place = self._held.pop(call.call.id)
            if self._parts.learner is not None:
                self._began_ns[call.call.id] = self._parts.clock.monotonic_ns()
            self._crew.start(partial(self._run, call, place, self._scope(call.call.id)))

    def _has_memory(self, call: CallState, starting: Sequence[CallState]) -> bool:
        """Whether there is memory for a call, by what its tool has taken before; one call always has."""
        if self._parts.learner is None or not (self._running or starting):
            return True
        needed_bytes = self._parts.learner.memory_bytes(self._ledger.session.id, call.call.name)
        return not needed_bytes or needed_bytes < self._parts.monitor.free_bytes

    def _scope(self, name: str) -> anyio.CancelScope:
        scope = self._scopes[name] = self._crew.new_scope()
        return scope

    def _ended(self, name: str, scope: anyio.CancelScope) -> bool:
        """Take note that a task has ended; return whether it was still waited for."""
        if self._scopes.get(name) is not scope:
            return False
        del self._scopes[name]
        if self._left is not None and not self._scopes:
            self._left.set()
        return True

    async def _run(self, call: CallState, place: str, scope: anyio.CancelScope) -> None:
        finished = None
        try:
            finished = await self._perform(call, place, scope)
        finally:
            awaited = self._ended(call.call.id, scope)
            if not awaited:
                logger.warning("a tool that was left behind has ended", call=call.call.id, tool=call.call.name)
            elif finished is not None and (self._left is None or not scope.cancelled_caught):
                self._mail.post(finished)

    async def _perform(self, call: CallState, place: str, scope: anyio.CancelScope) -> ToolFinished | ToolRetried:
        """Run a call. Its place is given back when it has ended, or when its thread has."""
        if self._broadcast.watched:
            self._broadcast.notice(ToolRunning(call.call.id, call.call.name))
        given_up = False

        def occupy() -> Callable[[], None]:
            # The thread's end is reported from outside every task, where nothing could be started.
            release, context = self._places.keep(place), copy_context()

            def ended() -> None:
                release()
                if given_up:
                    context.run(self._inlet.late, call)

            return ended

        try:
            emit = shown(self._parts.redactor, self._broadcast.notice)
            tooling = Tooling(self._parts, emit, occupy, self._crew.now_s)
            end = await run_tool(tooling, self._ledger.session, call, scope)
            given_up = end.status is not ToolStatus.COMPLETED
            return tried_again(call, end)
        except BaseException:
            given_up = True
            raise
        finally:
            self._places.give_back(place)

    def _ask(self, effects: Sequence[KnownEffect]) -> None:
        if self._parts.approver is None:
            return
        for effect in effects:
            # An approver judges calls: a budget is `session.answer`'s, a task the host's.
            if isinstance(effect, AskUser) and effect.request.kind not in ("budget", "external"):
                self._crew.start(partial(self._ask_approver, effect.request, self._scope(effect.request.id)))

    async def _ask_approver(self, request: Request, scope: anyio.CancelScope) -> None:
        approver = self._parts.approver
        assert approver is not None
        call = next(call.call for call in self._ledger.session.open_calls if call.call.id == request.call_id)
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
            awaited = self._ended(request.id, scope)
        if answer is None or not awaited:
            self._mail.ring()
        else:
            self._mail.post(answer, Ack())

    async def _commit_mail(self) -> list[KnownEffect]:
        """Commit everything posted. An answer that came too late is refused and disturbs nobody."""
        items = self._mail.take()
        pending = {request.id for request in self._ledger.session.pending}
        events: list[KnownEvent] = []
        accepted: list[Ack] = []
        asides: list[tuple[Aside, Ack | None]] = []
        ended: list[tuple[CallState | None, KnownEvent]] = []
        for event, ack in items:
            if isinstance(event, UserAnswered):
                assert ack is not None
                if event.request_id not in pending:
                    ack.settle(InvalidEvent(f"request {event.request_id!r} has already been answered"))
                    continue
                pending.discard(event.request_id)
                accepted.append(ack)
            elif isinstance(event, ToolFinished | ToolRetried):
                ended.append((self._running.pop(event.call_id, None), event))
            elif isinstance(event, Aside):
                asides.append((event, ack))
                continue
            events.append(event)
        if asides:
            # Before everything else: a loan is settled by the time that the tool ends whose child it was.
            events = [*self._inlet.admitted(asides, accepted), *events]
        try:
            effects = await self._ledger.commit(events) if events else []
        except Exception as error:
            for ack in accepted:
                ack.settle(error)
            raise
        for ack in accepted:
            ack.settle()
        for call, event in ended:
            self._bury(call, event)
        return effects
