"""The budgets of a turn: how much of each is used, what has no room any more, and what the model is told about it.

A model call is let through while a budget has room for what one call may use at most, as far as that was declared;
what it did use is booked with its reply. So a turn uses at most its limit and the undeclared part of one call. A tool
call is booked when it is let through, and given back when it is denied after all.

Pure. What is decided about calls is recorded with them, what is decided about a reply is decided by the table. May
import `money`, `session` and `values`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from . import money
from .session import CallState, Session, Turn
from .values import (
    BudgetKind,
    Fault,
    FinitePositive,
    Natural,
    PlannedCall,
    SessionSettings,
    State,
    ToolCall,
    ToolStatus,
    Value,
)

MIN_OUTPUT_BYTES = 1024
"""The least `max_output_bytes`: it leaves room for the preview of a longer result."""

_OUTPUTS: tuple[BudgetKind, ...] = ("tokens", "cost")


class ToolLimits(Value):
    """What one tool may use beyond or below what all may: calls a turn, seconds a call, bytes of its result."""

    max_calls: Natural | None = None
    timeout_s: FinitePositive | None = None
    max_output_bytes: Annotated[int, Field(ge=MIN_OUTPUT_BYTES)] | None = None


class Budget(NamedTuple):
    """One budget of a turn as it stands. `reserved` is for what is under way; money is in 10^-12 of its unit."""

    used: int
    reserved: int
    limit: int


def budgets(session: Session) -> dict[BudgetKind, Budget]:
    """Return the budgets of the open turn, or of the newest one: those that have a limit."""
    turn, settings = session.turn or session.last_turn or Turn(0), session.opened.settings
    found: dict[BudgetKind, Budget] = {}
    for kind in ("tool_calls", *_OUTPUTS):
        base = _base(settings, kind)
        if base is not None:
            reserved, limit = _reserved(session, kind), base + _extension(turn, kind)
            used = _used(turn, kind) - (reserved if kind == "tool_calls" else 0)
            found[kind] = Budget(used, reserved, limit)
    return found


def short_of(turn: Turn, settings: SessionSettings) -> BudgetKind | None:
    """Return a budget that has no room for one more reply of the model."""
    for kind in _OUTPUTS:
        base = _base(settings, kind)
        if base is not None and _used(turn, kind) + _one_reply(settings, kind) > base + _extension(turn, kind):
            return kind
    return None


def spent(turn: Turn, settings: SessionSettings) -> Fault:
    """Return the fault of a turn that has no room for one more reply."""
    kind = short_of(turn, settings)
    assert kind is not None
    limit = _limit(turn, settings, kind)
    text = f"the turn used {_shown(kind, _used(turn, kind))} of its budget of {_shown(kind, limit)}"
    declared = settings.call_tokens if kind == "tokens" else settings.call_cost_pico
    if declared and _used(turn, kind) < limit:
        text += f", and one more reply may take {_shown(kind, _one_reply(settings, kind))}"
    return Fault(kind="budget", message=text, budget=kind)


def extended(turn: Turn, settings: SessionSettings, kind: BudgetKind) -> tuple[tuple[BudgetKind, int], ...]:
    """Return the turn's extensions after one by as much again, counted from what is used where that is more."""
    more = max(_limit(turn, settings, kind), _used(turn, kind))
    return (*((other, amount) for other, amount in turn.extended if other != kind), (kind, more))


def within_budget(
    session: Session, calls: Sequence[ToolCall], plans: Sequence[PlannedCall], tools: Mapping[str, ToolLimits]
) -> tuple[PlannedCall, ...]:
    """Return what is decided about calls after the budgets of the turn and of each tool had their say.

    A call without room is refused, and the model reads why. When it asks once more without room, or for any tool at all
    in its last reply, the budget ends the matter.

    Args:
        session: the session before the calls.
        calls: what is asked for.
        plans: what was decided about each.
        tools: limits of single tools, by name.
    """
    turn, settings = session.turn or Turn(0), session.opened.settings
    if turn.concluding:
        text = "the model asked for tools after it had been told to conclude"
        return tuple(_halted(plan, "tool_calls", text) for plan in plans)
    made = {name: _calls_made(turn, name) for name, limits in tools.items() if limits.max_calls is not None}
    room = _room_for_calls(turn, settings)
    insists = room is not None and room <= 0 and _was_told(turn)
    decided: list[PlannedCall] = []
    for call, plan in zip(calls, plans, strict=True):
        if plan.decision in ("refuse", "halt"):
            decided.append(plan)
            continue
        own = tools.get(call.name)
        if own is not None and own.timeout_s is not None:
            plan = plan.model_copy(update={"timeout_s": own.timeout_s})
        if own is not None and own.max_calls is not None and made[call.name] >= own.max_calls:
            decided.append(_refused(plan, f"not run: {call.name} may run {own.max_calls} times a turn, and has"))
        elif room is None or room > 0:
            room = None if room is None else room - 1
            if call.name in made:
                made[call.name] += 1
            decided.append(plan)
        else:
            limit = _shown("tool_calls", _limit(turn, settings, "tool_calls"))
            if insists:
                decided.append(_halted(plan, "tool_calls", f"the turn used all of its budget of {limit}"))
            else:
                text = f"not run: the turn has used its {limit}. Answer with what you have"
                decided.append(_refused(plan, text, "tool_calls"))
    return tuple(decided)


def _shown(kind: BudgetKind, amount: int) -> str:
    if kind == "cost":
        return f"{money.as_text(amount)} (cost)"
    return f"{amount} {kind.replace('_', ' ')}"


def _base(settings: SessionSettings, kind: BudgetKind) -> int | None:
    if kind == "tokens":
        return settings.max_tokens
    return settings.max_cost_pico if kind == "cost" else settings.max_tool_calls


def _limit(turn: Turn, settings: SessionSettings, kind: BudgetKind) -> int:
    # Whoever opened the session anew may have lifted the limit meanwhile: then there is none to extend.
    return (_base(settings, kind) or 0) + _extension(turn, kind)


def _extension(turn: Turn, kind: BudgetKind) -> int:
    return dict(turn.extended).get(kind, 0)


def _used(turn: Turn, kind: BudgetKind) -> int:
    if kind == "tokens":
        return turn.usage.input_tokens + turn.usage.output_tokens
    return turn.cost_pico if kind == "cost" else sum(map(_counts, _calls(turn)))


def _reserved(session: Session, kind: BudgetKind) -> int:
    if kind == "tool_calls":
        calls = _calls(session.turn) if session.turn is not None else ()
        return sum(_counts(call) and not call.status.terminal for call in calls)
    return _one_reply(session.opened.settings, kind) if session.state is State.GENERATING_RESPONSE else 0


def _one_reply(settings: SessionSettings, kind: BudgetKind) -> int:
    """Return what must be left for a reply: what it was declared to use at most, one at least, the whole at most."""
    declared = settings.call_tokens if kind == "tokens" else settings.call_cost_pico
    return max(1, min(declared, _base(settings, kind) or 0))


def _calls(turn: Turn) -> tuple[CallState, ...]:
    # Not `turn.calls`: the draft of a turn has fields only.
    return turn.done if turn.batch is None else (*turn.done, *turn.batch.calls)


def _counts(call: CallState) -> bool:
    """Whether a call takes from the budget: it was let through, and nobody denied it afterwards."""
    return call.plan.decision in ("run", "ask") and call.status is not ToolStatus.DENIED


def _calls_made(turn: Turn, name: str) -> int:
    return sum(call.call.name == name and _counts(call) for call in _calls(turn))


def _room_for_calls(turn: Turn, settings: SessionSettings) -> int | None:
    if settings.max_tool_calls is None:
        return None
    return _limit(turn, settings, "tool_calls") - _used(turn, "tool_calls")


def _was_told(turn: Turn) -> bool:
    """Whether a call of the reply before was refused for want of room."""
    reply = turn.done[-1].key.rpartition(":")[0] if turn.done else ""
    return any(call.plan.budget is not None for call in turn.done if call.key.rpartition(":")[0] == reply)


def _refused(plan: PlannedCall, text: str, budget: BudgetKind | None = None) -> PlannedCall:
    changes = {"decision": "refuse", "refusal": text, "status": ToolStatus.DENIED, "budget": budget}
    return plan.model_copy(update=changes)


def _halted(plan: PlannedCall, budget: BudgetKind, text: str) -> PlannedCall:
    return _refused(plan, text, budget).model_copy(update={"decision": "halt"})
