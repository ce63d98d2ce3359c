"""The limits of an engine, as one frozen, validated value. Each is enforced.

May import its neighbours in core.
"""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from .budgets import MIN_OUTPUT_BYTES, ToolLimits
from .loops import LoopLimits
from .money import Money, Price, pico
from .values import (
    Finite,
    FinitePositive,
    MoreThanZero,
    Natural,
    NotNegative,
    OnBudget,
    Positive,
    SessionSettings,
    Value,
)

MemoryStrength: TypeAlias = Literal["advisory", "sampled", "rlimit"]
"""How strongly memory is bounded: not at all; by looks at the process, late by one look; by the kernel."""


class Limits(Value):
    """What a session and its turns may use. Times in seconds.

    `max_concurrent_tools` counts running tools of one session, a thread until it really ends. `max_memory_mb` is the
    process's, in MiB, None for no limit; from four fifths of it on memory is freed and fewer tools run. A tool that
    has not ended `cancel_grace_s` after its cancellation is waited for no more. `max_execution_time_s` is one turn's,
    counted anew after each rest: the time until `session.answer` is not in it, an approver's in the engine is;
    `model_timeout_s` one model call's, `provider_timeout_s` one context provider's; a tool has its own. A model call
    that has not ended `model_grace_s` after its cancellation is waited for no more; that takes a task a call, and None
    waits as long as it takes. `max_parse_retries` replies with malformed arguments in a row go back to the model, one
    more ends the turn. A call of a tool that may be retried runs up to `max_tool_retries` times more. A result of more
    than `max_output_bytes` is kept beside the journal, and the model gets a preview. `requests_per_minute` bounds what
    all sessions of an engine send together; a turn that would have to wait for longer than `park_after_s` is put aside
    until then. `history_ring` records and `turns_ring` turns of a session stay in memory, `inbox_size` prompts may
    wait for their turn, `stream_buffer` items may wait for a slow reader before the oldest are dropped.
    `required_memory_strength` is what every tool has to be bounded by: an engine that cannot keep it is refused when
    it is made. `max_parallel_tasks` sessions of one parent may be open in an engine. With `auto_compact`, a model that
    would be shown more than the share `compact_at` of `max_context_tokens` is shown a summary in the place of what is
    older; a model that knows its own window has the smaller of the two.

    The budgets of a turn have no limit unless one is given: `max_tool_calls`, `max_tokens` (input and output), and
    `max_cost`, in the unit of `prices` (model → price; "*" for every other model). `on_budget` says what happens when
    one is used up: the turn fails, a person is asked for as much again, or the model is asked for a last reply without
    tools. `tools` has limits of single tools, by name.
    """

    max_concurrent_tools: Positive = 4
    max_memory_mb: Positive | None = 1024
    cancel_grace_s: NotNegative = 5.0
    max_execution_time_s: MoreThanZero = 300.0
    max_tool_rounds: Positive = 50
    max_parse_retries: Natural = 2
    max_model_retries: Natural = 3
    max_tool_retries: Natural = 3
    max_output_bytes: Annotated[int, Field(ge=MIN_OUTPUT_BYTES)] = 32_768
    max_continuations: Natural = 3
    loops: LoopLimits | None = Field(default_factory=LoopLimits.trusted)
    approval_timeout_s: MoreThanZero | None = 30.0
    model_timeout_s: MoreThanZero = 120.0
    provider_timeout_s: MoreThanZero = 30.0
    model_grace_s: NotNegative | None = None
    backoff_base_s: NotNegative = 5.0
    max_parallel_tasks: Positive = 8
    auto_compact: bool = True
    max_context_tokens: Positive = 200_000
    compact_at: Annotated[float, Field(gt=0, le=1)] = 0.80
    requests_per_minute: FinitePositive | None = None
    park_after_s: Finite = 60.0
    history_ring: Positive = 1000
    turns_ring: Positive = 100
    inbox_size: Positive = 16
    stream_buffer: Annotated[int, Field(ge=2)] = 1024
    required_memory_strength: MemoryStrength = "advisory"
    max_tool_calls: Natural | None = None
    max_tokens: Positive | None = None
    max_cost: Money | None = None
    prices: dict[str, Price] = Field(default_factory=dict)
    on_budget: OnBudget = "fail"
    tools: dict[str, ToolLimits] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if self.max_cost is not None and not self.prices:
            raise ValueError('max_cost needs prices: Limits(max_cost="0.50", prices={"the-model": Price(...)})')
        if self.max_cost is not None and not pico(self.max_cost):
            raise ValueError("max_cost must be more than 0")
        return self

    @property
    def counts_calls(self) -> bool:
        """Whether a budget has a say about tool calls."""
        return self.max_tool_calls is not None or bool(self.tools) or self.on_budget == "wrap_up"

    @property
    def counts_output(self) -> bool:
        """Whether the tokens of a reply have to be known."""
        return self.max_tokens is not None or bool(self.prices)

    def output_bytes(self, tool: str, own: int | None = None) -> int:
        """Return how many bytes of a result the model gets at most.

        Args:
            tool: the name of the tool.
            own: what the tool itself says; what `tools` says about it goes first.
        """
        limits = self.tools.get(tool)
        given = None if limits is None else limits.max_output_bytes
        return given or own or self.max_output_bytes

    def settings(self, on_unknown: Literal["ask", "tell_model"], call_tokens: int = 0) -> SessionSettings:
        """Return the part that the pure core decides by.

        Args:
            on_unknown: who decides about a write whose end was not seen.
            call_tokens: how many tokens one reply of the model may have at most, as far as that is declared.
        """
        dearest = max((pico(price.output) for price in self.prices.values()), default=0)
        return SessionSettings(
            max_tool_rounds=self.max_tool_rounds,
            max_parse_retries=self.max_parse_retries,
            max_model_retries=self.max_model_retries,
            max_continuations=self.max_continuations,
            backoff_base_s=self.backoff_base_s,
            on_unknown=on_unknown,
            max_tool_calls=self.max_tool_calls,
            max_tokens=self.max_tokens,
            max_cost_pico=None if self.max_cost is None else pico(self.max_cost),
            call_tokens=call_tokens,
            call_cost_pico=call_tokens * dearest // 10**6,
            on_budget=self.on_budget,
        )
