"""The language of the filter, as the command line speaks it. That the page agrees is tested in the browser."""

from __future__ import annotations

import pytest

from engine.inspect.filtering import Term, filtered, parse_filter

from .pages import example


def left(text: str) -> list[int]:
    return [record.seq for record, _ in filtered(example(), text)]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  lost parcel", [(None, "lost", False), (None, "parcel", False)]),
        ("-tool:refund", [("tool", "refund", True)]),
        ('call:"a b" "two words"', [("call", "a b", False), (None, "two words", False)]),
        ("http://x", [(None, "http://x", False)]),
        ('unclosed "quo te', [(None, "unclosed", False), (None, "quo te", False)]),
        ('""', []),
    ],
)
def test_every_text_is_a_filter(text: str, terms: list[Term]) -> None:
    """Known keys ask for one thing; whatever else there is are words."""
    assert list(parse_filter(text)) == terms


@pytest.mark.parametrize(
    ("text", "seqs"),
    [
        ("", list(range(1, 34))),
        ("tool:track_parcel", [7, 27, 31]),
        ("tool:Track_Parcel is:problem", [27]),
        ("state:waiting_for_user", [13]),
        ("trigger:user_answered", [14]),
        ("status:timed_out", [27]),
        ("turn:1 -trigger:context_prepared", [2, 4, 5, 6, 7, 9]),
        ("call:refund-2", [14, 15, 16]),
        ('"Ada Lindqvist"', [4, 5]),
        ("MIRA", [14]),
        ("turn:01", []),
        ("status:", []),
        ("no-such-word", []),
    ],
)
def test_filter_leaves_what_it_says(text: str, seqs: list[int]) -> None:
    """Every term has to hold, in any case; a minus turns a term round."""
    assert left(text) == seqs
