"""The conformance suite catches journals that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from engine.core.record import TransitionRecord
from engine.journal import MemoryJournal
from engine.ports import SessionInfo, StoredLine, Tail, Writer
from engine.testing import conformance
from engine.testing.conformance import CHECKS, Check
from engine.testing.records import chain, read_all, tail_of


class Forgetful(MemoryJournal):
    """Opens empty every time."""


class Unguarded(MemoryJournal):
    """Lets everybody write."""

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        return await super().claim(session, takeover=True)


class Unfenced(MemoryJournal):
    """Never takes a right back."""

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        return UnfencedWriter(await super().claim(session, takeover=takeover), self)


class UnfencedWriter:
    """Claims again instead of being stale."""

    def __init__(self, writer: Writer, journal: MemoryJournal) -> None:
        self.writer, self.journal = writer, journal

    @property
    def epoch(self) -> int:
        return 1

    @property
    def tail(self) -> Tail:
        return self.writer.tail

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        if records:
            fresh = await MemoryJournal.claim(self.journal, records[0].session, takeover=True)
            await fresh.append(records)

    async def release(self) -> None:
        await self.writer.release()


class Careless(MemoryJournal):
    """Takes any id for another one that is fine."""

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        return await super().claim("fine", takeover=takeover)


class Overlapping(MemoryJournal):
    """Begins a page with the record asked for instead of the one after it."""

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        return await super().read(session, max(after - 1, 0), limit)


class Smoothing(MemoryJournal):
    """Mends text that looks odd."""

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        lines = await super().read(session, after, limit)
        return [StoredLine(line.text.replace("\\ud800", "?"), line.offset) for line in lines]


class Nameless(MemoryJournal):
    """Forgets the host's own names."""

    async def sessions(self) -> Sequence[SessionInfo]:
        return [SessionInfo(info.id, info.records) for info in await super().sessions()]


class Open(MemoryJournal):
    """Holds what it held, closed or not."""

    async def aclose(self) -> None:
        return


BROKEN: dict[type[MemoryJournal], set[str]] = {
    Forgetful: {"history_survives_reopening", "sessions_are_listed", "one_writer_at_a_time"},
    Unguarded: {"one_writer_at_a_time", "claims_at_once_have_one_winner"},
    Unfenced: {"takeover_fences_the_old_writer", "epochs_never_decrease", "a_released_session_is_free"},
    Careless: {"hostile_ids_are_refused", "interleaved_sessions_stay_apart"},
    Overlapping: {"pages_follow_one_another"},
    Smoothing: {"hostile_text_is_kept"},
    Nameless: {"sessions_are_listed"},
    Open: {"closing_releases", "history_survives_reopening"},
}


def factory_of(kind: type[MemoryJournal]) -> Callable[[], MemoryJournal]:
    if kind is Forgetful:
        return kind
    journal = kind()
    return lambda: journal


async def fails(check: Check, kind: type[MemoryJournal]) -> bool:
    try:
        await check(factory_of(kind))
    except Exception:  # however it fails, it was noticed
        return True
    return False


@pytest.mark.anyio
@pytest.mark.parametrize("kind", BROKEN)
async def test_suite_catches_a_broken_journal(kind: type[MemoryJournal]) -> None:
    """Each kind of wrong journal fails at least the checks that are about its fault."""
    failed = {check.__name__ for check in CHECKS if await fails(check, kind)}
    assert failed >= BROKEN[kind]


def test_every_check_is_in_the_suite() -> None:
    """A check that is written down is also run, and says what it checks."""
    written = {
        name
        for name, value in vars(conformance).items()
        if callable(value) and getattr(value, "__module__", "") == conformance.__name__ and not name.startswith("_")
    }
    assert {check.__name__ for check in CHECKS} == written
    assert all(check.__doc__ for check in CHECKS)


@pytest.mark.anyio
async def test_chain_continues_a_history() -> None:
    """Chains that are made piece by piece verify as one, and the same arguments give the same records."""
    first = chain("s", 3, external_id="mine")
    second = chain("s", 4, after=tail_of(first))
    journal = MemoryJournal()
    writer = await journal.claim("s")
    await writer.append(first)
    await writer.append(second)
    assert list(await read_all(journal, "s", page=2)) == first + second
    assert chain("s", 3, external_id="mine") == first
    assert tail_of([]) == Tail(0, "0" * 64)
