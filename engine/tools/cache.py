"""Results of reads, kept for calls that would ask for the same thing again.

Only what a tool opted in to with `cache_ttl_s` comes here, only calls with effect "read", and only successes stay. An
entry belongs to a scope, one user in one workspace, and no other scope ever sees it. Identical calls at the same time
are one call: the others wait for it, and if it fails or is cancelled one of them runs itself. A write drops everything
in its scope, calls in flight included: what a write may change cannot be told from names and arguments, and a conflict
key orders writes but does not say what a read reads. Other scopes see a write when their entries run out: that much
staleness is what the tool agreed to. Time is a parameter. May import anyio, core and ports. Must never run anything on
its own, and lives in one event loop.
"""

import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import anyio

from ..core.arguments import json_text
from ..core.values import ToolStatus
from ..ports import ToolContext, ToolOutput

MAX_CACHE_BYTES = 16 * 2**20
"""What a cache keeps if nothing else is said."""

_ENTRY_BYTES = 700
"""What an entry takes beside its two texts: two tuples, the output, and its places in two dictionaries."""


class Scope(NamedTuple):
    """Who may see a result. Where nobody said whose a session is, it shares with no other one."""

    user: str | None
    workspace: str | None
    session: str | None = None


class Key(NamedTuple):
    """What makes two calls the same: scope, tool and version, canonical arguments."""

    scope: Scope
    tool: str
    version: str
    arguments: str


class CacheStats(NamedTuple):
    """How a cache has served: calls asked for, answered from an entry, and from a call in flight; bytes held now."""

    total: int
    hits: int
    joined: int
    held_bytes: int


class _Entry(NamedTuple):
    output: ToolOutput
    until_s: float
    size: int


class _Flight:
    """A call that runs. `output` stays None if it came to nothing that others could use."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.output: ToolOutput | None = None


def scope_of(context: ToolContext) -> Scope:
    """Return the scope of a call."""
    if context.user is None:
        return Scope(None, context.workspace, context.session)
    return Scope(context.user, context.workspace)


def key_of(context: ToolContext, version: str = "") -> Key:
    """Return the key of a call; `version` is the tool's own, so that a new one finds nothing of the old."""
    return Key(scope_of(context), context.name, version, json_text(context.arguments))


class ResultCache:
    """Holds results up to a number of bytes; those used longest ago make room.

    Args:
        max_bytes: what all entries together may take; 0 keeps nothing and still joins calls.
    """

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._keys: dict[Scope, set[Key]] = {}
        self._flights: dict[Key, _Flight] = {}
        self._bytes = self._total = self._hits = self._joined = 0

    @property
    def stats(self) -> CacheStats:
        """How it has served so far."""
        return CacheStats(self._total, self._hits, self._joined, self._bytes)

    async def run(
        self, key: Key, call: Callable[[], Awaitable[ToolOutput]], *, ttl_s: float, now_s: float
    ) -> ToolOutput:
        """Return a kept result, that of an identical call in flight, or what `call` gives.

        Args:
            key: what is asked for.
            call: runs the tool. What it raises is raised here, and here only.
            ttl_s: how long a success may be used, in seconds from `now_s`.
            now_s: the time, in seconds of a clock that never goes back.
        """
        self._total += 1
        while True:
            entry = self._entries.get(key)
            if entry is not None and now_s < entry.until_s:
                self._entries.move_to_end(key)
                self._hits += 1
                return entry.output
            flight = self._flights.get(key)
            if flight is None:
                return await self._fly(key, call, now_s + ttl_s)
            await flight.ended.wait()
            if flight.output is not None:
                self._joined += 1
                return flight.output

    async def _fly(self, key: Key, call: Callable[[], Awaitable[ToolOutput]], until_s: float) -> ToolOutput:
        flight = self._flights[key] = _Flight()
        try:
            output = await call()
            if output.status is ToolStatus.COMPLETED:
                flight.output = output
            return output
        finally:
            # A write may have taken it off already: then it is too old to keep, but good for those who wait.
            if self._flights.get(key) is flight:
                del self._flights[key]
                if flight.output is not None:
                    self._keep(key, flight.output, until_s)
            flight.ended.set()

    def _keep(self, key: Key, output: ToolOutput, until_s: float) -> None:
        self._drop(key)
        size = _ENTRY_BYTES + sys.getsizeof(key.arguments) + sys.getsizeof(output.content)
        if size > self._max_bytes:
            return
        self._entries[key] = _Entry(output, until_s, size)
        self._keys.setdefault(key.scope, set()).add(key)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.size
        keys = self._keys[key.scope]
        keys.discard(key)
        if not keys:
            del self._keys[key.scope]

    def written(self, scope: Scope) -> None:
        """Forget everything in a scope: something there was written, or may have been, whatever became of the call."""
        for key in list(self._keys.get(scope, ())):
            self._drop(key)
        for key in [key for key in self._flights if key.scope == scope]:
            del self._flights[key]

    def expire(self, now_s: float) -> int:
        """Drop what has run out; return how many bytes that freed. For idle time: a lookup never returns it anyway."""
        before = self._bytes
        for key in [key for key, entry in self._entries.items() if entry.until_s <= now_s]:
            self._drop(key)
        return before - self._bytes

    def clear(self) -> int:
        """Drop every entry; return how many bytes that freed. Calls in flight go on."""
        freed, self._bytes = self._bytes, 0
        self._entries.clear()
        self._keys.clear()
        return freed
