"""What every journal must do, ours or anyone's, as checks that any test suite can run.

    import pytest
    from engine.testing import conformance

    @pytest.mark.anyio
    @pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
    async def test_my_journal(check, tmp_path):
        await check(lambda: MyJournal(tmp_path / "store"))

A check is given a factory. Each call of it opens the *same* store anew, as another process or a restart would; a
journal without a store outside itself returns the same object every time. Every check wants an empty store and leaves
it closed. Run them on asyncio and on trio. A check that fails raises AssertionError, whose text says what a journal
has to do. May import core, the codec, errors and ports. Must never depend on a test framework, or on one journal's
files.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn, TypeAlias

import anyio

from ..core.record import TransitionRecord
from ..errors import EngineError, InvalidId, SessionBusy, StaleWriter, UsageError
from ..journal.codec import GENESIS
from ..ports import Journal, SessionInfo, Tail, Writer
from .records import chain, read_all, tail_of

Factory: TypeAlias = Callable[[], Journal]
"""Opens the store under test; every call opens the same one."""

Check: TypeAlias = Callable[[Factory], Awaitable[None]]
"""One property of a journal."""

HOSTILE_IDS = (
    "", ".", "..", "../up", "a/b", "/etc/passwd", "a\\b", "C:", "nul\0byte", "new\nline", "a b", "a.jsonl", "ä", "ａ",
    "\ud800", "․․", "%2e%2e", "'; DROP TABLE records; --", '"', "*", "~", "$HOME", "x" * 129,
)  # fmt: skip
"""Ids that no journal may take: each could leave its place in a file system, a query or a log line."""

BIG_CHARACTERS = 1_000_000
"""How long the text of a big record is."""


def _fail(duty: str, seen: object) -> NoReturn:
    raise AssertionError(f"a journal must {duty}; seen: {seen!r}")


def _equal(seen: object, wanted: object, duty: str) -> None:
    if seen != wanted:
        _fail(f"{duty} (wanted: {wanted!r})", seen)


@asynccontextmanager
async def _opened(factory: Factory) -> AsyncGenerator[Journal]:
    journal = factory()
    try:
        yield journal
    finally:
        with anyio.CancelScope(shield=True):
            await journal.aclose()


async def _refused(wanted: type[EngineError], attempt: Awaitable[object], duty: str) -> None:
    try:
        seen = await attempt
    except wanted:
        return
    _fail(f"{duty} with {wanted.__name__}", seen)


async def _lines(journal: Journal, session: str, after: int = 0, limit: int = 512) -> list[str]:
    return [line.text for line in await journal.read(session, after, limit)]


def _texts(records: Sequence[TransitionRecord]) -> list[str]:
    return [record.line for record in records]


async def an_unknown_session_is_empty(factory: Factory) -> None:
    """Reading what was never written gives nothing, and creates nothing."""
    async with _opened(factory) as journal:
        _equal(list(await journal.read("nobody")), [], "return an empty page for an unknown session")
        _equal(list(await journal.sessions()), [], "list no session in an empty store")


async def a_new_session_starts_at_zero(factory: Factory) -> None:
    """The first claim finds sequence 0 and 64 zeros."""
    async with _opened(factory) as journal:
        writer = await journal.claim("new")
        _equal(writer.tail, Tail(0, GENESIS, 0), "give a new session the tail (0, 64 zeros, nothing cut)")
        _equal(list(await journal.sessions()), [], "list a session only when it has a record")


async def records_come_back_as_written(factory: Factory) -> None:
    """The stored text is the canonical line, byte for byte, in order."""
    async with _opened(factory) as journal:
        writer = await journal.claim("s")
        records = chain("s", 7)
        await writer.append(records[:1])
        await writer.append(records[1:4])
        await writer.append(())
        await writer.append(records[4:])
        _equal(await _lines(journal, "s"), _texts(records), "return the lines that were appended, in order")
        _equal(list(await read_all(journal, "s")), records, "keep a chain that holds")


async def history_survives_reopening(factory: Factory) -> None:
    """What was acknowledged is there after a restart, and goes on from its tail."""
    records = chain("s", 5)
    async with _opened(factory) as journal:
        await (await journal.claim("s")).append(records)
    async with _opened(factory) as journal:
        writer = await journal.claim("s")
        _equal(writer.tail, tail_of(records), "give the tail that was stored")
        more = chain("s", 5, after=writer.tail)
        await writer.append(more)
    async with _opened(factory) as journal:
        _equal(list(await read_all(journal, "s", page=3)), records + more, "keep all records over two restarts")


async def pages_follow_one_another(factory: Factory) -> None:
    """`after` and `limit` cut pages that neither overlap nor leave a gap."""
    records = chain("s", 10)
    lines = _texts(records)
    async with _opened(factory) as journal:
        await (await journal.claim("s")).append(records)
        for after in range(12):
            for limit in (1, 3, 10, 512):
                wanted = lines[after : after + limit]
                _equal(await _lines(journal, "s", after, limit), wanted, f"page after={after}, limit={limit}")
        offsets = [line.offset for line in await journal.read("s")]
        _equal(offsets, sorted(set(offsets)), "give every line an offset, rising")
        await _refused(UsageError, journal.read("s", -1), "refuse to read after a negative sequence")
        await _refused(UsageError, journal.read("s", 0, 0), "refuse a page of nothing")


async def a_reader_sees_what_another_object_appends(factory: Factory) -> None:
    """A reader that already read goes on where the history goes on."""
    records = chain("s", 6)
    async with _opened(factory) as journal, _opened(factory) as reader:
        writer = await journal.claim("s")
        for seen, record in enumerate(records):
            _equal(await _lines(reader, "s", seen), [], "show nothing that was not appended")
            await writer.append([record])
            _equal(await _lines(reader, "s", seen), [record.line], "show to every reader what was acknowledged")


async def sessions_are_listed(factory: Factory) -> None:
    """Every session that has a record is listed once, sorted, with its count and the host's own name."""
    name = "Kunde Nr. 7 / \U0001f600 \udcff \0 '; --"
    async with _opened(factory) as journal:
        for session, count, external_id in (("b", 3, None), ("a", 1, name), ("B", 2, "other")):
            await (await journal.claim(session)).append(chain(session, count, external_id=external_id))
        wanted = [SessionInfo("B", 2, "other"), SessionInfo("a", 1, name), SessionInfo("b", 3, None)]
        _equal(list(await journal.sessions()), wanted, "list its sessions sorted by id")
    async with _opened(factory) as journal:
        _equal(list(await journal.sessions()), wanted, "list the same sessions after a restart")


async def names_that_differ_in_case_are_two_sessions(factory: Factory) -> None:
    """No file system and no collation merges two ids."""
    async with _opened(factory) as journal:
        for session in ("order", "Order", "ORDER", "con", "-", "_", "x" * 128):
            await (await journal.claim(session)).append(chain(session, 2, text=session))
        for session in ("order", "Order", "ORDER", "con", "-", "_", "x" * 128):
            records = chain(session, 2, text=session)
            _equal(await _lines(journal, session), _texts(records), "keep ids apart")


async def interleaved_sessions_stay_apart(factory: Factory) -> None:
    """Sessions that append in turns, and at once, each get their own history."""
    histories = {f"s{number}": chain(f"s{number}", 12) for number in range(5)}
    async with _opened(factory) as journal:
        writers = {session: await journal.claim(session) for session in histories}
        for index in range(6):
            for session, writer in writers.items():
                await writer.append(histories[session][index : index + 1])

        async def finish(session: str, writer: Writer) -> None:
            for record in histories[session][6:]:
                await writer.append([record])

        async with anyio.create_task_group() as tasks:
            for session, writer in writers.items():
                tasks.start_soon(finish, session, writer)
        for session, records in histories.items():
            _equal(list(await read_all(journal, session, page=5)), records, "keep sessions apart")


async def hostile_text_is_kept(factory: Factory) -> None:
    """NUL, lone surrogates, line separators and quotes inside a record come back as they were."""
    text = "a\0b \ud800 \udfff \u2028\u2029\x85 \r\n\v\f ' \" \\ \x1b[31m ');DROP TABLE records;--"
    records = chain("s", 4, text=text)
    async with _opened(factory) as journal:
        await (await journal.claim("s")).append(records)
    async with _opened(factory) as journal:
        _equal(list(await read_all(journal, "s")), records, "keep every text that JSON can hold")


async def big_records_are_kept(factory: Factory) -> None:
    """A record of a megabyte is a record like any other."""
    records = chain("s", 4, text="x" * BIG_CHARACTERS)
    async with _opened(factory) as journal:
        await (await journal.claim("s")).append(records)
    async with _opened(factory) as journal:
        seen = await read_all(journal, "s")
        _equal([len(record.line) for record in seen], [len(record.line) for record in records], "keep big records")
        _equal(seen[-1].hash, records[-1].hash, "keep big records unchanged")


async def hostile_ids_are_refused(factory: Factory) -> None:
    """An id outside `[A-Za-z0-9_-]{1,128}` reaches neither a file name nor a query."""
    async with _opened(factory) as journal:
        for session in HOSTILE_IDS:
            await _refused(InvalidId, journal.claim(session), "refuse to claim a hostile id")
            await _refused(InvalidId, journal.read(session), "refuse to read a hostile id")
        _equal(list(await journal.sessions()), [], "create nothing for a hostile id")


async def one_writer_at_a_time(factory: Factory) -> None:
    """While a writer holds a session, nobody else gets it, through this object or through another."""
    async with _opened(factory) as journal, _opened(factory) as other:
        writer = await journal.claim("s")
        await _refused(SessionBusy, journal.claim("s"), "refuse a second claim of a held session")
        await _refused(SessionBusy, other.claim("s"), "refuse a second claim through another object")
        await writer.append(chain("s", 2))
        await (await other.claim("t")).append(chain("t", 1))
        _equal(await _lines(other, "s"), _texts(chain("s", 2)), "let others read a held session")


async def claims_at_once_have_one_winner(factory: Factory) -> None:
    """Of many claims made at the same time exactly one succeeds."""
    winners: list[Writer] = []
    async with _opened(factory) as journal, _opened(factory) as other:

        async def attempt(through: Journal) -> None:
            try:
                winners.append(await through.claim("s"))
            except SessionBusy:
                return

        async with anyio.create_task_group() as tasks:
            for through in (journal, other) * 5:
                tasks.start_soon(attempt, through)
        _equal(len(winners), 1, "give a session to one of many claims at once")


async def a_released_session_is_free(factory: Factory) -> None:
    """Release may be repeated, ends the right to append, and lets the next writer in with a greater epoch."""
    async with _opened(factory) as journal, _opened(factory) as other:
        first = await journal.claim("s")
        records = chain("s", 3)
        await first.append(records[:1])
        await first.release()
        await first.release()
        await _refused(StaleWriter, first.append(records[1:2]), "refuse to append after release")
        second = await other.claim("s")
        if second.epoch <= first.epoch:
            _fail("raise the epoch at every claim", (first.epoch, second.epoch))
        await first.release()
        await second.append(records[1:])
        _equal(await _lines(journal, "s"), _texts(records), "keep the history across writers")


async def takeover_fences_the_old_writer(factory: Factory) -> None:
    """A takeover succeeds at once; the old writer's next append writes nothing, and its release frees nothing."""
    records = chain("s", 4)
    async with _opened(factory) as journal, _opened(factory) as other:
        old = await journal.claim("s")
        await old.append(records[:2])
        new = await other.claim("s", takeover=True)
        if new.epoch <= old.epoch:
            _fail("raise the epoch at a takeover", (old.epoch, new.epoch))
        _equal(new.tail, tail_of(records[:2]), "give a takeover the stored tail")
        await _refused(StaleWriter, old.append(records[2:]), "refuse the writer that was taken over")
        await old.release()
        await _refused(SessionBusy, journal.claim("s"), "keep the session with its new writer")
        await new.append(records[2:])
        _equal(await _lines(journal, "s"), _texts(records), "hold only what writers with the right wrote")


async def epochs_never_decrease(factory: Factory) -> None:
    """Every claim has a greater epoch than all before it, restarts and takeovers included."""
    epochs: list[int] = []
    for takeover in (False, True, False, True):
        async with _opened(factory) as journal:
            for _ in range(2):
                writer = await journal.claim("s", takeover=takeover)
                epochs.append(writer.epoch)
                await writer.release()
    _equal(epochs, sorted(set(epochs)), "raise the epoch at every claim")


async def closing_releases(factory: Factory) -> None:
    """`aclose` frees what was held, may be repeated, and the next use opens the journal again."""
    records = chain("s", 3)
    journal = factory()
    async with _opened(factory) as other:
        writer = await journal.claim("s")
        await writer.append(records[:1])
        await journal.aclose()
        await journal.aclose()
        await _refused(StaleWriter, writer.append(records[1:2]), "refuse a writer whose journal was closed")
        again = await journal.claim("s")
        await again.append(records[1:2])
        await journal.aclose()
        await (await other.claim("s")).append(records[2:])
        _equal(await _lines(journal, "s"), _texts(records), "open again after aclose")
        await journal.aclose()


async def a_run_that_does_not_follow_is_refused(factory: Factory) -> None:
    """A run of another session, with a gap, repeated, or after another hash is refused as a whole."""
    records, others, forked = chain("s", 6), chain("t", 3), chain("s", 6, text="another history")
    async with _opened(factory) as journal:
        writer = await journal.claim("s")
        await writer.append(records[:2])
        gap, twice = [records[2], records[4]], [records[2]] * 2
        for run in (others[2:], others[:1], records[3:], records[1:3], forked[2:], gap, twice):
            await _refused(UsageError, writer.append(run), "refuse records that do not continue the history")
        _equal(await _lines(journal, "s"), _texts(records[:2]), "write nothing of a refused run")
        await writer.append(records[2:])
        _equal(list(await read_all(journal, "s")), records, "stay usable after a refusal")


async def a_refusal_leaves_the_neighbours_alone(factory: Factory) -> None:
    """Appends that are refused among many made at once cost the others nothing."""
    async with _opened(factory) as journal, _opened(factory) as other:
        writers = {f"s{number}": await journal.claim(f"s{number}") for number in range(6)}
        await other.claim("s0", takeover=True)
        refused: list[str] = []

        async def write(session: str, writer: Writer) -> None:
            records = chain(session, 4)
            try:
                await writer.append(records[1:] if session == "s1" else records)
            except (StaleWriter, UsageError):
                refused.append(session)

        async with anyio.create_task_group() as tasks:
            for session, writer in writers.items():
                tasks.start_soon(write, session, writer)
        _equal(sorted(refused), ["s0", "s1"], "refuse exactly the appends that are wrong")
        stored = [(info.id, info.records) for info in await journal.sessions()]
        _equal(stored, [(f"s{number}", 4) for number in range(2, 6)], "store the appends that are right")


async def cancelling_an_append_leaves_all_or_nothing(factory: Factory) -> None:
    """An append whose task is cancelled took place as a whole or not at all, and the session goes on from its tail."""
    records = chain("s", 3)
    async with _opened(factory) as journal:
        writer = await journal.claim("s")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await writer.append(records)
        await writer.release()
        again = await journal.claim("s")
        if again.tail not in (Tail(0, GENESIS), tail_of(records)):
            _fail("append all records or none", again.tail)
        await again.append(chain("s", 2, after=again.tail))
        _equal(len(await read_all(journal, "s")), again.tail.seq + 2, "go on after a cancelled append")


CHECKS: tuple[Check, ...] = (
    an_unknown_session_is_empty,
    a_new_session_starts_at_zero,
    records_come_back_as_written,
    history_survives_reopening,
    pages_follow_one_another,
    a_reader_sees_what_another_object_appends,
    sessions_are_listed,
    names_that_differ_in_case_are_two_sessions,
    interleaved_sessions_stay_apart,
    hostile_text_is_kept,
    big_records_are_kept,
    hostile_ids_are_refused,
    one_writer_at_a_time,
    claims_at_once_have_one_winner,
    a_released_session_is_free,
    takeover_fences_the_old_writer,
    epochs_never_decrease,
    closing_releases,
    a_run_that_does_not_follow_is_refused,
    a_refusal_leaves_the_neighbours_alone,
    cancelling_an_append_leaves_all_or_nothing,
)
"""Every check, to parametrise a test over."""
