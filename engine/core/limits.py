"""The limits of an engine, as one frozen, validated value. Each is enforced.

May import `values` only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .loops import LoopLimits
from .values import SessionSettings, Value


class Limits(Value):
    """What a session and its turns may use. Times in seconds.

    `max_concurrent_tools` counts running tools of one session, a thread until it really ends. `max_memory_mb` is the
    process's, in MiB, None for no limit; from four fifths of it on memory is freed and fewer tools run. A tool that has
    not ended `cancel_grace_s` after its cancellation is waited for no more. `max_execution_time_s` is
    one turn's, counted anew after each rest: the time until `session.answer` is not in it, an approver's in the engine
    is; `model_timeout_s` one model call's; a tool has its own. `max_parse_retries` replies with malformed arguments in
    a row go back to the model, one more ends the turn. `history_ring` records and `turns_ring` turns of a session stay
    in memory, `inbox_size` prompts may wait for their turn, `stream_buffer` items may wait for a slow reader before the
    oldest are dropped.
    """

    max_concurrent_tools: Annotated[int, Field(ge=1)] = 4
    max_memory_mb: Annotated[int, Field(ge=1)] | None = 1024
    cancel_grace_s: Annotated[float, Field(ge=0)] = 5.0
    max_execution_time_s: Annotated[float, Field(gt=0)] = 300.0
    max_tool_rounds: Annotated[int, Field(ge=1)] = 50
    max_parse_retries: Annotated[int, Field(ge=0)] = 2
    max_model_retries: Annotated[int, Field(ge=0)] = 3
    max_continuations: Annotated[int, Field(ge=0)] = 3
    loops: LoopLimits | None = Field(default_factory=LoopLimits)
    approval_timeout_s: Annotated[float, Field(gt=0)] | None = 30.0
    model_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    backoff_base_s: Annotated[float, Field(ge=0)] = 5.0
    history_ring: Annotated[int, Field(ge=1)] = 1000
    turns_ring: Annotated[int, Field(ge=1)] = 100
    inbox_size: Annotated[int, Field(ge=1)] = 16
    stream_buffer: Annotated[int, Field(ge=2)] = 1024

    def settings(self, on_unknown: Literal["ask", "tell_model"]) -> SessionSettings:
        """Return the part that the pure core decides by."""
        return SessionSettings(
            max_tool_rounds=self.max_tool_rounds,
            max_parse_retries=self.max_parse_retries,
            max_model_retries=self.max_model_retries,
            max_continuations=self.max_continuations,
            backoff_base_s=self.backoff_base_s,
            on_unknown=on_unknown,
        )
