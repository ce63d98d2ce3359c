"""What holds of every session and every history, as functions that raise AssertionError and say what does not.

They depend on no test framework. May import core and the codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.session import CallState, Session, Turn
from ..core.step import advance
from ..core.values import Message, State, ToolStatus
from ..journal.codec import Chain


def check_messages(messages: Iterable[Message]) -> None:
    """Check that a model provider accepts the conversation.

    Every call of an assistant message has exactly one result, the results follow their message directly and in the
    order of the calls, and there is no result without a call.

    Raises:
        AssertionError: it names the message.
    """
    owed: list[str] = []
    for place, message in enumerate(messages):
        if message.role == "tool":
            assert owed, f"message {place}: a result for {message.tool_call_id!r} without a call"
            assert message.tool_call_id == owed[0], (
                f"message {place}: result of {message.tool_call_id!r}, due is {owed[0]!r}"
            )
            assert message.text is not None, f"message {place}: a result without a text"
            owed.pop(0)
            continue
        assert not owed, f"message {place}: {message.role} where the results of {owed} are due"
        assert message.role == "assistant" or not message.tool_calls, f"message {place}: {message.role} has tool calls"
        owed = [call.id for call in message.tool_calls]
    assert not owed, f"the conversation ends without the results of {owed}"


def check_view(session: Session) -> None:
    """Check that providers accept what the model is shown, and that no instruction and no pin is missing in it.

    Raises:
        AssertionError: it says what does not hold.
    """
    shown = list(session.view())
    check_messages(shown)
    needed = [message for message in session.transcript if message.pinned or message.role in ("system", "developer")]
    if session.turn is not None:
        began = session.turn.began
        needed += session.transcript[began : began + len(session.turn.prompt)]
    for message in needed:
        assert message in shown, f"the model is not shown {message!r}"


def check_session(session: Session) -> None:
    """Check that a snapshot is sound: its parts agree with its state, and providers accept its conversation.

    Raises:
        AssertionError: it says what does not hold.
    """
    check_messages(session.messages())
    check_view(session)
    state = session.state
    assert (state is State.SHUTDOWN) == (session.left is not None), f"{state}, and it left {session.left}"
    within = session.left if session.left is not None else state
    assert within is not State.SHUTDOWN, "a shutdown left a shutdown"
    turn = session.turn
    if within is State.IDLE:
        assert turn is None, "idle with an open turn"
        assert not session.pending, f"idle, and {session.pending} is pending"
        return
    assert turn is not None, f"{within} without an open turn"
    assert turn.outcome is None, f"an open turn has the outcome {turn.outcome}"
    assert (turn.plan is not None) == (within is State.ERROR), f"{within} with the plan {turn.plan}"
    assert all(call.status.terminal for call in turn.done), "a call left its batch without an end"
    _check_batch(within, turn)
    _check_requests(turn)


def _check_batch(state: State, turn: Turn) -> None:
    calls = turn.batch.calls if turn.batch is not None else ()
    match state:
        case State.EXECUTING_TOOLS:
            assert any(call.runs for call in calls), "executing tools, and none runs"
        case State.WAITING_FOR_USER:
            assert turn.requests, "waiting for the user, and nothing is asked"
            assert not any(call.runs for call in calls), "waiting for the user while a call runs"
        case State.ERROR:
            pass
        case _:
            assert turn.batch is None, f"{state} with an open batch"
            assert not turn.requests, f"{state}, and {turn.requests} is pending"


def _check_requests(turn: Turn) -> None:
    ids = [request.id for request in turn.requests]
    assert len(set(ids)) == len(ids), f"a request id twice: {ids}"
    calls: dict[str, CallState] = {call.call.id: call for call in (turn.batch.calls if turn.batch is not None else ())}
    for request in turn.requests:
        if request.kind == "budget":
            assert not calls, f"request {request.id} is about a budget while calls are open"
            continue
        if request.kind == "parked":
            assert request.not_before is not None, "a parked turn without a time at which it goes on"
            assert not calls, f"parked with open calls {sorted(calls)}"
            continue
        call = calls.get(request.call_id)
        assert call is not None, f"request {request.id} is about {request.call_id!r}, which is not open"
        wanted = {"approval": call.asks, "outcome": call.status is ToolStatus.UNKNOWN, "external": call.handed}
        assert wanted[request.kind], f"request {request.id} is about a call that is {call.status}"
    asked = {request.call_id for request in turn.requests}
    silent = [call.call.id for call in calls.values() if (call.asks or call.handed) and call.call.id not in asked]
    assert not silent, f"calls {silent} need an answer that nobody was asked for"


def check_history(session: str, lines: Sequence[str]) -> Session:
    """Check a whole history: sequence, hashes, chain, every transition, and the snapshot after each record.

    Args:
        session: whose history it is.
        lines: its canonical lines from the first on.

    Returns:
        The session after the last record.

    Raises:
        AssertionError: a snapshot is not sound.
        JournalCorrupt: a line is damaged or does not follow from the one before.
        ReplayError: a record does not reproduce.
    """
    links = Chain(session)
    folded = Session(session)
    for line in lines:
        folded = advance(folded, links.decode(line))
        check_session(folded)
    return folded


__all__ = ["check_history", "check_messages", "check_session", "check_view"]
