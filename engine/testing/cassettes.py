"""A plugin for pytest: the fixture `cassette` records a session once and replays it in tests from then on.

A cassette is a history in a JSON Lines journal beside the test. While it is replayed no model is asked, no tool runs,
no provider is called; tools, policies, limits and prompts are today's. What comes out otherwise fails the test. May
import anything; it is loaded by pytest, and by nothing of the engine.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Required, TypeAlias, Unpack, cast

import anyio
import pytest

from ..api import Engine, Extras, Session
from ..core.events import ContextPrepared
from ..core.limits import Limits
from ..core.record import TransitionRecord
from ..core.redaction import Redactor
from ..core.values import Message, ModelReply, check_id
from ..errors import JournalCorrupt, RecordedModelMismatch
from ..journal import MemoryJournal
from ..journal.codec import Chain
from ..ports import Emit, Model, ModelRequest, Tool
from ..replay.comparison import compare
from ..replay.diverging import diverge
from ..replay.reusing import Reuse
from ..runtime.surroundings import recorded_name

Mode: TypeAlias = Literal["replay", "record", "update"]

_UNREPEATABLE = frozenset({"faulted", "tool_retried", "late_result"})
"""What comes from outside a call's result; a recording that holds it would come out otherwise when it is replayed."""

_SHOWN_LINES = 30
_ID_CHARS = 128


class Setup(Extras, total=False):
    """What the session runs with: what `Engine` takes, but for the journal."""

    model: Required[Model]
    tools: Iterable[Tool | Callable[..., object]]
    limits: Limits


class Cassette:
    """Opens sessions that are recorded once and replayed from then on; tests get one as the fixture `cassette`.

    Args:
        folder: where the recordings are; it is created.
        name: of the recording, unless a session is given another.
        mode: "replay": every recording must be there; "record": missing ones are made; "update": all are made anew.
    """

    def __init__(self, folder: Path, name: str, mode: Mode) -> None:
        self._folder = folder
        self._name = name
        self._mode = mode

    @asynccontextmanager
    async def __call__(self, name: str | None = None, **setup: Unpack[Setup]) -> AsyncGenerator[Session]:
        """Open the one session of a recording, in an engine of its own.

        A recording is kept when the block ends without an exception, and replaced as a whole. Secrets are taken out by
        the `redactor` of the setup, or by one that knows the usual names of fields. What an approver or
        `session.answer` says is the test's, and is asked for in replays, too.

        Args:
            name: of the recording and the session, `[A-Za-z0-9_-]{1,128}`; the test's if not given. Tests that give the
                same name share a recording.
            setup: what the session runs with. A replay takes replies, results and contexts from the recording, and
                leaves the predictor out.

        Raises:
            InvalidId: the name does not match.
            JournalCorrupt, JournalTooNew: the recording cannot be read.
            pytest.fail.Exception: there is no recording to replay; something came out otherwise than recorded; or what
                was recorded cannot be repeated.
        """
        name = self._name if name is None else check_id(name)
        place = anyio.Path(self._folder, f"{name}.jsonl")
        setup.setdefault("redactor", Redactor())
        present = await place.exists()
        if self._mode == "replay" and not present:
            pytest.fail(f"there is no recording {place}: make it with pytest --cassettes=record", pytrace=False)
        if self._mode == "update" or not present:
            engine = Engine(journal=MemoryJournal(), **setup)
            async with engine, await engine.open(name) as session:
                yield session
            await _keep(place, await _history(engine, name))
            return
        recorded = await _recorded(place, name)
        engine = Engine(journal=MemoryJournal(), **_from_recording(setup, recorded))
        try:
            async with engine, await engine.open(name) as session:
                yield session
        except Exception as error:
            if report := _report(place, recorded, await _history(engine, name), engine):
                error.add_note(report)
            raise
        if report := _report(place, recorded, await _history(engine, name), engine):
            pytest.fail(report, pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that says what becomes of recordings."""
    parser.getgroup("agent-engine").addoption(
        "--cassettes",
        choices=("replay", "record", "update"),
        default="replay",
        help="recorded sessions: replay them (default), record those that are missing, or record all of them anew",
    )


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> Cassette:
    """Return what records a session once and replays it from then on; see `Cassette`."""
    node = cast(pytest.Item, request.node)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", node.name).strip("-")[:_ID_CHARS]
    return Cassette(node.path.parent / "cassettes", name, cast(Mode, request.config.getoption("--cassettes")))


async def _history(engine: Engine, name: str) -> list[TransitionRecord]:
    return [record async for record in engine.history(name)]


async def _keep(place: anyio.Path, records: Sequence[TransitionRecord]) -> None:
    """Put a recording in its place, whole or not at all."""
    for record in records:
        if record.trigger in _UNREPEATABLE:
            pytest.fail(
                f"nothing was kept: record {record.seq} is {record.trigger}, which no replay can repeat; "
                "record again when what the session uses works",
                pytrace=False,
            )
    await place.parent.mkdir(parents=True, exist_ok=True)
    async with anyio.TemporaryDirectory(dir=str(place.parent), prefix=".recording-") as folder:
        part = anyio.Path(folder, "part")
        await part.write_text("".join(f"{record.line}\n" for record in records), encoding="utf-8")
        await part.replace(place)


async def _recorded(place: anyio.Path, name: str) -> list[TransitionRecord]:
    chain = Chain(name)
    lines = (await place.read_text(encoding="utf-8")).splitlines()
    try:
        return [chain.decode(line, number) for number, line in enumerate(lines, 1)]
    except JournalCorrupt as error:
        error.add_note(f"it is a line of {place}; make the recording anew with pytest --cassettes=update")
        raise


def _from_recording(setup: Setup, recorded: Sequence[TransitionRecord]) -> Setup:
    """Return a setup with which everything that reaches outside is answered by a recording."""
    # What the host's middleware made of replies and results is in the recording: it is not asked again.
    given = Reuse(recorded, 1, {}, {}, frozenset())
    setup["model"] = _Nobody()
    setup["middleware"] = (given, *setup.get("middleware", ()))
    if providers := setup.get("providers"):
        first, *others = (recorded_name(provider) for provider in providers)
        setup["providers"] = (_RecordedContexts(recorded, first), *(_RecordedContexts((), name) for name in others))
    setup.pop("predictor", None)
    return setup


class _Nobody:
    """A model in place of the real one, asked for what the recording does not hold."""

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Say that nothing was recorded."""
        raise RecordedModelMismatch(
            f"turn {request.turn}, round {request.round}: there is no recorded reply to this conversation"
        )


class _RecordedContexts:
    """A provider that adds what was added when the session was recorded: once a turn, in order.

    Args:
        recorded: the recording; none for one that only stands in the place of another.
        recorded_as: the name of the provider in whose place it stands.
    """

    def __init__(self, recorded: Iterable[TransitionRecord], recorded_as: str | None) -> None:
        self.recorded_as = recorded_as
        self._contexts: deque[tuple[Message, ...]] = deque()
        begins = False
        for record in recorded:
            if isinstance(record.event, ContextPrepared) and begins:
                self._contexts.append(record.event.messages)
            begins = record.trigger == "prompt_received"

    async def provide(self, session: str, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages of the next turn."""
        return self._contexts.popleft() if self._contexts else ()


def _report(
    place: anyio.Path, recorded: Sequence[TransitionRecord], now: Sequence[TransitionRecord], engine: Engine
) -> str:
    """Return what came out otherwise, first what is decided otherwise; empty where nothing did."""
    judged, compared = diverge(recorded, engine), compare(recorded, now)
    if judged.ok and compared.ok:
        return ""
    causes = () if judged.ok else judged.lines()
    return "\n".join((
        f"the session came out otherwise than it was recorded in {place}",
        *_some(causes),
        "the recording | this test",
        *_some(compared.lines()),
        "if that is meant, make the recording anew with pytest --cassettes=update",
    ))  # fmt: skip


def _some(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines: the first ones, and the last, which counts them."""
    told = list(lines)
    yield from told if len(told) <= _SHOWN_LINES else (*told[: _SHOWN_LINES - 2], "…", told[-1])


__all__ = ["Cassette", "Mode", "Setup", "cassette"]
