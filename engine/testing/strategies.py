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

from ..core import events as ev
from ..core.budgets import too_much
from ..core.loans import Loan, Spent
from ..core.record import TransitionRecord
from ..core.recovery import objection_to
from ..core.session import CallState, Session
from ..core.step import legal
from ..core.values import (
    FinishReason,
    ModelReply,
    Priority,
    RecoveryPlan,
    ResourceUsage,
    State,
    ToolStatus,
    Usage,
)
from ..core.view import cuts_no_group
from .drawn import (
    AMOUNTS,
    TERMINAL,
    call_lists,
    faults,
    ids,
    json_objects,
    json_values,
    messages,
    patches,
    planned,
    plans,
    recovery_plans,
    settings,
    texts,
    tool_calls,
)
from .recording import Recording

T = TypeVar("T")

_CARRIED_OUT = {"resume": "recovered", "ask": "recovery_needs_user", "park": "recovery_needs_user"}


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
        blob=st.none() | texts(8), started_at=st.none() | st.just("2026-01-01T00:00:00.000000Z"),
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


def _compactions(keeps: st.SearchStrategy[int], text: st.SearchStrategy[str]) -> st.SearchStrategy[ev.KnownEvent]:
    reply = st.none() | st.builds(ModelReply, text=texts(), usage=st.none() | st.builds(Usage, input_tokens=AMOUNTS))
    return st.builds(
        ev.ContextCompacted, keeps=keeps, text=text, reason=texts(), reply=reply, fault=st.none() | faults(),
        cost_pico=st.none() | AMOUNTS, tokens_before=AMOUNTS, tokens_after=AMOUNTS,
    )  # fmt: skip


def _rewritings() -> st.SearchStrategy[ev.RecordsRewritten]:
    digests = st.text("0123456789abcdef", min_size=64, max_size=64)
    record = st.builds(ev.RewrittenRecord, seq=st.integers(1, 9), hash=digests, digest=digests)
    return st.builds(
        ev.RecordsRewritten,
        action=st.sampled_from(("redacted", "pruned")),
        records=st.lists(record, max_size=2).map(tuple),
        reason=texts(),
        by=st.none() | texts(),
    )


_ANY: Mapping[str, Callable[[], st.SearchStrategy[ev.KnownEvent]]] = {
    "session_opened": _openings,
    "session_forked": lambda: st.builds(ev.SessionForked, session=ids(), parent=ids()),
    "prompt_received": prompts,
    "context_prepared": lambda: st.builds(ev.ContextPrepared, messages=st.lists(messages(), max_size=2).map(tuple)),
    "context_compacted": lambda: _compactions(st.integers(0, 9), texts()),
    "model_replied": replies,
    "tool_started": lambda: st.builds(ev.ToolStarted, call_id=ids()),
    "tool_finished": lambda: _ends(ids()),
    "tool_retried": lambda: _retries(ids()),
    "late_result": lambda: st.builds(ev.LateResult, call_id=ids(), key=texts()),
    "user_answered": lambda: _answers(texts()),
    "grant_revoked": lambda: st.builds(ev.GrantRevoked, grant_id=texts(), by=st.none() | texts()),
    "budget_lent": lambda: st.builds(ev.BudgetLent, child=ids(), loan=st.builds(Loan, tokens=st.none() | AMOUNTS)),
    "budget_settled": lambda: st.builds(ev.BudgetSettled, loan=texts(), spent=st.builds(Spent, tokens=AMOUNTS)),
    "faulted": lambda: st.builds(ev.Faulted, fault=faults()),
    "recovery_planned": lambda: st.builds(ev.RecoveryPlanned, plan=recovery_plans()),
    "recovered": lambda: st.builds(ev.Recovered, waited_s=st.floats(0, 1000)),
    "recovery_needs_user": lambda: st.just(ev.RecoveryNeedsUser()),
    "recovery_failed": lambda: st.just(ev.RecoveryFailed()),
    "turn_cancelled": lambda: st.builds(ev.TurnCancelled, reason=texts()),
    "resumed": lambda: _resumptions(["c1", "c2"]),
    "records_rewritten": _rewritings,
    "shutdown_requested": lambda: st.builds(ev.ShutdownRequested, reason=texts()),
}
"""Kind → events of that kind that need not fit any session. One entry for each kind, or a test fails."""


def events(kind: str | None = None) -> st.SearchStrategy[ev.KnownEvent]:
    """Return events, of one kind or of every kind, that need not fit any session.

    Args:
        kind: tag of the wanted kind; None for all.
    """
    return st.one_of(*(_ANY[name]() for name in ([kind] if kind else sorted(_ANY))))


def open_calls(session: Session) -> Sequence[CallState]:
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
        case "budget_lent" | "budget_settled" | "recovery_planned" | "context_compacted":
            return _OF_A_SESSION[kind](session)
        case "recovered" | "recovery_needs_user":
            plan = session.turn.plan if session.turn is not None else None
            action = _CARRIED_OUT.get(plan.action if plan is not None else "")
            first = plan is not None and plan.adjustment == "compact"
            return events(kind) if action == kind and not first else st.nothing()
        case "resumed":
            return _resumptions([call.call.id for call in calls if call.started])
        case _:
            return events(kind)


def _possible_compactions(session: Session) -> st.SearchStrategy[ev.KnownEvent]:
    plan = session.turn.plan if session.turn is not None else None
    if session.state is State.ERROR and (plan is None or plan.adjustment != "compact"):
        return st.nothing()
    transcript = session.transcript
    places = range(session.shown.through + 1, len(transcript) + 1)
    keeps = [len(transcript) - place for place in places if cuts_no_group(transcript, place)]
    in_vain = _compactions(st.integers(0, 9), st.just(""))
    return in_vain | _compactions(st.sampled_from(keeps), texts().filter(bool)) if keeps else in_vain


def _loans(session: Session) -> st.SearchStrategy[ev.KnownEvent]:
    turn, limits = session.turn, session.opened.settings
    if turn is None:
        return st.nothing()
    have = {lent.child for lent in turn.lent if lent.spent is None}
    loans = st.builds(Loan, tokens=st.none() | AMOUNTS).filter(lambda loan: too_much(turn, limits, loan) is None)
    return st.builds(ev.BudgetLent, child=ids().filter(lambda name: name not in have), loan=st.just(Loan()) | loans)


def _settlements(session: Session) -> st.SearchStrategy[ev.KnownEvent]:
    own = session.opened.loan
    known = [own.id] if own is not None and not own.settled else []
    if session.turn is not None:
        known = [lent.loan.id for lent in session.turn.lent if lent.spent is None]
    return _one_of_these(known, lambda chosen: st.builds(ev.BudgetSettled, loan=st.just(chosen)))


def _decisions(session: Session) -> st.SearchStrategy[ev.KnownEvent]:
    turn, limits = session.turn, session.opened.settings
    if turn is None or turn.plan is None or turn.plan.by_host:
        return st.nothing()
    fits = recovery_plans().filter(lambda plan: objection_to(plan, turn, limits) is None)
    return st.builds(ev.RecoveryPlanned, plan=st.just(RecoveryPlan(action="give_up")) | fits)


_OF_A_SESSION: Mapping[str, Callable[[Session], st.SearchStrategy[ev.KnownEvent]]] = {
    "budget_lent": _loans,
    "budget_settled": _settlements,
    "recovery_planned": _decisions,
    "context_compacted": _possible_compactions,
}


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
