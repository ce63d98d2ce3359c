"""`run` and `chat`: prompts through a model, with the demonstration's tools, into a journal.

May import the public surface and its neighbours.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..api import Engine, Session
from ..core.values import JsonObject, Outcome, State
from ..errors import UsageError
from ..journal import open_journal
from ..runtime.parts import TurnResult
from .models import add_model_options, chosen_model
from .signals import Interrupts, run_command
from .story import Storyteller
from .terminal import Screen, safe
from .world import World

_DRAIN_S = 5.0
"""How long a signal waits for the reply or the tools that are under way: half of what supervisors commonly give."""

_LINE_BYTES = 1 << 20
"""A line that is longer is taken in pieces."""


def add_talk_options(parser: ArgumentParser) -> None:
    """Add the options that `run` and `chat` share."""
    parser.add_argument("--journal", metavar="J", required=True, help="where the history is kept")
    parser.add_argument("--session", metavar="ID", help="the session to go on with, or to begin (default: a new one)")
    parser.add_argument("--quiet", action="store_true", help="print the answers only, not the transitions")
    add_model_options(parser)


def add_run_options(parser: ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what to ask (default: go on with an interrupted turn)"
    )
    add_talk_options(parser)


def run(options: Namespace, screen: Screen) -> int:
    """Run one turn; without a prompt, go on with the session's interrupted one."""
    if options.prompt is None and options.session is None:
        raise UsageError("run needs a prompt, or a --session whose interrupted turn is to go on")
    return run_command(partial(_run, options, screen))


def chat(options: Namespace, screen: Screen) -> int:
    """Talk until the input ends."""
    return run_command(partial(_chat, options, screen))


def _folder(journal: str) -> Path:
    """Return the folder that the journal lies in, or is.

    Raises:
        UsageError: there is none.
    """
    path = Path(journal)
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r} for the journal; create it first")
    return folder


@asynccontextmanager
async def _session(options: Namespace, screen: Screen) -> AsyncGenerator[tuple[Engine, Session]]:
    observers = () if options.quiet else (Storyteller(screen),)
    world = World(_folder(options.journal) / "notes.db")
    async with Engine(
        model=chosen_model(options), tools=world.tools(), journal=open_journal(options.journal), observers=observers
    ) as engine:
        yield engine, await engine.open(options.session)


async def _run(options: Namespace, screen: Screen, interrupts: Interrupts) -> int:
    async with _session(options, screen) as (engine, session):
        interrupts.take = partial(_stop, engine, screen, interrupts)
        result = await (session.result() if options.prompt is None else session.ask(_clean(options.prompt)))
        interrupts.take = None
        _answer(screen, session, result)
        if result.outcome is Outcome.INTERRUPTED:
            _say_how_to_go_on("run", options, screen, session)
    screen.result(_as_json(session, result))
    return 0 if result.outcome is Outcome.COMPLETED else 1


def _stop(engine: Engine, screen: Screen, interrupts: Interrupts, number: int) -> bool:
    """Stop in order, so that the turn can go on later: at a safe point, or at once for the second signal."""
    if interrupts.received is None:

        async def drain() -> None:
            await engine.drain(_DRAIN_S)

        interrupts.start(drain)
        screen.line(screen.paint("stopping at the next safe point; once more stops at once", "yellow"))
    else:
        # A third one cancels.
        interrupts.take = None
        interrupts.start(engine.shutdown)
    interrupts.received = number
    return True


async def _chat(options: Namespace, screen: Screen, interrupts: Interrupts) -> int:
    prompt = screen.paint("you    ", "bold") if sys.stdin.isatty() and not screen.json_only else ""
    turns, failed = 0, 0
    async with _session(options, screen) as (engine, session), _lines() as lines:
        stop = partial(_stop, engine, screen, interrupts)
        screen.line(f"session {session.id}; end with Ctrl-D, cancel a turn with Ctrl-C")
        if session.state is not State.IDLE:
            # An earlier chat left a turn that goes on now, or a question.
            failed += not await _turn(session, session.result, screen, interrupts, stop)
        while interrupts.received is None:
            sys.stdout.write(prompt)
            sys.stdout.flush()
            line = await anext(lines, None)
            if line is None:
                break
            if not line.strip() and session.state is not State.WAITING_FOR_USER:
                continue
            turns += 1
            failed += not await _turn(session, partial(_say, session, line), screen, interrupts, stop)
        if session.state is State.SHUTDOWN:
            _say_how_to_go_on("chat", options, screen, session)
    screen.result({"session": session.id, "turns": turns, "failed": failed, "records": session.seq})
    return 0 if failed == 0 else 1


async def _turn(
    session: Session,
    work: Callable[[], Awaitable[TurnResult]],
    screen: Screen,
    interrupts: Interrupts,
    stop: Callable[[int], bool],
) -> bool:
    """Run one turn, which Ctrl-C cancels and any other signal stops in order; return whether it ended well."""
    scope = anyio.CancelScope()

    def take(number: int) -> bool:
        if number != signal.SIGINT or interrupts.received is not None:
            return stop(number)
        if scope.cancel_called:
            return False
        scope.cancel()
        return True

    interrupts.take = take
    result: TurnResult | None = None
    with scope:
        result = await work()
    interrupts.take = None
    if result is None:
        screen.line(screen.paint("cancelled; Ctrl-C once more leaves", "yellow"))
        return False
    _answer(screen, session, result)
    return result.outcome in (Outcome.COMPLETED, Outcome.WAITING)


async def _say(session: Session, line: str) -> TurnResult:
    """Take a line as the answer to a pending question, or as a prompt."""
    if session.state is not State.WAITING_FOR_USER:
        return await session.ask(line)
    word, _, rest = line.strip().partition(" ")
    yes = word.lower() in ("y", "yes")
    return await session.answer(session.pending[0].id, approve=yes, text=rest or None)


def _say_how_to_go_on(command: str, options: Namespace, screen: Screen, session: Session) -> None:
    text = f"agent-engine {command} --journal {options.journal} --session {session.id}"
    screen.line(f"it goes on with: {safe(text)}")


def _answer(screen: Screen, session: Session, result: TurnResult) -> None:
    if result.outcome is Outcome.WAITING:
        for request in result.pending:
            screen.line(screen.paint(f"asks   {safe(request.text)} (yes or no, then words of your own)", "yellow"))
        if not sys.stdin.isatty():
            screen.line(f"session {session.id} waits for an answer; give it with `agent-engine chat`")
    elif result.outcome is Outcome.COMPLETED:
        screen.text(result.text or "")
    else:
        screen.line(screen.paint(f"{result.outcome.value}: {safe(result.reason)}", "red"))


def _as_json(session: Session, result: TurnResult) -> JsonObject:
    return {
        "session": session.id, "records": session.seq, "outcome": result.outcome.value, "text": result.text,
        "reason": result.reason, "duration_s": result.duration_s,
        "tools": [{"name": call.name, "status": call.status.value} for call in result.tool_calls],
        "tokens": result.usage.input_tokens + result.usage.output_tokens,
    }  # fmt: skip


def _clean(text: str) -> str:
    """Return the text without the halves of characters that a byte which is no UTF-8 leaves in an argument."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@asynccontextmanager
async def _lines() -> AsyncGenerator[MemoryObjectReceiveStream[str]]:
    """Give the lines of standard input as they come.

    The thread that reads cannot be stopped while it waits for a person, so it is a daemon, and reads the descriptor
    itself: it holds no lock that Python would wait for at its end.
    """
    send, receive = anyio.create_memory_object_stream[str](0)
    async with anyio.from_thread.BlockingPortal() as portal, receive, send:
        threading.Thread(target=_read_input, args=(portal, send), name="standard input", daemon=True).start()
        yield receive
        await portal.stop(cancel_remaining=True)


def _read_input(portal: anyio.from_thread.BlockingPortal, send: MemoryObjectSendStream[str]) -> None:
    kept = b""
    try:
        while piece := os.read(0, 65_536):
            *lines, kept = (kept + piece).split(b"\n")
            if len(kept) > _LINE_BYTES:
                lines, kept = [*lines, kept], b""
            for line in lines:
                portal.call(send.send, line.decode("utf-8", "replace").rstrip("\r"))
        if kept:
            portal.call(send.send, kept.decode("utf-8", "replace"))
        portal.call(send.aclose)
    except (RuntimeError, CancelledError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        # The chat has ended while this thread waited: nobody wants the rest.
        return
