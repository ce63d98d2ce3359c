"""What a journal that can share histories must do beside `conformance`, as checks that any test suite can run.

Give them a factory as there. May import core, the codec, errors and ports. Must never depend on a test framework, or on
one journal's files.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from ..core.events import RecordsRewritten, RewrittenRecord, SessionForked
from ..core.record import TransitionRecord
from ..core.values import State
from ..errors import EngineError, InvalidId, ReplayError, SessionBusy, UsageError
from ..journal.canonical import canonical
from ..journal.codec import rewrite, seal
from ..journal.forking import Forking, Origin
from ..journal.keeping import Rewriting
from ..ports import Journal, SessionInfo
from .conformance import HOSTILE_IDS, Check, Factory
from .records import chain, read_all, tail_of


def forked(record: TransitionRecord, session: str) -> TransitionRecord:
    """Return the first record of a fork after `record`.

    Args:
        record: the last one that is shared.
        session: the fork's id.
    """
    event = SessionForked(session=session, parent=record.session)
    return seal(
        session=session, seq=record.seq + 1, at=record.at, mono_ns=record.mono_ns, source=record.dest,
        dest=State.SHUTDOWN, event=event, effects=(), prev=record.hash,
    )  # fmt: skip


class _Both(Journal, Forking, Protocol):
    """A journal that can share histories."""


@asynccontextmanager
async def _opened(factory: Factory) -> AsyncGenerator[_Both]:
    journal = factory()
    assert isinstance(journal, Forking), "a journal must have `fork` and `origin` to be checked here"
    try:
        yield journal
    finally:
        with anyio.CancelScope(shield=True):
            await journal.aclose()


async def _parent(journal: Journal, count: int = 9) -> list[TransitionRecord]:
    records = chain("parent", count)
    writer = await journal.claim("parent")
    await writer.append(records)
    await writer.release()
    return records


async def _refused(wanted: type[EngineError], attempt: Awaitable[object], duty: str) -> None:
    try:
        seen = await attempt
    except wanted:
        return
    raise AssertionError(f"a journal must {duty} with {wanted.__name__}; seen: {seen!r}")


async def _check_lines(journal: Journal, session: str, wanted: Sequence[TransitionRecord]) -> None:
    lines = [record.line for record in wanted]
    for after in range(len(lines) + 2):
        for limit in (1, 2, 3, len(lines), 512):
            seen = [line.text for line in await journal.read(session, after, limit)]
            assert seen == lines[after : after + limit], f"{session}: page after={after}, limit={limit}"


async def a_fork_begins_with_its_parent_s_records(factory: Factory) -> None:
    """At whatever record it is made, a fork reads as the parent's records and its own, whatever page is asked for."""
    async with _opened(factory) as journal:
        records = await _parent(journal)
        for record in records:
            await journal.fork(forked(record, f"f{record.seq}"))
    async with _opened(factory) as journal:
        for record in records:
            name = f"f{record.seq}"
            await _check_lines(journal, name, [*records[: record.seq], forked(record, name)])
            assert await journal.origin(name) == Origin("parent", record.seq), "say where a session was forked from"
        wanted = {f"f{record.seq}": record.seq for record in records}
        assert await journal.forks("parent") == wanted, "say which forks share a session's records, and how many"
        assert await journal.forks("f3") == await journal.forks("nobody") == {}, "say so where there are none"
        await _check_lines(journal, "parent", records)
        assert await journal.origin("parent") is None, "say nothing of a session that was not forked"
        assert await journal.origin("nobody") is None, "say nothing of a session that is not there"


async def both_go_on_by_themselves(factory: Factory) -> None:
    """What is appended to one of the two is not in the other, and the chain of each holds."""
    async with _opened(factory) as journal:
        records = await _parent(journal)
        own = forked(records[3], "fork")
        await journal.fork(own)
        writer = await journal.claim("fork")
        assert writer.tail == tail_of([own]), "give a fork the tail of its own first record"
        more = chain("fork", 3, after=writer.tail)
        await writer.append(more)
        parent = await journal.claim("parent")
        later = chain("parent", 2, after=parent.tail)
        await parent.append(later)
    async with _opened(factory) as journal:
        assert list(await read_all(journal, "fork", page=2)) == [*records[:4], own, *more]
        assert list(await read_all(journal, "parent", page=2)) == [*records, *later]
        wanted = [SessionInfo("fork", 8), SessionInfo("parent", 11)]
        assert list(await journal.sessions()) == wanted, "count the shared records of a fork too"


async def a_fork_can_be_forked(factory: Factory) -> None:
    """Forks of forks read through all their ancestors."""
    async with _opened(factory) as journal:
        held = await _parent(journal, 4)
        for number in range(20):
            own = forked(held[-1], f"f{number}")
            await journal.fork(own)
            writer = await journal.claim(own.session)
            more = chain(own.session, 2, after=writer.tail)
            await writer.append(more)
            held = [*held, own, *more]
        assert list(await read_all(journal, "f19", page=7)) == held
        await _check_lines(journal, "f2", held[:13])


async def a_fork_of_what_is_not_there_is_refused(factory: Factory) -> None:
    """A record that is not in the journal cannot be continued, and a session that exists cannot begin again."""
    async with _opened(factory) as journal:
        records = await _parent(journal)
        other = chain("parent", 9, text="another history")
        await _refused(UsageError, journal.fork(forked(other[4], "fork")), "refuse a fork of another history")
        await _refused(UsageError, journal.fork(forked(chain("parent", 12)[11], "fork")), "refuse a fork of the future")
        await _refused(UsageError, journal.fork(forked(chain("nobody", 3)[2], "fork")), "refuse a fork of nothing")
        await journal.fork(forked(records[4], "fork"))
        await _refused(UsageError, journal.fork(forked(records[5], "fork")), "refuse to fork into a session")
        await _refused(UsageError, journal.fork(forked(records[5], "parent")), "refuse to fork into the parent")
        await _refused(UsageError, journal.fork(records[0]), "refuse a record that is no fork")
        # The record that is to be continued has to be named by the session that holds it.
        inherited = forked(records[2]._replace(session="fork"), "second")
        await _refused(UsageError, journal.fork(inherited), "refuse a parent that only inherited the record")
        await _check_lines(journal, "fork", [*records[:5], forked(records[4], "fork")])


async def a_fork_shares_no_change_without_its_declaration(factory: Factory) -> None:
    """Where a record was rewritten, a fork begins after the one that declares it; journals that rewrite none pass."""
    async with _opened(factory) as journal:
        records = await _parent(journal)
        writer = await journal.claim("parent")
        if not isinstance(writer, Rewriting):
            return
        old = records[1]
        new = rewrite(old, canonical(old.event), old.trigger, canonical(old.effects))
        named = RewrittenRecord(seq=2, hash=old.hash, digest=new.rewritten)
        event, last = RecordsRewritten(action="redacted", records=(named,)), records[-1]
        declared = seal(
            session="parent", seq=last.seq + 1, at=last.at, mono_ns=last.mono_ns, source=last.dest, dest=last.dest,
            event=event, effects=(), prev=last.hash,
        )  # fmt: skip
        await writer.append([declared])
        await writer.rewrite(1, {2: new.line})
        await writer.release()
        for place in (new, records[4], last):
            await _refused(ReplayError, journal.fork(forked(place, "fork")), "refuse a change without its declaration")
        await journal.fork(forked(records[0], "before"))
        await journal.fork(forked(declared, "after"))
        assert [info.id for info in await journal.sessions()] == ["after", "before", "parent"]


async def a_fork_has_one_writer_too(factory: Factory) -> None:
    """A fork is claimed like any session, and its parent may be open meanwhile."""
    async with _opened(factory) as journal, _opened(factory) as other:
        records = await _parent(journal)
        await journal.claim("parent")
        await other.fork(forked(records[1], "fork"))
        await journal.claim("fork")
        await _refused(SessionBusy, other.claim("fork"), "refuse a second claim of a fork")


async def hostile_ids_are_not_forked_into(factory: Factory) -> None:
    """An id that could leave its place is refused, and nothing is created for it."""
    async with _opened(factory) as journal:
        [*_, record] = await _parent(journal)
        for session in HOSTILE_IDS:
            own = forked(record, "fork")._replace(session=session)
            await _refused(InvalidId, journal.fork(own), "refuse to fork into a hostile id")
            await _refused(InvalidId, journal.origin(session), "refuse to look for a hostile id")
            await _refused(InvalidId, journal.forks(session), "refuse to look for the forks of a hostile id")
        assert [info.id for info in await journal.sessions()] == ["parent"]


CHECKS: tuple[Check, ...] = (
    a_fork_begins_with_its_parent_s_records,
    both_go_on_by_themselves,
    a_fork_can_be_forked,
    a_fork_of_what_is_not_there_is_refused,
    a_fork_shares_no_change_without_its_declaration,
    a_fork_has_one_writer_too,
    hostile_ids_are_not_forked_into,
)
"""Every check, to parametrise a test over."""

__all__ = ["CHECKS", "forked"]
