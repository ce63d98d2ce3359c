"""Hypothesis strategies for what goes through the core: values, any event, events that fit a session, whole histories.

    from engine.testing.strategies import histories

    @given(histories())
    def test_my_exporter_loses_nothing(records): ...

Needs `hypothesis`, which the rest of `engine.testing` does not. Must never draw outside of hypothesis: a failure has to
shrink and to come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, get_args

from hypothesis import strategies as st
from pydantic import JsonValue

from ..core import events as ev
from ..core.record import TransitionRecord
from ..core.recovery import objection_to
from ..core.session import CallState, Session
from ..core.step import legal
from ..core.values import (
    Fault,
    FaultKind,
    FinishReason,
    JsonObject,
    Message,
    ModelReply,
    OnBudget,
    PlannedCall,
    Priority,
    RecoveryPlan,
    ResourceUsage,
    SessionSettings,
    State,
    ToolCall,
    ToolEffect,
    ToolStatus,
    Usage,
    WirePatch,
)
from .recording import Recording

T = TypeVar("T")

TERMINAL = tuple(status for status in ToolStatus if status.terminal)
_CARRIED_OUT = {"resume": "recovered", "ask": "recovery_needs_user", "park": "recovery_needs_user"}
NAMES = ("lookup", "book", "pay")
"""Tool names that drawn calls use."""


def texts(max_size: int = 20) -> st.SearchStrategy[str]:
    """Return texts, awkward ones among them: NUL, line separators, quotes, characters beyond the BMP."""
    awkward = st.sampled_from(
        ["", "\0", "\u2028\u2029", '"\\', "\x7f\x80", "😀", "ß\u0301", "\r\n", '","hash":"', "1e999"]
    )
    return st.text(max_size=max_size) | awkward


def ids() -> st.SearchStrategy[str]:
    """Return ids of calls, as providers make them."""
    return st.text("abcXYZ0189_-:.é", min_size=1, max_size=8)


def json_values() -> st.SearchStrategy[JsonValue]:
    """Return JSON values: finite numbers, nested a few levels deep."""
    leaves: st.SearchStrategy[JsonValue] = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts()
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(8), inner, max_size=3),
        max_leaves=4,
    )


def json_objects() -> st.SearchStrategy[JsonObject]:
    """Return JSON objects."""
    return st.dictionaries(texts(8), json_values(), max_size=2)


def patches() -> st.SearchStrategy[WirePatch]:
    """Return what a provider's message says beside the engine's words."""
    return st.builds(WirePatch, put=json_objects(), drop=st.lists(texts(8), max_size=2).map(tuple))


def tool_calls() -> st.SearchStrategy[ToolCall]:
    """Return single tool calls."""
    return st.builds(
        ToolCall, id=ids(), name=st.sampled_from(NAMES) | texts(8), arguments=json_objects(),
        arguments_text=st.none() | texts(),
    )  # fmt: skip


def call_lists(min_size: int = 0, max_size: int = 3) -> st.SearchStrategy[tuple[ToolCall, ...]]:
    """Return the calls of one reply: no id twice."""
    return st.lists(tool_calls(), min_size=min_size, max_size=max_size, unique_by=lambda call: call.id).map(tuple)


def plans(call_id: str) -> st.SearchStrategy[PlannedCall]:
    """Return decisions about one call; one with malformed arguments is always refused."""
    seconds = st.none() | st.floats(0.1, 1000)
    allowed = st.builds(
        PlannedCall, call_id=st.just(call_id), decision=st.sampled_from(["run", "run", "ask"]),
        effect=st.sampled_from(["write", *get_args(ToolEffect)]), timeout_s=seconds, conflict_key=st.none() | texts(8),
        retries=st.integers(0, 2), stops=st.booleans(), external=st.sampled_from([False, False, True]),
    )  # fmt: skip
    refused = st.builds(
        PlannedCall, call_id=st.just(call_id), decision=st.just("refuse"), refusal=st.none() | texts(),
        status=st.sampled_from([ToolStatus.FAILED, ToolStatus.DENIED]), malformed=st.booleans(),
    )  # fmt: skip
    return st.one_of(allowed, allowed, refused)


def planned(calls: Sequence[ToolCall]) -> st.SearchStrategy[tuple[PlannedCall, ...]]:
    """Return one decision a call, in the order of the calls."""
    return st.tuples(*(plans(call.id) for call in calls))


def messages() -> st.SearchStrategy[Message]:
    """Return messages that stand alone: of a system or a user, without calls."""
    return st.builds(
        Message, role=st.sampled_from(["user", "system", "developer"]), text=texts(), patch=st.none() | patches()
    )


def settings() -> st.SearchStrategy[SessionSettings]:
    """Return settings with small limits, so that short histories reach them."""
    small = st.integers(0, 2)
    return st.builds(
        SessionSettings, max_tool_rounds=st.integers(1, 3), max_parse_retries=small, max_model_retries=small,
        max_continuations=small, backoff_base_s=st.floats(0, 10), on_unknown=st.sampled_from(["ask", "tell_model"]),
        max_tokens=st.none() | st.integers(1, 10_000), call_tokens=st.integers(0, 10_000),
        on_budget=st.sampled_from(get_args(OnBudget)),
    )  # fmt: skip


def faults(kinds: Sequence[FaultKind] = get_args(FaultKind)) -> st.SearchStrategy[Fault]:
    """Return faults of the given kinds."""
    return st.builds(
        Fault, kind=st.sampled_from(kinds), message=texts(), retryable=st.booleans(),
        status=st.none() | st.integers(400, 599), retry_after_s=st.none() | st.floats(0, 100),
        jitter=st.none() | st.floats(0, 1), not_before=st.none() | _moments(),
    )  # fmt: skip


def recovery_plans() -> st.SearchStrategy[RecoveryPlan]:
    """Return plans as a host may make them, fitting or not."""
    return st.builds(
        RecoveryPlan, action=st.sampled_from(("resume", "ask", "park", "give_up")), delay_s=st.floats(0, 1000),
        resume=st.sampled_from((None, State.PROCESSING, State.GENERATING_RESPONSE)),
        not_before=st.none() | _moments(),
    )  # fmt: skip


def _moments() -> st.SearchStrategy[str]:
    return st.just("2027-01-15T08:00:00.000000Z")


@st.composite
def replies(draw: st.DrawFn, min_calls: int = 0, max_calls: int = 3) -> ev.ModelReplied:
    """Draw a model's reply with a decision about each of its calls.

    Args:
        draw: given by hypothesis.
        min_calls: how many calls it has at least.
        max_calls: how many calls it has at most.
    """
    chosen = draw(call_lists(min_calls, max_calls))
    count = st.integers(0, 10_000)
    usage = st.none() | st.builds(Usage, input_tokens=count, output_tokens=count, cached_tokens=count)
    reply = ModelReply(
        text=draw(st.none() | texts()),
        tool_calls=chosen,
        finish=draw(st.sampled_from(get_args(FinishReason))),
        usage=draw(usage),
        model=draw(st.none() | texts(8)),
        patch=draw(st.none() | patches()),
    )
    return ev.ModelReplied(reply=reply, plans=draw(planned(chosen)))


@st.composite
def prompts(draw: st.DrawFn) -> ev.PromptReceived:
    """Draw a prompt, sometimes with calls that the host asks for."""
    calls = draw(st.just(()) | call_lists(max_size=2))
    return ev.PromptReceived(
        messages=draw(st.lists(messages(), max_size=2).map(tuple)),
        direct_calls=calls,
        plans=draw(planned(calls)),
        priority=draw(st.sampled_from(Priority)),
        metadata=draw(json_objects()),
    )


def _openings() -> st.SearchStrategy[ev.SessionOpened]:
    name = st.none() | texts(8)
    return st.builds(
        ev.SessionOpened, settings=settings(), external_id=name, user=name, workspace=name, parent=name,
        metadata=json_objects(),
    )  # fmt: skip


def _ends(call_ids: st.SearchStrategy[str]) -> st.SearchStrategy[ev.ToolFinished]:
    resources = st.builds(ResourceUsage, cpu_s=st.none() | st.floats(0, 1000), written_bytes=st.none() | st.just(1))
    return st.builds(
        ev.ToolFinished, call_id=call_ids, status=st.sampled_from(TERMINAL), content=texts(),
        error=st.none() | texts(8), duration_s=st.floats(0, 1000), patch=st.none() | patches(),
        resources=st.none() | resources,
        blob=st.none() | texts(8),
    )  # fmt: skip


def _retries(call_ids: st.SearchStrategy[str]) -> st.SearchStrategy[ev.ToolRetried]:
    return st.builds(
        ev.ToolRetried, call_id=call_ids, status=st.sampled_from([ToolStatus.FAILED, ToolStatus.TIMED_OUT]),
        content=texts(), error=st.none() | texts(8), duration_s=st.floats(0, 1000),
    )  # fmt: skip


def _answers(request_ids: st.SearchStrategy[str]) -> st.SearchStrategy[ev.UserAnswered]:
    text = st.none() | texts()
    return st.builds(
        ev.UserAnswered, request_id=request_ids, approve=st.booleans(), text=text, by=text, overdue=st.booleans()
    )


def _resumptions(call_ids: Sequence[str]) -> st.SearchStrategy[ev.Resumed]:
    probes = (
        st.lists(
            st.builds(ev.ProbeResult, call_id=st.sampled_from(call_ids), happened=st.booleans(), content=texts()),
            max_size=len(call_ids), unique_by=lambda probe: probe.call_id,
        ).map(tuple)
        if call_ids
        else st.just(())
    )  # fmt: skip
    return st.builds(ev.Resumed, probes=probes)


_ANY: Mapping[str, Callable[[], st.SearchStrategy[ev.KnownEvent]]] = {
    "session_opened": _openings,
    "session_forked": lambda: st.builds(ev.SessionForked, session=ids(), parent=ids()),
    "prompt_received": prompts,
    "context_prepared": lambda: st.builds(ev.ContextPrepared, messages=st.lists(messages(), max_size=2).map(tuple)),
    "model_replied": replies,
    "tool_started": lambda: st.builds(ev.ToolStarted, call_id=ids()),
    "tool_finished": lambda: _ends(ids()),
    "tool_retried": lambda: _retries(ids()),
    "late_result": lambda: st.builds(ev.LateResult, call_id=ids(), key=texts()),
    "user_answered": lambda: _answers(texts()),
    "grant_revoked": lambda: st.builds(ev.GrantRevoked, grant_id=texts(), by=st.none() | texts()),
    "faulted": lambda: st.builds(ev.Faulted, fault=faults()),
    "recovery_planned": lambda: st.builds(ev.RecoveryPlanned, plan=recovery_plans()),
    "recovered": lambda: st.builds(ev.Recovered, waited_s=st.floats(0, 1000)),
    "recovery_needs_user": lambda: st.just(ev.RecoveryNeedsUser()),
    "recovery_failed": lambda: st.just(ev.RecoveryFailed()),
    "turn_cancelled": lambda: st.builds(ev.TurnCancelled, reason=texts()),
    "resumed": lambda: _resumptions(["c1", "c2"]),
    "shutdown_requested": lambda: st.builds(ev.ShutdownRequested, reason=texts()),
}
"""Kind → events of that kind that need not fit any session. One entry for each kind, or a test fails."""


def events(kind: str | None = None) -> st.SearchStrategy[ev.KnownEvent]:
    """Return events, of one kind or of every kind, that need not fit any session.

    Args:
        kind: tag of the wanted kind; None for all.
    """
    return st.one_of(*(_ANY[name]() for name in ([kind] if kind else sorted(_ANY))))


def open_calls(session: Session) -> tuple[CallState, ...]:
    """Return the calls of the session's open batch."""
    turn = session.turn
    return turn.batch.calls if turn is not None and turn.batch is not None else ()


def fitting(session: Session, kind: str) -> st.SearchStrategy[ev.KnownEvent]:
    """Return events of a kind that `session` accepts: they refer to what is open in it.

    Args:
        session: the snapshot that the event is to be stepped from.
        kind: one of the kinds that are legal in its state.
    """
    calls = open_calls(session)
    match kind:
        case "tool_started":
            return _one_of_these([call.call.id for call in calls if call.runs and not call.started], _start_of)
        case "tool_finished":
            return _one_of_these([call.call.id for call in calls if call.runs], lambda chosen: _ends(st.just(chosen)))
        case "tool_retried":
            again = [call for call in calls if call.runs and call.plan.effect != "write"]
            wanted = [call.call.id for call in again if call.attempt <= call.plan.retries]
            return _one_of_these(wanted, lambda chosen: _retries(st.just(chosen)))
        case "user_answered":
            wanted = [request.id for request in session.pending]
            return _one_of_these(wanted, lambda chosen: _answers(st.just(chosen)))
        case "grant_revoked":
            return _one_of_these(
                [grant.id for grant in session.grants], lambda chosen: st.just(ev.GrantRevoked(grant_id=chosen))
            )
        case "session_forked":
            # What follows would belong to another session.
            return st.nothing()
        case "recovered" | "recovery_needs_user":
            plan = session.turn.plan if session.turn is not None else None
            action = _CARRIED_OUT.get(plan.action if plan is not None else "")
            return events(kind) if action == kind else st.nothing()
        case "recovery_planned":
            return _decisions(session)
        case "resumed":
            return _resumptions([call.call.id for call in calls if call.started])
        case _:
            return events(kind)


def _decisions(session: Session) -> st.SearchStrategy[ev.KnownEvent]:
    turn, limits = session.turn, session.opened.settings
    if turn is None or turn.plan is None or turn.plan.by_host:
        return st.nothing()
    fits = recovery_plans().filter(lambda plan: objection_to(plan, turn, limits) is None)
    return st.builds(ev.RecoveryPlanned, plan=st.just(RecoveryPlan(action="give_up")) | fits)


def _start_of(call_id: str) -> st.SearchStrategy[ev.KnownEvent]:
    return st.just(ev.ToolStarted(call_id=call_id))


def _one_of_these(
    names: Sequence[str], build: Callable[[str], st.SearchStrategy[ev.KnownEvent]]
) -> st.SearchStrategy[ev.KnownEvent]:
    return st.sampled_from(names).flatmap(build) if names else st.nothing()


def next_events(session: Session) -> st.SearchStrategy[ev.KnownEvent]:
    """Return events of every kind that `session` accepts as its next one.

    Args:
        session: the snapshot that the event is to be stepped from.
    """
    if session.seq == 0:
        return events("session_opened")
    return st.one_of(*(fitting(session, kind) for kind in legal(session.state)))


@st.composite
def recordings(draw: st.DrawFn, max_events: int = 15) -> Recording:
    """Draw a session with its history.

    Args:
        draw: given by hypothesis.
        max_events: how many records at most.
    """
    recording = Recording()
    for _ in range(draw(st.integers(1, max_events))):
        recording.add(draw(next_events(recording.session)))
    return recording


def histories(max_events: int = 15) -> st.SearchStrategy[list[TransitionRecord]]:
    """Return the records of whole histories, from the first record on, one after another.

    Args:
        max_events: how many records at most.
    """
    return recordings(max_events).map(lambda recording: recording.records)


__all__ = [
    "call_lists", "events", "faults", "fitting", "histories", "ids", "json_objects", "json_values", "messages",
    "next_events", "open_calls", "patches", "planned", "plans", "prompts", "recordings", "replies", "settings", "texts",
    "tool_calls",
]  # fmt: skip
