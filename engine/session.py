"""What hosts hold of one conversation: `Session`.

It is a handle; the state is the driver's, and everything it shows is a projection of the journal. May import everything
below it. Must never change a session but through its driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

import anyio
from pydantic import ValidationError

from .core.budgets import Budget, budgets
from .core.events import GrantRevoked, TurnCancelled, UserAnswered
from .core.grants import Grant
from .core.record import TransitionRecord
from .core.values import BudgetKind, Message, Prompt, Request, State, Usage
from .errors import InvalidEvent
from .journal.codec import decode
from .replay.reading import read_history
from .replay.turns import CallResult, ConversationTurn, call_results
from .runtime.answering import Said
from .runtime.closing import let_go
from .runtime.hints import CallProgress, Hints, hints_of, pending, progress
from .runtime.lending import settle
from .runtime.opening import as_prompt
from .runtime.paging import House, Seat
from .runtime.parts import TurnResult
from .runtime.shrinking import compacted
from .runtime.stream import TurnStream
from .tools.encode import complaint

if TYPE_CHECKING:
    from .predict import Predictor


class Session:
    """One conversation. Made by `Engine.open`; `async with` releases it at the end.

    An idle session may be paged out of memory; whatever is awaited brings it back. `messages`, `calls`, `turns`,
    `recent` and `budgets` cannot wait and raise `SessionPagedOut` then. Right after `load`, `ask`, `answer` or `result`
    they never do.
    """

    __slots__ = ("__weakref__", "_house", "_seat")

    def __init__(self, seat: Seat, house: House) -> None:
        self._seat = seat
        self._house = house

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    def __repr__(self) -> str:
        return f"<session {self.id} {self.state.value} at {self.seq}>"

    @property
    def id(self) -> str:
        """The session's id."""
        card = self._seat.card
        return self._seat.driver.session.id if card is None else card.id

    @property
    def external_id(self) -> str | None:
        """The host's own name for the session."""
        card = self._seat.card
        return self._seat.driver.session.opened.external_id if card is None else card.external_id

    @property
    def parent(self) -> str | None:
        """The id of the session that this one was opened for, if there is one."""
        card = self._seat.card
        return self._seat.driver.session.opened.parent if card is None else card.parent

    @property
    def paged_out(self) -> bool:
        """Whether the conversation has left memory."""
        return self._seat.card is not None

    @property
    def state(self) -> State:
        """What is going on; its value is the lower-case name."""
        return self._seat.driver.session.state if self._seat.card is None else State.IDLE

    @property
    def seq(self) -> int:
        """Sequence number of the newest durable record."""
        card = self._seat.card
        return self._seat.driver.session.seq if card is None else card.seq

    @property
    def pending(self) -> tuple[Request, ...]:
        """What the session waits for a person to answer; with a predictor, requests about calls are `Pending`."""
        return pending(self._seat.driver.session, self._predictor) if self._seat.card is None else ()

    @property
    def progress(self) -> tuple[CallProgress, ...]:
        """How far each call of the open batch is, and, with a predictor, how long such calls take."""
        driver = self._seat.driver
        now_ns = driver.parts.clock.monotonic_ns()
        return tuple(progress(driver.session.open_calls, driver.began_ns, now_ns, self._predictor))

    @property
    def hints(self) -> Hints | None:
        """What is expected of the session; None without a predictor."""
        predictor = self._predictor
        return None if predictor is None else hints_of(predictor, self.id, self._seat.driver.parts.toolbox)

    @property
    def grants(self) -> tuple[Grant, ...]:
        """The leave that was given for calls to come, oldest first; what is used up or over included."""
        card = self._seat.card
        return self._seat.driver.session.grants if card is None else card.grants

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation as a model provider accepts it: every call with a result, in every state."""
        return self._seat.driver.session.messages()

    @property
    def usage(self) -> Usage:
        """Tokens of the whole session."""
        card = self._seat.card
        return self._seat.driver.session.usage if card is None else card.usage

    @property
    def budgets(self) -> dict[BudgetKind, Budget]:
        """What the open turn, or the newest, used and may use: those of its budgets that have a limit."""
        return budgets(self._seat.driver.session)

    @property
    def calls(self) -> tuple[CallResult, ...]:
        """Every call of the open turn, or of the newest, with its status as far as it is on record."""
        session = self._seat.driver.session
        turn = session.turn or session.last_turn
        return () if turn is None else call_results(turn)

    @property
    def turns(self) -> tuple[ConversationTurn, ...]:
        """The newest ended turns, oldest first, at most `limits.turns_ring`."""
        return tuple(self._seat.driver.ledger.turns)

    @property
    def recent(self) -> tuple[TransitionRecord, ...]:
        """The newest records, oldest first, at most `limits.history_ring`."""
        return tuple(map(decode, self._seat.driver.ledger.recent))

    @property
    def cut_bytes(self) -> int:
        """How many bytes of a torn record the journal cut off when the session was opened."""
        card = self._seat.card
        return self._seat.driver.ledger.cut_bytes if card is None else card.cut_bytes

    async def load(self) -> None:
        """Bring the session back into memory, where it was paged out.

        Raises:
            EngineClosed: the engine or session is closed.
            JournalError: the history cannot be read or does not hold; the session stays paged out.
        """
        await self._seat.enter()
        self._seat.leave()

    async def ask(self, prompt: str | Prompt) -> TurnResult:
        """Run one turn and return how it came to rest: ended, or waiting for `answer`.

        Prompts that are asked while a turn runs wait for it, in order. Cancelling the call cancels the turn.

        Raises:
            IllegalTransition: the session waits for an answer; answer or cancel first.
            UsageError: the prompt is neither a text nor a `Prompt`.
            InboxFull: `limits.inbox_size` prompts wait already.
            JournalUnavailable: the journal failed; no effect of what it did not store started. The next call goes on.
            EngineClosed: the engine or session is closed.
        """
        checked = as_prompt(prompt)
        driver = await self._seat.enter()
        try:
            return await driver.ask(checked)
        finally:
            self._seat.leave()

    def stream(self, prompt: str | Prompt) -> TurnStream:
        """Run one turn in the background and iterate over its records and notices, ending with the `TurnResult`.

        `async for` alone lets the turn go on when the loop is left early; inside `async with` leaving cancels it. A
        slow reader loses the oldest items and sees a `Gap`.
        """
        return TurnStream(self._seat, as_prompt(prompt), self._house.start, self._house.stream_buffer)

    async def compact(self) -> bool:
        """Have the older part of the conversation summarized, and show the model the summary in its place.

        The conversation itself stays whole. Waits for a turn that runs; what the summary used is booked to no turn.

        Returns:
            Whether the model is shown less from now on. Why not is in the record, unless there was nothing to leave
            out.

        Raises:
            IllegalTransition: the session waits for an answer.
            UsageError: it lives on what its parent lends it, which is for its turns.
            JournalUnavailable, EngineClosed: as for `ask`.
        """
        driver = await self._seat.enter()
        try:
            return await compacted(driver)
        finally:
            self._seat.leave()

    async def answer(self, request_id: str, **said: Unpack[Said]) -> TurnResult:
        """Answer a pending request, in any order, and wait until the session rests again.

        Args:
            request_id: the `id` of one of `pending`.
            said: see `Said`; `approve` is needed.

        Raises:
            InvalidEvent: no such request is pending, its time is over, the call cannot run with the arguments given, or
                the answer says two things at once.
        """
        try:
            answered = UserAnswered.model_validate({**said, "request_id": request_id})
        except ValidationError as error:
            raise InvalidEvent(f"this cannot be recorded as an answer: {complaint(error)}") from None
        driver = await self._seat.enter()
        try:
            return await driver.inlet.answer(answered)
        finally:
            self._seat.leave()

    async def revoke(self, grant_id: str, *, by: str | None = None) -> None:
        """Take one of `grants` back: from then on no call starts by it, not even one that it has let through.

        Raises:
            InvalidEvent: there is no such grant.
        """
        driver = await self._seat.enter()
        try:
            await driver.inlet.revoke(GrantRevoked(grant_id=grant_id, by=by))
        finally:
            self._seat.leave()

    async def cancel(self, reason: str = "cancelled") -> None:
        """Cancel the open turn, wherever it is. Every call gets a terminal record. Without an open turn do nothing.

        A tool that swallows its cancellation is given up after `limits.cancel_grace_s`; a write is `unknown` then.
        """
        if self._seat.card is None:
            await self._seat.driver.stop(TurnCancelled(reason=reason))

    async def result(self) -> TurnResult:
        """Return the newest turn's result once the session rests. Goes on with a turn that a failure stopped."""
        driver = await self._seat.enter()
        try:
            if driver.unfinished:
                return await driver.resume()
            await driver.rest()
            return driver.result()
        finally:
            self._seat.leave()

    async def history(self, after: int = 0) -> AsyncIterator[TransitionRecord]:
        """Iterate over the durable records from sequence `after` + 1: all of them, from the journal."""
        async for record in read_history(self._house.journal, self.id, after):
            yield record

    async def close(self) -> None:
        """Release the session; an open turn is interrupted in order. Idempotent.

        What it has not used of its parent's budgets goes back, unless a turn is open, which keeps it to go on with.
        """
        if self._seat.card is None:
            driver = self._seat.driver
            driver.refuse_prompts()
            try:
                await settle(driver, self._house.drivers)
            finally:
                await let_go(driver, self._house.forget)
        else:
            self._house.forget(self.id)
            await self._seat.release()

    @property
    def _predictor(self) -> Predictor | None:
        learner = self._seat.driver.parts.learner
        return None if learner is None else learner.predictor(self.id)
