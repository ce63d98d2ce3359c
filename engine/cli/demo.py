"""The demonstration: a conversation on a real model, two runs killed at the worst moments and resumed, everything
verified.

What it claims it counts: how often a tool really ran is read from the tools' own file, not from the journal. May
import the public surface, replay and its neighbours. Must never need a network.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from .._version import __version__
from ..api import Engine, Session, read_history
from ..core.values import JsonObject, Outcome
from ..errors import EngineError, MissingExtra, ModelError
from ..journal import open_journal
from ..ports import Journal
from ..runtime.parts import TurnResult
from .demo_child import KILLS, MARK, Kill, run_child
from .faults import tell_faults
from .histories import check_all
from .models import add_model_options, chosen_model
from .signals import run_command
from .story import Storyteller
from .terminal import Screen, safe
from .world import World

PROMPTS = ("hello", "weather in Oslo and Kampala", "add 19 23", "note buy milk")
"""The conversation."""

_CHILD_S = 60.0
"""How long a child may take to reach its moment, in seconds."""


def add_demo_options(parser: ArgumentParser) -> None:
    """Add the options of `demo`."""
    parser.add_argument(
        "--output", metavar="DIR", default="agent-engine-demo", help="where files are left (default: %(default)s)"
    )
    parser.add_argument("--journal", metavar="J", help="the journal (default: runs.db in the folder)")
    parser.add_argument("--faults", action="store_true", help="show every fault and what is done about it instead")
    parser.add_argument("--child", choices=[kill.name for kill in KILLS], help=SUPPRESS)
    parser.add_argument("--session", help=SUPPRESS)
    add_model_options(parser)


def demo(options: Namespace, screen: Screen) -> int:
    """Run the demonstration, or one of its child processes."""
    if options.child is not None:
        return run_command(partial(run_child, options))
    if options.faults:
        return run_command(lambda interrupts: _show_faults(screen))
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    options.journal = options.journal or str(folder / "runs.db")
    return run_command(lambda interrupts: _Demo(options, screen).run())


async def _show_faults(screen: Screen) -> int:
    holds, scenes = await tell_faults(screen)
    screen.result({"scenes": scenes, "ok": holds})
    return 0 if holds else 1


@dataclass
class _Demo:
    """One demonstration."""

    options: Namespace
    screen: Screen
    report: dict[str, Any] = field(default_factory=dict[str, Any])
    holds: bool = True

    async def run(self) -> int:
        """Return 0 if everything that was claimed held."""
        started = time.perf_counter()
        self.world = World(Path(self.options.output) / "notes.db")
        screen = self.screen
        screen.line(
            screen.paint(f"agent-engine {__version__}", "bold") + ": an agent as a state machine with a journal"
        )
        await self._choose_model()
        number = await self._number()
        talk, crash = f"demo-{number}", f"crash-{number}"
        screen.line(f"journal  {safe(self.options.journal)}, sessions {talk} and {crash}")
        screen.line(f"tools    a weather table, an adder, notes in {safe(str(self.world.path))}")
        await self._converse(talk)
        self.report["kills"] = [await self._kill(index, kill, crash) for index, kill in enumerate(KILLS, 2)]
        await self._verify(len(KILLS) + 2)
        self.report["duration_s"] = round(time.perf_counter() - started, 3)
        self._say_goodbye(talk, crash)
        screen.result({**self.report, "journal": self.options.journal, "ok": self.holds})
        return 0 if self.holds else 1

    async def _choose_model(self) -> None:
        """Fall back to the script where the local model cannot be had, and say so."""
        try:
            model = chosen_model(self.options)
            load = getattr(model, "load", None)
            if load is not None:
                await load()
            close = getattr(model, "aclose", None)
            if close is not None:
                await close()
        except (MissingExtra, ModelError) as error:
            self.options.model = "scripted"
            self.screen.line(self.screen.paint(f"the local model cannot be had: {safe(str(error))}", "yellow"))
        said = {
            "local": "tiny-agent, 312 thousand parameters, llama.cpp in this process, no network",
            "scripted": "a script that says what the local model would",
        }.get(self.options.model, f"{self.options.model_name} at {self.options.base_url}")
        self.report["model"] = self.options.model
        self.screen.line(f"model    {safe(said)}")

    async def _number(self) -> int:
        """Return a number that no session of an earlier demonstration in this journal has."""
        journal = open_journal(self.options.journal)
        try:
            names = [info.id for info in await journal.sessions()]
        finally:
            await journal.aclose()
        return 1 + max(
            (int(found[1]) for name in names if (found := re.fullmatch(r"(?:demo|crash)-(\d{1,9})", name))), default=0
        )

    def _engine(self, *observers: Storyteller) -> Engine:
        return Engine(
            model=chosen_model(self.options),
            tools=self.world.tools(),
            journal=open_journal(self.options.journal),
            observers=observers,
        )

    # --- the parts ----------------------------------------------------------------------------------------------------

    async def _converse(self, name: str) -> None:
        self.screen.heading(
            f"1  A conversation of {len(PROMPTS)} turns, each transition recorded before its effects start"
        )
        turns: list[JsonObject] = []
        async with self._engine(Storyteller(self.screen)) as engine:
            session = await engine.open(name)
            for prompt in PROMPTS:
                self.screen.line()
                self.screen.line(f"you    {self.screen.paint(prompt, 'bold')}")
                result = await session.ask(prompt)
                self._show_answer(result)
                turns.append(
                    {
                        "prompt": prompt,
                        "text": result.text,
                        "outcome": result.outcome.value,
                        "tools": [call.name for call in result.tool_calls],
                    }
                )
        self.report["turns"] = turns

    def _show_answer(self, result: TurnResult) -> None:
        self.holds &= result.outcome is Outcome.COMPLETED
        said = result.text if result.outcome is Outcome.COMPLETED else f"{result.outcome.value}: {result.reason}"
        cost = f"{result.duration_s:.2f} s, {result.usage.input_tokens + result.usage.output_tokens} tokens"
        self.screen.line(
            f"agent  {self.screen.paint(safe(said or ''), 'bold')}  {self.screen.paint(f'({cost})', 'dim')}"
        )

    async def _kill(self, index: int, kill: Kill, name: str) -> JsonObject:
        """Let a child run a turn, kill it, show what is left, and go on with it here."""
        screen = self.screen
        screen.heading(f"{index}  {kill.title}")
        screen.line()
        screen.line(f"you    {screen.paint(kill.prompt, 'bold')}  {screen.paint('(in a child process)', 'dim')}")
        killed = await self._run_and_kill(kill, name)
        journal = open_journal(self.options.journal)
        story = Storyteller(screen)
        try:
            seq = await self._tell_turn(journal, name, story)
        finally:
            await journal.aclose()
        where = f"{kill.tool}({kill.argument!r})"
        screen.line(screen.paint(f"kill -9 {killed} while it is inside {where}: the journal ends at {seq}", "red"))
        screen.line("engine.open in another process goes on from there:")
        async with self._engine(story) as engine:
            session = await engine.open(name)
            result = await session.result()
            self._show_answer(result)
            return await self._check(kill, session, result)

    async def _tell_turn(self, journal: Journal, name: str, story: Storyteller) -> int:
        """Tell the newest turn as the journal holds it; return the newest sequence number."""
        records = [record async for record in read_history(journal, name)]
        first = max(record.seq for record in records if record.trigger == "prompt_received")
        for record in records[first - 1 :]:
            story.on_record(record)
        return records[-1].seq

    async def _run_and_kill(self, kill: Kill, name: str) -> int:
        """Start a child, wait until it says that the moment has come, kill it; return its process id.

        Raises:
            EngineError: the child ended before.
        """
        given = self.options
        command = [
            sys.executable, "-m", (__package__ or "engine.cli").rpartition(".")[0], "demo", "--child", kill.name,
            "--journal", given.journal, "--output", given.output, "--session", name, "--model", given.model,
        ]  # fmt: skip
        for option in ("model_file", "base_url", "model_name", "api_key_env"):
            if getattr(given, option) is not None:
                command += [f"--{option.replace('_', '-')}", str(getattr(given, option))]
        # The child must find what this process found, wherever that was.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        async with await anyio.open_process(command, env=environment, stderr=subprocess.STDOUT) as process:
            with anyio.move_on_after(_CHILD_S):
                heard = await _listen(process)
                if heard is None:
                    process.kill()
                    await process.wait()
                    return process.pid
                raise EngineError(f"the child process ended before its moment came: {heard[-500:].strip()}")
            raise EngineError(f"the child process did not reach its moment within {_CHILD_S:g} s")

    async def _check(self, kill: Kill, session: Session, result: TurnResult) -> JsonObject:
        ran = {
            str(argument): await self.world.runs(session.id, call.name, str(argument))
            for call in result.tool_calls
            for argument in call.arguments.values()
        }
        if kill.name == "read":
            self._claim(
                ran.get("Oslo") == 1, "get_weather('Oslo') had finished: its recorded result was used, it ran once"
            )
            self._claim(ran.get("Kampala") == 2, "get_weather('Kampala') had not: it only reads, so it ran again")
            return {"moment": kill.name, "ran": dict(ran), "notes": 0}
        notes = await self.world.notes(session.id, kill.argument)
        self._claim(
            ran == {kill.argument: 1}, "write_note had started: its probe found the note, so it did not run again"
        )
        self._claim(notes == 1, "the note is in the file exactly once")
        return {"moment": kill.name, "ran": dict(ran), "notes": notes}

    async def _verify(self, index: int) -> None:
        self.screen.heading(
            f"{index}  Replay: every record of every session, hash by hash, stepped again by the same pure core"
        )
        found = await check_all(self.options.journal)
        self.report |= found.as_json()
        rate = f"  ({found.records / found.seconds:,.0f} records/s)" if found.seconds else ""
        self._claim(not found.failed, f"{len(found.checks)} sessions, {found.records} records: all reproduce{rate}")

    def _claim(self, holds: bool, text: str) -> None:
        self.holds &= holds
        mark = self.screen.paint("✓", "green") if holds else self.screen.paint("✗ does not hold:", "red")
        self.screen.line(f"  {mark} {safe(text)}")

    def _say_goodbye(self, talk: str, crash: str) -> None:
        journal = shlex.quote(self.options.journal)
        chats = shlex.quote(str(Path(self.options.output) / "chats.jsonl"))
        self.screen.heading(f"Done in {self.report['duration_s']:.1f} s. What to try next")
        for command, meaning in (
            (f"replay --journal {journal}", "verify everything again"),
            (f"replay --journal {journal} {crash} --at 6", "the state at any moment"),
            (f"stats --journal {journal}", "states, tools, durations, tokens"),
            (f"chat --journal {journal} --session {talk}", "go on with the conversation"),
            (f"export --journal {journal} --format openai --output {chats}", "as an OpenAI chat log"),
            ("graph", "the state machine itself"),
            ("doctor", "what this machine can enforce"),
        ):
            self.screen.line(f"  {meaning:<33} {self.screen.paint(f'agent-engine {safe(command)}', 'bold')}")


async def _listen(process: Process) -> str | None:
    """Return None when the child has said its line, or all it said when it ended without."""
    assert process.stdout is not None
    heard = ""
    async for text in TextReceiveStream(process.stdout, errors="replace"):
        heard = (heard + text)[-10_000:]
        if MARK in heard:
            return None
    return heard
