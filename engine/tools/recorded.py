"""The tools of a recorded history: they give the results that were recorded. May import ports and core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.events import ToolFinished
from ..core.record import TransitionRecord
from ..core.session import CallState, Session
from ..core.step import advance
from ..core.values import JsonObject, ToolSpec, ToolStatus
from ..ports import ToolContext, ToolOptions, ToolOutput

_Place = tuple[int, int, str]


class RecordedTool:
    """One tool of a history. Results are found by turn, round and call id, so a resumed run finds them too."""

    def __init__(self, name: str, effect_of: CallState, results: Mapping[_Place, ToolOutput]) -> None:
        self._spec = ToolSpec(name=name, description="recorded")
        self._options = ToolOptions(effect=effect_of.plan.effect)
        self._results = results

    @property
    def spec(self) -> ToolSpec:
        """How the tool is described to the model."""
        return self._spec

    @property
    def options(self) -> ToolOptions:
        """How the tool may be run: as the first recorded call of it."""
        return self._options

    def bind(self, arguments: JsonObject) -> Mapping[str, Any]:
        """Accept any arguments: they were judged when they were recorded."""
        return arguments

    async def run(self, bound: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Return the recorded result of this call."""
        recorded = self._results.get((context.turn, context.round, context.call_id))
        if recorded is None:
            text = f"the history holds no result of {context.name} for call {context.call_id!r} at this place"
            return ToolOutput(text, ToolStatus.FAILED, "not_recorded")
        return recorded


def recorded_tools(records: Iterable[TransitionRecord]) -> list[RecordedTool]:
    """Return a tool for every tool name that a history calls.

    Args:
        records: the whole history of one session.

    Raises:
        ReplayError: the history does not reproduce.
    """
    results: dict[_Place, ToolOutput] = {}
    tools: dict[str, RecordedTool] = {}
    session: Session | None = None
    for record in records:
        session = advance(session or Session(record.session), record)
        turn = session.turn
        if turn is not None and turn.batch is not None:
            for call in turn.batch.calls:
                tools.setdefault(call.call.name, RecordedTool(call.call.name, call, results))
        event = record.event
        if isinstance(event, ToolFinished) and turn is not None:
            results[turn.number, turn.round, event.call_id] = ToolOutput(
                event.content, event.status, event.error, event.patch
            )
    return list(tools.values())
