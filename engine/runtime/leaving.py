"""Waits for a call no longer than its time and a grace: one that does not end when it is cancelled is left behind.

Nothing can end a coroutine that swallows its cancellation, and nobody can leave one that runs in his own task. So the
call gets a task of its own, for those who ask for that: it costs as much as a small tool. May import anyio, the log and
its neighbours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from ..errors import ModelError
from ..log import logger
from ..tools.function import really_cancelled
from .crew import Crew
from .watchdog import ends_in_time

T = TypeVar("T")


class Leavable(Generic[T]):
    """A call to a model that can be left.

    Args:
        work: asks the model.

    Attributes:
        left: whether nobody waits for it any more; what it gives then is dropped.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self.left = False
        self._work = work
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None

    async def result(self, crew: Crew, timeout_s: float, grace_s: float) -> T:
        """Run the call in a task of `crew` and return what it gives.

        Args:
            crew: gives the task.
            timeout_s: how long it may take, in seconds, before it is cancelled.
            grace_s: how long it is waited for after a cancellation, in seconds.

        Raises:
            ModelError: it took longer. Where it did not end either, trying again would leave another one behind.
            BaseException: what the call itself raises.
        """
        crew.start(self._run)
        try:
            with anyio.move_on_after(timeout_s):
                await self._ended.wait()
        finally:
            if not self._ended.is_set():
                await self._leave(grace_s)
        if self._results:
            return self._results.pop()
        if self._error is not None:
            raise self._error
        text = f"the model did not answer within {timeout_s:g} s"
        if self.left:
            raise ModelError(f"{text} and does not end when it is cancelled", retryable=False)
        raise ModelError(text)

    async def _leave(self, grace_s: float) -> None:
        self._scope.cancel()
        if not await ends_in_time(self._ended, grace_s):
            self.left = True
            logger.error("a model does not end when it is cancelled", grace_s=grace_s)

    async def _run(self) -> None:
        try:
            with self._scope:
                self._results.append(await self._work())
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()) and really_cancelled():
                raise
            # Raised again where it is waited for: here it would end the whole engine.
            self._error = error
        finally:
            self._ended.set()
            if self.left:
                logger.warning("a model that was left behind has ended")
