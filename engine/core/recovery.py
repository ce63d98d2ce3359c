"""What is done about a fault: a pure function from (fault, turn, settings) to a plan.

The plan is recorded in the effect that carries it out, so a history shows what was tried and why. May import the other
core modules' types. Must never wait, draw a random number or look at a clock: delays are data.
"""

from __future__ import annotations

from .session import CallState, Turn
from .values import Fault, FaultKind, RecoveryPlan, SessionSettings, State, ToolStatus

MAX_DELAY_S = 60.0
"""Longest wait that a plan prescribes on its own; a provider's own wish may be longer."""

_MODEL_FAULTS = frozenset({"rate_limit", "model_failure", "bad_reply", "empty_reply"})
_BACKOFF_SHARE = {"rate_limit": 1.0, "model_failure": 0.1, "bad_reply": 0.0, "empty_reply": 0.0}

TROUBLE: dict[ToolStatus, FaultKind] = {
    ToolStatus.UNKNOWN: "unknown_outcome",
    ToolStatus.MEMORY_EXCEEDED: "memory_limit",
    ToolStatus.TIMED_OUT: "tool_timeout",
}
"""Terminal statuses that are faults of the batch, and the fault each one is."""

FAILURES = frozenset({ToolStatus.FAILED, ToolStatus.TIMED_OUT, ToolStatus.MEMORY_EXCEEDED})
"""Terminal statuses that end the turn where the tool says that its failures do."""

_GRAVEST_FIRST: tuple[FaultKind, ...] = ("unknown_outcome", "tool_failure", "memory_limit", "tool_timeout")


def trouble_of(call: CallState) -> FaultKind | None:
    """Return the fault that the end of a call is to its batch, if it is one."""
    return "tool_failure" if call.plan.stops and call.status in FAILURES else TROUBLE.get(call.status)


def batch_fault(calls: tuple[CallState, ...]) -> Fault:
    """Return the gravest fault of a settled batch that no recovery has dealt with yet."""
    for kind in _GRAVEST_FIRST:
        names = [call.call.name for call in calls if not call.handled and trouble_of(call) == kind]
        if names:
            return Fault(kind=kind, message=f"{kind.replace('_', ' ')}: {', '.join(names)}")
    raise AssertionError("a batch without trouble has no fault")


def plan_for(fault: Fault, turn: Turn, settings: SessionSettings) -> RecoveryPlan:
    """Return what to do about `fault`.

    A tool's trouble is told to the model, unless the tool says that its failures end the turn; an unknown outcome goes
    by `settings.on_unknown`; a model's failure is tried again up to `settings.max_model_retries` times in a row, after
    the provider's own wish or an exponential back-off in seconds; the rest ends the turn.
    """
    if fault.kind in ("tool_timeout", "memory_limit"):
        return RecoveryPlan(action="resume", resume=State.PROCESSING)
    if fault.kind == "unknown_outcome":
        if settings.on_unknown == "ask":
            return RecoveryPlan(action="ask")
        return RecoveryPlan(action="resume", resume=State.PROCESSING)
    attempt = sum(count for kind, count in turn.fault_counts if kind in _MODEL_FAULTS) + 1
    if fault.kind not in _MODEL_FAULTS or not fault.retryable or attempt > settings.max_model_retries:
        return RecoveryPlan(action="give_up", attempt=attempt)
    backoff_s = min(MAX_DELAY_S, settings.backoff_base_s * _BACKOFF_SHARE[fault.kind] * 2.0 ** min(attempt - 1, 64))
    return RecoveryPlan(
        action="resume",
        resume=State.GENERATING_RESPONSE,
        delay_s=backoff_s if fault.retry_after_s is None else fault.retry_after_s,
        attempt=attempt,
        attempts_left=settings.max_model_retries - attempt,
    )


def tool_delay_s(attempt: int, settings: SessionSettings) -> float:
    """Return how long a call waits before this attempt, in seconds: nothing before the first, then twice as long each
    time, beginning with a tenth of `backoff_base_s`.
    """
    return 0.0 if attempt < 2 else min(MAX_DELAY_S, settings.backoff_base_s * 0.1 * 2.0 ** min(attempt - 2, 64))


def counted(turn: Turn, kind: str) -> tuple[tuple[str, int], ...]:
    """Return the turn's fault counts with one more of `kind`."""
    counts = dict(turn.fault_counts)
    counts[kind] = counts.get(kind, 0) + 1
    return tuple(sorted(counts.items()))
