"""What hosts decide about faults: their handlers are asked here, once a fault, and nowhere else.

A decision becomes an event before anything is done by it, so a replay never asks a handler, and a session that is
opened again goes on with what was decided. A handler that fails, or decides what cannot be, changes nothing: that is
logged, and the engine's own plan is carried out. May import core, ports and its neighbours. Must never wait.
"""

from __future__ import annotations

from ..core.events import RecoveryPlanned
from ..core.recovery import objection_to
from ..core.session import Session
from ..core.values import RecoveryPlan
from ..errors import PlanRefused
from ..log import logger
from .clock import seconds_until, time_in
from .parts import Parts


def decide(parts: Parts, session: Session) -> RecoveryPlanned | None:
    """Ask the handler for the fault of the open turn; return what it decided, None where the engine's plan stands."""
    turn = session.turn
    assert turn is not None
    fault, made = turn.fault, turn.plan
    assert fault is not None
    assert made is not None
    handler = parts.settings.recovery.get(fault.kind)
    if handler is None or made.by_host:
        return None
    try:
        said = handler(fault, made)
        if said is None or said == made:
            return None
        plan = _whole(parts, made, said)
        objection = objection_to(plan, turn, session.opened.settings)
        if objection is not None:
            raise PlanRefused(f"the recovery handler for {fault.kind} decided what cannot be done: {objection}")
    except Exception:
        logger.exception("a recovery handler changed nothing", session=session.id, fault=fault.kind)
        return None
    return RecoveryPlanned(plan=plan)


def _whole(parts: Parts, made: RecoveryPlan, said: object) -> RecoveryPlan:
    """Return what a handler said as a valid plan with its times settled, for they are to outlive this process."""
    if not isinstance(said, RecoveryPlan):
        raise PlanRefused(f"a recovery handler returned {type(said).__name__}, not a RecoveryPlan or None")
    # A copy with other fields is not validated where it is made.
    plan = RecoveryPlan.model_validate({**dict(said), "by_host": False})
    not_before = plan.not_before
    if plan.action != "park":
        # With a time of day the gate is waited for, without one the delay: a changed delay is meant.
        not_before = made.not_before if plan.delay_s == made.delay_s and plan.action == made.action else None
    elif not_before is None:
        not_before = time_in(parts.clock, plan.delay_s)
    else:
        seconds_until(parts.clock, not_before)
    return plan.model_copy(update={"not_before": not_before})
