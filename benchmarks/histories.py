"""Histories of any length in a moment: the records that the live engine would have written, without running it.

The events of a turn are made, stepped and sealed; a test holds them against those of a live run. May import the engine.
Must never read a clock: the same arguments give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from engine import Message, ModelReply, TransitionRecord
from engine.core.events import ContextPrepared, KnownEvent, ModelReplied, PromptReceived, SessionOpened, ToolFinished
from engine.core.session import Session
from engine.core.step import step
from engine.core.values import PlannedCall
from engine.journal.codec import GENESIS, seal

from .workload import Shape, answer, asked_for, lookup, prompt

_START = datetime(2026, 1, 1, tzinfo=UTC)
_STEP_NS = 137_421
_TOOL_S = 0.000158265
"""What tools are said to have taken: as long a number as a real one."""


def events(turns: int, shape: Shape) -> Iterator[KnownEvent]:
    """Iterate over the events of a session of so many turns, its opening first."""
    yield SessionOpened()
    for turn in range(turns):
        yield from turn_events(turn, shape)


def turn_events(turn: int, shape: Shape) -> Iterator[KnownEvent]:
    """Iterate over the events of one turn."""
    options = lookup.options
    yield PromptReceived(messages=(Message(role="user", text=prompt(turn)),))
    yield ContextPrepared()
    for number in range(shape.rounds):
        calls = asked_for(turn, number, shape)
        plans = tuple(
            PlannedCall(call_id=call.id, effect=options.effect, timeout_s=options.timeout_s) for call in calls
        )
        yield ModelReplied(reply=ModelReply(tool_calls=calls), plans=plans)
        for call in calls:
            result = {"q": call.arguments["q"], "ok": True, "value": 2 * number}
            content = json.dumps(result, separators=(",", ":"))
            yield ToolFinished(call_id=call.id, content=content, duration_s=_TOOL_S)
        yield ContextPrepared()
    yield ModelReplied(reply=ModelReply(text=answer(turn, shape)))


def history(name: str, turns: int, shape: Shape) -> list[TransitionRecord]:
    """Return the records of a session of so many turns."""
    session, digest = Session(name), GENESIS
    records: list[TransitionRecord] = []
    for event in events(turns, shape):
        advanced, effects = step(session, event)
        mono_ns = advanced.seq * _STEP_NS
        at = (_START + timedelta(microseconds=mono_ns // 1000)).isoformat(timespec="microseconds")
        record = seal(
            session=name, seq=advanced.seq, at=at, mono_ns=mono_ns, source=session.state, dest=advanced.state,
            event=event, effects=effects, prev=digest,
        )  # fmt: skip
        records.append(record)
        session, digest = advanced, record.hash
    return records
