"""The nouns of the engine: immutable, validated at creation, JSON all the way down.

Everything that enters an event, an effect or a message is built from these. May import pydantic and the standard
library's types. Must never do I/O, read a clock, draw a random number or log.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, JsonValue

from ..errors import InvalidId

JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON object. Treated as immutable once it is part of a value."""

# One object for each bound: every `Field` costs time when the engine is imported.
Natural: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
MoreThanZero: TypeAlias = Annotated[float, Field(gt=0)]
Finite: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FinitePositive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def check_id(value: object, what: str = "session id") -> str:
    """Return `value` if it matches `[A-Za-z0-9_-]{1,128}`.

    Raises:
        InvalidId: it does not.
    """
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise InvalidId(value, what)
    return value


class Value(BaseModel):
    """Base of every immutable value. Unknown fields are refused, so a typing mistake is an error where it is made."""

    # Validators are built when a class is first used: most of the time of importing the engine would go into them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def __eq__(self, other: object) -> bool:
        # A value is its fields. Pydantic's own comparison asks for more than a value has, at three times the price.
        if self.__class__ is not other.__class__:
            return NotImplemented
        return bool(vars(self) == vars(other))

    @classmethod
    def trusted(cls, **fields: object) -> Self:
        """Return a value made of fields that are known to be valid.

        For the hot path, where the fields come from values that have been validated: it costs a third of what
        validating them again does. And for constants: no validator is built while the engine is imported. Everybody
        else calls the class.
        """
        value: Self = _new(cls)
        _set_fields(value, (_DEFAULTS.get(cls) or _defaults(cls)) | fields)
        _set_names(value, _NO_NAMES)
        _set_extra(value, None)
        _set_private(value, None)
        return value


_DEFAULTS: dict[type[Value], dict[str, Any]] = {}
"""Class → what its absent fields hold; made when a class is first used."""


def _defaults(kind: type[Value]) -> dict[str, Any]:
    _DEFAULTS[kind] = found = {
        name: None if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
    }
    return found


_new: Any = object.__new__
_set_fields: Any = BaseModel.__dict__["__dict__"].__set__
_set_names: Any = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra: Any = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private: Any = BaseModel.__dict__["__pydantic_private__"].__set__
_NO_NAMES: set[str] = set()


class State(StrEnum):
    """The seven states of a session."""

    IDLE = "idle"
    PROCESSING = "processing"
    GENERATING_RESPONSE = "generating_response"
    EXECUTING_TOOLS = "executing_tools"
    WAITING_FOR_USER = "waiting_for_user"
    ERROR = "error"
    SHUTDOWN = "shutdown"


class ToolStatus(StrEnum):
    """The life of one tool call; all but the first two are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    MEMORY_EXCEEDED = "memory_exceeded"
    DENIED = "denied"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens to a call with this status."""
        return self is not ToolStatus.QUEUED and self is not ToolStatus.RUNNING


class Outcome(StrEnum):
    """How a turn came to rest. WAITING is not an end: an answer continues the turn."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    WAITING = "waiting"


class Priority(StrEnum):
    """How urgent a prompt and its tool calls are, lowest first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


ToolEffect: TypeAlias = Literal["read", "idempotent", "write"]
"""What running a tool twice does: nothing; nothing more under the same key; harm."""

FinishReason: TypeAlias = Literal[
    "stop", "tool_calls", "length", "stop_sequence", "content_filter", "context_full", "cancelled"
]
"""Why a model stopped: end of sequence; calls; token limit; a stop sequence; a filter; window full; cancelled."""

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool", "function"]


class WirePatch(Value):
    """What a provider's message says beside the engine's words, so that an imported log leaves as it came.

    `put` holds fields to set over the engine's own rendering, `drop` names fields to leave out.
    """

    put: JsonObject = Field(default_factory=dict)
    drop: tuple[str, ...] = ()


class ToolCall(Value):
    """One call that a model asks for.

    `arguments_text` is the text the model wrote, kept only where `arguments` alone would not give it back: other
    spacing or key order, or no JSON object at all (`arguments` is then empty, and the call goes back to the model as
    malformed).
    """

    id: Annotated[str, Field(min_length=1, max_length=512)]
    name: Annotated[str, Field(max_length=512)]
    arguments: JsonObject = Field(default_factory=dict)
    arguments_text: str | None = None


class Usage(Value):
    """Tokens of one or more model calls; cached ones are included in the input."""

    input_tokens: Natural = 0
    output_tokens: Natural = 0
    cached_tokens: Natural = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


class _AsTuple:
    """Lets a field that takes any sequence be validated as a tuple, which costs half of validating a sequence."""

    @staticmethod
    def __get_pydantic_core_schema__(source: object, handler: GetCoreSchemaHandler) -> Any:
        return handler.generate_schema(tuple[ToolCall, ...])


ToolCalls: TypeAlias = Annotated[Sequence[ToolCall], _AsTuple]
"""Any sequence is taken; a tuple is kept."""


class ResourceUsage(Value):
    """What one call used, as far as anybody measured it; None is not measured.

    `cpu_s` is processor time in seconds, `peak_memory_bytes` the most that a look at the call saw; of a call in a
    process of its own both are summed over everything that it started.
    """

    cpu_s: Finite | None = None
    peak_memory_bytes: Natural | None = None
    read_bytes: Natural | None = None
    written_bytes: Natural | None = None
    network_bytes: Natural | None = None


class Message(Value):
    """One item of a conversation, as a model sees it. A tool's result carries the id of its call. One that is `pinned`
    is never left out of what the model is shown.
    """

    role: Role
    text: str | None = None
    tool_calls: ToolCalls = ()
    tool_call_id: str | None = None
    patch: WirePatch | None = None
    pinned: bool = False


class ModelReply(Value):
    """What a model answered: text, tool calls, or both."""

    text: str | None = None
    tool_calls: ToolCalls = ()
    finish: FinishReason = "stop"
    usage: Usage | None = None
    model: str | None = None
    patch: WirePatch | None = None


class Prompt(Value):
    """What opens a turn: a text, calls to run without asking the model first, or messages instead of a text.

    `pinned` keeps all of it in what the model is shown, however long the conversation gets.
    """

    text: str | None = None
    calls: ToolCalls = ()
    messages: tuple[Message, ...] = ()
    priority: Priority = Priority.NORMAL
    metadata: JsonObject = Field(default_factory=dict)
    pinned: bool = False


BudgetKind: TypeAlias = Literal["tool_calls", "tokens", "cost"]
"""What a turn has a budget of."""


class PlannedCall(Value):
    """What was decided about a call before it entered the core: run it, ask first, or refuse it and say why.

    "halt" refuses it and ends the turn. `note` goes to the model beside the result. `binding` is what an approval is
    given for and `expires_at` when the question ends; `grant` is the grant that stands for an approval. `retries` says
    how often a failure is tried again, `stops` that a failure ends the turn; an `external` call is handed to the host,
    who has until `due_at` to give its result. `budget` is the budget that has no room for it.
    """

    call_id: str
    decision: Literal["run", "ask", "refuse", "halt"] = "run"
    effect: ToolEffect = "write"
    timeout_s: float | None = None
    conflict_key: str | None = None
    refusal: str | None = None
    status: Literal[ToolStatus.FAILED, ToolStatus.DENIED] = ToolStatus.FAILED
    malformed: bool = False
    note: str | None = None
    binding: str | None = None
    expires_at: str | None = None
    grant: str | None = None
    budget: BudgetKind | None = None
    retries: Natural = 0
    stops: bool = False
    external: bool = False
    due_at: str | None = None


RequestKind: TypeAlias = Literal["approval", "outcome", "external", "budget", "parked"]
"""May this call run? · A write was started and its end was never seen: did it happen? · What did the task give? · May
the turn use more? · Go on before the time has come, or give up? A parked turn goes on by itself when it has.
"""


class Request(Value):
    """Something a session waits for a person to answer, or for time to pass.

    `id` is unique within the session and stays the same after a restart. From `expires_at` on the answer is no (an
    external task has then timed out); from
    `not_before` on a parked turn goes on by itself. `call_id` is empty where the request is about no call.
    """

    id: str
    kind: RequestKind
    call_id: str = ""
    text: str
    binding: str | None = None
    expires_at: str | None = None
    not_before: str | None = None


FaultKind: TypeAlias = Literal[
    "tool_timeout", "memory_limit", "rate_limit", "model_failure", "bad_reply", "empty_reply", "malformed_arguments",
    "round_limit", "execution_limit", "loop", "budget", "unknown_outcome", "host_failure", "gate_closed",
    "tool_failure", "context_full",
]  # fmt: skip


class Fault(Value):
    """An expected failure, as data.

    `retry_after_s` is how long nothing must be sent. `jitter` is the share of the back-off that was drawn for on top of
    it, None where a gate has drawn it already; `not_before` is the time of day, ISO 8601 in UTC, at which the gate lets
    the session through. One that has `not_before` and no `retry_after_s` only stands far back in its queue. `budget`
    says which one is used up. `freed_bytes` were given back before a memory limit was found to be reached.
    """

    kind: FaultKind
    message: str
    retryable: bool = False
    status: int | None = None
    retry_after_s: Finite | None = None
    budget: BudgetKind | None = None
    jitter: Annotated[float, Field(ge=0, le=1)] | None = None
    not_before: str | None = None
    freed_bytes: Natural | None = None


class RecoveryPlan(Value):
    """What is done about a fault: wait, then resume at a state; put the turn aside; ask a person; or give it up.

    `attempt` counts the faults in a row, from 1; `attempts_left` says how many more retries remain after it.
    `not_before` is the time of day, ISO 8601 in UTC, at which a turn that was put aside goes on. `by_host` marks what a
    handler of the host decided instead of the engine. `adjustment` says what changes before the turn goes on: a budget
    is extended by a person, the model wraps up with one last reply without tools, or is shown less of the conversation.
    `end` is where a turn that is given up leaves its session: ready for the next prompt, or shut down until it is
    opened again.
    """

    action: Literal["resume", "ask", "park", "give_up"]
    resume: State | None = None
    adjustment: Literal["extend", "wrap_up", "compact"] | None = None
    delay_s: Finite = 0.0
    not_before: str | None = None
    attempt: Positive = 1
    attempts_left: Natural = 0
    by_host: bool = False
    end: Literal["idle", "shutdown"] = "idle"


OnBudget: TypeAlias = Literal["fail", "ask", "wrap_up"]
"""When a budget is used up: the turn fails; a person is asked for more; the model is asked for a last reply."""


class SessionSettings(Value):
    """The part of the configuration that the pure core decides by; recorded in the history, so replay needs no host.

    Defaults: 50 tool rounds and 3 continuations a turn, 2 retries after malformed arguments in a row, 3 after failures
    of the model in a row, the first after a tenth of `backoff_base_s` (all of it for a rate limit), unknown outcomes to
    a person, no budgets. Money is counted in 10^-12 of its unit, whole numbers, so that sums are exact; `call_tokens`
    and `call_cost_pico` are what one model call may use at most, as far as that was declared.
    """

    max_tool_rounds: Positive = 50
    max_parse_retries: Natural = 2
    max_model_retries: Natural = 3
    max_continuations: Natural = 3
    backoff_base_s: NotNegative = 5.0
    on_unknown: Literal["ask", "tell_model"] = "ask"
    max_tool_calls: Natural | None = None
    max_tokens: Positive | None = None
    max_cost_pico: Positive | None = None
    call_tokens: Natural = 0
    call_cost_pico: Natural = 0
    on_budget: OnBudget = "fail"


class Surroundings(Value):
    """What an engine puts around its sessions and the core decides nothing by: the names of its middleware and of its
    context providers, in order, and the limit of the process's memory in MiB. Recorded, so that a history can say what
    it came about with.
    """

    middleware: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    max_memory_mb: Positive | None = 1024


class ToolSpec(Value):
    """How a tool is described to a model: a name, a sentence, and the JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: JsonObject = Field(default_factory=dict)
