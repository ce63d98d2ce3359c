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
"""Terminal statuses that are faults of the batch, the gravest first, and the fault each one is."""


def batch_fault(calls: tuple[CallState, ...]) -> Fault:
    """Return the gravest fault of a settled batch that no recovery has dealt with yet."""
    for status, kind in TROUBLE.items():
        names = [call.call.name for call in calls if call.status is status and not call.handled]
        if names:
            return Fault(kind=kind, message=f"{kind.replace('_', ' ')}: {', '.join(names)}")
    raise AssertionError("a batch without trouble has no fault")


def plan_for(fault: Fault, turn: Turn, settings: SessionSettings) -> RecoveryPlan:
    """Return what to do about `fault`.

    A tool's trouble is told to the model, an unknown outcome by `settings.on_unknown`; a model's failure is tried again
    up to `settings.max_model_retries` times in a row, after the provider's own wish or an exponential back-off in
    seconds; a budget that is used up goes by `settings.on_budget`; the rest ends the turn.
    """
    if fault.kind in ("tool_timeout", "memory_limit"):
        return RecoveryPlan(action="resume", resume=State.PROCESSING)
    if fault.kind == "unknown_outcome":
        if settings.on_unknown == "ask":
            return RecoveryPlan(action="ask")
        return RecoveryPlan(action="resume", resume=State.PROCESSING)
    if fault.kind == "budget":
        return _budget_plan(fault, turn, settings)
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


def _budget_plan(fault: Fault, turn: Turn, settings: SessionSettings) -> RecoveryPlan:
    if fault.budget is None or turn.concluding or settings.on_budget == "fail":
        return RecoveryPlan(action="give_up")
    if settings.on_budget == "ask":
        return RecoveryPlan(action="ask", adjustment="extend")
    return RecoveryPlan(action="resume", resume=State.GENERATING_RESPONSE, adjustment="wrap_up")


def counted(turn: Turn, kind: str) -> tuple[tuple[str, int], ...]:
    """Return the turn's fault counts with one more of `kind`."""
    counts = dict(turn.fault_counts)
    counts[kind] = counts.get(kind, 0) + 1
    return tuple(sorted(counts.items()))
