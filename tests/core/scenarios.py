"""Representative sessions of every state, each reached by real steps, and the events to try on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from engine.core.events import (
    BudgetLent,
    BudgetSettled,
    ContextCompacted,
    ContextPrepared,
    Faulted,
    GrantRevoked,
    KnownEvent,
    LateResult,
    ModelReplied,
    ProbeResult,
    PromptReceived,
    RecordsRewritten,
    Recovered,
    RecoveryFailed,
    RecoveryNeedsUser,
    RecoveryPlanned,
    Resumed,
    SessionForked,
    SessionOpened,
    ShutdownRequested,
    ToolFinished,
    ToolRetried,
    ToolStarted,
    TurnCancelled,
    UserAnswered,
)
from engine.core.grants import GrantTerms
from engine.core.loans import Loan, Spent
from engine.core.session import Session
from engine.core.values import (
    Fault,
    FaultKind,
    Message,
    ModelReply,
    PlannedCall,
    RecoveryPlan,
    SessionSettings,
    State,
    ToolCall,
    ToolStatus,
    Usage,
)
from engine.testing.recording import Recording
from engine.testing.strategies import open_calls

RUN: dict[str, Any] = {"decision": "run"}
READ: dict[str, Any] = {"decision": "run", "effect": "read"}
ASK: dict[str, Any] = {"decision": "ask"}
TRIED: dict[str, Any] = {"decision": "run", "effect": "idempotent", "retries": 1}
STOPS: dict[str, Any] = {"decision": "run", "stops": True}
TASK: dict[str, Any] = {"decision": "run", "external": True, "due_at": "2026-01-01T00:01:00.000000Z"}
READ_TASK: dict[str, Any] = {**TASK, "effect": "read"}
TASK_ASK: dict[str, Any] = {**TASK, "decision": "ask"}
REFUSE: dict[str, Any] = {"decision": "refuse", "refusal": "not allowed", "status": ToolStatus.DENIED}
MALFORMED: dict[str, Any] = {"decision": "refuse", "refusal": "n: not a number", "malformed": True}
HALT: dict[str, Any] = {"decision": "halt", "refusal": "round in circles", "status": ToolStatus.DENIED}
BEYOND: dict[str, Any] = {**HALT, "refusal": "the turn used all of its budget of 1 tool calls", "budget": "tool_calls"}
NOTED: dict[str, Any] = {"decision": "run", "note": "once more will not help"}
BY_GRANT: dict[str, Any] = {"decision": "run", "grant": "s:4:0:approval"}

CONTEXT = ContextPrepared()
STOP = ShutdownRequested(reason="deploy")
BACK = Resumed()
TERMINAL = [status for status in ToolStatus if status.terminal]


COMPACTED = ContextCompacted(keeps=2, text="[left out] a summary", tokens_before=90, tokens_after=30)


def opened(**changes: Any) -> SessionOpened:
    return SessionOpened(settings=SessionSettings(**changes))


def prompt(text: str = "hello") -> PromptReceived:
    return PromptReceived(messages=(Message(role="user", text=text),))


def calls_of(plans: Sequence[dict[str, Any]]) -> tuple[list[ToolCall], tuple[PlannedCall, ...]]:
    """Return calls c1, c2, … of the tool `pay`, one a plan."""
    made = [ToolCall(id=f"c{i}", name="pay", arguments={"n": i}) for i in range(1, len(plans) + 1)]
    return made, tuple(PlannedCall(call_id=f"c{i}", **plan) for i, plan in enumerate(plans, 1))


def direct(*plans: dict[str, Any]) -> PromptReceived:
    made, decided = calls_of(plans)
    return PromptReceived(messages=(Message(role="user", text="run"),), direct_calls=tuple(made), plans=decided)


def reply(*plans: dict[str, Any], text: str | None = None, finish: Any = "tool_calls") -> ModelReplied:
    made, decided = calls_of(plans)
    return ModelReplied(reply=ModelReply(text=text, tool_calls=made, finish=finish), plans=decided)


def says(text: str = "done", finish: Any = "stop") -> ModelReplied:
    return ModelReplied(reply=ModelReply(text=text, finish=finish, usage=Usage(input_tokens=3, output_tokens=1)))


def started(number: int) -> ToolStarted:
    return ToolStarted(call_id=f"c{number}")


def ended(number: int, status: ToolStatus = ToolStatus.COMPLETED) -> ToolFinished:
    return ToolFinished(call_id=f"c{number}", status=status, content=f"result {number}", duration_s=0.5)


def fault(kind: FaultKind, retryable: bool = False, retry_after_s: float | None = None) -> Faulted:
    text = kind.replace("_", " ")
    return Faulted(fault=Fault(kind=kind, message=text, retryable=retryable, retry_after_s=retry_after_s))


LATER = "2027-01-15T08:00:00.000000Z"
GATE_CLOSED = Faulted(fault=Fault(kind="gate_closed", message="closed", retry_after_s=3600, not_before=LATER))


def probed(number: int, happened: bool) -> ProbeResult:
    return ProbeResult(call_id=f"c{number}", happened=happened, content="found it" if happened else "")


ASKED: list[KnownEvent] = [opened(), prompt(), CONTEXT]
"""A session whose model is generating."""

IN_DOUBT: list[KnownEvent] = [*ASKED, reply(RUN, RUN), started(1), started(2), BACK]
"""Two writes had started when the process died."""

SHUT_DOWN = RecoveryPlan(action="give_up", end="shutdown")

GRANT = GrantTerms(pattern="pay")
GRANTED: list[KnownEvent] = [
    *ASKED, reply(ASK), UserAnswered(request_id="s:4:0:approval", approve=True, grant=GRANT),
]  # fmt: skip
"""A person has allowed one call, and more of its kind."""

LENDING: list[KnownEvent] = [
    opened(max_tokens=100), prompt(), CONTEXT, reply(RUN), BudgetLent(child="k", loan=Loan(tokens=60)),
]  # fmt: skip
"""A turn that has lent more than half of its tokens to a child; the loan is called s:5:0."""

BORROWED = SessionOpened(parent="p", loan=Loan(id="s:5:0", tokens=60))
SETTLED = BudgetSettled(loan="s:5:0", spent=Spent(tokens=50))

SPENDING: list[KnownEvent] = [prompt(), CONTEXT, says("a", "length")]
ONE_ROUND: list[KnownEvent] = [opened(max_tokens=4, on_budget="ask"), *SPENDING]
"""A turn whose first reply used all of its tokens, and was cut off."""

SESSIONS: dict[str, list[KnownEvent]] = {
    "fresh": [],
    "idle": [opened()],
    "idle after a turn": [*ASKED, says()],
    "idle after a failure": [*ASKED, fault("execution_limit"), RecoveryFailed()],
    "processing": [opened(), prompt()],
    "processing, direct calls": [opened(), direct(RUN, ASK, REFUSE)],
    "processing, a direct call to ask about": [opened(), direct(ASK, REFUSE)],
    "processing, a direct call refused": [opened(), direct(REFUSE)],
    "processing, second round": [*ASKED, reply(RUN), ended(1)],
    "generating": ASKED,
    "generating, last round": [opened(max_tool_rounds=1), prompt(), CONTEXT, reply(RUN), ended(1), CONTEXT],
    "generating, after malformed ones": [opened(max_parse_retries=1), prompt(), CONTEXT, reply(MALFORMED), CONTEXT],
    "generating, continuations used": [opened(max_continuations=1), prompt(), CONTEXT, says("a", "length"), CONTEXT],
    "generating, retries used": [
        opened(max_model_retries=1), prompt(), CONTEXT, fault("rate_limit", retryable=True), Recovered(),
    ],
    "tools, one": [*ASKED, reply(RUN)],
    "tools, one started": [*ASKED, reply(RUN), started(1)],
    "tools, two": [*ASKED, reply(RUN, RUN)],
    "tools, two started": [*ASKED, reply(RUN, RUN), started(1), started(2)],
    "tools, one of two done": [*ASKED, reply(RUN, RUN), ended(1)],
    "tools, a sibling timed out": [*ASKED, reply(RUN, RUN), ended(1, ToolStatus.TIMED_OUT)],
    "tools, a sibling out of memory": [*ASKED, reply(RUN, RUN), ended(1, ToolStatus.MEMORY_EXCEEDED)],
    "tools, one asks": [*ASKED, reply(RUN, ASK)],
    "tools, started, one asks": [*ASKED, reply(RUN, ASK), started(1)],
    "tools, two ask": [*ASKED, reply(RUN, ASK, ASK)],
    "tools, a read started": [*ASKED, reply(READ), started(1)],
    "tools, approved": [*ASKED, reply(ASK, REFUSE), UserAnswered(request_id="s:4:0:approval", approve=True)],
    "tools, approved with a grant": GRANTED,
    "processing with a grant": [*GRANTED, ended(1)],
    "generating with a grant": [*GRANTED, ended(1), CONTEXT],
    "waiting with a grant": [*GRANTED, ended(1), CONTEXT, reply(ASK)],
    "error with a grant": [*GRANTED, ended(1), CONTEXT, fault("host_failure")],
    "idle with a grant": [*GRANTED, ended(1), CONTEXT, says()],
    "waiting for an approval": [*ASKED, reply(ASK)],
    "waiting for two approvals": [*ASKED, reply(ASK, ASK)],
    "waiting, a sibling timed out": [*ASKED, reply(RUN, ASK), ended(1, ToolStatus.TIMED_OUT)],
    "waiting for an outcome": [*ASKED, reply(RUN), started(1), BACK, RecoveryNeedsUser()],
    "waiting for two outcomes": [*IN_DOUBT, RecoveryNeedsUser()],
    "waiting, parked": [*ASKED, GATE_CLOSED, RecoveryNeedsUser()],
    "error, to park": [*ASKED, GATE_CLOSED],
    "error, decided by the host": [
        *ASKED, fault("model_failure", retryable=True), RecoveryPlanned(plan=RecoveryPlan(action="give_up")),
    ],
    "error, to shut down": [*ASKED, fault("host_failure"), RecoveryPlanned(plan=SHUT_DOWN)],
    "tools, a child has a loan": LENDING,
    "tools, a child has settled": [*LENDING, SETTLED],
    "processing, a child has a loan": [*LENDING, ended(1)],
    "generating, a child has a loan": [*LENDING, ended(1), CONTEXT],
    "waiting, a child has a loan": [*LENDING, ended(1), CONTEXT, reply(ASK)],
    "error, a child has a loan": [*LENDING, fault("host_failure")],
    "idle, on a loan": [BORROWED, prompt(), CONTEXT, says()],
    "idle, after its loan": [BORROWED, prompt(), CONTEXT, says(), SETTLED],
    "generating, on a loan": [BORROWED, prompt(), CONTEXT],
    "tools, a second attempt": [*ASKED, reply(TRIED, TRIED), ToolRetried(call_id="c1", content="no answer")],
    "tools, one stops the turn": [*ASKED, reply(RUN, STOPS), ended(2, ToolStatus.FAILED)],
    "tools, beside a task": [*ASKED, reply(RUN, TASK)],
    "tools, beside a task to ask about": [*ASKED, reply(RUN, TASK_ASK)],
    "waiting for a task": [*ASKED, reply(TASK)],
    "waiting for a reading task": [*ASKED, reply(READ_TASK)],
    "waiting for two tasks": [*ASKED, reply(TASK, READ_TASK)],
    "waiting for leave to hand a task over": [*ASKED, reply(TASK_ASK)],
    "error, a failure stops the turn": [*ASKED, reply(STOPS), ended(1, ToolStatus.FAILED)],
    "error, to compact": [*ASKED, fault("context_full", retryable=True)],
    "error, to compact after a reply": [
        *ASKED, reply(RUN), ended(1), CONTEXT, says("cut", "context_full").model_copy(update={"outgrown": True}),
    ],
    "processing, compacted": [*ASKED, reply(RUN), ended(1), COMPACTED],
    "generating, compacted": [*ASKED, reply(RUN), ended(1), COMPACTED, CONTEXT],
    "idle, compacted": [*ASKED, says(), prompt("more"), CONTEXT, says(), COMPACTED],
    "error, to wait": [*ASKED, fault("rate_limit", retryable=True)],
    "error, to tell the model": [*ASKED, reply(RUN), ended(1, ToolStatus.TIMED_OUT)],
    "error, to ask": IN_DOUBT,
    "error, to give up": [*ASKED, fault("host_failure")],
    "error, to give up while tools ran": [*ASKED, reply(RUN, ASK), started(1), fault("execution_limit")],
    "processing, nothing left to spend": ONE_ROUND,
    "error, to ask for more": [*ONE_ROUND, CONTEXT],
    "waiting for more to spend": [*ONE_ROUND, CONTEXT, RecoveryNeedsUser()],
    "generating, to wrap up": [opened(max_tokens=4, on_budget="wrap_up"), *SPENDING, CONTEXT, Recovered()],
    "waiting for more tool calls": [
        opened(max_tool_calls=1, on_budget="ask"), prompt(), CONTEXT, reply(BEYOND), RecoveryNeedsUser(),
    ],
    "error, unknown told to the model": [
        opened(on_unknown="tell_model"), prompt(), CONTEXT, reply(RUN), started(1), BACK,
    ],
}  # fmt: skip
"""Name → the events that lead there."""

SESSIONS |= {
    "shut down by a plan": [*ASKED, fault("host_failure"), RecoveryPlanned(plan=SHUT_DOWN), RecoveryFailed()],
} | {f"shut down: {name}": [*events, STOP] for name, events in SESSIONS.items() if events and "idle after" not in name}


def session(name: str) -> Session:
    """Return a named session; fresh objects every time."""
    return Recording().play(SESSIONS[name]).session


def _openings(_: Session) -> Iterator[KnownEvent]:
    yield opened(max_tool_rounds=7)


def _prompts(_: Session) -> Iterator[KnownEvent]:
    yield prompt()
    yield direct(RUN)
    yield direct(ASK)
    yield direct(REFUSE)
    yield direct(RUN).model_copy(update={"plans": ()})


def _contexts(_: Session) -> Iterator[KnownEvent]:
    yield CONTEXT
    yield ContextPrepared(messages=(Message(role="system", text="the weather is fine"),))


def _compactions(now: Session) -> Iterator[KnownEvent]:
    reply = ModelReply(text="- goal: hello", usage=Usage(input_tokens=9, output_tokens=3))
    yield ContextCompacted(reason="there is no summary")
    yield ContextCompacted(reason="it would not get shorter", reply=reply)
    for keeps in range(len(now.transcript) + 2):
        yield ContextCompacted(keeps=keeps, text="a summary", reply=reply, cost_pico=7, tokens_after=5)


def _replies(_: Session) -> Iterator[KnownEvent]:
    yield says()
    yield says("cut", "length")
    yield says("cut", "context_full").model_copy(update={"outgrown": True})
    yield reply(RUN)
    yield reply(READ, ASK)
    yield reply(ASK)
    yield reply(REFUSE)
    yield reply(MALFORMED)
    yield reply(MALFORMED, RUN)
    for decided in (HALT, NOTED, BY_GRANT, BEYOND):
        yield reply(decided)
    twice = ToolCall(id="c1", name="pay")
    plan = PlannedCall(call_id="c1")
    yield ModelReplied(reply=ModelReply(tool_calls=[twice, twice]), plans=(plan, plan))
    yield ModelReplied(reply=ModelReply(tool_calls=[twice]), plans=(PlannedCall(call_id="c2"),))


def _starts(now: Session) -> Iterator[KnownEvent]:
    for call in open_calls(now):
        yield ToolStarted(call_id=call.call.id)
    yield ToolStarted(call_id="nobody")


def _ends(now: Session) -> Iterator[KnownEvent]:
    for call in open_calls(now):
        for status in TERMINAL:
            yield ToolFinished(call_id=call.call.id, status=status, content="x")
        yield ToolFinished(call_id=call.call.id, status=ToolStatus.RUNNING)
    yield ToolFinished(call_id="nobody")


def _retries(now: Session) -> Iterator[KnownEvent]:
    for call in open_calls(now):
        yield ToolRetried(call_id=call.call.id, content="no answer")
    yield ToolRetried(call_id="nobody")


def _answers(now: Session) -> Iterator[KnownEvent]:
    for request in now.pending:
        yield UserAnswered(request_id=request.id, approve=True)
        yield UserAnswered(request_id=request.id, approve=False)
        yield UserAnswered(request_id=request.id, approve=False, text="too dear")
        yield UserAnswered(request_id=request.id, approve=False, overdue=True)
        yield UserAnswered(request_id=request.id, approve=False, result="already paid")
        yield UserAnswered(request_id=request.id, approve=True, grant=GRANT)
        edited = UserAnswered(request_id=request.id, approve=True, arguments={"n": 1}, plan=PlannedCall(call_id="c1"))
        yield edited
        yield edited.model_copy(update={"plan": None})
    yield UserAnswered(request_id="nobody", approve=True)


def _revocations(now: Session) -> Iterator[KnownEvent]:
    for grant in now.grants:
        yield GrantRevoked(grant_id=grant.id)
    yield GrantRevoked(grant_id="nobody")


def _loans(_: Session) -> Iterator[KnownEvent]:
    yield BudgetLent(child="k", loan=Loan(tokens=60))
    yield BudgetLent(child="another", loan=Loan(tokens=1))
    yield BudgetLent(child="another", loan=Loan(tokens=60))


def _settlements(_: Session) -> Iterator[KnownEvent]:
    yield SETTLED
    yield BudgetSettled(loan="nobody's")


def _faults(_: Session) -> Iterator[KnownEvent]:
    for kind in get_args(FaultKind):
        yield fault(kind)
        yield fault(kind, retryable=True)
    yield GATE_CLOSED


def _decisions(_: Session) -> Iterator[KnownEvent]:
    yield RecoveryPlanned(plan=RecoveryPlan(action="give_up"))
    yield RecoveryPlanned(plan=SHUT_DOWN)
    yield RecoveryPlanned(plan=RecoveryPlan(action="ask"))
    for state in (State.PROCESSING, State.GENERATING_RESPONSE):
        yield RecoveryPlanned(plan=RecoveryPlan(action="resume", resume=state))
        yield RecoveryPlanned(plan=RecoveryPlan(action="park", resume=state, not_before=LATER))
    yield RecoveryPlanned(plan=RecoveryPlan(action="park", resume=State.GENERATING_RESPONSE))


def _resumptions(now: Session) -> Iterator[KnownEvent]:
    yield BACK
    calls = [call.call.id for call in open_calls(now)]
    for happened in (True, False):
        if calls:
            yield Resumed(probes=tuple(ProbeResult(call_id=name, happened=happened) for name in calls))
    if len(calls) > 1:
        yield Resumed(probes=(ProbeResult(call_id=calls[0], happened=True),))


def _plain(event: KnownEvent) -> Any:
    return lambda _: iter((event,))


VARIANTS: dict[str, Any] = {
    "session_opened": _openings,
    "session_forked": _plain(SessionForked(session="fork", parent="s")),
    "prompt_received": _prompts,
    "context_prepared": _contexts,
    "context_compacted": _compactions,
    "model_replied": _replies,
    "tool_started": _starts,
    "tool_finished": _ends,
    "tool_retried": _retries,
    "late_result": _plain(LateResult(call_id="c1", key="s:4:0")),
    "user_answered": _answers,
    "grant_revoked": _revocations,
    "budget_lent": _loans,
    "budget_settled": _settlements,
    "faulted": _faults,
    "recovery_planned": _decisions,
    "recovered": _plain(Recovered()),
    "recovery_needs_user": _plain(RecoveryNeedsUser()),
    "recovery_failed": _plain(RecoveryFailed()),
    "turn_cancelled": _plain(TurnCancelled(reason="enough")),
    "resumed": _resumptions,
    "records_rewritten": _plain(RecordsRewritten(action="redacted", records=())),
    "shutdown_requested": _plain(STOP),
}
"""Kind → what to try of it on a session: events that make each guard true and false, and such as refer to nothing."""


def attempts(now: Session) -> Iterator[KnownEvent]:
    """Return the events of every kind to try on a session."""
    for variants in VARIANTS.values():
        yield from variants(now)
