"""JSON text: the quick writer writes what `json` writes, and bottomless nesting is an error in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from engine.core.arguments import decode_value
from engine.core.jsontext import writer
from engine.testing.strategies import json_objects


@given(json_objects())
def test_the_quick_writer_writes_what_json_does(value: dict[str, Any]) -> None:
    """With and without escapes, sorted or not, the text is that of `json.dumps`."""
    separators = (",", ":")
    assert writer(ensure_ascii=True, sort_keys=True)(value) == json.dumps(value, sort_keys=True, separators=separators)
    assert writer(ensure_ascii=False)(value) == json.dumps(value, ensure_ascii=False, separators=separators)


def test_f7_what_json_cannot_hold_is_refused_by_the_quick_writer() -> None:
    """No number that JSON does not know, no other type unless it is replaced, no cycle, no bottomless nesting."""
    write = writer(ensure_ascii=True)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write({"n": float("nan")})
    with pytest.raises(TypeError):
        write({1, 2})
    assert writer(ensure_ascii=True, default=str)({"n": b"x"}) == '{"n":"b\'x\'"}'
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(RecursionError):
        write(cycle)


def test_bottomless_nesting_is_a_complaint() -> None:
    """A value that begins somewhere in a text and nests without end is refused in words."""
    assert decode_value('x [1, {"a": 2}] y', 2) == ([1, {"a": 2}], 15)
    with pytest.raises(ValueError, match="nests deeper than"):
        decode_value("[" * 100_000)
