"""What is planned about each fault: a pure function, so every case is written down."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given, strategies as st

from engine.core.recovery import MAX_DELAY_S, batch_fault, counted, objection_to, plan_for
from engine.core.session import Turn
from engine.core.values import Fault, FaultKind, RecoveryPlan, SessionSettings, State

from .scenarios import session

MODEL = ("rate_limit", "model_failure", "bad_reply", "empty_reply")
TOLD = ("tool_timeout", "memory_limit")
FINAL = ("malformed_arguments", "round_limit", "execution_limit", "loop", "budget", "tool_failure", "host_failure")


def plan(kind: FaultKind, *earlier: str, retry_after_s: float | None = None, **settings: object) -> RecoveryPlan:
    turn = Turn(1)
    for one in earlier:
        turn = turn._replace(fault_counts=counted(turn, one))
    fault = Fault(kind=kind, message="m", retryable=True, retry_after_s=retry_after_s)
    return plan_for(fault, turn, SessionSettings.model_validate(settings))


def test_every_kind_of_fault_has_its_case_here() -> None:
    """No kind is without a test below."""
    assert {*MODEL, *TOLD, *FINAL, "unknown_outcome", "gate_closed", "context_full"} == set(get_args(FaultKind))


def test_l2_a_full_window_leads_to_two_compactions_in_a_row() -> None:
    """The model is shown less and asked again in the same round, twice at most; without leave the turn is given up."""
    made = plan("context_full")
    assert (made.action, made.resume, made.adjustment) == ("resume", State.GENERATING_RESPONSE, "compact")
    assert (made.attempt, made.attempts_left) == (1, 1)
    assert plan("context_full", "context_full", "context_full").action == "give_up"
    assert plan_for(Fault(kind="context_full", message="m"), Turn(1), SessionSettings()).action == "give_up"


@pytest.mark.parametrize("kind", TOLD)
def test_trouble_of_a_tool_is_told_to_the_model(kind: FaultKind) -> None:
    """The plan goes on at once with preparing the next round."""
    assert plan(kind) == RecoveryPlan(action="resume", resume=State.PROCESSING)


def test_unknown_outcome_goes_by_policy() -> None:
    """To a person, or to the model."""
    assert plan("unknown_outcome").action == "ask"
    assert plan("unknown_outcome", on_unknown="tell_model").resume is State.PROCESSING


@pytest.mark.parametrize("kind", FINAL)
def test_final_fault_is_given_up(kind: FaultKind) -> None:
    """Trying again would not help, even where the fault says it would."""
    assert plan(kind).action == "give_up"


@pytest.mark.parametrize("kind", MODEL)
def test_failure_of_the_model_is_tried_again(kind: FaultKind) -> None:
    """The model is asked again, and the plan counts down."""
    made = plan(kind, max_model_retries=2)
    assert (made.action, made.resume, made.attempt, made.attempts_left) == ("resume", State.GENERATING_RESPONSE, 1, 1)


def test_v25_only_what_is_given_up_ends_in_a_shutdown() -> None:
    """A plan that goes on cannot shut the session down; one that gives up always can."""
    fault, settings = Fault(kind="model_failure", message="m", retryable=True), SessionSettings()
    turn = Turn(1, round=1, fault=fault, plan=plan_for(fault, Turn(1), settings))
    given_up = RecoveryPlan(action="give_up", end="shutdown")
    assert objection_to(given_up, turn, settings) is None
    for action in ("resume", "ask", "park"):
        objection = objection_to(given_up.model_copy(update={"action": action}), turn, settings)
        assert objection == "only a turn that is given up can end in a shutdown"


@pytest.mark.parametrize("kind", MODEL)
def test_failure_that_cannot_pass_is_given_up(kind: FaultKind) -> None:
    """A fault that is not retryable is not tried again."""
    assert plan_for(Fault(kind=kind, message="m"), Turn(1), SessionSettings()).action == "give_up"


def test_attempts_of_all_kinds_count_together() -> None:
    """Failures of the model in a row share their retries, whatever each one is; a tool's trouble does not count."""
    assert plan("rate_limit", "model_failure", "tool_timeout", max_model_retries=2).attempts_left == 0
    exhausted = plan("rate_limit", "model_failure", "bad_reply", max_model_retries=2)
    assert (exhausted.action, exhausted.attempt) == ("give_up", 3)


def test_no_retries_means_none() -> None:
    """With `max_model_retries` 0 the first failure ends the turn."""
    assert plan("rate_limit", max_model_retries=0).action == "give_up"


@pytest.mark.parametrize(
    ("kind", "first_s"), [("rate_limit", 5.0), ("model_failure", 0.5), ("bad_reply", 0.0), ("empty_reply", 0.0)]
)
def test_v24_delay_doubles_up_to_its_bound(kind: FaultKind, first_s: float) -> None:
    """The first delay is the kind's share of the base; each further one is twice as long, at most `MAX_DELAY_S`."""
    delays = [plan(kind, *["rate_limit"] * count, max_model_retries=9).delay_s for count in range(6)]
    assert delays == [min(MAX_DELAY_S, first_s * 2**count) for count in range(6)]


@pytest.mark.parametrize(("wish_s", "delay_s"), [(0.0, 0.0), (90.0, 90.0)])
def test_v24_wish_of_the_provider_goes_first(wish_s: float, delay_s: float) -> None:
    """Retry-After is honoured, also where it is longer than any delay of our own; a negative one is none."""
    assert plan("rate_limit", retry_after_s=wish_s).delay_s == delay_s


@given(st.integers(0, 5000))
def test_any_number_of_attempts_has_a_finite_plan(count: int) -> None:
    """No setting makes the arithmetic of the back-off overflow."""
    turn = Turn(1, fault_counts=(("rate_limit", count),))
    made = plan_for(
        Fault(kind="rate_limit", message="m", retryable=True), turn, SessionSettings(max_model_retries=6000)
    )
    assert made.delay_s <= MAX_DELAY_S
    assert math.isfinite(made.delay_s)


def test_batch_without_trouble_has_no_fault() -> None:
    """Asking for the fault of a sound batch is a programming error."""
    turn = session("tools, one").turn
    assert turn is not None
    assert turn.batch is not None
    with pytest.raises(AssertionError, match="without trouble"):
        batch_fault(turn.batch.calls)
