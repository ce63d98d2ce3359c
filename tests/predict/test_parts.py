"""The parts behind the predictor: words, tables, mixing, horizon, argument rules, patterns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from engine.predict import END, Execution, Pattern, Predictor, PredictorSettings
from engine.predict.contexts import Kind, Session
from engine.predict.counts import CELLS, FAST, MAX_SYMBOLS, MAX_TOTAL, SESSION, SLOW, Table, merged
from engine.predict.favourites import Favourites
from engine.predict.horizon import Ahead, Horizon, Pending
from engine.predict.mixing import LARGEST, SMALLEST
from engine.predict.patterns import total
from engine.predict.prior import first_weights
from engine.predict.sources import MAX_PER_PLACE, Rule, Sources
from engine.predict.words import MAX_CACHED, Words
from tests.predict.streams import SMALL, Told, chain, streams, tell

WITH_ARGUMENTS = PredictorSettings(arguments=True)


def test_words_are_the_same_everywhere() -> None:
    """A word is fixed by salt and name: this one was computed before."""
    assert Words(b"salt").symbol("search").words[0] == 2396552175253728633


@given(st.sampled_from([SLOW, FAST, SESSION]), st.lists(st.integers(0, 700), max_size=300))
@settings(max_examples=40)
def test_a_table_is_always_a_distribution(growth: float, numbers: list[int]) -> None:
    """Total, peak and cell describe the counts, whatever is counted and however fast it is forgotten."""
    table = Table({"first": 1})
    for number in numbers * 6:
        table.add(str(number), growth)
        assert table.total == pytest.approx(sum(table.counts.values()))
        assert max(table.counts.values()) == pytest.approx(table.peak)
        assert 0 <= table.cell < CELLS
        assert len(table.counts) <= MAX_SYMBOLS
        assert table.total <= MAX_TOTAL


def test_a_fast_table_forgets_and_a_slow_one_does_not() -> None:
    """After 200 times a and 50 times b the fast table is sure of b, the slow one still expects a."""
    tables = {growth: Table({"a": 1}) for growth in (FAST, SLOW)}
    for growth, table in tables.items():
        for symbol in ["a"] * 200 + ["b"] * 50:
            table.add(symbol, growth)
    assert tables[FAST].counts["b"] / tables[FAST].total > 0.8
    assert tables[SLOW].counts["a"] / tables[SLOW].total == pytest.approx(0.8, abs=0.01)
    assert tables[FAST].seen == pytest.approx(24, abs=1)


def test_merged_tables_keep_the_strongest_symbols() -> None:
    """Two tables with a thousand symbols together give one within the bound, the frequent ones in it."""
    one = Table({"often": 9.0, **{f"a{number}": 1 for number in range(MAX_SYMBOLS)}})
    other = Table({f"b{number}": 1 for number in range(MAX_SYMBOLS)})
    both = merged(one, other)
    assert len(both.counts) == MAX_SYMBOLS
    assert both.counts["often"] == 9


@given(streams)
def test_mixing_weights_stay_within_their_bounds(stream: list[Told]) -> None:
    """No stream drives a weight to zero or to infinity."""
    predictor = tell(Predictor(SMALL), stream * 3)
    weights = [weight for row in predictor._learned.mixture.weights for weight in row]
    assert min(weights) >= SMALLEST
    assert max(weights) <= LARGEST


def test_every_kind_begins_with_a_weight_for_every_cell() -> None:
    """The prior is complete."""
    assert [len(first_weights(kind)) for kind in Kind] == [CELLS] * len(Kind)


def test_the_set_of_used_tools_has_no_order() -> None:
    """Two sessions that used the same tools in another order, share that context, not the last two."""
    words = Words(b"")
    one, other = Session(words.symbol("<start>")), Session(words.symbol("<start>"))
    for session, names in ((one, "abc"), (other, "bac")):
        for name in names:
            session.push(words.symbol(name), 0)
    assert dict(one.keys)[Kind.USED] == dict(other.keys)[Kind.USED]
    assert dict(one.keys)[Kind.LAST_TWO] != dict(other.keys)[Kind.LAST_TWO]


def test_every_kind_of_context_is_found_and_described() -> None:
    """A long session has a key of every kind but the situation's, all different, and each can be put into words."""
    words = Words(b"")
    session = Session(words.symbol("<start>"))
    for name in "abcdefg":
        session.push(words.symbol(name), 7)
    keys = dict(session.keys + session.here_keys)
    assert set(keys) == set(Kind) - {Kind.SITUATION}
    assert len(set(keys.values())) == len(keys)
    assert len({session.describe(kind) for kind in Kind}) == len(Kind)


def test_long_sessions_drop_the_set_of_used_tools() -> None:
    """After forty calls the set says nothing more, and is no context any longer."""
    words = Words(b"")
    session = Session(words.symbol("<start>"))
    for _ in range(40):
        session.push(words.symbol("a"), 0)
    assert Kind.USED not in dict(session.keys)


def test_the_cache_of_words_is_dropped_when_full() -> None:
    """Symbols are computed anew, and are the same."""
    words = Words(b"")
    first = words.symbol("first")
    for number in range(MAX_CACHED):
        words.symbol(str(number))
    assert len(words._fine) <= MAX_CACHED
    assert words.symbol("first") == first


def test_favourites_forget_the_rare_values() -> None:
    """A value seen often survives a flood of others."""
    words = Words(b"")
    favourites, session = Favourites(words, 50), Session(words.symbol("<start>"))
    for number in range(500):
        favourites.word(session, words.symbol("t"), {"kind": "book", "id": number}, True)
    assert len(favourites.counts) <= 50
    assert max(favourites.counts.values()) == 500


def test_within_counts_what_is_used_before_the_horizon_ends() -> None:
    """With a horizon of two, the tool two calls ahead counts and the one three calls ahead does not."""
    predictor = tell(Predictor(PredictorSettings(horizon=2)), chain("a", "b", "c", "d", sessions=50))
    predictor.update("new", "a", True)
    ahead = dict(predictor.within("new", k=9))
    assert ahead["b"] > 0.9
    assert ahead["c"] > 0.9
    assert ahead["d"] < 0.1


def test_a_shorter_horizon_takes_the_share_that_came_early() -> None:
    """Asked for the next call only, what comes two calls later is unlikely."""
    predictor = tell(Predictor(PredictorSettings(horizon=3)), chain("a", "b", "c", sessions=50))
    predictor.update("new", "a", True)
    whole, next_only = dict(predictor.within("new", 3, 9)), dict(predictor.within("new", 1, 9))
    assert all(next_only[tool] <= whole[tool] for tool in whole)
    assert next_only["b"] > next_only["c"]
    assert {probability for _, probability in predictor.within("new", 0, 9)} == {0.0}
    assert predictor.within("new", 99, 9) == predictor.within("new", k=9) == predictor.predict_within("new", 9, 3)


def test_a_tool_used_twice_counts_once() -> None:
    """What matters for a warm cache is whether a tool is used, not how often."""
    predictor = tell(Predictor(PredictorSettings(horizon=4)), chain("a", "a", "a", sessions=20))
    assert all(probability <= 1 for _, probability in predictor.within("new"))


def test_a_session_that_ends_closes_its_decision_points() -> None:
    """What was used before the end is learned although the horizon was not reached, and turns do not cut it."""
    predictor = Predictor()
    for number in range(10):
        predictor.update(number, "a")
        predictor.update(number, END)
        predictor.update(number, "b")
        predictor.end(number)
    assert dict(predictor.within("new"))["b"] > 0.8


def test_the_future_counts_halve_when_full() -> None:
    """Counts of a context stay bounded, and what is known stays known."""
    ahead = Ahead()
    for _ in range(MAX_TOTAL * 3):
        ahead.add({"a": 1})
    assert ahead.seen <= MAX_TOTAL
    assert ahead.counts["a"] / ahead.seen == pytest.approx(1.0)


def test_a_tool_of_unknown_distance_is_not_expected_early() -> None:
    """Where nothing is known about how soon a tool comes, a shorter horizon does not promise it."""
    horizon = Horizon(4, 100)
    horizon.end([Pending((1,), {"a": 2})], learn=True)
    horizon.distances.clear()
    assert horizon.within((1,), 4) == {"a": 1 / 3}
    assert horizon.within((1,), 2) == {"a": 0.0}


def call(predictor: Predictor, key: str, tool: str, args: dict[str, Any], result: object = None) -> None:
    predictor.update(key, tool, True, args)
    predictor.record(key, tool, Execution(True, result=result))


def test_an_argument_of_an_earlier_call_is_repeated() -> None:
    """The account that was looked up is the account that is read; the rule and its rate are named."""
    predictor = Predictor(WITH_ARGUMENTS)
    for number in range(10):
        call(predictor, str(number), "find", {"account": number})
        call(predictor, str(number), "read", {"account": number})
    call(predictor, "new", "find", {"account": 4711})
    guess = predictor.arguments("new", "read")[0]
    assert guess.arguments == {"account": 4711}
    assert guess.rate > 0.8
    ((name, rule, rate),) = guess.because
    assert (name, rule) == ("account", Rule("argument", "find", "account"))
    assert rate == pytest.approx(1.0)


def test_an_argument_is_found_in_an_earlier_result() -> None:
    """The path in the result is learned, through lists and below keys that look like data."""
    predictor = Predictor(WITH_ARGUMENTS)
    for number in range(10):
        call(predictor, str(number), "find", {"q": "x"}, {"hits": {f"#{number}": {"id": f"u{number}"}}})
        call(predictor, str(number), "read", {"id": f"u{number}"})
    call(predictor, "new", "find", {"q": "x"}, {"hits": {"#99": {"id": "u99"}}})
    guess = predictor.arguments("new", "read")[0]
    assert guess.arguments == {"id": "u99"}
    assert guess.because[0][1].path == "hits.*.id"


def test_a_constant_is_guessed_once_its_value_is_known() -> None:
    """Only a digest is kept; the value is guessed because this process has seen it."""
    predictor = Predictor(WITH_ARGUMENTS)
    for number in range(5):
        call(predictor, str(number), "list", {"kind": "open"})
    assert predictor.arguments("new", "list")[0].arguments == {"kind": "open"}
    assert str(predictor.arguments("new", "list")[0].because[0][1]) == "always the same value"
    predictor._learned.rules._constants.clear()
    assert predictor.arguments("new", "list") == []


def test_a_list_fans_out_over_what_is_left_of_it() -> None:
    """Each order of the list is read in turn: the guesses are those not read yet, in order."""
    predictor = Predictor(WITH_ARGUMENTS)
    for number in range(10):
        orders = [f"{number}{letter}" for letter in "abcd"]
        call(predictor, str(number), "user", {}, {"orders": [{"id": order} for order in orders]})
        for order in orders:
            call(predictor, str(number), "order", {"id": order})
    call(predictor, "new", "user", {}, {"orders": [{"id": "x"}, {"id": "y"}, {"id": "z"}]})
    call(predictor, "new", "order", {"id": "x"})
    assert [guess.arguments for guess in predictor.arguments("new", "order")] == [{"id": "y"}, {"id": "z"}]


def test_without_a_rule_for_every_argument_there_is_no_guess() -> None:
    """Half a call is none; nor is anything guessed about a tool that was never called."""
    predictor = Predictor(WITH_ARGUMENTS)
    for number in range(10):
        predictor.update(str(number), "post", True, {"to": "all", "text": "x" * 1000})
    assert predictor.arguments("new", "post") == []
    assert predictor.arguments("new", "unheard of") == []
    predictor.update("new", "wide", True, {f"a{number}": 1 for number in range(17)})
    assert predictor.arguments("new", "wide") == []


def test_argument_rules_are_learned_only_on_request() -> None:
    """Without the setting nothing about arguments is kept but digests of the frequent ones."""
    predictor = Predictor()
    call(predictor, "s", "find", {"q": "x"}, {"id": 1})
    call(predictor, "s", "read", {"id": 1})
    assert predictor.arguments("s", "read") == []
    assert predictor._sessions["s"].sources._places == {}


def test_rules_that_fail_lose_to_rules_that_hold() -> None:
    """When the habit changes, the rate of the old rule falls until the new one is better."""
    predictor = Predictor(WITH_ARGUMENTS)
    for number in range(60):
        right = "find" if number < 10 else "pick"
        for tool in ("find", "pick"):
            call(predictor, str(number), tool, {"id": f"{tool}{number}"})
        call(predictor, str(number), "read", {"id": f"{right}{number}"})
    for tool in ("find", "pick"):
        call(predictor, "new", tool, {"id": tool})
    assert predictor.arguments("new", "read")[0].arguments == {"id": "pick"}


def test_sources_are_bounded_and_skip_what_is_too_deep() -> None:
    """Long lists are cut, and what lies deeper than six levels is not looked at."""
    sources = Sources()
    sources.note_result("t", {"ids": list(range(1000)), "a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}})
    assert len(sources.values(Rule("each", "t", "ids[]"), ("x", "y"))) == MAX_PER_PLACE
    assert [place[2] for place in sources._places] == ["ids[]"]
    assert sources.values(Rule("last", "t", "ids[]"), ("x", "y")) == ["31"]


def test_rules_can_be_read() -> None:
    """A rule says in words where its value comes from."""
    assert str(Rule("argument", "find", "q")) == "the argument q of find"
    assert str(Rule("each", "find", "ids[]")) == "the next value at ids[] of find"
    assert str(Rule("first", "find", "")) == "the first value at $ of find"


def test_v14_quantiles_of_durations_are_within_nine_percent() -> None:
    """Nine of ten calls took no longer than the 0.9 quantile says."""
    pattern = Pattern()
    for number in range(1, 1001):
        pattern.add(Execution(True, number / 100))
    for share in (0.1, 0.5, 0.9, 1.0):
        assert pattern.quantile_s(share) == pytest.approx(share * 10, rel=0.1)


def test_a_pattern_without_durations_says_so() -> None:
    """What was not measured is None, and no call has no failures."""
    pattern = Pattern()
    assert (pattern.success_rate, pattern.mean_s, pattern.quantile_s(0.5)) == (1.0, None, None)
    pattern.add(Execution(False))
    assert (pattern.success_rate, pattern.mean_s) == (0.0, None)


def test_patterns_add_up() -> None:
    """The total of two patterns is the pattern of all calls."""
    parts = [Pattern(), Pattern(), Pattern()]
    for number, part in enumerate(parts[:2]):
        for target in (part, parts[2]):
            target.add(Execution(number > 0, 2.0 + number, 100 * number))
    added = total(parts[:2])
    assert (added.calls, added.mean_s, added.memory_bytes) == (2, 2.5, 100)
    assert added.classes == parts[2].classes


def test_a_result_of_a_call_never_told_of_has_no_tool_before() -> None:
    """`record` without `update` is counted as a first call."""
    predictor = Predictor()
    predictor.record("s", "search", Execution(True, 1.0))
    assert predictor.pattern("search", "<start>").calls == 1
