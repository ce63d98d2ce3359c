"""The outward streams of one session: records and notices to whoever watches.

Policy for slow readers: a subscription holds a bounded number of items; when it is full the oldest is dropped and a
`Gap` with the number of lost items stands in its place. The engine never waits for a reader. Lost records are still in
the journal. May import anyio, core and ports.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

import anyio

from ..core.notices import Gap, Notice
from ..core.record import TransitionRecord
from ..log import logger
from ..ports import Observer

T = TypeVar("T")


class Subscription(Generic[T]):
    """A bounded buffer between the engine and one reader.

    Args:
        size: how many items may wait.
    """

    def __init__(self, size: int) -> None:
        self._items: deque[T | Gap] = deque()
        self._size = size
        self._lost = 0
        self._closed = False
        self._wake = anyio.Event()

    def put(self, item: T) -> None:
        """Add an item without ever waiting; drop the oldest if there is no room."""
        if self._closed:
            return
        if len(self._items) >= self._size:
            self._items.popleft()
            self._lost += 1
        self._items.append(item)
        self._wake.set()

    def close(self) -> None:
        """End the stream after the items that are already in it."""
        self._closed = True
        self._wake.set()

    async def get(self) -> T | Gap:
        """Return the next item, waiting for it.

        Raises:
            anyio.EndOfStream: the stream was closed and is empty.
        """
        while not self._items:
            if self._closed:
                raise anyio.EndOfStream
            self._wake = anyio.Event()
            await self._wake.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return Gap(lost)
        return self._items.popleft()


class Broadcast:
    """Hands records and notices of one session to its observers and subscriptions."""

    def __init__(self, session: str, observers: Iterable[Observer]) -> None:
        self._session = session
        self._observers = tuple(observers)
        self._subscriptions: list[Subscription[TransitionRecord | Notice]] = []

    @property
    def watched(self) -> bool:
        """Whether anybody would see a notice."""
        return bool(self._subscriptions or self._observers)

    def attach(self, subscription: Subscription[TransitionRecord | Notice]) -> None:
        """Let a subscription see everything from now on."""
        self._subscriptions.append(subscription)

    def unsubscribe(self, subscription: Subscription[TransitionRecord | Notice]) -> None:
        """End a subscription. Idempotent."""
        subscription.close()
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def record(self, record: TransitionRecord) -> None:
        """Publish a record that has just become durable."""
        for subscription in self._subscriptions:
            subscription.put(record)
        for observer in self._observers:
            try:
                observer.on_record(record)
            except Exception:
                logger.exception("observer failed", session=self._session, seq=record.seq)

    def notice(self, notice: Notice) -> None:
        """Publish a volatile notice."""
        for subscription in self._subscriptions:
            subscription.put(notice)
        for observer in self._observers:
            try:
                observer.on_notice(self._session, notice)
            except Exception:
                logger.exception("observer failed", session=self._session)
