"""What the record knows of a conversation that the model is no longer shown: no model has a say in it.

A list of what was done, with how it ended, and of what was asked, as short as it is told to be. May import core. Must
say nothing that does not stand in the history.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..core.session import CallState, Turn
from ..core.tokens import Count, clipped
from ..core.values import ToolStatus

_CALL_CHARS = 160
_RESULT_CHARS = 80
_PROMPT_CHARS = 160


def facts_of(turns: Sequence[Turn], shown: int, tokens: int, count: Count) -> str:
    """Return what was done and asked in some turns, newest kept first where not everything has room.

    Args:
        turns: oldest first; the last may be open.
        shown: so many of the newest calls are left out: the model is shown them anyway.
        tokens: how long the text may be.
        count: how tokens are counted.
    """
    calls = [call for turn in turns for call in turn.calls if call.status.terminal]
    calls = calls[: max(0, len(calls) - shown)]
    changes = [_told(call) for call in calls if call.plan.effect != "read"]
    prompts = [text for turn in turns if turn.outcome is not None for text in _prompts(turn)]
    reads = Counter(call.call.name for call in calls if call.plan.effect == "read" and _ran(call))
    # What was done weighs more than what was asked: doing it again may do harm.
    parts = [_fitting("done", changes, tokens * 2 // 3, count)]
    parts.append(_fitting("asked", prompts, _left(parts, tokens, count), count))
    looked = ", ".join(f"{name} ×{times}" for name, times in sorted(reads.items()))
    line = [f"- read: {looked}"] if looked and count(looked) + 8 <= _left(parts, tokens, count) else []
    return "\n".join([*(line for part in parts for line in part), *line])


def _left(parts: Iterable[Sequence[str]], tokens: int, count: Count) -> int:
    return tokens - sum(count(line) + 1 for part in parts for line in part)


def _fitting(label: str, lines: Sequence[str], tokens: int, count: Count) -> list[str]:
    """Return the newest lines that have room, oldest first, and how many have none."""
    left = tokens - count(_missing(label, len(lines))) - 1
    told: list[str] = []
    for line in reversed(lines):
        shown = f"- {label}: {line}"
        left -= count(shown) + 1
        if left < 0:
            return [_missing(label, len(lines) - len(told)), *reversed(told)] if told else []
        told.append(shown)
    return told[::-1]


def _missing(label: str, number: int) -> str:
    return f"- {label}: {number} more before these"


def _told(call: CallState) -> str:
    """Return a call, whom it is about where its tool says so, and how it ended."""
    about = f" on {call.plan.conflict_key}" if call.plan.conflict_key else ""
    arguments = json.dumps(call.call.arguments, ensure_ascii=False)
    written = clipped(f"{call.call.name}({arguments})", _CALL_CHARS, len)
    said = "" if call.status is not ToolStatus.COMPLETED or not call.content else f", {_quoted(call.content)}"
    return f"{written}{about}: {call.status.value.replace('_', ' ')}{said}"


def _quoted(text: str) -> str:
    # In quotes: it comes from a tool, and stands in a message of the user's role.
    return json.dumps(clipped(text, _RESULT_CHARS, len), ensure_ascii=False)


def _prompts(turn: Turn) -> Iterator[str]:
    for message in turn.prompt:
        if message.role == "user" and message.text:
            yield json.dumps(clipped(message.text, _PROMPT_CHARS, len), ensure_ascii=False)


def _ran(call: CallState) -> bool:
    return call.status is ToolStatus.COMPLETED


__all__ = ["facts_of"]
