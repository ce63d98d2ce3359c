"""The result cache against a model: what is returned, who runs, who waits, what is forgotten, what it all takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.values import ToolStatus
from engine.ports import ToolContext, ToolOutput
from engine.tools.cache import Key, ResultCache, Scope, key_of, scope_of

pytestmark = pytest.mark.anyio

HERS, HIS = Scope("ann", "w"), Scope("bob", "w")
KEYS = [Key(scope, tool, "", "{}") for scope in (HERS, HIS) for tool in ("a", "b", "c")]


def output(number: int, status: ToolStatus = ToolStatus.COMPLETED) -> ToolOutput:
    return ToolOutput(f"{number:08}", status)


def one_entry() -> int:
    """How many bytes one entry of these tests takes."""

    async def measured() -> int:
        cache = ResultCache()
        await keep(cache, KEYS[0], 1)
        return cache.stats.held_bytes

    return anyio.run(measured)


async def keep(cache: ResultCache, key: Key, number: int, *, now_s: float = 0.0, ttl_s: float = 60.0) -> ToolOutput:
    """Ask for `key` with a call that gives `number` at once."""

    async def call() -> ToolOutput:
        return output(number)

    return await cache.run(key, call, ttl_s=ttl_s, now_s=now_s)


class Asked(NamedTuple):
    """A call to the cache in the model: its key, when it was made, how long its result may live."""

    key: Key
    now_s: float
    ttl_s: float


class Flying:
    """A call in flight in the model. A detached one is too old to keep or to join."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.joined: set[int] = set()
        self.attached = True


class CacheMachine(RuleBasedStateMachine):
    """Asks, ends, cancels, writes and waits in any order, and compares with a model made of plain dicts and lists."""

    backend = "asyncio"
    ROOM = 3

    @initialize()
    def start(self) -> None:
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal(self.backend))
        self.cache = ResultCache(one_entry() * self.ROOM)
        self.now_s = 0.0
        self.serial = self.total = self.hits = self.joins = 0
        self.asked: dict[int, Asked] = {}
        self.entries: dict[Key, tuple[ToolOutput, float]] = {}  # in the order of use
        self.flights: list[Flying] = []
        self.expected: dict[int, ToolOutput | str] = {}
        self.got: dict[int, ToolOutput | str] = {}
        self.events: dict[int, anyio.Event] = {}
        self.futures: dict[int, Future[None]] = {}
        self.outcomes: dict[int, ToolStatus | None] = {}
        self.scopes: dict[int, anyio.CancelScope] = {}

    async def settle(self) -> None:
        for _ in range(12):
            await anyio.lowlevel.checkpoint()

    def teardown(self) -> None:
        for future in self.futures.values():
            future.cancel()
        self.stack.close()

    # --- what really runs ---

    async def ask(self, number: int, asked: Asked) -> None:
        async def call() -> ToolOutput:
            event = self.events[number] = anyio.Event()
            try:
                await event.wait()
            finally:
                del self.events[number]
            status = self.outcomes[number]
            if status is None:
                raise LookupError(number)
            return output(number, status)

        with anyio.CancelScope() as scope:
            self.scopes[number] = scope
            try:
                self.got[number] = await self.cache.run(asked.key, call, ttl_s=asked.ttl_s, now_s=asked.now_s)
            except LookupError as error:
                self.got[number] = str(error)
        if scope.cancelled_caught:
            self.got[number] = "cancelled"

    async def poke(self, act: Callable[[], Any]) -> None:
        act()
        await self.settle()

    # --- the model ---

    def place(self, number: int) -> Flying | None:
        """Answer a call from an entry, or let it join; return the flight that it must lead if there is neither."""
        asked = self.asked[number]
        entry = self.entries.get(asked.key)
        if entry is not None and asked.now_s < entry[1]:
            self.entries[asked.key] = self.entries.pop(asked.key)
            self.hits += 1
            self.expected[number] = entry[0]
            return None
        for flight in self.flights:
            if flight.attached and self.asked[flight.leader].key == asked.key:
                flight.joined.add(number)
                return None
        self.flights.append(Flying(number))
        return self.flights[-1]

    def land(self, flight: Flying, result: ToolOutput | None) -> None:
        self.flights.remove(flight)
        leader = self.asked[flight.leader]
        if result is None:
            self.replace_waiting(flight.joined)
            return
        for number in flight.joined:
            self.expected[number] = result
            self.joins += 1
        if flight.attached:
            self.entries.pop(leader.key, None)
            self.entries[leader.key] = (result, leader.now_s + leader.ttl_s)
            if len(self.entries) > self.ROOM:
                del self.entries[next(iter(self.entries))]

    def replace_waiting(self, waiting: set[int]) -> None:
        """One of those who waited runs itself, whichever comes first; the others wait for it."""
        for number in sorted(waiting, key=lambda number: number not in self.events):
            self.place(number)

    # --- rules ---

    @rule(key=st.sampled_from(KEYS), ttl_s=st.sampled_from([1.0, 5.0, 100.0]))
    def ask_for(self, key: Key, ttl_s: float) -> None:
        self.serial += 1
        self.total += 1
        self.asked[self.serial] = Asked(key, self.now_s, ttl_s)
        self.expected[self.serial] = "open"
        self.futures[self.serial] = self.portal.start_task_soon(self.ask, self.serial, self.asked[self.serial])
        self.portal.call(self.settle)
        self.place(self.serial)

    @precondition(lambda self: bool(self.flights))
    @rule(data=st.data(), status=st.sampled_from([ToolStatus.COMPLETED, ToolStatus.COMPLETED, ToolStatus.FAILED, None]))
    def end(self, data: st.DataObject, status: ToolStatus | None) -> None:
        flight = data.draw(st.sampled_from(self.flights))
        number = flight.leader
        self.outcomes[number] = status
        self.expected[number] = str(number) if status is None else output(number, status)
        self.portal.call(self.poke, self.events[number].set)
        self.land(flight, output(number) if status is ToolStatus.COMPLETED else None)

    @precondition(lambda self: any(result == "open" for result in self.expected.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([number for number, result in self.expected.items() if result == "open"]))
        self.expected[number] = "cancelled"
        self.portal.call(self.poke, self.scopes[number].cancel)
        for flight in list(self.flights):
            flight.joined.discard(number)
            if flight.leader == number:
                self.land(flight, None)

    @rule(scope=st.sampled_from([HERS, HIS]))
    def write(self, scope: Scope) -> None:
        self.cache.written(scope)
        self.entries = {key: entry for key, entry in self.entries.items() if key.scope != scope}
        for flight in self.flights:
            if self.asked[flight.leader].key.scope == scope:
                flight.attached = False

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def trim(self) -> None:
        before = self.cache.stats.held_bytes
        freed = self.cache.expire(self.now_s)
        self.entries = {key: entry for key, entry in self.entries.items() if self.now_s < entry[1]}
        assert freed == before - self.cache.stats.held_bytes

    @rule()
    def clear(self) -> None:
        assert self.cache.clear() == len(self.entries) * one_entry()
        self.entries.clear()

    @invariant()
    def is_as_the_model_says(self) -> None:
        assert self.got == {number: result for number, result in self.expected.items() if result != "open"}
        assert set(self.events) == {flight.leader for flight in self.flights}
        assert self.cache.stats == (self.total, self.hits, self.joins, len(self.entries) * one_entry())


class TrioCacheMachine(CacheMachine):
    backend = "trio"


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TrioCacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)

TestCacheOnAsyncio = CacheMachine.TestCase
TestCacheOnTrio = TrioCacheMachine.TestCase


# --- single properties, said in plain words ---------------------------------------------------------------------------


async def test_v34_hit_returns_the_result_and_runs_nothing() -> None:
    """Within its time an equal call gets the very result; after it, the tool runs again."""
    cache = ResultCache()
    first = await keep(cache, KEYS[0], 1, now_s=100.0, ttl_s=10.0)
    assert await keep(cache, KEYS[0], 2, now_s=109.9) is first
    assert (await keep(cache, KEYS[0], 3, now_s=110.0)).content == output(3).content


async def test_v34_what_was_used_longest_ago_makes_room() -> None:
    """When the bytes run out, the entry goes that was used longest ago; using one keeps it."""
    cache = ResultCache()
    await keep(cache, KEYS[0], 0)
    cache = ResultCache(3 * cache.stats.held_bytes)
    for number in range(3):
        await keep(cache, KEYS[number], number)
    await keep(cache, KEYS[0], 10)
    await keep(cache, KEYS[3], 3)
    assert (await keep(cache, KEYS[0], 20)).content == output(0).content
    assert (await keep(cache, KEYS[1], 21)).content == output(21).content


@pytest.mark.parametrize("status", [status for status in ToolStatus if status is not ToolStatus.COMPLETED])
async def test_v34_only_successes_are_kept(status: ToolStatus) -> None:
    """A result with any other status than completed is returned once and never again."""
    cache = ResultCache()

    async def call() -> ToolOutput:
        return output(1, status)

    assert (await cache.run(KEYS[0], call, ttl_s=60.0, now_s=0.0)).status is status
    assert (await keep(cache, KEYS[0], 2)).status is ToolStatus.COMPLETED
    assert cache.stats.hits == 0


async def test_v34_identical_calls_in_flight_are_one() -> None:
    """Of many equal calls at the same time one runs; all get its result."""
    cache = ResultCache()
    runs: list[int] = []
    results: list[ToolOutput] = []
    go = anyio.Event()

    async def call() -> ToolOutput:
        runs.append(1)
        await go.wait()
        return output(7)

    async def ask() -> None:
        results.append(await cache.run(KEYS[0], call, ttl_s=60.0, now_s=0.0))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert len(runs) == 1
    assert results == [output(7)] * 10
    assert cache.stats[:3] == (10, 0, 9)


async def test_error_is_raised_to_the_one_that_ran() -> None:
    """An exception goes to the call that ran; one that waited runs itself and knows nothing of it."""
    cache = ResultCache()
    go = anyio.Event()
    results: list[object] = []

    async def fail() -> ToolOutput:
        await go.wait()
        raise LookupError

    async def first() -> None:
        with pytest.raises(LookupError):
            await cache.run(KEYS[0], fail, ttl_s=60.0, now_s=0.0)

    async def second() -> None:
        results.append(await keep(cache, KEYS[0], 2))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert results == [output(2)]


async def test_v34_waiters_of_a_failed_call_run_once() -> None:
    """When a call fails that others wait for, one of them runs, and the rest take its result, at once or not."""
    cache = ResultCache()
    go = anyio.Event()
    runs: list[int] = []

    async def fail() -> ToolOutput:
        await go.wait()
        return output(0, ToolStatus.FAILED)

    async def succeed() -> ToolOutput:
        runs.append(1)
        return output(1)

    async with anyio.create_task_group() as group:
        for call in (fail, succeed, succeed, succeed):
            group.start_soon(partial(cache.run, KEYS[0], call, ttl_s=60.0, now_s=0.0))
            await anyio.wait_all_tasks_blocked()
        go.set()
    assert len(runs) == 1


async def test_result_read_before_a_write_is_not_kept_after_it() -> None:
    """A read in flight while something is written gives its result to those who wait and leaves nothing behind."""
    cache = ResultCache()
    go = anyio.Event()

    async def call() -> ToolOutput:
        await go.wait()
        return output(1)

    async with anyio.create_task_group() as group:
        group.start_soon(partial(cache.run, KEYS[0], call, ttl_s=60.0, now_s=0.0))
        await anyio.wait_all_tasks_blocked()
        cache.written(HERS)
        assert (await keep(cache, KEYS[0], 2)).content == output(2).content
        go.set()
    assert (await keep(cache, KEYS[0], 3)).content == output(2).content


def context(session: str = "s", user: str | None = None, workspace: str | None = None, **arguments: Any) -> ToolContext:
    return ToolContext("c", "find", arguments, "k", 5.0, session, 1, user=user, workspace=workspace)


def test_scopes_keep_users_workspaces_and_unnamed_sessions_apart() -> None:
    """Sessions share a scope exactly if a user was named and both user and workspace are the same."""
    scopes = [
        scope_of(context(session, user, workspace))
        for session in ("s", "t")
        for user in (None, "", "ann", "s")
        for workspace in (None, "", "w", "s")
    ]
    named = 3 * 4
    assert len(set(scopes)) == named + 2 * 4
    assert scope_of(context("s", "ann", "w")) == scope_of(context("t", "ann", "w"))
    assert scope_of(context("s", None, "w")) != scope_of(context("t", None, "w"))


def test_keys_are_canonical() -> None:
    """Order of arguments does not matter; values, types, name, version and scope do."""
    assert key_of(context(a=1, b=2)) == key_of(context(b=2, a=1))
    different = [
        key_of(context(a=1)), key_of(context(a=True)), key_of(context(a="1")), key_of(context(a=1.0)),
        key_of(context()), key_of(context(a=1), "2"), key_of(context("t", a=1)),
        key_of(context(a=1)._replace(name="seek")),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


@given(sizes=st.lists(st.integers(0, 3000), max_size=40), bound=st.integers(0, 9000), seed=st.integers(0, 99))
def test_i10_cache_is_bounded_by_bytes(sizes: list[int], bound: int, seed: int) -> None:
    """Never more bytes than the bound, whatever is kept; clearing reports them all and leaves none."""

    async def story() -> None:
        cache = ResultCache(bound)
        draw = random.Random(seed)  # noqa: S311

        for size in sizes:

            async def call(size: int = size) -> ToolOutput:
                return ToolOutput("x" * size)

            key = Key(HERS, "t", "", str(draw.randrange(10)))
            await cache.run(key, call, ttl_s=draw.choice([0.0, 9.0]), now_s=0.0)
            assert cache.stats.held_bytes <= bound
        held = cache.stats.held_bytes
        assert cache.clear() == held
        assert cache.stats.held_bytes == 0

    anyio.run(story)
