"""Other processes that use a journal: `python children.py ROLE KIND FOLDER …` prints one line for each thing done."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio

from engine import Message, TransitionRecord
from engine.core.events import PromptReceived, TurnCancelled
from engine.core.session import Session
from engine.core.step import step
from engine.errors import EngineError, JournalUnavailable, SessionBusy, StaleWriter
from engine.journal.codec import seal
from engine.ports import Journal, Tail
from engine.replay import Account, prune, redact
from engine.runtime.clock import SystemClock
from engine.testing.records import chain, tail_of

say = partial(print, flush=True)
"""Print a line that the parent sees at once."""

REPOSITORY = Path(__file__).resolve().parents[2]


def open_kind(kind: str, folder: str) -> Journal:
    from engine.journal import open_journal

    names = {"jsonl-file": "runs.jsonl", "jsonl-folder": "runs/", "sqlite": "runs.db"}
    return open_journal(f"{folder}/{names[kind]}")


def start(role: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a child in a role; its output is read line by line."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [*prefix, sys.executable, __file__, role, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)


def lines_of(role: str, *arguments: str, prefix: tuple[str, ...] = ()) -> list[str]:
    """Run a child to its end and return what it printed."""
    child = start(role, *arguments, prefix=prefix)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return output.splitlines()


async def append_for_ever(kind: str, folder: str) -> None:
    """Append records one by one and say which are acknowledged, until killed. A dead owner's session is taken over."""
    writer = await open_kind(kind, folder).claim("s")
    tail = writer.tail
    say("claimed", writer.epoch, tail.seq)
    while True:
        run = chain("s", 1 + tail.seq % 3, after=tail)
        await writer.append(run)
        tail = tail_of(run)
        say("acked", tail.seq)


async def rewrite_for_ever(kind: str, folder: str) -> None:
    """Append, redact and prune in turn, and say up to which record the history is durable, until killed."""
    journal = open_kind(kind, folder)
    account = Account(SystemClock())
    while True:
        writer = await journal.claim("s")
        run = _turns(writer.tail) if writer.tail.seq else chain("s", 5, text="a secret")
        await writer.append(run)
        await writer.release()
        say(run[-1].seq)
        done = await redact(journal, "s", "a secret", account)
        say(done.declared or run[-1].seq)
        done = await prune(journal, "s", run[-1].seq - 2, account)
        say(done.declared or run[-1].seq)


def _turns(tail: Tail) -> list[TransitionRecord]:
    """Return two turns that are begun and cancelled, after a tail where none is open."""
    prompt, cancelled = PromptReceived(messages=(Message(role="user", text="a secret"),)), TurnCancelled(reason="done")
    session, digest = Session("s", tail.seq), tail.hash
    records: list[TransitionRecord] = []
    for event in (prompt, cancelled, prompt, cancelled):
        after, effects = step(session, event)
        record = seal(
            session="s", seq=after.seq, at="2026-01-01T00:00:00.000000Z", mono_ns=after.seq, source=session.state,
            dest=after.state, event=event, effects=effects, prev=digest,
        )  # fmt: skip
        records.append(record)
        session, digest = after, record.hash
    return records


async def contend(kind: str, folder: str, rounds: str) -> None:
    """Take the session over again and again and append one record each time; say how many were acknowledged."""
    journal = open_kind(kind, folder)
    acked = stale = 0
    for _ in range(int(rounds)):
        writer = await journal.claim("s", takeover=True)
        await anyio.lowlevel.checkpoint()
        try:
            await writer.append(chain("s", 1, after=writer.tail))
            acked += 1
        except StaleWriter:
            stale += 1
    await journal.aclose()
    say(acked, stale)


async def try_claim(kind: str, folder: str, takeover: str) -> None:
    """Claim once and say what came of it; after a takeover append one record."""
    journal = open_kind(kind, folder)
    try:
        writer = await journal.claim("s", takeover=takeover == "takeover")
    except SessionBusy as error:
        say("busy", error.owner)
    else:
        await writer.append(chain("s", 1, after=writer.tail))
        say("claimed", writer.epoch)
    await journal.aclose()


async def fill(kind: str, folder: str, limit_bytes: str) -> None:
    """Append until the disk (or the file size limit) is full, make room, go on; say what was acknowledged when."""
    journal = open_kind(kind, folder)
    writer = await journal.claim("s")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ballast = Path(folder, "ballast")
    if int(limit_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes), hard))
    else:
        ballast.write_bytes(b"x" * 1_500_000)
    tail = writer.tail
    for _ in range(10_000):
        run = chain("s", 2, after=tail, text="x" * 2000)
        try:
            await writer.append(run)
        except JournalUnavailable as error:
            say("full", str(error).isascii())
            break
        tail = tail_of(run)
    say("acked", tail.seq)
    if int(limit_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    else:
        ballast.unlink()
    again = await journal.claim("s")
    say("stored", again.tail.seq)
    await again.append(chain("s", 2, after=again.tail))
    await journal.aclose()
    say("end", len(await journal.read("s", 0, 100_000)))


async def without_rights(kind: str, folder: str) -> None:
    """Claim as a user who may not write there; say which error it is."""
    journal = open_kind(kind, folder)
    if os.getuid() == 0:
        os.seteuid(65534)
    for attempt in (journal.claim("s"), journal.aclose()):
        try:
            await attempt
        except EngineError as error:
            say(type(error).__name__, "permission" in str(error))


ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    role.__name__: role for role in (append_for_ever, contend, rewrite_for_ever, try_claim, fill, without_rights)
}

if __name__ == "__main__":
    anyio.run(ROLES[sys.argv[1]], *sys.argv[2:])
