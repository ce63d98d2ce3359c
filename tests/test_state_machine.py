"""Random lives of one session: every legal event, illegal ones, crashes, shutdowns; what must hold after each step."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.effects import KnownEffect, RunTool
from engine.core.events import (
    KnownEvent,
    Recovered,
    RecoveryFailed,
    RecoveryNeedsUser,
    Resumed,
    ToolFinished,
    ToolStarted,
    UserAnswered,
)
from engine.core.session import CallState, Session
from engine.core.step import advance, legal, step
from engine.core.values import Outcome, State
from engine.errors import IllegalTransition, InvalidEvent
from engine.journal.codec import Chain
from engine.testing.checks import check_session
from engine.testing.recording import Recording
from engine.testing.strategies import events, fitting, open_calls, replies

FORWARD = {
    State.IDLE: "prompt_received",
    State.PROCESSING: "context_prepared",
    State.WAITING_FOR_USER: "user_answered",
    State.SHUTDOWN: "resumed",
}
"""The kind that goes on, where there is just one."""


def is_new(call: CallState) -> bool:
    return call.runs and not call.started


class SessionMachine(RuleBasedStateMachine):
    """One session with a journal. `ended` and `doubtful` are keys of calls that must not be run again."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = Recording()
        self.links = Chain("s")
        self.folded = Session("s")
        self.ended: set[str] = set()
        self.doubtful: set[str] = set()

    @property
    def session(self) -> Session:
        return self.recording.session

    def take(self, event: KnownEvent) -> None:
        """Step, and hold the effects against what is known about the calls."""
        before = self.session
        effects = self.recording.add(event)
        self.note(event, before)
        self.check_runs(effects)
        record = self.links.decode(self.recording.records[-1].line)
        self.folded = advance(self.folded, record)

    def note(self, event: KnownEvent, before: Session) -> None:
        calls = {call.call.id: call for call in open_calls(before)}
        if isinstance(event, ToolStarted) and calls[event.call_id].plan.effect == "write":
            self.doubtful.add(calls[event.call_id].key)
        elif isinstance(event, ToolFinished):
            self.doubtful.discard(calls[event.call_id].key)
            self.ended.add(calls[event.call_id].key)
        elif isinstance(event, UserAnswered):
            request = next(request for request in before.pending if request.id == event.request_id)
            if request.kind == "outcome" and not event.approve:
                self.doubtful.discard(calls[request.call_id].key)
                self.ended.discard(calls[request.call_id].key)
        elif isinstance(event, Resumed):
            absent = {probe.call_id for probe in event.probes if not probe.happened}
            self.doubtful -= {calls[call_id].key for call_id in absent}

    def check_runs(self, effects: tuple[KnownEffect, ...]) -> None:
        keys = [effect.key for effect in effects if isinstance(effect, RunTool)]
        assert len(set(keys)) == len(keys), "a call is to run twice at once"
        assert not self.ended & set(keys), "a finished call is to run again"
        assert not self.doubtful & set(keys), "a started write is to run again without an answer"

    @initialize(event=events("session_opened"))
    def open(self, event: KnownEvent) -> None:
        self.take(event)

    def draw(self, data: st.DataObject, kind: str) -> None:
        """Take an event of a kind that fits."""
        self.take(data.draw(fitting(self.session, kind), kind))

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """Whatever brings the conversation forward; writes are started and calls are asked for more often than not."""
        now = self.session
        match now.state:
            case State.GENERATING_RESPONSE:
                self.take(
                    data.draw(st.one_of(replies(min_calls=1), replies(min_calls=1), replies(max_calls=0)), "reply")
                )
            case State.EXECUTING_TOOLS:
                kinds = ["tool_started"] * 2 if any(map(is_new, open_calls(now))) else []
                kinds += ["tool_finished", *(["user_answered"] if now.pending else [])]
                self.draw(data, data.draw(st.sampled_from(kinds), "kind"))
            case State.ERROR:
                self.recover()
            case _:
                self.draw(data, FORWARD[now.state])

    def recover(self) -> None:
        """Do what the plan says."""
        plan = self.session.turn.plan if self.session.turn is not None else None
        assert plan is not None
        carried_out: dict[str, KnownEvent] = {
            "resume": Recovered(),
            "ask": RecoveryNeedsUser(),
            "park": RecoveryNeedsUser(),
            "give_up": RecoveryFailed(),
        }
        self.take(carried_out[plan.action])

    @precondition(lambda self: self.session.seq % 4 == 0 and self.session.state is not State.SHUTDOWN)
    @rule(data=st.data())
    def disturb(self, data: st.DataObject) -> None:
        """A fault, a host that decides, a cancellation, a shutdown, other settings; not at every step, or no turn would
        get anywhere.
        """
        kinds = {"faulted", "turn_cancelled", "shutdown_requested", "session_opened"} & set(legal(self.session.state))
        plan = self.session.turn.plan if self.session.turn is not None else None
        if self.session.state is State.ERROR and plan is not None and not plan.by_host:
            kinds.add("recovery_planned")
        self.draw(data, data.draw(st.sampled_from(sorted(kinds)), "kind"))

    @precondition(lambda self: self.session.seq % 3 == 1 or any(call.started for call in open_calls(self.session)))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """Lose everything but the journal; come back, and say so where a turn was open."""
        records = self.recording.records
        self.links, self.folded = Chain("s"), Session("s")
        for record in records:
            self.folded = advance(self.folded, self.links.decode(record.line))
        self.recording.session = self.folded
        if "resumed" in legal(self.session.state):
            self.draw(data, "resumed")

    @precondition(lambda self: self.session.seq % 5 == 0)
    @rule(event=events())
    def send_anything(self, event: KnownEvent) -> None:
        """What does not fit is refused, and nothing changes; it is not recorded either way."""
        before = self.session
        refusal: IllegalTransition | InvalidEvent | None = None
        try:
            step(before, event)
        except (IllegalTransition, InvalidEvent) as error:
            refusal = error
        assert isinstance(refusal, IllegalTransition) == (event.kind not in legal(before.state))
        if isinstance(refusal, IllegalTransition):
            assert refusal.legal == legal(before.state)
        assert before == self.folded

    @invariant()
    def replay_equals_live(self) -> None:
        assert self.folded == self.session
        assert [record.seq for record in self.recording.records] == list(range(1, self.session.seq + 1))

    @invariant()
    def is_sound(self) -> None:
        if self.session.seq:
            check_session(self.session)

    @invariant()
    def keeps_every_message(self) -> None:
        """Nothing leaves a conversation again: the calls of an ended turn are all in it."""
        last = self.session.last_turn
        if last is None:
            return
        assert last.outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED)
        assert last.batch is None, "a turn ended with an open batch"
        told = [message.tool_call_id for message in self.session.transcript if message.role == "tool"]
        for call in last.calls:
            assert call.status.terminal
            assert call.call.id in told


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=50, stateful_step_count=40, report_multiple_bugs=False)
