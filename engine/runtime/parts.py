"""What an engine is made of, frozen once and shared by all its sessions. May import ports, tools, core."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import AfterValidator, Field

from ..core.limits import Limits
from ..core.redaction import Redactor
from ..core.session import NO_USAGE, Session
from ..core.values import FaultKind, JsonObject, Outcome, Request, State, Usage, Value
from ..ports import Approver, Clock, ContextProvider, Journal, Middleware, Model, Observer, Policy, RecoveryHandler
from ..replay.turns import CallResult, call_results
from ..tools.registry import Toolbox
from .compact_settings import CompactionSettings
from .lanes import LaneLimits
from .monitor import Monitor
from .pipeline import Pipeline
from .warm_settings import WarmSettings

T = TypeVar("T")


def _plain(handler: RecoveryHandler) -> RecoveryHandler:
    if iscoroutinefunction(handler):
        raise ValueError("a recovery handler is a plain function: its decision is taken in line, and recorded")
    return handler


if TYPE_CHECKING:
    from ..predict import Predictor
    from .learning import Learner

Learns: TypeAlias = "Predictor | Learner"
"""What can learn from the sessions of an engine: one predictor for all of them, or a `Learner`."""


class EngineSettings(Value):
    """How an engine behaves.

    `system` is put before the first prompt of a session, and again when it has changed; `parameters` go to the model as
    they are; `on_unknown` says who decides about a write whose end was not seen; `exit_grace_s` is how long, in
    seconds, leaving `async with` waits for running turns before it interrupts them. `recovery` holds a handler for each
    kind of fault that the host wants to decide about. A coroutine tool that keeps the event loop for longer than
    `loop_limit_s`, and a session that works in one state for longer than `stuck_after_s`, are reported in the log and
    in `engine.stats()`; None reports none. `lanes` caps what all sessions of the engine run at once, None does not; a
    cap costs some 5 % of a small turn. `warming` says how an engine with a predictor prepares ahead. Of the open
    sessions the `sessions_in_memory` stay there that were used last, None for all; whatever it says, idle ones leave
    memory when it runs short, and come back when they are used. A session that is released or drained with at
    least `checkpoint_records` records more than it was opened with, or than its last checkpoint, leaves a checkpoint in
    the journal, and so does one at rest that has grown by a fourth as well; None leaves none. `compaction` says how a
    conversation is summarized that gets too long for the model; when that is done, and whether, `Limits` says.
    """

    system: str | None = None
    parameters: JsonObject = Field(default_factory=dict)
    on_unknown: Literal["ask", "tell_model"] = "ask"
    exit_grace_s: float = Field(default=5.0, ge=0)
    recovery: Mapping[FaultKind, Annotated[RecoveryHandler, AfterValidator(_plain)]] = Field(
        default_factory=dict[FaultKind, RecoveryHandler], repr=False
    )
    loop_limit_s: float | None = Field(default=1.0, gt=0)
    stuck_after_s: float | None = Field(default=600.0, gt=0)
    lanes: LaneLimits | None = None
    warming: WarmSettings = Field(default_factory=WarmSettings)
    sessions_in_memory: int | None = Field(default=None, ge=1)
    checkpoint_records: int | None = Field(default=512, ge=1)
    compaction: CompactionSettings = Field(default_factory=CompactionSettings.trusted)


class TurnResult(NamedTuple):
    """How a turn came to rest.

    `outcome` WAITING means that `pending` must be answered, INTERRUPTED that the engine shut down inside the turn;
    `reason` says why it was not COMPLETED. `duration_s` is in seconds.
    """

    text: str | None
    outcome: Outcome
    tool_calls: tuple[CallResult, ...] = ()
    usage: Usage = NO_USAGE
    duration_s: float = 0.0
    reason: str = ""
    pending: tuple[Request, ...] = ()
    turn: int = 0


def turn_result(session: Session, duration_s: float) -> TurnResult:
    """Return how the newest turn of a session came to rest, or stands, with the time that it took in seconds."""
    turn = session.turn or session.last_turn
    if turn is None:
        return TurnResult(None, Outcome.COMPLETED)
    outcome = turn.outcome
    if outcome is None:
        outcome = Outcome.WAITING if session.state is State.WAITING_FOR_USER else Outcome.INTERRUPTED
    calls = call_results(turn)
    return TurnResult(
        turn.text, outcome, calls, turn.usage, duration_s, turn.reason, pending=session.pending, turn=turn.number
    )


class Parts(NamedTuple):
    """Everything a driver needs from its engine."""

    model: Model
    toolbox: Toolbox
    journal: Journal
    limits: Limits
    settings: EngineSettings
    clock: Clock
    monitor: Monitor
    pipeline: Pipeline
    middleware: tuple[Middleware, ...] = ()
    providers: tuple[ContextProvider, ...] = ()
    observers: tuple[Observer, ...] = ()
    approver: Approver | None = None
    policy: Policy | None = None
    learner: Learner | None = None
    redactor: Redactor | None = None

    def clean(self, value: T) -> T:
        """Return a value without secrets."""
        return value if self.redactor is None else self.redactor.clean(value)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What goes to the model with every request."""
        return self.settings.parameters

    @property
    def watchers(self) -> Sequence[Observer]:
        """Who sees every record."""
        return self.observers if self.learner is None else (*self.observers, self.learner)

    def closing(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """Return what lets go of everything that is held, to be called in this order, once no session runs."""
        learner = _nothing_to_close if self.learner is None else self.learner.aclose
        return learner, self.toolbox.aclose, self.journal.aclose, getattr(self.model, "aclose", _nothing_to_close)


def policy_of(given: Policy | None, approver: Approver | None) -> Policy | None:
    """Return the policy of an engine; where there is only somebody to ask, changes are asked about."""
    if given is not None or approver is None:
        return given
    from ..tools.policy import RulePolicy

    return RulePolicy(())


def learner_of(given: Learns | None) -> Learner | None:
    """Return the learner of an engine; what learning needs is loaded by engines that learn."""
    if given is None:
        return None
    from .learning import as_learner

    return as_learner(given)


async def _nothing_to_close() -> None:
    """Stand in for the end of a model that holds nothing."""
