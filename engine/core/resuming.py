"""The actions of the table that answer, recover and resume: pure functions that write to a cursor.

They share the small pieces of `actions`. May import the other core modules. Must never raise for an event that
`checks.CHECKS` let pass.
"""

from __future__ import annotations

from .actions import (
    call_model,
    change_call,
    close_open_calls,
    end_turn,
    follow_plan,
    handed_over,
    plan_recovery,
    prepare,
    recover_batch,
    run_call,
    settle,
)
from .budgets import extended
from .cursor import Cursor
from .effects import CANCEL_WORK, CLOSE, AskUser, Recover, effect_id
from .grants import Here, given, revoked
from .guards import after_interruption, answered_call, answered_request, place_of, plan_resumes_generating
from .recovery import TROUBLE, decided, trouble_of
from .session import CallState
from .values import Message, Outcome, RecoveryPlan, Request, State, ToolStatus

CONCLUDE = "The budget of this turn is used up. Answer now with what you have; no tools are left."
"""What the model is told when a turn wraps up."""

EXTENDED = "The budget was extended: tools may be called again."
"""What the model is told when its calls were refused for want of a budget and there is more now."""


def cancel_turn(cursor: Cursor) -> None:
    """End the turn as cancelled; calls that are still open get a terminal result."""
    reason = cursor.event.reason or "cancelled"
    close_open_calls(cursor, f"cancelled: {reason}")
    cursor.effects.append(CANCEL_WORK)
    end_turn(cursor, Outcome.CANCELLED, reason)


def give_up(cursor: Cursor) -> None:
    """End the turn as failed with its fault; calls that are still open get a terminal result."""
    fault = cursor.open_turn.fault
    reason = fault.message if fault else "recovery failed"
    close_open_calls(cursor, f"cancelled: {reason}")
    end_turn(cursor, Outcome.FAILED, reason)


def shut_down(cursor: Cursor) -> None:
    """End the turn as failed and let go of the session; it comes back idle."""
    give_up(cursor)
    cursor.left = State.IDLE
    cursor.effects.append(CLOSE)


def start_answered_call(cursor: Cursor) -> None:
    """Let the call run that the answer is about, with the arguments that the answer says; keep a grant it gives."""
    run_call(cursor, _let_go(cursor))


def hand_over(cursor: Cursor) -> None:
    """Hand the call to the host that the answer is about, and ask what came of it."""
    call = _let_go(cursor)
    handed, request = handed_over(cursor, call)
    change_call(cursor, call.call.id, status=handed.status, handed=True)
    cursor.change_turn(requests=(*cursor.open_turn.requests, request))
    cursor.effects.append(AskUser(request=request))


def _let_go(cursor: Cursor) -> CallState:
    event = cursor.event
    request = _take_request(cursor)
    call_id = request.call_id
    call = change_call(cursor, call_id, status=ToolStatus.QUEUED, approved=True, handled=False, content="", error=None)
    if event.plan is not None:
        asked = call.call.model_copy(update={"arguments": event.arguments, "arguments_text": None})
        call = change_call(cursor, call_id, call=asked, plan=event.plan)
    if event.grant is not None:
        # A grant is made where the answer is taken: only `now` comes from outside, and nothing here asks for it.
        here = Here(cursor.id, cursor.open_turn.number, cursor.opened.user, now="")
        cursor.grants = (*cursor.grants, given(event.grant, request.id, here, event.by))
    return call


def drop_grant(cursor: Cursor) -> None:
    """Take a grant back."""
    cursor.grants = revoked(cursor.grants, cursor.event.grant_id)


def close_answered_call(cursor: Cursor) -> None:
    """Give the call that the answer is about its end."""
    closed = answered_call(cursor)
    _take_request(cursor)
    place = place_of(cursor.calls, closed.call.id)
    assert place is not None
    cursor.calls[place] = closed._replace(handed=False)
    if cursor.event.blob is not None:
        cursor.spilled = True


def settle_answered_call(cursor: Cursor) -> None:
    """Give the last open call its result and prepare the next round."""
    close_answered_call(cursor)
    settle(cursor)


def recover_answered_batch(cursor: Cursor) -> None:
    """Give the last open call its result and plan what to do about its siblings' trouble."""
    close_answered_call(cursor)
    recover_batch(cursor)


def note_fault(cursor: Cursor) -> None:
    """Stop what is in flight and plan what to do about the fault.

    Only a model call can be taken up again as it was. A fault that strikes anywhere else ends the turn: resuming could
    leave open calls behind, or skip what the host asked for.
    """
    cursor.effects.append(CANCEL_WORK)
    fault = cursor.event.fault
    # What a recovery waits for may move too far away: its plan is replaced by one to park.
    moved = fault.kind == "gate_closed" and plan_resumes_generating(cursor)
    if moved or (cursor.source is State.GENERATING_RESPONSE and fault.kind not in TROUBLE.values()):
        plan_recovery(cursor, fault)
    else:
        follow_plan(cursor, fault, RecoveryPlan(action="give_up"))


def replan(cursor: Cursor) -> None:
    """Put the host's plan in the place of the engine's, and ask for it to be carried out."""
    plan = decided(cursor.event.plan, cursor.open_turn, cursor.opened.settings)
    cursor.change_turn(plan=plan)
    cursor.effects.append(Recover(plan=plan))


def resume_processing(cursor: Cursor) -> None:
    """Tell the model about the trouble: move the batch into the conversation and prepare the next round."""
    cursor.change_turn(plan=None, fault=None)
    settle(cursor)


def resume_generating(cursor: Cursor) -> None:
    """Ask the model again, in the same round; or for its last reply, where the plan says so."""
    plan = cursor.open_turn.plan
    if plan is not None and plan.adjustment == "wrap_up":
        _tell(cursor, CONCLUDE)
        cursor.change_turn(round=cursor.open_turn.round + 1, concluding=True)
    cursor.change_turn(plan=None, fault=None)
    call_model(cursor)


def ask_for_more(cursor: Cursor) -> None:
    """Ask whether the turn may use as much again of the budget that is used up."""
    fault = cursor.open_turn.fault
    assert fault is not None
    request = Request(
        id=f"{effect_id(cursor.id, cursor.seq, 0)}:budget", kind="budget",
        text=f"{fault.message}. May it use as much again?", expires_at=cursor.event.expires_at,
    )  # fmt: skip
    # The fault stays: it says which budget an answer is about.
    cursor.change_turn(requests=(request,), plan=None)
    cursor.effects.append(AskUser(request=request))


def extend_budget(cursor: Cursor) -> None:
    """Add as much again to the budget that is used up, and go on with the next round."""
    fault = cursor.open_turn.fault
    assert fault is not None
    assert fault.budget is not None
    _take_request(cursor)
    cursor.change_turn(extended=extended(cursor.open_turn, cursor.opened.settings, fault.budget), fault=None)
    if fault.budget == "tool_calls":
        # It has read that its calls were not run, and would not ask again.
        _tell(cursor, EXTENDED)
    prepare(cursor)


def refuse_budget(cursor: Cursor) -> None:
    """End the turn as failed: no more of the budget is given."""
    _take_request(cursor)
    fault = cursor.open_turn.fault
    assert fault is not None
    said = f": {cursor.event.text}" if cursor.event.text else ""
    end_turn(cursor, Outcome.FAILED, f"{fault.message}; more was refused{said}")


def park(cursor: Cursor) -> None:
    """Put the turn aside until the time that the plan names. Nobody is asked, but anybody may answer before."""
    plan, fault = cursor.open_turn.plan, cursor.open_turn.fault
    assert plan is not None
    assert fault is not None
    request = Request(
        id=f"{effect_id(cursor.id, cursor.seq, 0)}:parked",
        kind="parked",
        text=f"{fault.message}; the turn goes on by itself at {plan.not_before}",
        not_before=plan.not_before,
    )
    cursor.change_turn(requests=(request,), plan=None)


def resume_parked(cursor: Cursor) -> None:
    """Ask the model again, in the same round, after the turn was parked."""
    _take_request(cursor)
    resume_generating(cursor)


def ask_about_outcomes(cursor: Cursor) -> None:
    """Ask about every write whose end nobody saw."""
    requests = tuple(
        Request(
            # With the sequence: a late answer to an earlier question about this call must not answer this one.
            id=f"{call.key}:outcome:{cursor.seq}",
            kind="outcome",
            call_id=call.call.id,
            text=f"{call.call.name} was started and its end was never seen. Did it take effect?",
        )
        for call in cursor.calls
        if call.status is ToolStatus.UNKNOWN and not call.handled
    )
    # A failure that ends the turn still does when the questions are answered.
    for place, call in enumerate(cursor.calls):
        if trouble_of(call) in TROUBLE.values():
            cursor.calls[place] = call._replace(handled=True)
    cursor.change_turn(requests=cursor.open_turn.requests + requests, plan=None, fault=None)
    cursor.effects.extend(AskUser(request=request) for request in requests)


def ask_again(cursor: Cursor) -> None:
    """Put the pending questions again. A parked turn asks nobody: it waits for its time."""
    _leave_shutdown(cursor)
    questions = (request for request in cursor.open_turn.requests if request.kind != "parked")
    cursor.effects.extend(AskUser(request=request) for request in questions)


def prepare_again(cursor: Cursor) -> None:
    """Prepare the context again."""
    _leave_shutdown(cursor)
    prepare(cursor)


def call_model_again(cursor: Cursor) -> None:
    """Ask the model again."""
    _leave_shutdown(cursor)
    call_model(cursor)


def recover_again(cursor: Cursor) -> None:
    """Carry out the recovery plan again."""
    _leave_shutdown(cursor)
    plan = cursor.open_turn.plan
    assert plan is not None
    cursor.effects.append(Recover(plan=plan))


def wake(cursor: Cursor) -> None:
    """Come back from a shutdown with nothing to do."""
    _leave_shutdown(cursor)


def run_again(cursor: Cursor) -> None:
    """Issue the outstanding calls again, and the pending questions."""
    _note_interruption(cursor)
    for call in cursor.calls:
        if call.runs:
            run_call(cursor, call)
    cursor.effects.extend(AskUser(request=request) for request in cursor.open_turn.requests)


def wait_again(cursor: Cursor) -> None:
    """Nothing runs any more: put the pending questions again."""
    _note_interruption(cursor)
    ask_again(cursor)


def recover_interrupted(cursor: Cursor) -> None:
    """Nothing runs any more and an outcome is unknown: plan what to do about it."""
    _note_interruption(cursor)
    recover_batch(cursor)


def settle_interrupted(cursor: Cursor) -> None:
    """Every open call turned out to have happened: prepare the next round."""
    _note_interruption(cursor)
    settle(cursor)


def close(cursor: Cursor) -> None:
    """Let go of the session; remember the state it leaves."""
    cursor.left = cursor.source
    if cursor.turn is not None:
        cursor.effects.append(CANCEL_WORK)
    cursor.effects.append(CLOSE)


def begin_fork(cursor: Cursor) -> None:
    """Go on under another name, without the leave that people gave to the parent, and without the clock on questions.

    What was approved and has not started is asked about again; grants and extensions of budgets are gone.
    """
    cursor.id, cursor.grants = cursor.event.session, ()
    if cursor.left is None:
        cursor.left = cursor.source
    turn = cursor.turn
    if turn is None:
        return
    requests = [request.model_copy(update={"expires_at": None}) for request in turn.requests]
    for place, call in enumerate(cursor.calls):
        if call.approved and not call.status.terminal:
            cursor.calls[place] = call = call._replace(approved=False)
            if call.asks:
                text = call.plan.refusal or f"May {call.call.name} run?"
                # With the sequence: the parent's question about this call has been answered.
                name = f"{call.key}:approval:{cursor.seq}"
                requests.append(
                    Request(id=name, kind="approval", call_id=call.call.id, text=text, binding=call.plan.binding)
                )
    if cursor.left is State.EXECUTING_TOOLS and not any(call.runs for call in cursor.calls):
        cursor.left = State.WAITING_FOR_USER
    cursor.change_turn(requests=tuple(requests), extended=())


def _tell(cursor: Cursor, text: str) -> None:
    cursor.transcript = cursor.transcript.extended((Message(role="user", text=text),))


def _take_request(cursor: Cursor) -> Request:
    taken = answered_request(cursor)
    cursor.change_turn(requests=tuple(request for request in cursor.open_turn.requests if request is not taken))
    return taken


def _leave_shutdown(cursor: Cursor) -> None:
    cursor.left = None


def _note_interruption(cursor: Cursor) -> None:
    _leave_shutdown(cursor)
    cursor.calls[:] = after_interruption(cursor)
