"""Results as text: what JSON can hold passes unchanged, everything else names its place, errors are bounded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from uuid import UUID

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from engine.errors import EncodingError
from engine.tools.encode import check_json, complaint, describe, encode_result

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Point(BaseModel):
    """A pydantic model."""

    x: int
    at: datetime


@dataclass
class Pair:
    """A dataclass."""

    left: object
    right: object


class Colour(Enum):
    """An enum."""

    RED = "red"


@given(json_values.filter(lambda value: not isinstance(value, str)))
def test_json_values_pass_unchanged(value: object) -> None:
    """What JSON can hold decodes to what was encoded."""
    assert json.loads(encode_result(value)) == value
    check_json(value)


@given(st.text())
def test_strings_stay_as_they_are(text: str) -> None:
    """A string is its own text, without quotes."""
    assert encode_result(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Point(x=1, at=datetime(2026, 1, 2, tzinfo=UTC)), '{"x":1,"at":"2026-01-02T00:00:00Z"}'),
        (Pair(date(2026, 1, 2), (1, 2)), '{"left":"2026-01-02","right":[1,2]}'),
        ([Decimal("1.10"), UUID(int=1)], '["1.10","00000000-0000-0000-0000-000000000001"]'),
        ({"a": Colour.RED, "b": PurePosixPath("x/y")}, '{"a":"red","b":"x/y"}'),
        ([timedelta(seconds=90)], '["PT1M30S"]'),
    ],
    ids=["model", "dataclass", "numbers", "enum-and-path", "time"],
)
def test_what_hosts_return_becomes_json(value: object, text: str) -> None:
    """Models, dataclasses, dates, decimals, enum members and paths have a JSON form of their own."""
    assert encode_result(value) == text


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [0, {"b": float("nan")}]}, "$.a[1].b"),
        (Pair(1, b"x"), "$.right"),
        ([1, {2, 3}], "$[1]"),
        ({"a": {1j: 2}}, "$.a"),
        ({"n": 10**5000}, "$.n"),
    ],
)
def test_a_value_without_a_json_form_names_its_place(value: object, path: str) -> None:
    """The error says where in the value the trouble is."""
    with pytest.raises(EncodingError) as refused:
        encode_result(value)
    assert refused.value.path == path


def test_check_json_takes_nothing_that_needs_conversion() -> None:
    """Arguments must be JSON itself: bytes and sets are refused with their place."""
    with pytest.raises(EncodingError) as refused:
        check_json({"a": [b"x"]})
    assert refused.value.path == "$.a[0]"


def test_description_of_an_error_is_bounded_and_never_fails() -> None:
    """An error becomes its name and text, cut where it is too long, whatever its own text does."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(ValueError()) == "ValueError"
    assert describe(Mute()) == "Mute: (its text cannot be shown: ValueError)"
    assert len(describe(ValueError("x" * 10**6))) == 2000


def test_complaint_is_bounded() -> None:
    """Ten thousand wrong items give twenty clauses and the number of the rest."""
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(list[int]).validate_python(["x" * 1000] * 10_000)
    text = complaint(refused.value)
    assert text.endswith("and 9980 more")
    assert len(text) < 6000


def test_complaint_shows_a_value_that_cannot_be_shown() -> None:
    """A value whose own text fails is shown by its type."""

    class Hidden:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(ValidationError) as refused:
        TypeAdapter(int).validate_python(Hidden())
    assert complaint(refused.value).endswith("(got a Hidden whose text cannot be shown (RuntimeError))")
