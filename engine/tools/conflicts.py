"""Conflict keys where the host has a part: who carries a task out is not waited for by the calls of this engine.

Calls of one conflict key run one after the other. With a task that the host carries out that could take days, and what
was decided about the others would be of another day: so they are refused, and the model asks again when it knows what
came of the first. Pure. May import core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..core.session import CallState
from ..core.values import PlannedCall, ToolStatus


def kept_apart(plans: Sequence[PlannedCall]) -> Iterator[PlannedCall]:
    """Yield what was decided about the calls of a reply, with those refused that would run beside a task of their key.

    The first of such calls goes on. Calls that run here stay beside each other: they run in order.
    """
    going: list[PlannedCall] = []
    for plan in plans:
        other = _in_the_way(plan, going)
        if other is None:
            going.append(plan)
            yield plan
        else:
            yield plan.model_copy(
                update={"decision": "refuse", "refusal": f"not run: {_reason(other)}", "status": ToolStatus.DENIED}
            )


def in_the_way(plan: PlannedCall, calls: Iterable[CallState]) -> str | None:
    """Return why a call cannot run beside the open ones of its batch as it is planned now; None where it can."""
    others = [call.plan for call in calls if call.call.id != plan.call_id and not call.status.terminal]
    other = _in_the_way(plan, others)
    return None if other is None else _reason(other)


def _in_the_way(plan: PlannedCall, others: Iterable[PlannedCall]) -> PlannedCall | None:
    if plan.conflict_key is None or plan.decision not in ("run", "ask"):
        return None
    same = (other for other in others if other.conflict_key == plan.conflict_key)
    return next((other for other in same if plan.external or other.external), None)


def _reason(other: PlannedCall) -> str:
    return (
        f"call {other.call_id!r} has the same conflict key, and one of the two is carried out by the host; ask for it "
        "again when that call has its result"
    )
