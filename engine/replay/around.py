"""Divergences that no step shows: what stood around a session when it was recorded, and stands there now.

What a middleware or a context provider makes of a turn cannot be known without performing it; that there is another one
can, and is told at the first record that went through it. Memory is judged by what was measured. May import core and
the words of `divergence`. Must never call what it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..core.events import ContextPrepared, Faulted, ModelReplied, SessionOpened, ToolFinished
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.values import Surroundings, ToolStatus
from .divergence import Difference, Kind

_MIB = 1 << 20


class MemoryBound(NamedTuple):
    """What bounds the memory of one call, in bytes: what is used, which is measured; what is mapped, which is not."""

    used_bytes: int | None = None
    mapped_bytes: int | None = None


class Around:
    """Judges the records of one history, in order.

    Args:
        now: what an engine puts around its sessions today.
        memory_bound: gives what bounds the calls of a tool today, None where that is not known.
    """

    def __init__(self, now: Surroundings, memory_bound: Callable[[str], MemoryBound | None]) -> None:
        self._now = now
        self._memory_bound = memory_bound
        self._told: set[Kind] = set()

    def differences(self, before: Session, record: TransitionRecord) -> Iterator[Difference]:
        """Yield what is otherwise about a record; what holds for all alike once an opening.

        Args:
            before: the session before the record.
            record: a record of a known kind.
        """
        was, now = before.opened.around, self._now
        event = record.event
        if isinstance(event, SessionOpened):
            self._told.clear()
        elif isinstance(event, ContextPrepared):
            if before.turn is not None and before.turn.round == 0:
                yield from self._once("prompt", "the context providers", was.providers, now.providers)
        elif isinstance(event, ModelReplied):
            yield from self._once("middleware", "the middleware", was.middleware, now.middleware)
        elif isinstance(event, ToolFinished):
            yield from self._once("middleware", "the middleware", was.middleware, now.middleware)
            yield from self._of_call(before, event)
        elif isinstance(event, Faulted) and event.fault.kind == "memory_limit":
            yield from _of_process(was.max_memory_mb, now.max_memory_mb)

    def _once(self, kind: Kind, text: str, was: Sequence[str], now: Sequence[str]) -> Iterator[Difference]:
        if was != now and kind not in self._told:
            self._told.add(kind)
            yield Difference(kind, text, ", ".join(was) or "none", ", ".join(now) or "none")

    def _of_call(self, before: Session, event: ToolFinished) -> Iterator[Difference]:
        calls = () if before.turn is None else before.turn.calls
        name = next((call.call.name for call in calls if call.call.id == event.call_id), None)
        bound = None if name is None else self._memory_bound(name)
        if bound is None:
            return
        peak = None if event.resources is None else event.resources.peak_memory_bytes
        text = f"the memory of {name}"
        if event.status is ToolStatus.MEMORY_EXCEEDED:
            # Of a limit on what is mapped the peak of what was used says nothing.
            fits = bound.used_bytes is None or (peak is not None and peak < bound.used_bytes)
            if bound.mapped_bytes is None and fits:
                yield Difference("budget", text, f"{_mib(peak)} were too much", f"up to {_mib(bound.used_bytes)}")
        elif peak is not None and bound.used_bytes is not None and peak > bound.used_bytes:
            yield Difference("budget", text, f"{_mib(peak)} used", f"up to {_mib(bound.used_bytes)}")


def _of_process(was_mb: int | None, now_mb: int | None) -> Iterator[Difference]:
    """Yield what a greater limit says about a process that was found to have too little memory."""
    if was_mb is not None and (now_mb is None or now_mb > was_mb):
        now = "no limit" if now_mb is None else f"up to {now_mb} MiB"
        yield Difference("budget", "the memory of the process", f"more than {was_mb} MiB", now)


def _mib(size_bytes: int | None) -> str:
    return "any amount" if size_bytes is None else f"{size_bytes / _MIB:.0f} MiB"


__all__ = ["Around", "MemoryBound"]
