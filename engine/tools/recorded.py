"""The tools of a recorded history: they give the results that were recorded, and do nothing.

May import ports and core. Must never call anything outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
        plan = effect_of.plan
        self._options = ToolOptions(effect=plan.effect, on_failure="stop" if plan.stops else "tell_model")
        self._results = results

    @property
    def spec(self) -> ToolSpec:
        """How the tool is described to the model."""
        return self._spec

    @property
    def options(self) -> ToolOptions:
        """How the tool may be run: as the first recorded call of it."""
        return self._options

    @property
    def can_probe(self) -> bool:
        """Whether it knows about interrupted writes: always."""
        return True

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

    async def probe(self, bound: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Say that an interrupted write did not take place: this tool does nothing, so it may run again."""
        return None


def recorded_tools(records: Iterable[TransitionRecord]) -> list[RecordedTool]:
    """Return a tool for every tool name that a history calls.

    A call gives what the conversation held of it in the end, however that came about: its own result, a refusal, an
    answer of a person, a cancellation.

    Args:
        records: the whole history of one session.

    Raises:
        ReplayError: the history does not reproduce.
    """
    results: dict[_Place, ToolOutput] = {}
    tools: dict[str, RecordedTool] = {}
    places: dict[str, _Place] = {}
    session: Session | None = None
    for record in records:
        before = session or Session(record.session)
        session = advance(before, record)
        # A turn that has just ended is still to be looked at: its end may be the end of calls.
        turn = session.turn or (session.last_turn if before.turn is not None else None)
        if turn is None:
            continue
        for call in turn.calls:
            place = places.setdefault(call.key, (turn.number, turn.round, call.call.id))
            if call.status.terminal:
                results[place] = _output(call)
            if call.call.name not in tools:
                tools[call.call.name] = RecordedTool(call.call.name, call, results)
    return list(tools.values())


def _output(call: CallState) -> ToolOutput:
    # The model was told of an unknown outcome then; nobody is to be asked about it in a re-run.
    status = ToolStatus.FAILED if call.status is ToolStatus.UNKNOWN else call.status
    return ToolOutput(call.content, status, call.error, call.patch)
