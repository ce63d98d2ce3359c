"""What is prepared ahead, and what never is."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given, strategies as st

from engine.predict import Allowance, Benefit, Chooser, Declared, Preparation, WarmRule, permitted
from engine.predict.books import Books
from engine.predict.counts import MAX_SYMBOLS

declared = st.builds(
    Declared,
    effect=st.sampled_from(["read", "idempotent", "write"]),
    has_hook=st.booleans(),
    may_run_ahead=st.booleans(),
    cost_s=st.floats(0, 5),
)
names = st.sampled_from(["get_all", "delete_all", "read", "write", "list"])
guesses = st.lists(st.tuples(names | st.text(max_size=3), st.floats(0, 1)), max_size=12)


@given(guesses, st.dictionaries(names, declared), st.lists(st.booleans(), max_size=30), st.sets(names))
def test_a_write_is_never_called_ahead(
    guessed: list[tuple[str, float]], tools: dict[str, Declared], past: list[bool], warm: set[str]
) -> None:
    """Whatever is guessed, declared and learned: a call runs ahead only of a tool declared a read whose host allows it,
    and what is no read is prepared by its own hook or not at all.
    """
    rule, benefit = WarmRule(0.9), Benefit()
    for wasted in past:
        rule.settle(wasted)
    benefit.started("delete_all", 1000.0)
    for choice in Chooser(rule, benefit).choose(guessed, tools, warm, Allowance(100, 1000.0)):
        about = tools[choice.tool]
        assert choice.tool not in warm
        if choice.preparation is Preparation.CALL:
            assert about.effect == "read"
            assert about.may_run_ahead
        else:
            assert about.has_hook


@pytest.mark.parametrize("effect", ["write", "idempotent"])
def test_a_certain_write_without_a_hook_is_left_alone(effect: str) -> None:
    """Not even certainty and endless savings prepare a write that has no hook."""
    about = Declared(effect=effect, may_run_ahead=True)  # type: ignore[arg-type]
    assert permitted(about) is None
    benefit = Benefit()
    benefit.started("pay", 1e6)
    assert Chooser(WarmRule(1.0), benefit).choose([("pay", 1.0)], {"pay": about}) == []


def test_a_tool_that_says_nothing_is_a_write() -> None:
    """Without a declaration there is no preparation."""
    assert permitted(Declared()) is None


def test_a_read_is_called_ahead_only_if_its_host_allows_it() -> None:
    """Being a read is not enough; a hook comes before a call."""
    assert permitted(Declared("read")) is None
    assert permitted(Declared("read", may_run_ahead=True)) is Preparation.CALL
    assert permitted(Declared("read", has_hook=True, may_run_ahead=True)) is Preparation.HOOK


def test_unknown_tools_are_not_prepared() -> None:
    """What a model might make up is nothing that could be warmed."""
    assert Chooser(WarmRule(1.0), Benefit()).choose([("made up", 1.0)], {}) == []


@given(st.floats(0.02, 1), st.floats(0, 100), st.floats(0, 1))
def test_the_rule_is_the_formula(probability: float, benefit_s: float, waste: float) -> None:
    """A preparation pays exactly when p·b ≥ mu·(1 - p - w)."""
    rule = WarmRule(waste)
    assert rule.pays(probability, benefit_s) == (probability * benefit_s >= 8.0 * (1 - probability - waste))


def test_what_is_most_improbable_never_pays() -> None:
    """Below two percent nothing is prepared."""
    assert not WarmRule(1.0).pays(0.019, 1e9)


def test_the_price_follows_the_formula_and_its_bounds() -> None:
    """Mu is multiplied by exp(0.15·(wasted - w)) and stays between 0.001 and 10,000."""
    rule = WarmRule(0.1)
    rule.settle(wasted=True)
    assert rule.price == pytest.approx(8 * exp(0.15 * 0.9))
    for wasted, bound in ((True, 1e4), (False, 1e-3)):
        for _ in range(2000):
            rule.settle(wasted)
        assert rule.price == bound


def test_v9_waste_goes_to_its_budget() -> None:
    """In a world where every probability is overstated by a half, the share of wasted preparations ends at w."""
    rule, state, spent = WarmRule(0.25), 1, []
    for _ in range(40_000):
        state = state * 48271 % 2147483647
        claimed = 0.02 + 0.97 * (state % 1000) / 1000
        if rule.pays(claimed, 1.0):
            state = state * 48271 % 2147483647
            wasted = state / 2147483647 > claimed**1.5
            rule.settle(wasted)
            spent.append(wasted)
    assert sum(spent[500:]) / len(spent[500:]) == pytest.approx(0.25, abs=0.02)


def test_benefit_is_the_start_up_but_no_more_than_the_thinking() -> None:
    """A cold start that takes longer than the model's reply can only be hidden in part."""
    benefit = Benefit()
    for _ in range(200):
        benefit.thought(1.5)
        benefit.started("slow", 60.0)
        benefit.started("quick", 0.2)
    assert benefit.expected_s("slow") == pytest.approx(1.5, abs=0.1)
    assert benefit.expected_s("quick") == pytest.approx(0.2, abs=0.1)
    assert benefit.expected_s("never seen") == pytest.approx(1.5, abs=0.1)


def test_benefits_of_many_tools_are_bounded() -> None:
    """Start-up times are kept for as many tools as a table has symbols."""
    benefit = Benefit()
    for number in range(2000):
        benefit.started(f"t{number}", 1.0)
    assert len(benefit.sums()) == MAX_SYMBOLS


def test_v9_the_allowance_holds_in_number_and_in_seconds() -> None:
    """No more preparations than allowed, and no more seconds of work."""
    tools = {f"t{number}": Declared(has_hook=True, cost_s=4.0) for number in range(9)}
    sure = [(tool, 1.0) for tool in tools]
    chooser = Chooser(WarmRule(), Benefit())
    assert [choice.tool for choice in chooser.choose(sure, tools)] == ["t0", "t1"]
    assert len(chooser.choose(sure, tools, (), Allowance(3, 100.0))) == 3
    assert chooser.choose(sure, tools, (), Allowance(3, 1.0)) == []


def test_v9_waste_stays_at_its_budget_where_the_surest_guesses_are_wrong() -> None:
    """Guesses that claim more than the budget asks for would be prepared at any price; those that turn out wrong lose
    their credit, so that after 500 preparations the share of wasted ones is within two points of w.
    """
    books, state, spent = Books(), 1, []
    books.rule.waste = 0.10
    for _ in range(20_000):
        state = state * 48271 % 2147483647
        claimed, right = ((0.97, 0.95), (0.95, 0.55), (0.6, 0.6))[state % 3]
        if books.rule.pays(books.trusted(claimed), 1.0):
            state = state * 48271 % 2147483647
            wasted = state / 2147483647 > right
            books.tally(True).prepared += 1
            books.tally(True).expected += claimed
            books.tally(True).wasted += wasted
            books.tally(True).used += not wasted
            books.settle(0.0, wasted=wasted)
            spent.append(wasted)
    assert len(spent) > 500
    assert sum(spent[:500]) / 500 <= 0.12
    assert sum(spent) / len(spent) <= 0.12


@given(st.floats(0, 1), st.integers(0, 50), st.integers(0, 50))
def test_trust_is_a_probability_and_follows_what_happened(probability: float, used: int, wasted: int) -> None:
    """Where waste was as expected a probability is taken as it is; it never leaves its range."""
    books = Books()
    assert books.trusted(probability) == pytest.approx(probability)
    books.noted.prepared, books.noted.used, books.noted.wasted = used + wasted, used, wasted
    books.noted.expected = 0.9 * (used + wasted)
    assert 0 <= books.trusted(probability) <= 1
    books.noted.expected = used
    assert books.trusted(probability) == pytest.approx(probability)
