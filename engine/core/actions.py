"""The actions of the table: pure functions that write to a cursor and ask for effects.

An action never decides a state: that is the table's. May import the other core modules. Must never raise for an event
that `checks.CHECKS` let pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from .budgets import spent, spent_of
from .cursor import Cursor, draft_batch
from .effects import PREPARE_CONTEXT, AskUser, Recover, RunTool, effect_id, model_call
from .events import ModelReplied, PromptReceived
from .grants import consumed
from .guards import has_malformed, place_of
from .loans import Lent
from .recovery import batch_fault, counted, plan_for, tool_delay_s
from .session import CallState, Turn
from .values import Fault, Message, Outcome, PlannedCall, RecoveryPlan, Request, ToolCall, ToolStatus
from .view import Measured

CONTINUE = "Continue exactly where you stopped."
"""What the model is told after a reply that its token limit cut off."""


# --- actions: the turn ------------------------------------------------------------------------------------------------


def note_opening(cursor: Cursor) -> None:
    """Take over the recorded settings."""
    cursor.opened = cursor.event


def open_turn(cursor: Cursor) -> None:
    """Open a turn with the prompt at the end of the conversation."""
    event: PromptReceived = cursor.event
    cursor.open(
        Turn(
            number=cursor.turns + 1,
            prompt=event.messages,
            direct_calls=event.direct_calls,
            direct_plans=event.plans,
            priority=event.priority,
            metadata=event.metadata,
            opened_seq=cursor.seq,
            began=len(cursor.transcript),
        )
    )
    loan = cursor.opened.loan
    if loan is not None:
        cursor.change_turn(loan=loan, before=spent_of(loan, cursor.last_turn))
    cursor.transcript = cursor.transcript.extended(event.messages)
    prepare(cursor)


def prepare(cursor: Cursor) -> None:
    """Ask for the context of the next round."""
    cursor.effects.append(PREPARE_CONTEXT)


def take_context(cursor: Cursor) -> None:
    """Add what the context providers brought, and ask the model."""
    _add_context(cursor)
    cursor.change_turn(round=cursor.open_turn.round + 1)
    call_model(cursor)


def take_context_in_vain(cursor: Cursor) -> None:
    """Add what the context providers brought, and plan what to do about a budget without room for the model's reply."""
    _add_context(cursor)
    plan_recovery(cursor, spent(cursor.open_turn, cursor.opened.settings))


def call_model(cursor: Cursor) -> None:
    """Ask the model for this round's reply."""
    cursor.effects.append(model_call(cursor.open_turn.round))


def take_direct_calls(cursor: Cursor) -> None:
    """Open a batch with the calls that the host asked for."""
    _add_context(cursor)
    turn = cursor.open_turn
    message = Message(role="assistant", tool_calls=turn.direct_calls)
    _open_batch(cursor, message, turn.direct_calls, turn.direct_plans)
    cursor.change_turn(direct_calls=(), direct_plans=())


def take_refused_direct_calls(cursor: Cursor) -> None:
    """Record the refusals of the calls that the host asked for, and prepare the model's round."""
    take_direct_calls(cursor)
    settle(cursor)


def take_calls(cursor: Cursor) -> None:
    """Open a batch with the calls of the reply."""
    reply = cursor.event.reply
    _account(cursor)
    message = Message.trusted(role="assistant", text=reply.text, tool_calls=reply.tool_calls, patch=reply.patch)
    _open_batch(cursor, message, reply.tool_calls, cursor.event.plans)


def take_refused_calls(cursor: Cursor) -> None:
    """Record calls that were all refused, and prepare the next round."""
    take_calls(cursor)
    settle(cursor)


def take_surplus_calls(cursor: Cursor) -> None:
    """Record calls beyond the round limit as not run, and give the turn up."""
    limit = cursor.opened.settings.max_tool_rounds
    _refuse_all(cursor, Fault(kind="round_limit", message=f"the turn used all of its {limit} tool rounds"))


def take_hopeless_calls(cursor: Cursor) -> None:
    """Record malformed calls for the last time, and give the turn up."""
    streak = cursor.open_turn.malformed_streak + 1
    complaint = next(plan.refusal for plan in cursor.event.plans if plan.malformed)
    message = f"the model sent malformed arguments {streak} times in a row; the last complaint: {complaint}"
    _refuse_all(cursor, Fault(kind="malformed_arguments", message=message))


def take_halted_calls(cursor: Cursor) -> None:
    """Record the calls of a model that goes round in circles, or beyond its budget, as not run, and plan what to do."""
    halted = next(plan for plan in cursor.event.plans if plan.decision == "halt")
    if halted.budget is None:
        fault = Fault(kind="loop", message=halted.refusal or "the model goes round in circles")
    else:
        fault = Fault(kind="budget", message=halted.refusal or "a budget is used up", budget=halted.budget)
    _refuse_all(cursor, fault)


def take_outgrown_reply(cursor: Cursor) -> None:
    """Book a reply that a full window cut off, keep nothing of it, and plan to show the model less."""
    _book(cursor)
    message = "the window was full before the reply was complete"
    plan_recovery(cursor, Fault(kind="context_full", message=message, retryable=True))


def continue_reply(cursor: Cursor) -> None:
    """Keep the cut reply and ask for the rest."""
    reply = cursor.event.reply
    _account(cursor)
    parts = (Message.trusted(role="assistant", text=reply.text, patch=reply.patch), Message(role="user", text=CONTINUE))
    cursor.transcript = cursor.transcript.extended(parts)
    turn = cursor.open_turn
    cursor.change_turn(text=(turn.text or "") + (reply.text or ""), continuations=turn.continuations + 1)
    prepare(cursor)


def finish_turn(cursor: Cursor) -> None:
    """End the turn with the model's text."""
    reply = cursor.event.reply
    _account(cursor)
    cursor.transcript = cursor.transcript.extended(
        (Message.trusted(role="assistant", text=reply.text, patch=reply.patch),)
    )
    earlier = cursor.open_turn.text
    text = reply.text if earlier is None else earlier + (reply.text or "")
    end_turn(cursor, Outcome.COMPLETED, "", text)


# --- actions: tool calls ----------------------------------------------------------------------------------------------


def note_start(cursor: Cursor) -> None:
    """Mark the call as started."""
    change_call(cursor, cursor.event.call_id, status=ToolStatus.RUNNING)


def note_finish(cursor: Cursor) -> None:
    """Keep the call's end."""
    event = cursor.event
    call = cursor.calls[cursor.place]
    cursor.calls[cursor.place] = CallState(
        call.call, call.plan, call.key, event.status, call.approved, event.content, event.error, event.duration_s,
        event.patch, resources=event.resources, attempt=call.attempt, started_at=event.started_at,
    )  # fmt: skip
    if event.blob is not None:
        cursor.spilled = True


def retry_call(cursor: Cursor) -> None:
    """Queue a call that failed once more, after a wait."""
    call = cursor.calls[cursor.place]
    again = call._replace(status=ToolStatus.QUEUED, attempt=call.attempt + 1)
    cursor.calls[cursor.place] = again
    run_call(cursor, again)


def lend(cursor: Cursor) -> None:
    """Set a part of the turn's budgets aside for a child session."""
    event, turn = cursor.event, cursor.open_turn
    loan = event.loan.model_copy(update={"id": effect_id(cursor.id, cursor.seq, 0)})
    cursor.change_turn(lent=(*turn.lent, Lent(event.child, loan)))


def settle_loan(cursor: Cursor) -> None:
    """Book what a child session used in the place of what it was lent."""
    event = cursor.event
    lent = (one._replace(spent=event.spent) if one.loan.id == event.loan else one for one in cursor.open_turn.lent)
    cursor.change_turn(lent=tuple(lent))


def end_loan(cursor: Cursor) -> None:
    """Use no more of what the parent lent."""
    opened = cursor.opened
    assert opened.loan is not None
    cursor.opened = opened.model_copy(update={"loan": opened.loan.model_copy(update={"settled": True})})


def note_rewriting(cursor: Cursor) -> None:
    """Change nothing: it is about records, not about the session."""


def ignore_late_result(cursor: Cursor) -> None:
    """Change nothing: the call was given up and has its end."""


def finish_batch(cursor: Cursor) -> None:
    """Keep the last call's end and prepare the next round."""
    note_finish(cursor)
    settle(cursor)


def fail_batch(cursor: Cursor) -> None:
    """Keep the last call's end and plan what to do about the trouble."""
    note_finish(cursor)
    recover_batch(cursor)


def settle(cursor: Cursor) -> None:
    """Move the settled batch into the conversation and prepare the next round."""
    _close_batch(cursor)
    prepare(cursor)


def recover_batch(cursor: Cursor) -> None:
    """Plan what to do about the gravest trouble of the batch."""
    plan_recovery(cursor, batch_fault(cursor.calls))


# --- shared pieces ----------------------------------------------------------------------------------------------------


def _add_context(cursor: Cursor) -> None:
    if cursor.event.messages:
        cursor.transcript = cursor.transcript.extended(cursor.event.messages)


def _account(cursor: Cursor) -> None:
    """Book a reply: its tokens, and whether its arguments were well-formed."""
    event: ModelReplied = cursor.event
    turn = cursor.open_turn
    streak = turn.malformed_streak + 1 if has_malformed(event.plans) else 0
    if streak != turn.malformed_streak or turn.fault_counts:
        cursor.change_turn(malformed_streak=streak, fault_counts=())
    _book(cursor)


def _book(cursor: Cursor) -> None:
    """Book what a reply used."""
    event: ModelReplied = cursor.event
    turn = cursor.open_turn
    if event.cost_pico is not None:
        cursor.change_turn(cost_pico=turn.cost_pico + event.cost_pico)
    usage = event.reply.usage
    if usage is not None:
        cursor.change_turn(usage=turn.usage + usage)
        cursor.usage = cursor.usage + usage
        if usage.input_tokens:
            # What the model was shown took so much: the conversation as it stands, without this reply.
            cursor.measured = Measured(len(cursor.transcript), usage.input_tokens)


def _open_batch(cursor: Cursor, message: Message, calls: Sequence[ToolCall], plans: tuple[PlannedCall, ...]) -> None:
    states: list[CallState] = []
    requests: list[Request] = []
    for index, (call, plan) in enumerate(zip(calls, plans, strict=True)):
        key = effect_id(cursor.id, cursor.seq, index)
        if plan.decision == "refuse":
            error = "malformed_arguments" if plan.malformed else plan.status.value
            states.append(CallState(call, plan, key, plan.status, content=plan.refusal or "refused", error=error))
            continue
        states.append(CallState(call, plan, key))
        if plan.decision == "ask":
            text = plan.refusal or f"May {call.name} run?"
            requests.append(
                Request(
                    id=f"{key}:approval", kind="approval", call_id=call.id, text=text,
                    binding=plan.binding, expires_at=plan.expires_at,
                )
            )  # fmt: skip
        else:
            if plan.grant is not None:
                cursor.grants = consumed(cursor.grants, plan.grant)
            if plan.external:
                states[-1], request = handed_over(cursor, states[-1])
                requests.append(request)
            else:
                cursor.effects.append(RunTool.trusted(call_id=call.id, key=key))
    if requests:
        cursor.effects.extend(AskUser(request=request) for request in requests)
    cursor.change_turn(batch=draft_batch(message, states), requests=tuple(requests))


def handed_over(cursor: Cursor, call: CallState) -> tuple[CallState, Request]:
    """Return a call as one that the host has, and the question what came of it."""
    request = Request(
        # With the sequence: a call can be handed over again, when it turned out that nothing had happened.
        id=f"{call.key}:external:{cursor.seq}", kind="external", call_id=call.call.id,
        text=f"What did {call.call.name} give?", expires_at=call.plan.due_at,
    )  # fmt: skip
    return call._replace(status=ToolStatus.RUNNING, handed=True), request


def run_call(cursor: Cursor, call: CallState) -> None:
    """Ask for a run of a call, after the wait that its attempt takes."""
    delay_s = tool_delay_s(call.attempt, cursor.opened.settings)
    cursor.effects.append(RunTool(call_id=call.call.id, key=call.key, delay_s=delay_s))


def _refuse_all(cursor: Cursor, fault: Fault) -> None:
    reply = cursor.event.reply
    _account(cursor)
    states = [
        CallState(
            call, plan, effect_id(cursor.id, cursor.seq, index), ToolStatus.DENIED,
            content=plan.refusal if plan.malformed and plan.refusal else f"not run: {fault.message}", error=fault.kind,
        )
        for index, (call, plan) in enumerate(zip(reply.tool_calls, cursor.event.plans, strict=True))
    ]  # fmt: skip
    message = Message.trusted(role="assistant", text=reply.text, tool_calls=reply.tool_calls, patch=reply.patch)
    cursor.change_turn(batch=draft_batch(message, states))
    _close_batch(cursor)
    plan_recovery(cursor, fault)


def change_call(cursor: Cursor, call_id: str, **changes: object) -> CallState:
    """Replace fields of one call of the open batch; return it as it is now."""
    calls = cursor.calls
    place = place_of(calls, call_id)
    assert place is not None
    calls[place] = calls[place]._replace(**changes)  # type: ignore[arg-type]
    return calls[place]


def _close_batch(cursor: Cursor) -> None:
    turn = cursor.open_turn
    assert turn.batch is not None
    cursor.transcript = cursor.transcript.extended(turn.batch.messages())
    cursor.change_turn(batch=None, done=(*turn.done, *turn.batch.calls))


def close_open_calls(cursor: Cursor, content: str) -> None:
    """Give every open call a terminal end and move the batch into the conversation."""
    if not cursor.calls:
        return
    for place, call in enumerate(cursor.calls):
        if not call.status.terminal:
            text = content + _doubt(call)
            cursor.calls[place] = call._replace(status=ToolStatus.CANCELLED, content=text, error="cancelled")
    _close_batch(cursor)


def _doubt(call: CallState) -> str:
    return "; it had started and may have taken effect" if call.started else ""


def end_turn(cursor: Cursor, outcome: Outcome, reason: str, text: str | None = None) -> None:
    """End the turn."""
    cursor.close_turn(outcome, reason, cursor.open_turn.text if text is None else text)


def plan_recovery(cursor: Cursor, fault: Fault) -> None:
    """Plan what to do about a fault, and ask for it."""
    follow_plan(cursor, fault, plan_for(fault, cursor.open_turn, cursor.opened.settings))


def follow_plan(cursor: Cursor, fault: Fault, plan: RecoveryPlan) -> None:
    """Ask for a recovery plan to be carried out."""
    cursor.change_turn(fault=fault, plan=plan, fault_counts=counted(cursor.open_turn, fault.kind))
    cursor.effects.append(Recover(plan=plan))
