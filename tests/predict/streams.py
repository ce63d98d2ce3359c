"""What the tests of the predictor share: streams of calls in sessions, and ways to tell them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from engine.predict import END, Predictor, PredictorSettings, Situation
from engine.predict.persistence import encode

SMALL = PredictorSettings(salt=b"tenant", max_contexts=64, max_sessions=4, horizon=4)
"""Bounds that a short stream reaches."""


class Told(NamedTuple):
    """One thing told to a predictor. `tool` is a name, END, or None for the end of the session."""

    key: str
    tool: str | None
    ok: bool | None = None
    args: dict[str, Any] | None = None
    situation: Situation | None = None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
tools = st.sampled_from(["search", "read", "write", "list", "login"]) | st.text(max_size=4)
situations = st.builds(
    Situation,
    state=st.sampled_from(["", "processing"]),
    round=st.integers(0, 9),
    began_with_text=st.sampled_from([None, True, False]),
    hint=st.text(max_size=3),
)
told = st.builds(
    Told,
    key=st.sampled_from("abcdef"),
    tool=st.none() | st.just(END) | tools,
    ok=st.sampled_from([None, True, False]),
    args=st.none() | st.dictionaries(st.text(max_size=3), values, max_size=7),
    situation=st.none() | situations,
)
streams = st.lists(told, max_size=60)


def tell(predictor: Predictor, stream: Iterable[Told]) -> Predictor:
    """Feed a stream and return the predictor."""
    for key, tool, ok, args, situation in stream:
        if tool is None:
            predictor.end(key)
        else:
            predictor.update(key, tool, ok, args, situation=situation)
    return predictor


def chain(*names: str, sessions: int = 1) -> list[Told]:
    """Return that many sessions of one turn each, which call these tools."""
    return [Told(f"s{number}", tool, True) for number in range(sessions) for tool in (*names, None)]


def everything(predictor: Predictor) -> bytes:
    """Return what was learned and the open sessions as bytes; not which words and tables are at hand."""
    rules = predictor._learned.rules
    return pickle.dumps((encode(predictor._learned), rules._constants, predictor._sessions))


def learned(predictor: Predictor) -> str:
    """Return what was learned, as text."""
    return encode(predictor._learned)


def said(predictor: Predictor, key: str) -> object:
    """Return everything a predictor says about a session."""
    return predictor.predict(key, 9), predictor.within(key, k=9), predictor.within(key, 2, 9)
