"""Budgets and money by themselves: exact sums, and a bound that holds for every sequence of replies."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from engine.core.budgets import budgets, offer, short_of, within_budget
from engine.core.events import BudgetLent, BudgetSettled, ModelReplied, RecoveryNeedsUser, UserAnswered
from engine.core.loans import Loan, Share, Spent
from engine.core.money import Price, as_text, pico
from engine.core.session import Session, Turn
from engine.core.values import (
    ModelReply,
    OnBudget,
    PlannedCall,
    SessionSettings,
    State,
    ToolCall,
    Usage,
)
from engine.testing.checks import check_session
from engine.testing.recording import Recording

from .scenarios import BEYOND, CONTEXT, RUN, ended, opened, prompt, reply

amounts = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,6})?", fullmatch=True)
tokens = st.integers(0, 10**9)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), max_size=12))
def test_a17_what_is_lent_is_never_more_than_there_is(steps: list[tuple[int, int]]) -> None:
    """Whatever children ask for and use, open loans and what was used stay within the limit, as far as loans hold."""
    recording = Recording().play([opened(max_tokens=100), prompt(), CONTEXT, reply(RUN)])
    for number, (wanted, used) in enumerate(steps):
        loan = offer(recording.session, Share(tokens=wanted))
        budget = budgets(recording.session)["tokens"]
        assert budget.used + budget.reserved < budget.limit
        if not isinstance(loan, Loan):
            assert wanted > budget.limit - budget.used - budget.reserved - 1
            continue
        recording.add(BudgetLent(child=f"k{number}", loan=loan))
        turn = recording.session.turn
        assert turn is not None
        assert budgets(recording.session)["tokens"].reserved == budget.reserved + wanted
        if number % 2:
            lent = turn.lent[-1].loan
            recording.add(BudgetSettled(loan=lent.id, spent=Spent(tokens=min(used, wanted))))
    check_session(recording.session)


def test_a17_what_is_all_lent_cannot_be_lent_again() -> None:
    """When a child has all that is left, another one that asks for all that is left is told that there is nothing."""
    recording = Recording().play([opened(max_tokens=100), prompt(), CONTEXT, reply(RUN)])
    everything = offer(recording.session, Share())
    assert isinstance(everything, Loan)
    recording.add(BudgetLent(child="k", loan=everything))
    assert offer(recording.session, Share()) == "it has no tokens left to lend"


@given(amounts)
def test_money_comes_back_as_it_was(amount: str) -> None:
    """An amount as text, counted and shown again, is the same number; nothing is rounded."""
    assert Fraction(as_text(pico(amount))) == Fraction(amount)


@given(amounts, amounts, st.none() | amounts, st.builds(Usage, input_tokens=tokens, output_tokens=tokens))
def test_v16_cost_is_exact(read: str, written: str, cached: str | None, usage: Usage) -> None:
    """What tokens cost is what fractions say; cached ones are part of those read and have their own price."""
    price = Price(input=read, output=written, cached=cached)
    half = usage.model_copy(update={"cached_tokens": usage.input_tokens // 2})
    expected = (
        (half.input_tokens - half.cached_tokens) * Fraction(read)
        + half.cached_tokens * Fraction(read if cached is None else cached)
        + half.output_tokens * Fraction(written)
    ) / 10**6
    assert Fraction(price.cost_pico(half), 10**12) == expected


def test_more_cached_tokens_than_were_read_are_not_believed() -> None:
    """A provider's nonsense never makes a reply cheaper than nothing."""
    usage = Usage(input_tokens=1, output_tokens=0, cached_tokens=9)
    assert Price(input="1", output="1", cached="0").cost_pico(usage) == 0


@pytest.mark.parametrize("amount", ["-1", "1e3", "0.1234567", "1.", ".5", "1,5", 0.5, "", "nan"])
def test_other_texts_are_no_money(amount: object) -> None:
    """Only plain decimals with at most six places are; a float is refused rather than rounded."""
    with pytest.raises(ValidationError):
        Price.model_validate({"input": amount, "output": "1"})


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(1, 1000), st.integers(0, 400))
def test_v16_a_turn_never_uses_more_than_its_limit_and_one_reply(sizes: list[int], limit: int, declared: int) -> None:
    """Whatever the replies take: before each one its declared maximum was left, after it at most that one is over."""
    recording = Recording().play([opened(max_tokens=limit, call_tokens=declared), prompt(), CONTEXT])
    used = 0
    for size in sizes:
        if recording.session.state is not State.GENERATING_RESPONSE:
            break
        assert used == 0 or used + max(1, min(declared, limit)) <= limit
        said = reply(RUN).reply.model_copy(update={"usage": Usage(output_tokens=size)})
        recording.play([ModelReplied(reply=said, plans=reply(RUN).plans), ended(1), CONTEXT])
        used += size
        assert used <= limit - 1 + size
        if size <= declared <= limit:
            assert used <= limit or used - size == 0
    assert recording.session.turn is not None
    settings = SessionSettings(max_tokens=limit, call_tokens=declared)
    assert (short_of(recording.session.turn, settings) is None) is (
        recording.session.state is State.GENERATING_RESPONSE
    )


@pytest.mark.parametrize("on_budget", ["fail", "ask", "wrap_up"])
def test_v21_a_breach_is_an_error_with_a_plan(on_budget: OnBudget) -> None:
    """The state is ERROR, the fault names the budget, and the plan is the one that the settings say."""
    recording = Recording().play([opened(max_tool_calls=1, on_budget=on_budget), prompt(), CONTEXT, reply(BEYOND)])
    turn = recording.session.turn
    assert recording.session.state is State.ERROR
    assert turn is not None
    assert turn.fault is not None
    assert turn.plan is not None
    assert (turn.fault.kind, turn.fault.budget) == ("budget", "tool_calls")
    expected = {"fail": ("give_up", None), "ask": ("ask", "extend"), "wrap_up": ("resume", "wrap_up")}
    assert (turn.plan.action, turn.plan.adjustment) == expected[on_budget]


def test_v20_extensions_add_up() -> None:
    """Each yes gives as much again, from what is used; the turn's record says how much was added."""
    recording = Recording().play([opened(max_tokens=10, on_budget="ask"), prompt(), CONTEXT])
    limits: list[int] = []
    for _ in range(3):
        said = ModelReplied(reply=ModelReply(text="a", finish="length", usage=Usage(output_tokens=25)))
        recording.play([said, CONTEXT])
        if recording.session.state is State.ERROR:
            recording.play([RecoveryNeedsUser()])
            (request,) = recording.session.pending
            recording.play([UserAnswered(request_id=request.id, approve=True), CONTEXT])
        check_session(recording.session)
        limits.append(budgets(recording.session)["tokens"].limit)
    assert limits == [35, 60, 85]


def test_a_session_without_limits_has_no_budgets() -> None:
    """Nothing is counted where nothing is limited, and no turn is needed to ask."""
    assert budgets(Session("s")) == {}
    assert short_of(Turn(1), SessionSettings()) is None


def test_v16_a_call_that_was_refused_already_takes_no_room() -> None:
    """What the policy or its own arguments have refused stays refused, and is not counted."""
    plans = (PlannedCall(call_id="a", decision="refuse", refusal="denied: by policy"), PlannedCall(call_id="b"))
    calls = [ToolCall(id="a", name="pay"), ToolCall(id="b", name="pay")]
    assert within_budget(Session("s"), calls, plans, {}) == plans
