"""The times of a session's questions: a parked turn goes on at its time, a question that nobody answered is refused.

One task sleeps for each pending question that has a time, and for no other: what is answered, cancelled or closed is
let go of at once. May import anyio, core and its neighbours. Must never decide whether an answer still counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio

from ..core.events import UserAnswered
from ..core.values import Request
from ..log import logger
from ..ports import Clock
from .answering import overdue
from .clock import seconds_until
from .crew import Crew


class Alarm:
    """Answers the questions of one session when their times have come, unless somebody does before.

    Args:
        clock: tells the time of day.
        crew: gives the tasks that sleep; an engine that ends takes them along.
        answer: takes an answer in. What it raises is logged.
    """

    def __init__(self, clock: Clock, crew: Crew, answer: Callable[[UserAnswered], Awaitable[object]]) -> None:
        self._clock = clock
        self._crew = crew
        self._answer = answer
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._stopped = False

    def set(self, pending: Sequence[Request]) -> None:
        """Mind the times of what is pending now, and of nothing that was pending before. Quick where nothing is."""
        if self._scopes:
            wanted = {request.id for request in pending}
            for name in [name for name in self._scopes if name not in wanted]:
                self._scopes.pop(name).cancel()
        for request in pending:
            moment = request.not_before or request.expires_at
            if moment is not None and request.id not in self._scopes and not self._stopped:
                scope = self._scopes[request.id] = anyio.CancelScope()
                self._crew.start(partial(self._ring, request, moment, scope))

    def stop(self) -> None:
        """Mind no times any more. Idempotent."""
        self._stopped = True
        self.set(())

    async def _ring(self, request: Request, moment: str, scope: anyio.CancelScope) -> None:
        """Sleep in `scope`, then answer outside of it: the answer ends the question, and with it the sleep."""
        with scope:
            await anyio.sleep(seconds_until(self._clock, moment))
        try:
            if not scope.cancel_called:
                await self._answer(_answer_to(request))
        except Exception:
            # Nobody waits here: a host was quicker, or whoever uses the session next meets the same error.
            logger.exception("a question could not be answered when its time had come", request=request.id)
        finally:
            if self._scopes.get(request.id) is scope:
                del self._scopes[request.id]


def _answer_to(request: Request) -> UserAnswered:
    """Return what the engine says to a question when its time has come: go on, or no."""
    if request.not_before is not None:
        return UserAnswered(request_id=request.id, approve=True, by="engine")
    return overdue(request)
