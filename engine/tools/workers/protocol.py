"""What is said in the frames: a call and what it may use, and how it ended. May import core and its neighbours here.

A call travels as JSON: the arguments as the model wrote them, which are validated again where they are used, because
what validation makes of them can be any Python object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from ...core.values import Priority
from ...ports import Emit, ToolContext
from .limits import WorkerLimits
from .outcome import Ending, WorkerOutcome, WorkerUsage
from .target import Target


class WorkerCall(NamedTuple):
    """One call. `context` holds what the tool may want to know, by the names that `ToolContext` gives it; `backend` is
    the event loop that an async function gets. `timeout_s` counts, in seconds, from when a worker is there and has the
    call; what the tool's module imports is in it.
    """

    target: Target
    arguments: Mapping[str, Any]
    context: Mapping[str, Any]
    timeout_s: float
    limits: WorkerLimits = WorkerLimits()
    backend: str = "asyncio"

    def to_json(self) -> dict[str, Any]:
        """Return the call as a JSON object."""
        plain = {"arguments": dict(self.arguments), "context": dict(self.context), "limits": self.limits.model_dump()}
        return {**self._asdict(), **plain}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the call that `to_json` wrote."""
        call = cls(**value)
        return call._replace(target=Target(*call.target), limits=WorkerLimits.model_validate(call.limits))


def outcome_to_json(outcome: WorkerOutcome) -> list[Any]:
    """Return an outcome as a JSON array."""
    return list(outcome)


def outcome_from_json(value: list[Any]) -> WorkerOutcome:
    """Return the outcome that `outcome_to_json` wrote."""
    outcome = WorkerOutcome(*value)
    return outcome._replace(ending=Ending(outcome.ending), usage=WorkerUsage(*outcome.usage))


def context_to_json(context: ToolContext) -> dict[str, Any]:
    """Return what a context holds, but for its arguments, which travel beside it, and what only works in the host."""
    told = {name: value for name, value in context._asdict().items() if name != "arguments" and not callable(value)}
    return {**told, "metadata": dict(context.metadata)}


def context_from_json(call: WorkerCall, emit: Emit) -> ToolContext:
    """Return the context of a call in the worker, where notices go through `emit`."""
    context = ToolContext(**call.context, arguments=call.arguments, emit=emit)
    return context._replace(priority=Priority(context.priority))
