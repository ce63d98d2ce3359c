"""No secret is kept: every way into a record, a notice or the log goes through the redactor."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio.lowlevel
import pytest

from engine import Engine, EngineSettings, Limits, Message, ModelReply, ModelRequest, Outcome, ToolCall, tool
from engine.core.notices import Notice, TextDelta
from engine.core.record import TransitionRecord
from engine.core.redaction import Redactor
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.log import logger
from engine.models import ScriptedModel
from engine.ports import Emit, Journal, Tool
from tests.runtime.scenes import Verdicts, call, calls, check_closed, history

pytestmark = pytest.mark.anyio

TURNS = 20


def canary(turn: int, kind: str) -> str:
    """Return the secret that goes one way in one turn."""
    return f"canary-{kind}-{turn:03}"


CANARY = "canary-of-a-long-result"
KINDS = ("prompt", "args", "result", "error", "delta")
SECRETS = {f"{kind}_{turn}": canary(turn, kind) for turn in range(TURNS) for kind in KINDS}


class Leaky:
    """A model and tools that put secrets wherever they can."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Ask for a tool with a secret, then for one that fails, then stream a secret one character at a time."""
        turn = request.turn - 1
        self.seen += [message.text or "" for message in request.messages]
        if request.round == 1:
            return ModelReply(tool_calls=[call("look", "c1", key=canary(turn, "args"), turn=turn)])
        if request.round == 2:
            return ModelReply(tool_calls=[call("fail", "c2", turn=turn)])
        text = f"it is {canary(turn, 'delta')}"
        for character in text:
            emit(TextDelta(character))
        return ModelReply(text=text)

    def tools(self) -> list[Tool]:
        """Return one that says a secret and one that fails with one, which logs it as well."""

        @tool(effect="read")
        async def look(key: str, turn: int) -> dict[str, str]:
            self.seen.append(key)
            await anyio.lowlevel.checkpoint()
            return {"found": canary(turn, "result")}

        @tool(effect="write")
        async def fail(turn: int) -> None:
            logger.warning("about to fail", why=canary(turn, "error"))
            raise RuntimeError(f"no access with {canary(turn, 'error')}")

        return [look, fail]


class Watcher:
    """Keeps everything that is shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.text = ""

    def on_record(self, record: TransitionRecord) -> None:
        """Keep a record."""
        self.shown.append(record.line)

    def on_notice(self, session: str, notice: Notice) -> None:
        """Keep a notice."""
        self.shown.append(str(notice))
        if isinstance(notice, TextDelta):
            self.text += notice.text


def contents(folder: Path) -> str:
    """Return everything that is stored in a folder, whatever it is."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode(errors="replace")


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_f18_a19_no_canary_reaches_disk_log_or_watcher(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """100 secrets through prompt, arguments, results, exceptions and streams: not one is stored, shown or logged."""
    caplog.set_level(logging.DEBUG, "engine")
    journal: Journal = SqliteJournal(tmp_path / "runs.db") if kind == "sqlite" else JsonlJournal(tmp_path / "runs")
    leaky, watcher = Leaky(), Watcher()
    async with Engine(
        model=leaky,
        tools=leaky.tools(),
        journal=journal,
        redactor=Redactor(SECRETS),
        observers=[watcher],
        settings=EngineSettings(system=f"The key is {canary(0, 'prompt')}."),
        limits=Limits(loops=None),
    ) as engine:
        session = await engine.open("s", metadata={"note": canary(1, "prompt")})
        for turn in range(TURNS):
            result = await session.ask(f"use {canary(turn, 'prompt')}")
            assert result.outcome is Outcome.COMPLETED
        stored = contents(tmp_path)
        check_closed(await history(journal))
    everything = stored + "".join(watcher.shown) + caplog.text + "".join(leaky.seen) + watcher.text
    assert [secret for secret in SECRETS.values() if secret in everything] == []
    assert all(f"[redacted:{kind}_{TURNS - 1}]" in everything for kind in KINDS)
    assert f"it is [redacted:delta_{TURNS - 1}]" in watcher.text


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_f18_a19_no_canary_of_a_long_result_is_kept_beside_the_journal(kind: str, tmp_path: Path) -> None:
    """What is kept whole is clean, and no preview cuts a secret in two: of a result, of the text of a failure, which is
    a dead letter too, and of what a host says of a task.
    """
    journal: Journal = SqliteJournal(tmp_path / "runs.db") if kind == "sqlite" else JsonlJournal(tmp_path / "runs")
    long = " ".join([CANARY] * 70)

    @tool(effect="read")
    async def look() -> str:
        return f"a {long}"

    @tool(effect="read", on_failure="retry")
    async def fail() -> str:
        raise RuntimeError(long)

    @tool(external=True)
    def ship() -> str:
        raise AssertionError("an external tool is never run")

    async with Engine(
        model=ScriptedModel([calls("look", "fail", "ship"), "done"]),
        tools=[look, fail, ship],
        journal=journal,
        redactor=Redactor({"key": CANARY}),
        limits=Limits(max_output_bytes=1024, max_tool_retries=1, backoff_base_s=0),
    ) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        result = await session.answer(request.id, approve=True, text=f"b {long}")
        (letter,) = engine.dead_letters
        stored = contents(tmp_path)
    whole = " ".join(["[redacted:key]"] * 70)
    assert [f"{said}{whole}" in stored for said in ("a ", "RuntimeError: ", "b ")] == [True] * 3
    assert all("read_result" in made.content for made in result.tool_calls)
    halves = {CANARY[at : at + 12] for at in range(len(CANARY) - 11)}
    assert [half for half in halves if half in f"{stored}{letter}"] == []


async def test_f18_an_error_that_is_cut_inside_a_secret_shows_no_half_of_it() -> None:
    """Wherever the text of an exception is cut, no more than half of the secret is on record."""
    journal = MemoryJournal()

    @tool(effect="read")
    async def fail(before: int) -> str:
        raise RuntimeError("." * before + CANARY)

    asked = [call("fail", f"c{before}", before=before) for before in range(1960, 1990)]
    model = ScriptedModel([ModelReply(tool_calls=asked), "done"])
    async with Engine(model=model, tools=[fail], journal=journal, redactor=Redactor({"key": CANARY})) as engine:
        await (await engine.open("s")).ask("go")
    stored = "".join(record.line for record in await history(journal))
    half = len(CANARY) // 2 + 1
    assert [CANARY[:end] for end in range(half, len(CANARY) + 1) if CANARY[:end] in stored] == []


async def test_f18_a_complaint_about_arguments_repeats_no_password() -> None:
    """What is wrong with arguments goes back to the model and on record without the value of a secret field."""
    journal = MemoryJournal()

    @tool(effect="read")
    async def login(password: int) -> str:
        return "in"

    bad = ToolCall(id="c1", name="login", arguments={"password": "hunter2-hunter2"})
    model = ScriptedModel([ModelReply(tool_calls=[bad]), "done"])
    async with Engine(model=model, tools=[login], journal=journal, redactor=Redactor()) as engine:
        result = await (await engine.open("s")).ask("go")
    assert "[redacted:password]" in result.tool_calls[0].content
    assert "hunter2" not in "".join(record.line for record in await history(journal))


async def test_a19_an_edited_argument_is_cleaned_before_it_is_bound() -> None:
    """Arguments that a person changes run as they are recorded: the approval is bound to what is on record."""
    got: list[str] = []

    @tool
    async def send(text: str) -> str:
        got.append(text)
        return "sent"

    model = ScriptedModel([ModelReply(tool_calls=[call("send", "c1", text="hello")]), "done"])
    redactor = Redactor({"pin": "4711-0815"})
    async with Engine(model=model, tools=[send], policy=Verdicts(send="ask"), redactor=redactor) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        result = await session.answer(request.id, approve=True, arguments={"text": "the pin is 4711-0815"})
    assert result.outcome is Outcome.COMPLETED
    assert got == ["the pin is [redacted:pin]"]


async def test_a19_what_was_cleaned_is_not_recorded_anew() -> None:
    """Opening a session again with the same secrets in its particulars and system prompt records neither again."""
    journal = MemoryJournal()
    for _ in range(2):
        async with Engine(
            model=ScriptedModel(["done"]),
            journal=journal,
            redactor=Redactor({"key": "sesame-open"}),
            settings=EngineSettings(system="say sesame-open"),
        ) as engine:
            session = await engine.open("s", metadata={"note": "sesame-open"})
            await session.ask("go")
    records = await history(journal)
    assert [record.trigger for record in records].count("session_opened") == 1
    roles = [message.role for message in session.messages]
    assert roles.count("system") == 1


async def test_f18_a_reply_that_broke_off_shows_nothing_that_was_held_back() -> None:
    """The end of a text that may be the beginning of a secret is shown when the reply is complete, else never."""
    watcher = Watcher()
    replies = iter([None, ModelReply(text="the sesa")])

    class Breaking:
        """Breaks off after half a secret once, then ends there."""

        async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
            emit(TextDelta("the sesa"))
            reply = next(replies)
            if reply is None:
                raise RuntimeError("hung up")
            return reply

    redactor = Redactor({"key": "sesame-open"})
    async with Engine(model=Breaking(), redactor=redactor, observers=[watcher]) as engine:
        session = await engine.open("s")
        await session.ask("go")
        assert watcher.text == "the "
        await session.ask("go")
    assert watcher.text == "the the sesa"
    assert isinstance(session.messages[-1], Message)
