"""One turn as a stream: records and notices while it runs, then its result. May import anyio and its neighbours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType

import anyio

from ..core.notices import Notice
from ..core.record import TransitionRecord
from ..core.values import Prompt
from .broadcast import Subscription
from .driver import Driver
from .paging import Seat
from .parts import TurnResult

Item = TransitionRecord | Notice | TurnResult


class TurnStream(AsyncIterator[Item]):
    """Iterates over one turn. An object, not a generator: no cancel scope is held across an item.

    Args:
        seat: whose turn it is.
        prompt: what opens the turn.
        start: starts a coroutine function in the engine's task group.
        size: how many items may wait for the reader.
    """

    def __init__(self, seat: Seat, prompt: Prompt, start: Callable[[Callable[[], object]], None], size: int) -> None:
        self._seat = seat
        self._driver: Driver | None = None
        self._prompt = prompt
        self._start = start
        self._items: Subscription[TransitionRecord | Notice] = Subscription(size)
        self._scope = anyio.CancelScope()
        self._started = False
        self._result: TurnResult | None = None
        self._error: Exception | None = None
        self._ended = anyio.Event()

    def __aiter__(self) -> TurnStream:
        return self

    async def __anext__(self) -> Item:
        """Return the next item; the last one is the `TurnResult`.

        Raises:
            EngineError: whatever `ask` would have raised.
        """
        if not self._started:
            self._started = True
            self._start(self._run)
        try:
            return await self._items.get()
        except anyio.EndOfStream:
            pass
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._result is not None:
            result, self._result = self._result, None
            return result
        raise StopAsyncIteration

    async def __aenter__(self) -> TurnStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()

    async def aclose(self) -> None:
        """Stop reading; if the turn still waits or runs, cancel it."""
        self._leave()
        if self._started:
            self._scope.cancel()
            await self._ended.wait()

    def _attend(self) -> None:
        """Begin to listen: what other turns did before is none of this stream's business."""
        if self._driver is not None:
            self._driver.broadcast.attach(self._items)

    def _leave(self) -> None:
        self._items.close()
        if self._driver is not None:
            self._driver.broadcast.unsubscribe(self._items)

    async def _run(self) -> None:
        try:
            with self._scope:
                self._driver = await self._seat.enter()
                try:
                    self._result = await self._driver.ask(self._prompt, self._attend)
                finally:
                    self._seat.leave()
        except Exception as error:
            # Handed to the reader; if nobody reads, the session itself still says what happened.
            self._error = error
        finally:
            self._ended.set()
            self._leave()
