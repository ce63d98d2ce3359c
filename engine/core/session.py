"""The immutable snapshot of one session: what `step` takes and gives back.

Everything here is a projection of the history and can be rebuilt from it. An open batch of calls is held apart from the
transcript until every call in it is terminal; that is why no prefix of a history can show a model a call without its
result. Named tuples, because a step replaces several of them and they are copied fastest. May import the other core
modules' types. Must never do I/O.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from .events import SessionOpened
from .grants import Grant
from .loans import NOTHING_SPENT, Lent, Loan, Spent
from .transcript import Transcript
from .values import (
    BudgetKind,
    Fault,
    Message,
    Outcome,
    PlannedCall,
    Priority,
    RecoveryPlan,
    Request,
    ResourceUsage,
    State,
    ToolCall,
    ToolStatus,
    Usage,
    WirePatch,
)
from .view import ALL, NOT_MEASURED, Measured, Shown, View

NO_USAGE = Usage.trusted()
NOT_OPENED = SessionOpened.trusted()
NO_MESSAGES = Transcript()
NO_METADATA: Mapping[str, JsonValue] = {}


class CallState(NamedTuple):
    """One call of a turn: what was asked, what was decided, how far it is.

    `key` is the idempotency key, the id of the effect that first asked for it: (session, sequence, index of the call).
    `handled` says that a recovery has already dealt with its status; `handed` that the host has the call and will say
    what came of it; `attempt` counts its runs from 1, those that an interruption repeats not. `started_at` is when the
    last of them began, None where nobody saw it.
    """

    call: ToolCall
    plan: PlannedCall
    key: str
    status: ToolStatus = ToolStatus.QUEUED
    approved: bool = False
    content: str = ""
    error: str | None = None
    duration_s: float = 0.0
    patch: WirePatch | None = None
    handled: bool = False
    resources: ResourceUsage | None = None
    handed: bool = False
    attempt: int = 1
    started_at: str | None = None

    @property
    def started(self) -> bool:
        """Whether a durable intent was recorded and no end was seen."""
        return self.status is ToolStatus.RUNNING

    @property
    def asks(self) -> bool:
        """Whether the call waits for an approval."""
        return self.status is ToolStatus.QUEUED and self.plan.decision == "ask" and not self.approved

    @property
    def runs(self) -> bool:
        """Whether the call runs here, or is about to."""
        status = self.status
        if status is ToolStatus.QUEUED:
            return self.plan.decision != "ask" or self.approved
        return status is ToolStatus.RUNNING and not self.handed

    def message(self) -> Message:
        """Return the result as the model sees it; a call that has none yet says so."""
        text = self.content if self.status.terminal else f"{self.status.value}: no result yet"
        if self.plan.note is not None:
            text = f"{text}\n\n{self.plan.note}"
        return Message.trusted(role="tool", text=text, tool_call_id=self.call.id, patch=self.patch)


class Batch(NamedTuple):
    """The calls of one reply, with the message that asked for them, until all are terminal."""

    message: Message
    calls: tuple[CallState, ...]

    def messages(self) -> tuple[Message, ...]:
        """Return the asking message and one result a call, in the order of the calls."""
        return (self.message, *(call.message() for call in self.calls))


class Turn(NamedTuple):
    """A turn, open or just ended. `fault_counts` pairs a fault kind with how often it struck in this turn.

    `extended` pairs a budget with what was added to it; `concluding` says that the model was asked for its last reply.
    `loan` is what the session's parent lends it, `before` what earlier turns used of that; `lent` is for its children.
    `began` is where in the conversation its prompt stands.
    """

    number: int
    prompt: tuple[Message, ...] = ()
    direct_calls: tuple[ToolCall, ...] = ()
    direct_plans: tuple[PlannedCall, ...] = ()
    priority: Priority = Priority.NORMAL
    metadata: Mapping[str, JsonValue] = NO_METADATA
    opened_seq: int = 0
    round: int = 0
    continuations: int = 0
    malformed_streak: int = 0
    batch: Batch | None = None
    done: tuple[CallState, ...] = ()
    requests: tuple[Request, ...] = ()
    fault: Fault | None = None
    fault_counts: tuple[tuple[str, int], ...] = ()
    plan: RecoveryPlan | None = None
    usage: Usage = NO_USAGE
    text: str | None = None
    outcome: Outcome | None = None
    reason: str = ""
    cost_pico: int = 0
    extended: tuple[tuple[BudgetKind, int], ...] = ()
    concluding: bool = False
    loan: Loan | None = None
    before: Spent = NOTHING_SPENT
    lent: tuple[Lent, ...] = ()
    began: int = 0

    @property
    def calls(self) -> tuple[CallState, ...]:
        """Every call of the turn so far, finished ones first."""
        return (*self.done, *self.batch.calls) if self.batch else self.done


class Session(NamedTuple):
    """One conversation at one sequence number. `Session(id)`, at `seq` 0, is one that has no record yet.

    `spilled` says that the whole of a result is kept beside the journal, so that the model may want to read it.
    `shown` is what the model is shown of the conversation, `measured` how much that was when somebody counted.
    """

    id: str
    seq: int = 0
    state: State = State.IDLE
    opened: SessionOpened = NOT_OPENED
    transcript: Transcript = NO_MESSAGES
    turn: Turn | None = None
    last_turn: Turn | None = None
    turns: int = 0
    usage: Usage = NO_USAGE
    left: State | None = None
    grants: tuple[Grant, ...] = ()
    spilled: bool = False
    shown: Shown = ALL
    measured: Measured = NOT_MEASURED

    @property
    def pending(self) -> tuple[Request, ...]:
        """What the session waits for a person to answer."""
        return self.turn.requests if self.turn else ()

    @property
    def open_calls(self) -> tuple[CallState, ...]:
        """The calls of the open batch."""
        return self.turn.batch.calls if self.turn is not None and self.turn.batch is not None else ()

    def messages(self) -> Sequence[Message]:
        """Return the conversation as a model provider accepts it: every call with a result, whatever the state."""
        return self._with_open_calls(self.transcript)

    def view(self) -> Sequence[Message]:
        """Return what the model is shown of the conversation, as a provider accepts it, whatever the state."""
        return self._with_open_calls(View(self.transcript, self.shown) if self.shown.through else self.transcript)

    def _with_open_calls(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.turn is None or self.turn.batch is None:
            return messages
        return (*messages, *self.turn.batch.messages())
