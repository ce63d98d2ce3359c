"""The budgets of a turn: how much of each is used, what has no room any more, and what the model is told about it.

A model call is let through while a budget has room for what one call may use at most, as far as that was declared;
what it did use is booked with its reply. So a turn uses at most its limit and the undeclared part of one call. A tool
call is booked when it is let through, and given back when it is denied after all. What a turn lends to child sessions
is taken from it until they end, and then what they used; a session that lives on a loan uses no more in all its turns.

Pure. What is decided about calls is recorded with them, what is decided about a reply is decided by the table. May
import `loans`, `money`, `session` and `values`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from . import money
from .loans import NOTHING_SPENT, Loan, Share, Spent
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
_KINDS: tuple[BudgetKind, ...] = ("tool_calls", *_OUTPUTS)


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
    turn, settings = session.turn or session.last_turn or _next_turn(session), session.opened.settings
    found: dict[BudgetKind, Budget] = {}
    for kind in _KINDS:
        base = _base(turn, settings, kind)
        if base is not None:
            running, lent = _reserved(session, kind), sum(one.of(kind) for one in turn.lent if one.spent is None)
            used = _used(turn, kind) - lent - (running if kind == "tool_calls" else 0)
            found[kind] = Budget(used, running + lent, base + _extension(turn, kind))
    return found


def offer(session: Session, share: Share) -> Loan | str:
    """Return what the open turn can lend to a child, or why not so much. Room for one reply of its own is kept.

    Args:
        session: the parent.
        share: what its child is to get.
    """
    turn, settings = session.turn, session.opened.settings
    if turn is None:
        return "it has no open turn, and its budgets are its turns': open children from within a turn, from its tools"
    wanted = {"tool_calls": share.tool_calls, "tokens": share.tokens}
    amounts = {**wanted, "cost": None if share.cost is None else money.pico(share.cost)}
    for kind in _KINDS:
        left = _left(turn, settings, kind)
        if left is not None and (amounts[kind] or 0) > left:
            return f"it has {_shown(kind, left)} left to lend, not {_shown(kind, amounts[kind] or 0)}"
        if left == 0 and kind in _OUTPUTS:
            return f"it has no {kind} left to lend"
        if amounts[kind] is None:
            amounts[kind] = left
    return Loan(
        tool_calls=amounts["tool_calls"], tokens=amounts["tokens"], cost_pico=amounts["cost"],
        parallel_tasks=share.parallel_tasks,
    )  # fmt: skip


def too_much(turn: Turn, settings: SessionSettings, loan: Loan) -> BudgetKind | None:
    """Return a budget of which the open turn has not so much left as a loan takes."""
    for kind in _KINDS:
        left = _left(turn, settings, kind)
        if left is not None and (loan.of(kind) or 0) > left:
            return kind
    return None


def spent_before(session: Session) -> Spent:
    """Return what the turns that have ended used of the loan that a session lives on."""
    return spent_of(session.opened.loan, session.last_turn)


def spent_of(loan: Loan | None, last: Turn | None) -> Spent:
    """Return what was used of a loan up to the end of the newest turn."""
    if loan is None or last is None or last.loan is None or last.loan.id != loan.id:
        return NOTHING_SPENT
    used = {kind: last.before.of(kind) + _used(last, kind) for kind in _KINDS}
    return Spent(tool_calls=used["tool_calls"], tokens=used["tokens"], cost_pico=used["cost"])


def short_of(turn: Turn, settings: SessionSettings) -> BudgetKind | None:
    """Return a budget that has no room for one more reply of the model."""
    for kind in _OUTPUTS:
        base = _base(turn, settings, kind)
        if base is not None and _used(turn, kind) + _one_reply(turn, settings, kind) > base + _extension(turn, kind):
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
        text += f", and one more reply may take {_shown(kind, _one_reply(turn, settings, kind))}"
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
    turn, settings = session.turn or _next_turn(session), session.opened.settings
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


def _next_turn(session: Session) -> Turn:
    """Return a turn that could begin now: what the host itself asks for is decided before it is open."""
    return Turn(session.turns + 1, loan=session.opened.loan, before=spent_before(session))


def _shown(kind: BudgetKind, amount: int) -> str:
    if kind == "cost":
        return f"{money.as_text(amount)} (cost)"
    return f"{amount} {kind.replace('_', ' ')}"


def _base(turn: Turn, settings: SessionSettings, kind: BudgetKind) -> int | None:
    own = settings.max_tool_calls
    if kind != "tool_calls":
        own = settings.max_tokens if kind == "tokens" else settings.max_cost_pico
    lent = None if turn.loan is None else turn.loan.of(kind)
    if turn.loan is None or lent is None:
        return own
    left = 0 if turn.loan.settled else max(0, lent - turn.before.of(kind))
    return left if own is None else min(own, left)


def _limit(turn: Turn, settings: SessionSettings, kind: BudgetKind) -> int:
    # Whoever opened the session anew may have lifted the limit meanwhile: then there is none to extend.
    return (_base(turn, settings, kind) or 0) + _extension(turn, kind)


def _left(turn: Turn, settings: SessionSettings, kind: BudgetKind) -> int | None:
    """Return what can be lent of a budget: all of it but what is used, lent, or needed for one reply."""
    base = _base(turn, settings, kind)
    if base is None:
        return None
    kept = 0 if kind == "tool_calls" else _one_reply(turn, settings, kind)
    return max(0, base + _extension(turn, kind) - _used(turn, kind) - kept)


def _extension(turn: Turn, kind: BudgetKind) -> int:
    return dict(turn.extended).get(kind, 0)


def _used(turn: Turn, kind: BudgetKind) -> int:
    """Return what is taken of a budget: by the turn itself, and by the children that it lends to."""
    lent = sum([one.of(kind) for one in turn.lent]) if turn.lent else 0
    if kind == "tokens":
        return turn.usage.input_tokens + turn.usage.output_tokens + lent
    return lent + (turn.cost_pico if kind == "cost" else sum(map(_counts, _calls(turn))))


def _reserved(session: Session, kind: BudgetKind) -> int:
    if kind == "tool_calls":
        calls = _calls(session.turn) if session.turn is not None else ()
        return sum(_counts(call) and not call.status.terminal for call in calls)
    if session.state is not State.GENERATING_RESPONSE or session.turn is None:
        return 0
    return _one_reply(session.turn, session.opened.settings, kind)


def _one_reply(turn: Turn, settings: SessionSettings, kind: BudgetKind) -> int:
    """Return what must be left for a reply: what it was declared to use at most, one at least, the whole at most."""
    declared = settings.call_tokens if kind == "tokens" else settings.call_cost_pico
    return max(1, min(declared, _base(turn, settings, kind) or 0))


def _calls(turn: Turn) -> tuple[CallState, ...]:
    # Not `turn.calls`: the draft of a turn has fields only.
    return turn.done if turn.batch is None else (*turn.done, *turn.batch.calls)


def _counts(call: CallState) -> bool:
    """Whether a call takes from the budget: it was let through, and nobody denied it afterwards."""
    return call.plan.decision in ("run", "ask") and call.status is not ToolStatus.DENIED


def _calls_made(turn: Turn, name: str) -> int:
    return sum(call.call.name == name and _counts(call) for call in _calls(turn))


def _room_for_calls(turn: Turn, settings: SessionSettings) -> int | None:
    if _base(turn, settings, "tool_calls") is None:
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
