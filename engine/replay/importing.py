"""Import: chat logs, one conversation a line, become histories that verify like any other.

Each event goes through the core's own step and is sealed like a live one; a conversation is appended whole or not at
all. May import anyio, core, ports, the codec and its neighbours. Must never read a clock of its own: the time is handed
in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..core.arguments import is_list, is_object, parse_json
from ..core.cursor import Cursor
from ..core.events import KnownEvent, ModelReplied, SessionOpened
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import take
from ..core.values import SessionSettings, check_id
from ..errors import EngineError, ImportRefused, InvalidId
from ..journal.codec import GENESIS, seal
from ..ports import Clock, Journal
from .chats import read_chat

_Line: TypeAlias = tuple[int, str | bytes]

Source: TypeAlias = "str | os.PathLike[str] | Iterable[str | bytes]"
"""A file, or its lines."""

CHAT_METADATA = "chat_log"
"""Under this key the metadata of an imported session hold what its line said beside `id` and `messages`."""

_CHUNK = 64
"""How many conversations are appended side by side, so that a journal can make them durable together."""

_SLUG_CHARS = 80
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import has done: lines read, conversations and records written, and what was refused."""

    lines: int = 0
    sessions: int = 0
    records: int = 0
    refused: tuple[ImportRefused, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was refused."""
        return not self.refused


class _History(NamedTuple):
    """One conversation, ready to be appended."""

    line: int
    session: str
    records: list[TransitionRecord]


async def import_chats(
    source: Source,
    journal: Journal,
    *,
    clock: Clock,
    progress: Callable[[ImportReport], None] | None = None,
    skip_bad: bool = False,
) -> ImportReport:
    """Write one history for each conversation of a chat log; `export_chats` gives the log back as it was.

    Each line is a JSON object with `id` and `messages` in the OpenAI chat format; empty lines are passed over. The id
    becomes the session's, or, where it does not match `[A-Za-z0-9_-]{1,128}`, its external id.

    Args:
        source: the path of a file in UTF-8, or an iterable of lines.
        journal: where the histories go.
        clock: the time to record; a conversation has one.
        progress: told what has been done so far, every few conversations, and before a refusal is raised.
        skip_bad: go on after a line that is refused, and list it in the report.

    Raises:
        ImportRefused: a line cannot be read as a history, or its session exists. Nothing of it was written; the lines
            before it were imported. Not raised with `skip_bad`.
        OSError: the file cannot be read.
        JournalUnavailable, NotAJournal, …: see `ports.Journal`.
    """
    reader = _Reader(clock, {info.id for info in await journal.sessions()})
    report = ImportReport()
    with closing(_numbered(source)) as lines:
        while chunk := await _take(lines, isinstance(source, str | os.PathLike)):
            histories, refused = reader.read(chunk, skip_bad)
            report = _added(report, chunk[-1][0], await _append_all(journal, histories), refused)
            if progress is not None:
                progress(report)
            if report.refused and not skip_bad:
                error = report.refused[0]
                error.add_note(f"{report.sessions} conversations were imported before it and stay")
                raise error
    return report


def read_chats(source: Source, clock: Clock) -> Iterator[list[TransitionRecord]]:
    """Yield the history that each conversation of a chat log would have in a journal, one after the other.

    Args:
        source: as for `import_chats`.
        clock: the time to give the records.

    Raises:
        ImportRefused: a line cannot be read as a history, or two have one id.
        OSError: the file cannot be read.
    """
    reader = _Reader(clock, set())
    with closing(_numbered(source)) as lines:
        for line in lines:
            histories, refused = reader.read([line], skip_bad=False)
            if refused:
                raise refused[0]
            for history in histories:
                yield history.records


def _added(
    report: ImportReport,
    line: int,
    outcomes: Sequence[tuple[_History, ImportRefused | None]],
    refused: list[ImportRefused],
) -> ImportReport:
    done = [history for history, refusal in outcomes if refusal is None]
    late = [refusal for _, refusal in outcomes if refusal is not None]
    return ImportReport(
        lines=line,
        sessions=report.sessions + len(done),
        records=report.records + sum(len(history.records) for history in done),
        refused=(*report.refused, *sorted([*refused, *late], key=lambda refusal: refusal.line)),
    )


def session_of(name: str) -> str:
    """Return the session id for a conversation of this name: the name itself, or a readable one made from it."""
    try:
        return check_id(name)
    except InvalidId:
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name[:_SLUG_CHARS]).strip("-")
        digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"{slug}-{digest}" if slug else digest


class _Reader:
    """Turns lines into records; knows which sessions there are already."""

    def __init__(self, clock: Clock, taken: set[str]) -> None:
        self._clock = clock
        self._taken = taken
        self._seen: dict[str, int] = {}

    def read(self, chunk: list[_Line], skip_bad: bool) -> tuple[list[_History], list[ImportRefused]]:
        """Return the histories of some lines, and what was refused; without `skip_bad` stop there."""
        histories: list[_History] = []
        refused: list[ImportRefused] = []
        for number, line in chunk:
            if not line.strip():
                continue
            try:
                histories.append(self._history(number, line))
            except ImportRefused as refusal:
                refused.append(refusal)
                if not skip_bad:
                    break
        return histories, refused

    def _history(self, number: int, line: str | bytes) -> _History:
        try:
            text = line if isinstance(line, str) else line.decode("utf-8-sig" if number == 1 else "utf-8")
            entry = parse_json(text.removeprefix("\ufeff") if number == 1 else text)
        except ValueError as error:
            raise ImportRefused(number, f"not JSON ({error}); correct or remove the line") from error
        try:
            opened, session, messages = _opening(entry)
            self._check_free(number, session, opened)
            records = self._records(session, opened, read_chat(messages))
        except (ValueError, EngineError) as error:
            if isinstance(error, ImportRefused):
                raise
            raise ImportRefused(number, str(error)) from error
        self._seen[session] = number
        return _History(number, session, records)

    def _check_free(self, number: int, session: str, opened: SessionOpened) -> None:
        name = ascii(opened.external_id or session)[:100]
        if session in self._seen:
            first = self._seen[session]
            raise ImportRefused(number, f"the id {name} stands on line {first} already; give each conversation its own")
        if session in self._taken:
            raise ImportRefused(
                number, f"{name} is in the journal already; remove the line, or import into another journal"
            )

    def _records(self, name: str, opened: SessionOpened, events: list[KnownEvent]) -> list[TransitionRecord]:
        rounds = sum(isinstance(event, ModelReplied) for event in events)
        defaults = SessionSettings()
        if rounds > defaults.max_tool_rounds:
            # What the log did was allowed where it was written.
            settings = defaults.model_copy(update={"max_tool_rounds": rounds})
            opened = opened.model_copy(update={"settings": settings})
        at = (_EPOCH + timedelta(microseconds=self._clock.time_ns() // 1000)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mono_ns = self._clock.monotonic_ns()
        cursor, digest = Cursor(Session(name)), GENESIS
        records: list[TransitionRecord] = []
        for event in (opened, *events):
            effects = take(cursor, event)
            record = seal(
                session=name, seq=cursor.seq, at=at, mono_ns=mono_ns, source=cursor.source, dest=cursor.state,
                event=event, effects=effects, prev=digest,
            )  # fmt: skip
            records.append(record)
            digest = record.hash
        return records


def _opening(entry: object) -> tuple[SessionOpened, str, list[Any]]:
    """Return how the session of a line was opened, its id, and the messages.

    Raises:
        ValueError: the line lacks what a conversation needs.
    """
    if not is_object(entry):
        raise ValueError('a line must be a JSON object: {"id": …, "messages": […]}')
    name = entry.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise ValueError('the line has no id: give each conversation one, "id": "some-name"')
    messages: object = entry.get("messages")
    if not is_list(messages):
        raise ValueError('the line has no messages: "messages" must be the list of them')
    beside: dict[str, Any] = {key: value for key, value in entry.items() if key != "messages"}
    if isinstance(name, str):
        del beside["id"]
    session = session_of(str(name))
    opened = SessionOpened(
        external_id=None if session == str(name) else str(name), metadata={CHAT_METADATA: beside} if beside else {}
    )
    return opened, session, messages


async def _append_all(journal: Journal, histories: list[_History]) -> list[tuple[_History, ImportRefused | None]]:
    """Append conversations side by side, each whole or not at all."""
    outcomes: list[tuple[_History, ImportRefused | None]] = []
    failures: list[Exception] = []

    async def append(history: _History) -> None:
        try:
            outcomes.append((history, await _append(journal, history)))
        except Exception as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        for history in histories:
            group.start_soon(append, history)
    if failures:
        # As itself: callers wait for JournalUnavailable, not for a group.
        raise failures[0]
    return outcomes


async def _append(journal: Journal, history: _History) -> ImportRefused | None:
    writer = await journal.claim(history.session)
    try:
        if writer.tail.seq:
            return ImportRefused(history.line, f"{history.session!r} is in the journal already; it was made just now")
        await writer.append(history.records)
    finally:
        with anyio.CancelScope(shield=True):
            await writer.release()
    return None


def _numbered(source: Source) -> Generator[_Line]:
    if not isinstance(source, str | os.PathLike):
        yield from enumerate(source, 1)
        return
    with Path(source).open("rb") as file:
        yield from enumerate(file, 1)


async def _take(lines: Iterator[_Line], from_file: bool) -> list[_Line]:
    """Return the next lines. Those of a file are read in a thread; others may mind where they are asked for."""
    if from_file:
        return await anyio.to_thread.run_sync(lambda: list(islice(lines, _CHUNK)))
    await anyio.lowlevel.checkpoint()
    return list(islice(lines, _CHUNK))
