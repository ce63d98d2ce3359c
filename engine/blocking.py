"""The engine for code that cannot await: notebooks, scripts, consoles.

A thin facade: an event loop in a thread of its own runs the asynchronous engine, every method here hands one call to
it and waits. It also works where a loop is running already, as in a notebook. May import api and anyio. Must never
hold logic of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from typing_extensions import Unpack

from .api import Engine, Extras, Session, Who
from .core.limits import Limits
from .core.record import TransitionRecord
from .core.values import Message, Prompt, Request, State, Usage
from .errors import EngineClosed
from .ports import Journal, Model, Tool
from .runtime.parts import TurnResult
from .runtime.stream import Item, TurnStream

T = TypeVar("T")


class BlockingEngine:
    """`Engine` with blocking methods; use it with `with`.

    Args:
        model: the language model.
        tools: as for `Engine`.
        journal: as for `Engine`.
        limits: as for `Engine`.
        extras: as for `Engine`.

    Raises:
        ToolDefinitionError: something is no tool, or a name is taken twice.
    """

    def __init__(
        self,
        *,
        model: Model,
        tools: Iterable[Tool | Callable[..., object]] = (),
        journal: Journal | None = None,
        limits: Limits | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        self._engine = Engine(model=model, tools=tools, journal=journal, limits=limits, **extras)
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> BlockingEngine:
        if self._portal is not None:
            raise EngineClosed("this engine is already open; make another one for another `with`")
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(name="agent-engine"))
            stack.enter_context(portal.wrap_async_context_manager(self._engine))
            self._stack = stack.pop_all()
        self._portal = portal
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal = None
        self._stack.__exit__(kind, error, trace)

    def open(self, session_id: str | None = None, *, takeover: bool = False, **who: Unpack[Who]) -> BlockingSession:
        """Return a session: a new one, or one rebuilt from its journal; see `Engine.open`."""
        portal = self._running_portal()

        async def opened() -> Session:
            return await self._engine.open(session_id, takeover=takeover, **who)

        return BlockingSession(_call(portal, opened), portal)

    def find(self, external_id: str) -> list[str]:
        """Return the ids of the sessions that were opened with this external id, sorted."""
        return _call(self._running_portal(), lambda: self._engine.find(external_id))

    def history(self, session_id: str, after: int = 0) -> Iterator[TransitionRecord]:
        """Iterate over a session's records from sequence `after` + 1, without opening it."""
        return _iterate(self._running_portal(), self._engine.history(session_id, after))

    def _running_portal(self) -> BlockingPortal:
        if self._portal is None:
            raise EngineClosed("the engine is not open: use it inside `with BlockingEngine(...) as engine:`")
        return self._portal


class BlockingSession:
    """`Session` with blocking methods. Made by `BlockingEngine.open`; `with` releases it at the end."""

    def __init__(self, session: Session, portal: BlockingPortal) -> None:
        self._session = session
        self._portal = portal

    def __enter__(self) -> BlockingSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<blocking session {self.id} {self.state.value} at {self.seq}>"

    @property
    def id(self) -> str:
        """The session's id."""
        return self._session.id

    @property
    def state(self) -> State:
        """What is going on."""
        return self._session.state

    @property
    def seq(self) -> int:
        """Sequence number of the newest durable record."""
        return self._session.seq

    @property
    def pending(self) -> tuple[Request, ...]:
        """What the session waits for a person to answer."""
        return self._session.pending

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation as a model provider accepts it."""
        return self._session.messages

    @property
    def usage(self) -> Usage:
        """Tokens of the whole session."""
        return self._session.usage

    def load(self) -> None:
        """Bring the session back into memory, where it was paged out; see `Session.load`."""
        _call(self._portal, self._session.load)

    def ask(self, prompt: str | Prompt) -> TurnResult:
        """Run one turn and return how it came to rest; see `Session.ask`. Interrupting the wait cancels the turn."""
        return _call(self._portal, lambda: self._session.ask(prompt))

    def stream(self, prompt: str | Prompt) -> Iterator[Item]:
        """Run one turn and iterate over its records and notices, ending with the `TurnResult`.

        Closing the iterator early cancels the turn.
        """

        async def started() -> TurnStream:
            # Made in the loop that it belongs to.
            return self._session.stream(prompt)

        with self._portal.wrap_async_context_manager(_call(self._portal, started)) as items:
            yield from _iterate(self._portal, items)

    def answer(self, request_id: str, *, approve: bool, text: str | None = None, by: str | None = None) -> TurnResult:
        """Answer a pending request and wait until the session rests again; see `Session.answer`."""
        return _call(self._portal, lambda: self._session.answer(request_id, approve=approve, text=text, by=by))

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel the open turn. For another thread than the one that waits in `ask`."""
        _call(self._portal, lambda: self._session.cancel(reason))

    def result(self) -> TurnResult:
        """Wait until the session rests and return its newest turn's result."""
        return _call(self._portal, self._session.result)

    def history(self, after: int = 0) -> Iterator[TransitionRecord]:
        """Iterate over the durable records from sequence `after` + 1."""
        return _iterate(self._portal, self._session.history(after))

    def close(self) -> None:
        """Release the session; an open turn is interrupted in order. Idempotent."""
        _call(self._portal, self._session.close)


def _call(portal: BlockingPortal, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run one coroutine in the engine's loop; an interrupted wait cancels it there."""
    future: Future[T] = portal.start_task_soon(work)
    try:
        return future.result()
    except BaseException:
        # An answer that is an exception is the caller's; an interrupt of the wait must not leave the work running.
        future.cancel()
        raise


def _iterate(portal: BlockingPortal, items: AsyncIterator[T]) -> Iterator[T]:
    async def following() -> tuple[T, ...]:
        # A one-tuple, or nothing at the end: a StopAsyncIteration does not travel through a future.
        async for item in items:
            return (item,)
        return ()

    while found := _call(portal, following):
        yield found[0]
