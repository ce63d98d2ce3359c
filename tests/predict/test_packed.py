"""Many small tables in little memory, and nothing lost by it."""

from __future__ import annotations

import gc
import tracemalloc

from hypothesis import given, strategies as st

from engine.predict import Predictor
from engine.predict.counts import FAST, SLOW, Table
from engine.predict.packed import Packed
from engine.predict.words import constant_word


def key_of(number: int) -> int:
    """Return a key as good as random."""
    return constant_word(f"key {number}")


keys = st.integers(0, 40).map(key_of)
moves = st.lists(st.tuples(keys, st.sampled_from("abcd"), st.sampled_from([FAST, SLOW])), max_size=200)


def told(moved: list[tuple[int, str, float]], ready: int) -> Packed[Table]:
    """Return tables that were told of observations, so many of them held ready."""
    tables = Packed(Table, ready)
    for key, symbol, growth in moved:
        table = tables.get(key)
        if table is None:
            tables[key] = Table({symbol: 1})
        else:
            table.add(symbol, growth)
    return tables


def content(tables: Packed[Table]) -> list[object]:
    """Return everything that tables hold."""
    return [
        (key, table.unit, table.total, table.peak, table.cell, list(table.counts.items()))
        for key, table in tables.items()
    ]


@given(moves, st.integers(1, 50))
def test_what_is_packed_comes_back_to_the_last_bit(moved: list[tuple[int, str, float]], bound: int) -> None:
    """Tables hold the same whether few or all of them are held ready, and the same ones are dropped."""
    few, all_ready = told(moved, 6), told(moved, 1000)
    assert content(few) == content(all_ready)
    assert len(few) == len(all_ready) == len(few.keys())
    assert few.keep_heaviest(bound) == all_ready.keep_heaviest(bound)
    assert content(few) == content(all_ready)
    assert len(few) == len(few.keys()) <= bound


def test_counts_beyond_small_whole_numbers_are_packed_too() -> None:
    """Halves, sums of merged tables and more names than two bytes can tell apart are kept as they are."""
    tables = Packed(Table, 2)
    given_ = {number: Table({f"n{number}": 0.5, "other": 7_000.0}) for number in range(70_000)}
    given_[70_000] = Table({"whole": 65_535, "more": 1})
    for number, table in given_.items():
        tables[key_of(number)] = table
    for number in (0, 65_535, 65_537, 69_999, 70_000):
        found = tables.get(key_of(number))
        assert found is not None
        assert (found.counts, found.total) == (given_[number].counts, given_[number].total)


def test_names_that_nothing_uses_are_let_go_of() -> None:
    """What was dropped takes its names with it."""
    tables = Packed(Table, 2)
    for number in range(20_000):
        tables[key_of(number)] = Table({f"name {number}": 1})
        tables.keep_heaviest(100)
    assert len(tables._names) < 3_000
    assert len(tables) <= 100


def test_a_tenant_takes_up_a_megabyte_at_ten_thousand_contexts() -> None:
    """In memory and in use, with as many contexts as it may have."""
    gc.collect()
    tracemalloc.start()
    predictor, state, most = Predictor(), 1, 0
    for number in range(600):
        for place in range(12):
            state = state * 48271 % 2147483647
            predictor.update(number, f"tool_{(state % 1000) * (state % 7) % 40}", state % 5 > 0, {"q": state % 3000})
            most = max(most, predictor.contexts) if place else most
        predictor.end(number)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 9_000 < most <= 10_000
    assert predictor.contexts > 7_500
    assert size < 2**20
