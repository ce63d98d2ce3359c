"""What is done about a fault: a pure function from (fault, turn, settings) to a plan.

The plan is recorded in the effect that carries it out, so a history shows what was tried and why. May import the other
core modules' types. Must never wait, draw a random number or look at a clock: delays are data.
"""

from __future__ import annotations

from collections.abc import Sequence

from .session import CallState, Turn
from .values import Fault, FaultKind, RecoveryPlan, SessionSettings, State, ToolStatus

MAX_DELAY_S = 60.0
"""Longest wait that a plan prescribes on its own; a provider's own wish may be longer."""

_MODEL_FAULTS = frozenset({"rate_limit", "model_failure", "bad_reply", "empty_reply"})
_BACKOFF_SHARE = {"rate_limit": 1.0, "model_failure": 0.1, "bad_reply": 0.0, "empty_reply": 0.0}

MAX_COMPACTIONS = 2
"""How often in a row a full window leads to a request that shows the model less."""

HOPELESS = frozenset({400, 401, 403, 404, 422})
"""Statuses of requests that are wrong: they are never tried again, whatever an adapter or a host says."""

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


def batch_fault(calls: Sequence[CallState]) -> Fault:
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
    the provider's own wish or an exponential back-off in seconds; one whose gate stays closed for long is put aside
    until it opens; a budget that is used up goes by `settings.on_budget`; a full window leads to a request that shows
    the model less, `MAX_COMPACTIONS` times in a row; the rest ends the turn.
    """
    if fault.kind in ("tool_timeout", "memory_limit"):
        return RecoveryPlan(action="resume", resume=State.PROCESSING)
    if fault.kind == "unknown_outcome":
        if settings.on_unknown == "ask":
            return RecoveryPlan(action="ask")
        return RecoveryPlan(action="resume", resume=State.PROCESSING)
    if fault.kind == "budget":
        return _budget_plan(fault, turn, settings)
    if fault.kind == "context_full":
        return _compaction_plan(fault, turn)
    if fault.kind == "gate_closed" and fault.not_before is not None:
        return RecoveryPlan(action="park", resume=State.GENERATING_RESPONSE, not_before=fault.not_before)
    attempt = _failures(turn) + 1
    if fault.kind not in _MODEL_FAULTS or not fault.retryable or attempt > settings.max_model_retries:
        return RecoveryPlan(action="give_up", attempt=attempt)
    backoff_s = min(MAX_DELAY_S, settings.backoff_base_s * _BACKOFF_SHARE[fault.kind] * 2.0 ** min(attempt - 1, 64))
    return RecoveryPlan(
        action="resume",
        resume=State.GENERATING_RESPONSE,
        delay_s=_delay_s(fault, backoff_s),
        not_before=fault.not_before,
        attempt=attempt,
        attempts_left=settings.max_model_retries - attempt,
    )


def tool_delay_s(attempt: int, settings: SessionSettings) -> float:
    """Return how long a call waits before this attempt, in seconds: nothing before the first, then twice as long each
    time, beginning with a tenth of `backoff_base_s`.
    """
    return 0.0 if attempt < 2 else min(MAX_DELAY_S, settings.backoff_base_s * 0.1 * 2.0 ** min(attempt - 2, 64))


def _budget_plan(fault: Fault, turn: Turn, settings: SessionSettings) -> RecoveryPlan:
    # What a parent lends nobody can extend: the child's turn fails, and the parent goes on.
    if fault.budget is None or turn.concluding or settings.on_budget == "fail" or turn.loan is not None:
        return RecoveryPlan(action="give_up")
    if settings.on_budget == "ask":
        return RecoveryPlan(action="ask", adjustment="extend")
    return RecoveryPlan(action="resume", resume=State.GENERATING_RESPONSE, adjustment="wrap_up")


def _compaction_plan(fault: Fault, turn: Turn) -> RecoveryPlan:
    attempt = compactions(turn) + 1
    if not fault.retryable or attempt > MAX_COMPACTIONS:
        return RecoveryPlan(action="give_up", attempt=attempt)
    return RecoveryPlan(
        action="resume",
        resume=State.GENERATING_RESPONSE,
        adjustment="compact",
        attempt=attempt,
        attempts_left=MAX_COMPACTIONS - attempt,
    )


def compactions(turn: Turn) -> int:
    """Return how often in a row the window was found full."""
    return dict(turn.fault_counts).get("context_full", 0)


def _delay_s(fault: Fault, backoff_s: float) -> float:
    """Return the wait: the provider's wish as the floor, and the drawn share of the back-off on top of it."""
    if fault.jitter is None:
        return backoff_s if fault.retry_after_s is None else fault.retry_after_s
    return (fault.retry_after_s or 0.0) + fault.jitter * backoff_s


def objection_to(plan: RecoveryPlan, turn: Turn, settings: SessionSettings) -> str | None:
    """Return why a plan cannot take the place of the one that is about to be carried out; None where it can.

    A turn can always be given up, its session with it, and what would be done anyway can be done later. Beyond that a
    failure of the model can be tried again or put aside, within `settings.max_model_retries` and never with a status
    that says that the request is wrong; and the trouble of a batch, all of whose calls have ended, can be told to the
    model.

    Args:
        plan: what a host decided.
        turn: the open turn, with its fault and the plan that was made of it.
        settings: bounds the attempts.
    """
    fault, made = turn.fault, turn.plan
    assert fault is not None
    assert made is not None
    if made.by_host:
        return "the host has decided about this fault already"
    if plan.end != "idle" and plan.action != "give_up":
        return "only a turn that is given up can end in a shutdown"
    if plan.action == "park" and plan.not_before is None:
        return "a turn that is put aside needs a time at which it goes on"
    if plan.action == "give_up" or plan == made.model_copy(update=_times(plan)):
        return None
    if _asks_model_again(plan) and fault.kind in _MODEL_FAULTS and turn.round and turn.batch is None:
        if fault.status in HOPELESS:
            return f"a request that was answered with status {fault.status} is never sent again"
        if _failures(turn) > settings.max_model_retries:
            return f"all {settings.max_model_retries} retries (max_model_retries) are used"
        return None
    if turn.batch is not None and all(call.status.terminal for call in turn.batch.calls):
        told = plan.action == "resume" and plan.resume is State.PROCESSING
        if (told and fault.kind in TROUBLE.values()) or (plan.action == "ask" and fault.kind == "unknown_outcome"):
            return None
    where = f" at {plan.resume.value}" if plan.resume else ""
    return f"after a fault of kind {fault.kind} a turn cannot {plan.action.replace('_', ' ')}{where} here"


def _asks_model_again(plan: RecoveryPlan) -> bool:
    return plan.action in ("resume", "park") and plan.resume is State.GENERATING_RESPONSE


def _times(plan: RecoveryPlan) -> dict[str, object]:
    names = ("delay_s", "not_before", "attempt", "attempts_left")
    return {name: getattr(plan, name) for name in names}


def decided(plan: RecoveryPlan, turn: Turn, settings: SessionSettings) -> RecoveryPlan:
    """Return a host's plan as it is carried out: its attempts are counted, not chosen."""
    attempt = max(1, _failures(turn))
    left = max(0, settings.max_model_retries - attempt) if plan.action in ("resume", "park") else 0
    return plan.model_copy(update={"attempt": attempt, "attempts_left": left, "by_host": True})


def _failures(turn: Turn) -> int:
    return sum(count for kind, count in turn.fault_counts if kind in _MODEL_FAULTS)


def counted(turn: Turn, kind: str) -> tuple[tuple[str, int], ...]:
    """Return the turn's fault counts with one more of `kind`."""
    counts = dict(turn.fault_counts)
    counts[kind] = counts.get(kind, 0) + 1
    return tuple(sorted(counts.items()))
