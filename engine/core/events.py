"""The facts that enter the core: one class a kind, past tense, immutable, tagged.

What comes from outside (a reply, an approval, a decision of a policy, a probe's answer) is part of the event, so a
history replays without asking anyone again. May import `values` only. Adding a kind is a compatible change: readers of
the same record version tolerate kinds they do not know, and say so. Changing a field is not: raise the record version
and register an upcaster.
"""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter

from .grants import Ruling
from .loans import Loan, Spent
from .values import (
    Fault,
    FaultKind,
    JsonObject,
    Message,
    ModelReply,
    Natural,
    NotNegative,
    PlannedCall,
    Priority,
    RecoveryPlan,
    ResourceUsage,
    SessionSettings,
    Surroundings,
    ToolCall,
    ToolStatus,
    Value,
    WirePatch,
)


class SessionOpened(Value):
    """The session was created, or opened with other settings, or in other surroundings, than it was last recorded with.

    `loan` is what its parent lends it: all its turns together use no more.
    """

    kind: Literal["session_opened"] = "session_opened"
    settings: SessionSettings = Field(default_factory=SessionSettings.trusted)
    around: Surroundings = Field(default_factory=Surroundings.trusted)
    external_id: str | None = None
    user: str | None = None
    workspace: str | None = None
    parent: str | None = None
    metadata: JsonObject = Field(default_factory=dict)
    loan: Loan | None = None


class SessionForked(Value):
    """A session began with the records of another one before it, up to here. `parent` holds the record before this."""

    kind: Literal["session_forked"] = "session_forked"
    session: str
    parent: str


class PromptReceived(Value):
    """A turn was opened. Normally with one user message; an imported log may open one with several, or with none."""

    kind: Literal["prompt_received"] = "prompt_received"
    messages: tuple[Message, ...] = ()
    direct_calls: tuple[ToolCall, ...] = ()
    plans: tuple[PlannedCall, ...] = ()
    priority: Priority = Priority.NORMAL
    metadata: JsonObject = Field(default_factory=dict)


class ContextPrepared(Value):
    """The model's view was prepared. `messages` are what context providers added; they stay in the conversation."""

    kind: Literal["context_prepared"] = "context_prepared"
    messages: tuple[Message, ...] = ()


class ContextCompacted(Value):
    """A text takes the place of the beginning of the conversation in what the model is shown; the conversation itself
    stays whole. `keeps` of its newest messages stay as they are, and so do system messages, pinned ones, and the prompt
    of the open turn.

    Without a `text` nothing changed, and `reason` says why. `reply` is what the model answered when it was asked for a
    summary, `fault` why there is none, `cost_pico` what it cost. Tokens are estimated, of all that the model is shown.
    """

    kind: Literal["context_compacted"] = "context_compacted"
    keeps: Natural = 0
    text: str = ""
    reason: str = ""
    reply: ModelReply | None = None
    fault: Fault | None = None
    cost_pico: Natural | None = None
    tokens_before: Natural = 0
    tokens_after: Natural = 0


class ModelReplied(Value):
    """The model answered; `plans` says, call by call in the same order, what was decided about its calls.

    `cost_pico` is what it cost by the prices of that day, in 10^-12 of the unit they are given in. One that is
    `outgrown` was cut off by a full window, and is asked for again when there is room.
    """

    kind: Literal["model_replied"] = "model_replied"
    reply: ModelReply
    plans: tuple[PlannedCall, ...] = ()
    cost_pico: Natural | None = None
    outgrown: bool = False


class ToolStarted(Value):
    """The durable intent of a call with effects on the world, written before the call starts."""

    kind: Literal["tool_started"] = "tool_started"
    call_id: str


class ToolFinished(Value):
    """A call reached a terminal status. `content` is the text the model gets; `blob` names the whole of a text that was
    too long for it. `started_at` is the time of day at which it began to run, for the last time.
    """

    kind: Literal["tool_finished"] = "tool_finished"
    call_id: str
    status: ToolStatus = ToolStatus.COMPLETED
    content: str = ""
    error: str | None = None
    duration_s: NotNegative = 0.0
    patch: WirePatch | None = None
    resources: ResourceUsage | None = None
    blob: str | None = None
    started_at: str | None = None


class ToolRetried(Value):
    """A call failed and is to be run again, under the same idempotency key."""

    kind: Literal["tool_retried"] = "tool_retried"
    call_id: str
    status: ToolStatus = ToolStatus.FAILED
    content: str = ""
    error: str | None = None
    duration_s: NotNegative = 0.0


class LateResult(Value):
    """The thread of a call that had been given up has ended. What it gave is ignored: the call has its end."""

    kind: Literal["late_result"] = "late_result"
    call_id: str
    key: str


class UserAnswered(Ruling):
    """A pending request was answered. `plan` says what was decided about a call whose arguments the answer changed,
    `overdue` that nobody answered in time; `blob` names the whole of a text that was too long for the model;
    `objection` is why a task is not handed to the host although the answer lets it go.
    """

    kind: Literal["user_answered"] = "user_answered"
    request_id: str
    plan: PlannedCall | None = None
    overdue: bool = False
    blob: str | None = None
    objection: str | None = None


class GrantRevoked(Value):
    """A grant was taken back. Calls that it has let through and that have not started do not start any more."""

    kind: Literal["grant_revoked"] = "grant_revoked"
    grant_id: str
    by: str | None = None


class BudgetLent(Value):
    """A part of the open turn's budgets was set aside for a child session. The loan's id comes from the record."""

    kind: Literal["budget_lent"] = "budget_lent"
    child: str
    loan: Loan


class BudgetSettled(Value):
    """A child session ended and gave back what it had not used. Recorded in its own history and in its parent's."""

    kind: Literal["budget_settled"] = "budget_settled"
    loan: str
    spent: Spent = Field(default_factory=Spent.trusted)


class Faulted(Value):
    """An expected failure happened outside a tool's own result."""

    kind: Literal["faulted"] = "faulted"
    fault: Fault

    @classmethod
    def of(cls, kind: FaultKind, message: str, *, retryable: bool = False) -> Self:
        """Return the event of a fault that is said in a few words."""
        return cls(fault=Fault(kind=kind, message=message, retryable=retryable))


class RecoveryPlanned(Value):
    """A handler of the host decided otherwise about the fault than the engine did, before anything was done."""

    kind: Literal["recovery_planned"] = "recovery_planned"
    plan: RecoveryPlan


class Recovered(Value):
    """The recovery plan was carried out; the interrupted step is done again. `waited_s` is what it really took."""

    kind: Literal["recovered"] = "recovered"
    waited_s: NotNegative = 0.0


class RecoveryNeedsUser(Value):
    """The fault cannot be mended without an answer. From `expires_at` on no more of a budget is given."""

    kind: Literal["recovery_needs_user"] = "recovery_needs_user"
    expires_at: str | None = None


class RecoveryFailed(Value):
    """The turn was given up."""

    kind: Literal["recovery_failed"] = "recovery_failed"


class TurnCancelled(Value):
    """The turn was called off."""

    kind: Literal["turn_cancelled"] = "turn_cancelled"
    reason: str = ""


class ProbeResult(Value):
    """What a tool's probe found out about a write whose end was not seen."""

    call_id: str
    happened: bool
    content: str = ""


class Resumed(Value):
    """The session was opened again inside a turn, or after a shutdown. Outstanding effects are issued again."""

    kind: Literal["resumed"] = "resumed"
    probes: tuple[ProbeResult, ...] = ()


class RewrittenRecord(Value):
    """One record that was rewritten: its sequence, the hash it keeps in the chain, the digest of what stands there."""

    seq: Annotated[int, Field(ge=1)]
    hash: str
    digest: str


class RecordsRewritten(Value):
    """Earlier records are no longer what they were when they were written, on purpose: a value was taken out of them,
    or they were pruned and the last of them holds what they led to.
    """

    kind: Literal["records_rewritten"] = "records_rewritten"
    action: Literal["redacted", "pruned"]
    records: tuple[RewrittenRecord, ...]
    reason: str = ""
    by: str | None = None


class ShutdownRequested(Value):
    """The session was let go of inside a turn, in order. The state it left is kept."""

    kind: Literal["shutdown_requested"] = "shutdown_requested"
    reason: str = ""


KnownEvent: TypeAlias = (
    SessionOpened
    | SessionForked
    | PromptReceived
    | ContextPrepared
    | ContextCompacted
    | ModelReplied
    | ToolStarted
    | ToolFinished
    | ToolRetried
    | LateResult
    | UserAnswered
    | GrantRevoked
    | BudgetLent
    | BudgetSettled
    | Faulted
    | RecoveryPlanned
    | Recovered
    | RecoveryNeedsUser
    | RecoveryFailed
    | TurnCancelled
    | Resumed
    | RecordsRewritten
    | ShutdownRequested
)
"""Every event this release can step."""

Event: TypeAlias = Annotated[KnownEvent, Field(discriminator="kind")]
"""The discriminated union, as pydantic validates it."""

EVENT_TYPES: dict[str, type[KnownEvent]] = {
    event.model_fields["kind"].default: event
    for event in (
        SessionOpened, SessionForked, PromptReceived, ContextPrepared, ContextCompacted, ModelReplied, ToolStarted,
        ToolFinished, ToolRetried, LateResult, UserAnswered, GrantRevoked, BudgetLent, BudgetSettled, Faulted,
        RecoveryPlanned, Recovered, RecoveryNeedsUser, RecoveryFailed, TurnCancelled, Resumed, RecordsRewritten,
        ShutdownRequested,
    )
}  # fmt: skip
"""Tag → class: the closed table that decoding uses."""

EVENTS: TypeAdapter[KnownEvent] = TypeAdapter(Event, config=ConfigDict(defer_build=True))
"""Validates any event; its JSON Schema is part of the published one."""


class UnknownEvent(Value):
    """An event of a newer minor release: kept as it was read, never stepped, always reported."""

    kind: str
    data: JsonObject


HISTORY_PRUNED = "history_pruned"
"""Kind of the record that a pruned history begins with. It is no event: it holds the session that the records before
it, and the one that stood in its place, led to. It is read as an `UnknownEvent` and never stepped.
"""


__all__ = [
    "EVENTS", "EVENT_TYPES", "HISTORY_PRUNED", "BudgetLent", "BudgetSettled", "ContextCompacted", "ContextPrepared",
    "Event", "Faulted", "GrantRevoked", "KnownEvent", "LateResult", "ModelReplied", "ProbeResult", "PromptReceived",
    "RecordsRewritten", "Recovered", "RecoveryFailed", "RecoveryNeedsUser", "RecoveryPlanned", "Resumed",
    "RewrittenRecord", "SessionForked", "SessionOpened", "ShutdownRequested", "ToolFinished", "ToolRetried",
    "ToolStarted", "TurnCancelled", "UnknownEvent", "UserAnswered",
]  # fmt: skip
