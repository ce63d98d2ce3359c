"""What the tests of import, export and re-running share: the logs, and short ways in and out of a journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import Engine, Limits
from engine.core.record import TransitionRecord
from engine.journal import MemoryJournal
from engine.models import RecordedModel
from engine.ports import Journal, Observer
from engine.replay import export_chats, import_chats, prompts
from engine.testing.records import read_all
from engine.tools.recorded import recorded_tools

DATA = Path(__file__).resolve().parents[1] / "data"
SAMPLES = sorted(DATA.glob("*.jsonl"))
SAMPLE_CHATS: list[dict[str, Any]] = [
    json.loads(line) for path in SAMPLES for line in path.read_text(encoding="utf-8").splitlines()
]


class StoppedClock:
    """It is always the same moment."""

    def time_ns(self) -> int:
        return 1_767_225_600_000_000_000

    def monotonic_ns(self) -> int:
        return 1_000


async def imported(*chats: object, journal: Journal | None = None) -> Journal:
    """Return a journal that holds these conversations."""
    target = MemoryJournal() if journal is None else journal
    await import_chats([json.dumps(chat) for chat in chats], target, clock=StoppedClock())
    return target


async def exported(journal: Journal) -> list[dict[str, Any]]:
    """Return every conversation of a journal."""
    return [chat async for chat in export_chats(journal)]


async def history_of(chat: object) -> Sequence[TransitionRecord]:
    """Return the history that a conversation becomes."""
    journal = await imported(chat)
    [info] = await journal.sessions()
    return await read_all(journal, info.id)


async def run_again(
    records: Sequence[TransitionRecord], journal: Journal, observers: Sequence[Observer] = (), name: str | None = None
) -> list[dict[str, Any]]:
    """Run a history again through a live engine, from wherever the journal stands; return the messages at the end."""
    session_id = name or records[0].session
    asked = sum(record.trigger == "prompt_received" for record in await read_all(journal, session_id))
    engine = Engine(
        model=RecordedModel(records),
        tools=recorded_tools(records),
        journal=journal,
        limits=Limits(),
        observers=observers,
    )
    async with engine:
        session = await engine.open(session_id)
        await session.result()
        for prompt in prompts(records)[asked:]:
            await session.ask(prompt)
        [chat] = [chat async for chat in export_chats(journal, [session_id])]
    messages: list[dict[str, Any]] = chat["messages"]
    return messages


async def stored(records: Sequence[TransitionRecord]) -> Journal:
    """Return a journal that holds just these records."""
    journal = MemoryJournal()
    if records:
        writer = await journal.claim(records[0].session)
        await writer.append(records)
        await writer.release()
    return journal
