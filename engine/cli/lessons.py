"""Histories for the commands that learn: those of a journal, or of a chat log, in the order in which they began.

May import core, journal, replay, runtime's shelf and its neighbours. Must never hold more than one history at a time.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from ..core.arguments import is_object, parse_json
from ..core.events import SessionOpened
from ..core.record import TransitionRecord
from ..errors import UsageError
from ..journal.codec import decode
from ..ports import Journal
from ..replay import read_chats, read_history
from ..runtime.clock import SystemClock
from ..runtime.shelf import Owner
from .histories import existing_journal
from .terminal import Progress, progress

_NOBODY = Owner()


class Told(NamedTuple):
    """One history: its session, whose it is, and its records."""

    session: str
    owner: Owner
    records: AsyncIterator[TransitionRecord]


class Source:
    """The histories of one journal or chat log.

    Attributes:
        owners: whose they are; who of a chat log is not known.
    """

    def __init__(self, file: str | None, journal: Journal | None, sessions: dict[str, Owner], show: Progress) -> None:
        self.owners = frozenset(sessions.values()) or {_NOBODY}
        self._file = file
        self._journal = journal
        self._sessions = sessions
        self._show = show

    def owner(self, session: str) -> Owner | None:
        """Return whose session it is; None where there is no such session."""
        return self._sessions.get(session)

    async def histories(self) -> AsyncIterator[Told]:
        """Iterate over all histories, oldest first."""
        for session, owner in self._sessions.items():
            yield Told(session, owner, self.history(session))
        if self._file is not None:
            for records in read_chats(self._file, SystemClock()):
                yield Told(records[0].session, _NOBODY, _all(records))
                self._show(len(records))

    async def history(self, session: str) -> AsyncIterator[TransitionRecord]:
        """Iterate over the records of one session of a journal."""
        assert self._journal is not None
        count = 0
        async for record in read_history(self._journal, session):
            yield record
            count += 1
        self._show(count)


@asynccontextmanager
async def opened(name: str, what: str, *, chats: bool = True) -> AsyncGenerator[Source]:
    """Open a journal, or a chat log, for reading.

    Args:
        name: the journal or file.
        what: one word for the work, for its progress.
        chats: whether a chat log will do.

    Raises:
        UsageError: there is none.
        JournalError: it cannot be read.
    """
    if chats and _is_chat_log(Path(name)):
        with progress(what) as show:
            yield Source(name, None, {}, show)
        return
    async with existing_journal(name) as journal:
        infos = await journal.sessions()
        begun = sorted([await _beginning(journal, info.id) for info in infos], key=lambda it: it[:2])
        with progress(what, sum(info.records for info in infos)) as show:
            yield Source(None, journal, {session: owner for _, session, owner in begun}, show)


def named(options: Namespace, least: int, most: int) -> list[str]:
    """Return the names a command was given: first the journal, by its place or by `--journal`, then the others.

    Raises:
        UsageError: there are too few or too many.
    """
    names: list[str] = [*([] if options.journal is None else [options.journal]), *options.names]
    if not least <= len(names) <= most:
        raise UsageError(f"{len(names)} names were given; see `agent-engine predict {options.action} --help`")
    return names


async def _beginning(journal: Journal, session: str) -> tuple[str, str, Owner]:
    """Return when a session began, its id, and whose it was then."""
    first = decode((await journal.read(session, 0, 1))[0].text)
    event = first.event
    owner = Owner(event.user, event.workspace) if isinstance(event, SessionOpened) else _NOBODY
    return first.at, session, owner


def _is_chat_log(path: Path) -> bool:
    """Say whether the first line of a file is a conversation, not a record."""
    if not path.is_file() or path.suffix == ".db":
        return False
    with path.open("rb") as file:
        line = next((line for line in file if line.strip()), b"")
    try:
        entry = parse_json(line.decode("utf-8-sig"))
    except ValueError:
        return False
    return is_object(entry) and "messages" in entry


async def _all(records: list[TransitionRecord]) -> AsyncIterator[TransitionRecord]:
    for record in records:
        yield record
