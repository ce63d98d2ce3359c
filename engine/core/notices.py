"""The volatile outward stream: what is worth showing while it happens and worth nothing afterwards.

Notices are never journaled. A slow reader loses the oldest ones and is told how many by a `Gap`. May import `values`
only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply's text, as the model streams it."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, where the provider streams it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolInputDelta:
    """A piece of a tool call's arguments while the model writes them. `index` counts the calls of the reply from 0."""

    index: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolProgress:
    """What a running tool says about itself."""

    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolRunning:
    """A call left the queue and runs now."""

    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What became of a preparation for a call of `tool`, or, where that is empty, of the model.

    It began; it was ready after `seconds`; a call used it and was spared `seconds`; no call used it in time; it failed
    or gave way after `seconds`.
    """

    tool: str
    stage: Literal["begun", "ready", "used", "wasted", "failed"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Compacting:
    """The model is to be shown less of the conversation; a summary is being made. `tokens` is what it would be shown
    now, of `limit` that it can be shown.
    """

    tokens: int
    limit: int


@dataclass(frozen=True, slots=True)
class Gap:
    """`lost` items were dropped because the reader was slow; records among them can be read with `history(after=…)`."""

    lost: int


Notice: TypeAlias = TextDelta | ReasoningDelta | ToolInputDelta | ToolProgress | ToolRunning | WarmUp | Compacting | Gap
