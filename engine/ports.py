"""What the engine needs from outside, as Protocols of at most four methods, and the plain data they exchange.

Anything that satisfies a Protocol can be plugged in; nothing has to be inherited. May import the core and errors only.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from .core.grants import GrantTerms
from .core.notices import Notice, ToolProgress
from .core.record import TransitionRecord
from .core.values import (
    Fault,
    JsonObject,
    Message,
    ModelReply,
    Priority,
    RecoveryPlan,
    Request,
    ResourceUsage,
    ToolCall,
    ToolEffect,
    ToolSpec,
    ToolStatus,
    WirePatch,
)

Emit: TypeAlias = Callable[[Notice], None]
"""Hands a notice outward. Never blocks, never raises."""

OnFailure: TypeAlias = Literal["tell_model", "retry", "stop"]
"""What the failure of a call leads to: the model reads it; it is tried again first; the turn ends."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""An empty mapping that stays empty."""


class Clock(Protocol):
    """Tells the time. Durations come from the monotonic side, the wall clock is only ever data."""

    def time_ns(self) -> int:
        """Return the time of day: nanoseconds since 1970-01-01, UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some fixed moment of this process."""
        ...


class ModelRequest(NamedTuple):
    """What a model is asked. `messages` is a live view of the conversation: reading it is cheap, keeping it is not
    needed.
    """

    messages: Sequence[Message]
    tools: tuple[ToolSpec, ...] = ()
    parameters: Mapping[str, Any] = NOTHING
    session: str = ""
    turn: int = 0
    round: int = 0


@runtime_checkable
class Model(Protocol):
    """A language model."""

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return the reply; hand deltas to `emit` while it grows.

        Raises:
            ModelError: there is no reply; the error says whether trying again may help.
        """
        ...


@runtime_checkable
class Metered(Model, Protocol):
    """A model whose requests count against a quota at its provider."""

    @property
    def quota_key(self) -> str | None:
        """Name of the quota: models that share one give the same. Holds no secret. None: nothing is counted."""
        ...


def _ignore(notice: Notice) -> None:
    """Show a notice to nobody."""


def occupy_nothing() -> Callable[[], None]:
    """Keep no place: for calls that no engine runs."""
    return _release_nothing


def _release_nothing() -> None:
    """Give back what was never taken."""


class ToolContext(NamedTuple):
    """Everything a running tool may want to know about its request. A parameter annotated with it receives it.

    `idempotency_key` is the same however often the call is run; `timeout_s` is what the call may take, in seconds.
    `occupy` keeps the call's place among the running tools until the function it returns is called, in the event loop:
    for adapters whose work can outlive its own cancellation.
    """

    call_id: str
    name: str
    arguments: Mapping[str, Any]
    idempotency_key: str
    timeout_s: float
    session: str
    turn: int
    round: int = 1
    priority: Priority = Priority.NORMAL
    metadata: Mapping[str, Any] = NOTHING
    external_id: str | None = None
    user: str | None = None
    workspace: str | None = None
    parent: str | None = None
    emit: Emit = _ignore
    occupy: Callable[[], Callable[[], None]] = occupy_nothing

    def progress(self, text: str) -> None:
        """Tell whoever watches how far the tool is. Volatile: nothing of it is recorded."""
        self.emit(ToolProgress(self.call_id, text))


class ToolOptions(NamedTuple):
    """How a tool may be run. `conflict_key` is a format string over its arguments, such as `account:{account_id}`.

    `on_failure` says what a failure or timeout leads to: the model is told; the call is run again first, which takes an
    effect of "read" or "idempotent"; the turn ends. `cache_ttl_s` is how long a result of a read may be used again,
    `version` tells results of different code apart, `max_output_bytes` replaces the engine's limit for this tool. An
    `external` tool is never run: the host gives the results of its calls, within `timeout_s`, which may be infinite.
    """

    effect: ToolEffect = "write"
    timeout_s: float = 60.0
    conflict_key: str | None = None
    polls: bool = False
    on_failure: OnFailure = "tell_model"
    cache_ttl_s: float | None = None
    max_output_bytes: int | None = None
    version: str = ""
    external: bool = False


class ToolOutput(NamedTuple):
    """How a call ended: a terminal status, the text for the model, the kind of error where there was one, and what the
    call used where somebody measured it.
    """

    content: str
    status: ToolStatus = ToolStatus.COMPLETED
    error: str | None = None
    patch: WirePatch | None = None
    resources: ResourceUsage | None = None


@runtime_checkable
class Tool(Protocol):
    """Something a model can call."""

    @property
    def spec(self) -> ToolSpec:
        """How the tool is described to the model."""
        ...

    @property
    def options(self) -> ToolOptions:
        """How the tool may be run."""
        ...

    def bind(self, arguments: JsonObject) -> Mapping[str, Any]:
        """Return the validated arguments, ready to run with.

        Raises:
            ValueError: they do not fit; the text goes back to the model as it is.
        """
        ...

    async def run(self, bound: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Run the call. Whatever it raises, BaseException included, becomes a failed result; cancellation passes."""
        ...


@runtime_checkable
class Probing(Tool, Protocol):
    """A tool that may be able to find out whether a write whose end was not seen took place."""

    @property
    def can_probe(self) -> bool:
        """Whether it really can."""
        ...

    async def probe(self, bound: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Return the result of the write if it took place, None if it certainly did not."""
        ...


class Decision(NamedTuple):
    """What a policy says about a call, and why (the model is told)."""

    verdict: Literal["allow", "ask", "deny"]
    reason: str = ""


class Policy(Protocol):
    """Decides which calls may run."""

    def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
        """Return the decision. Pure and fast: it is taken before the call is recorded, and recorded with it."""
        ...


@runtime_checkable
class Versioned(Policy, Protocol):
    """A policy whose decisions can change: approvals are bound to the version they were asked under."""

    @property
    def version(self) -> str:
        """What tells this policy from an earlier or later one."""
        ...


class Answer(NamedTuple):
    """What an approver says to a request; see `core.grants.Ruling`."""

    approve: bool
    text: str | None = None
    by: str | None = None
    arguments: JsonObject | None = None
    result: str | None = None
    grant: GrantTerms | None = None


class Approver(Protocol):
    """Answers requests while a turn runs."""

    async def answer(self, request: Request, call: ToolCall) -> Answer | None:
        """Return the answer, or None to leave the request pending for `session.answer`."""
        ...


RecoveryHandler: TypeAlias = Callable[[Fault, RecoveryPlan], RecoveryPlan | None]
"""Decides about one kind of fault: gets the fault and the plan that the engine made of it, returns another plan, or
None to let that one stand. Called in line, so it must be quick; what it decides is recorded, and replay never asks it.
"""


class ContextProvider(Protocol):
    """Adds messages to the conversation before the first model call of a turn."""

    async def provide(self, session: str, messages: Sequence[Message]) -> Sequence[Message]:
        """Return what to add. Recorded, so replay never calls a provider."""
        ...


class Middleware(Protocol):
    """Wraps model calls and tool calls. What it returns is what is recorded."""

    async def around_model(
        self, request: ModelRequest, call: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        """Return the reply; `call` goes on to the next middleware and, in the end, to the model."""
        ...

    async def around_tool(
        self, context: ToolContext, call: Callable[[ToolContext], Awaitable[ToolOutput]]
    ) -> ToolOutput:
        """Return the output; `call` goes on to the next middleware and, in the end, to the tool."""
        ...


class Observer(Protocol):
    """Watches. Called in line, so it must be quick; an exception it raises is logged and changes nothing."""

    def on_record(self, record: TransitionRecord) -> None:
        """See a record that has just become durable."""
        ...

    def on_notice(self, session: str, notice: Notice) -> None:
        """See a volatile notice."""
        ...


class StoredLine(NamedTuple):
    """One stored record: its canonical text, and where it stands (byte offset in a file, sequence number in a
    database).
    """

    text: str
    offset: int


class SessionInfo(NamedTuple):
    """What a journal knows about a session without decoding its history."""

    id: str
    records: int
    external_id: str | None = None


class Tail(NamedTuple):
    """The last durable record of a session (0 and 64 zeros where there is none), and how many torn bytes were cut."""

    seq: int
    hash: str
    cut_bytes: int = 0


class Writer(Protocol):
    """The one right to append to one session."""

    @property
    def epoch(self) -> int:
        """Number of this claim; a later claim has a greater one."""
        ...

    @property
    def tail(self) -> Tail:
        """What was durable when the session was claimed."""
        ...

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        """Make the records durable, all together; they are when this returns, whatever happens after.

        A cancellation must not cut it short: whatever it waits for, it waits under a shield.

        Raises:
            JournalUnavailable: nothing is known to be durable; claim the session again and read its tail.
            StaleWriter: another writer has the session; nothing was written.
        """
        ...

    async def release(self) -> None:
        """Give the right up. Idempotent."""
        ...


class Blobs(Protocol):
    """A store of large values, each named by the SHA-256 of its bytes."""

    async def put(self, data: bytes) -> str:
        """Store a value durably and return its name.

        Raises:
            JournalUnavailable: it could not be stored.
        """
        ...

    async def get(self, name: str) -> bytes:
        """Return a value.

        Raises:
            UsageError: this is no name of a value.
            JournalUnavailable, JournalCorrupt: it is not there, or damaged.
        """
        ...

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes of a value from `offset` on; fewer at its end. Raises as `get` does."""
        ...


@runtime_checkable
class Journal(Protocol):
    """An append-only store of histories."""

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Return the right to append, creating the session where it is new.

        Raises:
            InvalidId: the id could leave its place.
            SessionBusy: a living writer has it and `takeover` is false.
            JournalUnavailable, JournalCorrupt, NotAJournal: the store cannot be used.
        """
        ...

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Return up to `limit` records that follow sequence `after`, in order; empty at the end or for an unknown
        session.

        Raises:
            InvalidId, JournalUnavailable, JournalCorrupt, NotAJournal: as in `claim`.
        """
        ...

    async def sessions(self) -> Sequence[SessionInfo]:
        """Return every session, sorted by id."""
        ...

    async def aclose(self) -> None:
        """Release everything that is held. Idempotent; the next use opens it again."""
        ...
