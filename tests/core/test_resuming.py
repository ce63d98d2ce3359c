"""Coming back after an interruption: what runs again, what is asked, what nobody can know."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from engine.core.effects import AskUser, CallModel, KnownEffect, RunTool
from engine.core.events import (
    ContextCompacted,
    KnownEvent,
    Recovered,
    RecoveryFailed,
    RecoveryNeedsUser,
    Resumed,
    TurnCancelled,
    UserAnswered,
)
from engine.core.session import Session
from engine.core.values import FaultKind, Outcome, State, ToolStatus
from engine.errors import InvalidEvent
from engine.testing.checks import check_session
from engine.testing.recording import Recording

from .scenarios import (
    ASK,
    ASKED,
    BACK,
    CONTEXT,
    IN_DOUBT,
    MALFORMED,
    READ,
    REFUSE,
    RUN,
    SESSIONS,
    STOP,
    direct,
    ended,
    fault,
    opened,
    probed,
    prompt,
    reply,
    says,
    started,
)


def play(*events: KnownEvent) -> Recording:
    return Recording().play(events)


def runs(effects: tuple[KnownEffect, ...]) -> list[str]:
    return [effect.call_id for effect in effects if isinstance(effect, RunTool)]


def asks(effects: tuple[KnownEffect, ...]) -> list[str]:
    return [effect.request.kind for effect in effects if isinstance(effect, AskUser)]


def statuses(now: Session) -> list[ToolStatus]:
    turn = now.turn or now.last_turn
    assert turn is not None
    return [call.status for call in turn.calls]


@pytest.mark.parametrize("shutdown", [True, False], ids=["shut down", "crashed"])
def test_m6_finished_calls_never_run_again(shutdown: bool) -> None:
    """After an interruption only the calls without an end are issued again, under the same key."""
    recording = play(*ASKED, reply(READ, READ), ended(1))
    key = recording.records[3].effects[1].key  # type: ignore[union-attr]
    effects = recording.play([STOP] if shutdown else []).add(BACK)
    assert [(effect.call_id, effect.key) for effect in effects if isinstance(effect, RunTool)] == [("c2", key)]


@pytest.mark.parametrize("effect", ["read", "idempotent"])
def test_started_call_without_harm_runs_again(effect: str) -> None:
    """A read or an idempotent call that had started runs again."""
    plan = {"decision": "run", "effect": effect}
    assert runs(play(*ASKED, reply(plan), started(1)).add(BACK)) == ["c1"]


def test_started_write_is_unknown_and_asked_about() -> None:
    """A write that had started is not run again: its outcome is unknown, and a person is asked."""
    recording = play(*ASKED, reply(RUN), started(1))
    assert runs(recording.add(BACK)) == []
    assert statuses(recording.session) == [ToolStatus.UNKNOWN]
    assert asks(recording.add(RecoveryNeedsUser())) == ["outcome"]


def test_started_write_that_did_not_happen_runs() -> None:
    """A probe that found nothing lets the write run; one that found it gives its result."""
    before = (*ASKED, reply(RUN, RUN), started(1), started(2))
    recording = play(*before)
    effects = recording.add(Resumed(probes=(probed(1, False), probed(2, True))))
    assert runs(effects) == ["c1"]
    assert statuses(recording.session) == [ToolStatus.QUEUED, ToolStatus.COMPLETED]


def test_probes_can_settle_the_whole_batch() -> None:
    """Where every write turns out to have happened, the next round is prepared at once."""
    recording = play(*ASKED, reply(RUN), started(1), Resumed(probes=(probed(1, True),)))
    assert recording.session.state is State.PROCESSING
    assert recording.session.transcript[-1].text == "found it"


def test_confirmed_outcome_becomes_the_result() -> None:
    """The answer that it happened gives the call a result; nothing runs."""
    recording = play(*SESSIONS["waiting for an outcome"])
    (request,) = recording.session.pending
    assert runs(recording.add(UserAnswered(request_id=request.id, approve=True))) == []
    assert recording.session.state is State.PROCESSING
    assert "took effect" in (recording.session.transcript[-1].text or "")


def test_unanswered_outcome_holds_the_batch() -> None:
    """A rerun call that ends does not settle the batch while another outcome is still asked about."""
    recording = play(*IN_DOUBT, RecoveryNeedsUser())
    first, second = recording.session.pending
    assert runs(recording.add(UserAnswered(request_id=first.id, approve=False))) == ["c1"]
    recording.add(ended(1))
    assert (recording.session.state, recording.session.pending) == (State.WAITING_FOR_USER, (second,))
    recording.add(UserAnswered(request_id=second.id, approve=True))
    assert (recording.session.state, recording.session.pending) == (State.PROCESSING, ())
    check_session(recording.session)


def test_unanswered_outcome_holds_the_batch_over_a_crash() -> None:
    """The same where the rerun call is interrupted again and its probe finds it done."""
    recording = play(*IN_DOUBT, RecoveryNeedsUser())
    first, second = recording.session.pending
    recording.play([UserAnswered(request_id=first.id, approve=False), started(1), Resumed(probes=(probed(1, True),))])
    assert recording.session.state is State.WAITING_FOR_USER
    assert recording.session.pending == (second,)


def test_request_ids_are_never_used_twice() -> None:
    """A second question about the same call has another id, so a late answer to the first cannot answer it."""
    recording = play(*ASKED, reply(RUN), started(1), BACK, RecoveryNeedsUser())
    (first,) = recording.session.pending
    recording.play([UserAnswered(request_id=first.id, approve=False), started(1), BACK, RecoveryNeedsUser()])
    (second,) = recording.session.pending
    assert second.id != first.id
    with pytest.raises(InvalidEvent, match=second.id):
        recording.add(UserAnswered(request_id=first.id, approve=False))


def test_request_ids_survive_a_restart() -> None:
    """A pending question is put again under its own id."""
    recording = play(*ASKED, reply(RUN, ASK))
    (request,) = recording.session.pending
    effects = recording.play([STOP]).add(BACK)
    assert [effect.request for effect in effects if isinstance(effect, AskUser)] == [request]


@pytest.mark.parametrize("kind", get_args(FaultKind))
@pytest.mark.parametrize(
    "name", ["tools, one started", "tools, one asks", "waiting for an approval", "waiting for an outcome"]
)
def test_v21_fault_never_leaves_a_batch_behind(name: str, kind: FaultKind) -> None:
    """A fault of any kind while calls are open ends the turn; each call gets an end and stays in the conversation."""
    recording = play(*SESSIONS[name], fault(kind, retryable=True))
    with pytest.raises(InvalidEvent, match="give up"):
        recording.add(Recovered())
    recording.add(RecoveryFailed())
    check_session(recording.session)
    assert all(status.terminal for status in statuses(recording.session))
    assert [message.role for message in recording.session.transcript].count("tool") == len(statuses(recording.session))


def test_v24_fault_of_the_model_resumes_the_interrupted_round() -> None:
    """A rate limit is waited out and the same round is asked for again."""
    recording = play(*ASKED, fault("rate_limit", retryable=True, retry_after_s=7))
    assert recording.session.turn is not None
    assert recording.session.turn.plan is not None
    assert recording.session.turn.plan.delay_s == 7
    assert recording.add(Recovered()) == (CallModel(round=1),)


@pytest.mark.parametrize("kind", get_args(FaultKind))
@pytest.mark.parametrize("on_unknown", ["ask", "tell_model"])
def test_v21_plan_of_any_fault_can_be_carried_out(kind: FaultKind, on_unknown: str) -> None:
    """Whatever is reported while the model generates, the plan for it leads on to a sound session."""
    recording = play(opened(on_unknown=on_unknown), prompt(), CONTEXT, fault(kind, retryable=True))
    turn = recording.session.turn
    assert turn is not None
    assert turn.plan is not None
    carried_out: dict[str, KnownEvent] = {
        "resume": Recovered(),
        "ask": RecoveryNeedsUser(),
        "park": RecoveryNeedsUser(),
        "give_up": RecoveryFailed(),
    }
    compacts = turn.plan.adjustment == "compact"
    recording.add(ContextCompacted(keeps=0, text="left out") if compacts else carried_out[turn.plan.action])
    check_session(recording.session)


def test_fault_before_direct_calls_never_skips_them() -> None:
    """A fault while the context is prepared gives up: the model is not asked as if the host's calls had run."""
    recording = play(opened(), direct(RUN), fault("rate_limit", retryable=True))
    with pytest.raises(InvalidEvent):
        recording.add(Recovered())


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("error, to give up", (Recovered(), RecoveryNeedsUser()), RecoveryFailed()),
        ("error, to wait", (RecoveryNeedsUser(),), Recovered()),
        ("error, to ask", (Recovered(),), RecoveryNeedsUser()),
    ],
)
def test_recovery_follows_its_plan(name: str, wrong: tuple[Any, ...], right: KnownEvent) -> None:
    """What the plan does not say is refused, and the text says what it does say."""
    recording = play(*SESSIONS[name])
    for event in wrong:
        with pytest.raises(InvalidEvent, match="recovery plan"):
            recording.add(event)
    recording.add(right)
    assert recording.session.state is not State.ERROR


def test_a10_graver_fault_replaces_the_plan() -> None:
    """The turn's deadline may strike while a recovery is under way; then the turn is given up for that reason."""
    recording = play(*SESSIONS["error, to wait"], fault("execution_limit"), RecoveryFailed())
    last = recording.session.last_turn
    assert last is not None
    assert (last.outcome, last.reason) == (Outcome.FAILED, "execution limit")


def test_v22_one_timeout_never_cancels_its_siblings() -> None:
    """The batch settles first; then the model is told."""
    recording = play(*ASKED, reply(RUN, RUN), ended(1, ToolStatus.TIMED_OUT))
    states = [recording.session.state]
    for event in (ended(2), Recovered()):
        recording.add(event)
        states.append(recording.session.state)
    assert states == [State.EXECUTING_TOOLS, State.ERROR, State.PROCESSING]
    assert [message.text for message in recording.session.transcript[-2:]] == ["result 1", "result 2"]


def test_gravest_trouble_of_a_batch_is_the_fault() -> None:
    """An unknown outcome goes before a memory limit, that before a timeout, and the fault names the tools."""
    ends = (ToolStatus.TIMED_OUT, ToolStatus.UNKNOWN, ToolStatus.MEMORY_EXCEEDED)
    recording = play(*ASKED, reply(RUN, RUN, RUN), *(ended(i, status) for i, status in enumerate(ends, 1)))
    turn = recording.session.turn
    assert turn is not None
    assert turn.fault is not None
    assert (turn.fault.kind, turn.fault.message) == ("unknown_outcome", "unknown outcome: pay")


def test_unknown_outcome_can_be_told_to_the_model() -> None:
    """By policy nobody is asked: the model reads that the write may have taken effect."""
    recording = play(*SESSIONS["error, unknown told to the model"], Recovered())
    assert recording.session.pending == ()
    assert "may or may not have taken effect" in (recording.session.transcript[-1].text or "")


def test_v12_cancelled_turn_gives_every_call_an_end() -> None:
    """What was open becomes cancelled, and a started write says that it may have taken effect."""
    recording = play(*SESSIONS["tools, started, one asks"], TurnCancelled(reason="enough"))
    assert statuses(recording.session) == [ToolStatus.CANCELLED, ToolStatus.CANCELLED]
    texts = [message.text for message in recording.session.transcript if message.role == "tool"]
    assert texts == ["cancelled: enough; it had started and may have taken effect", "cancelled: enough"]


def test_a4_streak_of_malformed_replies_is_reset() -> None:
    """A well-formed reply in between starts the count anew; one more than the limit in a row ends the turn."""
    recording = play(opened(max_parse_retries=1), prompt())
    for good_or_bad in (MALFORMED, REFUSE, MALFORMED):
        recording.play([CONTEXT, reply(good_or_bad)])
        assert recording.session.state is State.PROCESSING
    recording.play([CONTEXT, reply(MALFORMED)])
    assert recording.session.turn is not None
    assert recording.session.turn.fault is not None
    assert recording.session.turn.fault.message == (
        "the model sent malformed arguments 2 times in a row; the last complaint: n: not a number"
    )


def test_m2_calls_beyond_the_round_limit_do_not_run() -> None:
    """The reply is kept, its calls are denied with the reason, and the turn fails saying so."""
    recording = play(*SESSIONS["generating, last round"], reply(RUN))
    assert recording.session.state is State.ERROR
    recording.add(RecoveryFailed())
    assert recording.session.last_turn is not None
    assert recording.session.last_turn.reason == "the turn used all of its 1 tool rounds"
    assert recording.session.transcript[-1].text == "not run: the turn used all of its 1 tool rounds"


def test_a9_continued_reply_is_one_text() -> None:
    """A reply cut by its token limit is continued at most `max_continuations` times and comes out whole."""
    recording = play(opened(max_continuations=2), prompt())
    for part in ("a", "b", "c"):
        recording.play([CONTEXT, says(part, "length")])
    assert recording.session.state is State.IDLE
    assert recording.session.last_turn is not None
    assert (recording.session.last_turn.text, recording.session.last_turn.continuations) == ("abc", 2)


def test_usage_adds_up() -> None:
    """A turn and its session count the tokens of every reply."""
    recording = play(opened(), prompt(), CONTEXT, says("a", "length"), CONTEXT, says("b"), prompt(), CONTEXT, says("c"))
    assert recording.session.last_turn is not None
    assert recording.session.last_turn.usage.input_tokens == 3
    assert recording.session.usage.input_tokens == 9
