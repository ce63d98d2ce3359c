"""Journals that misbehave on purpose: fakes for tests of the engine and of what is built on it.

`FailingJournal` fails chosen calls, `HoldingJournal` holds appends back until it is told to let them through,
`YieldingJournal` lets others run around every append. All stand in front of any journal. May import core, errors and
ports. Must never change what they pass on.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal

import anyio
import anyio.lowlevel

from ..core.record import TransitionRecord
from ..errors import JournalUnavailable
from ..ports import Journal, SessionInfo, StoredLine, Tail, Writer

Operation = Literal["claim", "append", "release", "read"]
Moment = Literal["before", "after"]

APPENDS: frozenset[Operation] = frozenset({"append"})


class FailingJournal:
    """Fail the n-th call, before or after its effect. Calls of the chosen operations are counted together, from 1.

    Args:
        inner: the journal that does the work.
        fail_at: number of the call that fails, or several, such as `range(3, 1000)` for a journal that stays broken.
        moment: "before": the call has no effect; "after": it has, and the caller does not learn of it.
        operations: which calls are counted.
        error: what is raised; a `JournalUnavailable` if not given.

    Attributes:
        calls: how many calls were counted so far.
        failures: how many of them failed.
    """

    def __init__(
        self,
        inner: Journal,
        fail_at: int | Container[int],
        *,
        moment: Moment = "before",
        operations: Container[Operation] = APPENDS,
        error: Exception | None = None,
    ) -> None:
        self.calls = 0
        self.failures = 0
        self._inner = inner
        self._fail_at: Container[int] = (fail_at,) if isinstance(fail_at, int) else fail_at
        self._moment = moment
        self._operations = operations
        self._error = error

    def mend(self) -> None:
        """Fail no more."""
        self._fail_at = ()

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Claim from the inner journal; the writer counts its calls here."""
        failing = self.enter("claim")
        writer = await self._inner.claim(session, takeover=takeover)
        self.leave(failing, "claim")
        return _FailingWriter(self, writer)

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Read from the inner journal."""
        failing = self.enter("read")
        page = await self._inner.read(session, after, limit)
        self.leave(failing, "read")
        return page

    async def sessions(self) -> Sequence[SessionInfo]:
        """List the sessions of the inner journal."""
        return await self._inner.sessions()

    async def aclose(self) -> None:
        """Close the inner journal."""
        await self._inner.aclose()

    def enter(self, operation: Operation) -> bool:
        """Count a call; fail before its effect, or say whether it is to fail after it."""
        if operation not in self._operations:
            return False
        self.calls += 1
        failing = self.calls in self._fail_at
        if failing and self._moment == "before":
            self._fail(operation)
        return failing

    def leave(self, failing: bool, operation: Operation) -> None:
        """Fail after the effect, if `enter` said so."""
        if failing:
            self._fail(operation)

    def _fail(self, operation: Operation) -> None:
        self.failures += 1
        raise self._error or JournalUnavailable(
            f"{operation} number {self.calls} fails as it was told to: mend the journal"
        )


class _FailingWriter:
    def __init__(self, journal: FailingJournal, inner: Writer) -> None:
        self._journal = journal
        self._inner = inner

    @property
    def epoch(self) -> int:
        return self._inner.epoch

    @property
    def tail(self) -> Tail:
        return self._inner.tail

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        failing = self._journal.enter("append")
        await self._inner.append(records)
        self._journal.leave(failing, "append")

    async def release(self) -> None:
        failing = self._journal.enter("release")
        await self._inner.release()
        self._journal.leave(failing, "release")


class YieldingJournal:
    """Yield to the event loop, cancellably, right before and right after each append: a disk that takes its time.

    Args:
        inner: the journal that does the work.
    """

    def __init__(self, inner: Journal) -> None:
        self._inner = inner

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Claim from the inner journal; the writer's appends yield."""
        return _YieldingWriter(await self._inner.claim(session, takeover=takeover))

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Read from the inner journal."""
        return await self._inner.read(session, after, limit)

    async def sessions(self) -> Sequence[SessionInfo]:
        """List the sessions of the inner journal."""
        return await self._inner.sessions()

    async def aclose(self) -> None:
        """Close the inner journal."""
        await self._inner.aclose()


class _YieldingWriter:
    def __init__(self, inner: Writer) -> None:
        self._inner = inner

    @property
    def epoch(self) -> int:
        return self._inner.epoch

    @property
    def tail(self) -> Tail:
        return self._inner.tail

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        await anyio.lowlevel.checkpoint()
        await self._inner.append(records)
        await anyio.lowlevel.checkpoint()

    async def release(self) -> None:
        await self._inner.release()


class HoldingJournal:
    """Hold appends back while the gate is closed, as a slow disk does, without any clock.

    Args:
        inner: the journal that does the work.
    """

    def __init__(self, inner: Journal) -> None:
        self._inner = inner
        self._gate = anyio.Event()
        self._gate.set()
        self._arrived = anyio.Event()

    def hold(self) -> None:
        """Close the gate: appends from now on wait in front of it."""
        self._gate = anyio.Event()
        self._arrived = anyio.Event()

    async def arrival(self) -> None:
        """Wait until an append stands in front of the closed gate."""
        await self._arrived.wait()

    def let_through(self) -> None:
        """Open the gate."""
        self._gate.set()

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Claim from the inner journal; the writer's appends pass the gate."""
        return _HeldWriter(self, await self._inner.claim(session, takeover=takeover))

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Read from the inner journal."""
        return await self._inner.read(session, after, limit)

    async def sessions(self) -> Sequence[SessionInfo]:
        """List the sessions of the inner journal."""
        return await self._inner.sessions()

    async def aclose(self) -> None:
        """Close the inner journal."""
        await self._inner.aclose()

    async def pass_on(self) -> None:
        """Wait at the gate until it is opened."""
        if not self._gate.is_set():
            self._arrived.set()
            await self._gate.wait()


class _HeldWriter:
    def __init__(self, journal: HoldingJournal, inner: Writer) -> None:
        self._journal = journal
        self._inner = inner

    @property
    def epoch(self) -> int:
        return self._inner.epoch

    @property
    def tail(self) -> Tail:
        return self._inner.tail

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        await self._journal.pass_on()
        await self._inner.append(records)

    async def release(self) -> None:
        await self._inner.release()


__all__ = ["APPENDS", "FailingJournal", "HoldingJournal", "Moment", "Operation", "YieldingJournal"]
