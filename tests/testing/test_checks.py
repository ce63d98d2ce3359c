"""The checks that hosts may use have to fail where they should."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings

from engine.core.events import EVENT_TYPES, SessionOpened
from engine.core.session import Batch, CallState, Session, Turn
from engine.core.step import step
from engine.core.values import Message, Outcome, PlannedCall, RecoveryPlan, Request, State, ToolCall
from engine.errors import JournalCorrupt
from engine.testing.checks import check_history, check_messages, check_session
from engine.testing.recording import Recording
from engine.testing.strategies import events, next_events, recordings

A, B = ToolCall(id="a", name="n"), ToolCall(id="b", name="n")
CALLS = Message(role="assistant", tool_calls=(A, B))
USER = Message(role="user", text="hi")


def result(call_id: str, text: str | None = "x") -> Message:
    return Message(role="tool", text=text, tool_call_id=call_id)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([result("a")], "without a call"),
        ([CALLS, result("b"), result("a")], "due is 'a'"),
        ([CALLS, result("a")], "ends without the results of .'b'."),
        ([CALLS, result("a"), USER, result("b")], "user where the results of .'b'. are due"),
        ([CALLS, result("a"), result("b"), result("b")], "without a call"),
        ([CALLS, result("a", None)], "without a text"),
        ([Message(role="user", tool_calls=(A,))], "user has tool calls"),
    ],
)
def test_unpaired_messages_are_found(messages: list[Message], complaint: str) -> None:
    """A conversation that a provider would refuse fails, and the text names the place."""
    with pytest.raises(AssertionError, match=complaint):
        check_messages(messages)


def test_paired_messages_pass() -> None:
    """Calls followed by their results in order are fine."""
    check_messages([USER, CALLS, result("a"), result("b"), Message(role="assistant", text="done")])


RUNS = CallState(A, PlannedCall(call_id="a"), "k")
ASKS = CallState(A, PlannedCall(call_id="a", decision="ask"), "k")
REQUEST = Request(id="r", kind="approval", call_id="a", text="?")
PLAN = RecoveryPlan(action="give_up")


def turn(*calls: CallState, requests: tuple[Request, ...] = (), **more: object) -> Turn:
    message = Message(role="assistant", tool_calls=[call.call for call in calls])
    return Turn(1, batch=Batch(message, calls) if calls else None, requests=requests)._replace(**more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "open_turn", "complaint"),
    [
        (State.IDLE, turn(), "idle with an open turn"),
        (State.SHUTDOWN, None, "it left None"),
        (State.PROCESSING, None, "without an open turn"),
        (State.PROCESSING, turn(RUNS), "with an open batch"),
        (State.PROCESSING, turn(requests=(REQUEST,)), "is pending"),
        (State.PROCESSING, turn(plan=PLAN), "with the plan"),
        (State.PROCESSING, turn(outcome=Outcome.FAILED), "has the outcome"),
        (State.PROCESSING, turn(done=(RUNS,)), "left its batch without an end"),
        (State.EXECUTING_TOOLS, turn(ASKS, requests=(REQUEST,)), "none runs"),
        (State.WAITING_FOR_USER, turn(RUNS), "nothing is asked"),
        (State.WAITING_FOR_USER, turn(RUNS, requests=(REQUEST,)), "while a call runs"),
        (State.WAITING_FOR_USER, turn(ASKS, requests=(REQUEST, REQUEST)), "request id twice"),
        (State.EXECUTING_TOOLS, turn(RUNS, requests=(REQUEST,)), "about a call that is queued"),
        (State.EXECUTING_TOOLS, turn(RUNS, ASKS._replace(call=B)), "nobody"),
        (State.WAITING_FOR_USER, turn(ASKS._replace(call=B), requests=(REQUEST,)), "which is not open"),
        (State.ERROR, turn(), "with the plan None"),
    ],
)  # fmt: skip
def test_unsound_session_is_found(state: State, open_turn: Turn | None, complaint: str) -> None:
    """Each way in which a snapshot can contradict itself fails, and the text says which."""
    with pytest.raises(AssertionError, match=complaint):
        check_session(Session("s", 1, state, turn=open_turn))


def test_damaged_history_is_found() -> None:
    """A history with a missing record does not pass."""
    lines = Recording().play([SessionOpened(), SessionOpened()]).lines
    with pytest.raises(JournalCorrupt):
        check_history("s", lines[1:])


@given(recordings())
@settings(max_examples=20)
def test_drawn_events_fit(recording: Recording) -> None:
    """Every event that `next_events` draws is accepted: the history it makes is whole and sound."""
    assert check_history("s", recording.lines) == recording.session


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_kind_can_be_drawn(kind: str) -> None:
    """There is a strategy for each kind of event."""
    drawn: list[str] = []

    @given(events(kind))
    @settings(max_examples=2)
    def draw(event: object) -> None:
        drawn.append(type(event).__name__)

    draw()
    assert set(drawn) == {EVENT_TYPES[kind].__name__}


@given(next_events(Session("s")))
@settings(max_examples=10)
def test_new_session_is_opened_first(event: object) -> None:
    """What fits a session without a record is its opening."""
    assert isinstance(event, SessionOpened)
    assert step(Session("s"), event).session.seq == 1


def test_testing_does_not_require_hypothesis() -> None:
    """Everything in `engine.testing` but the strategies imports without hypothesis and pytest."""
    code = (
        "import sys; sys.modules['hypothesis'] = None; sys.modules['pytest'] = None\n"
        "import engine.testing, engine.testing.checks, engine.testing.recording, engine.testing.conformance"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
