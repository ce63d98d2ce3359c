"""The page of limits: each row of its table is whole, and every test that any page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.core.limits import Limits
from tests.docs.test_acceptance import ROOT, names_of_tests

HEAD = ["limit", "mechanism", "strength", "what is guaranteed", "test"]
STRENGTHS = ("exact", "enforced", "rlimit", "sampled", "advisory")
PAGES = sorted((ROOT / "docs").rglob("*.md"))

HOW_IT_IS_KEPT = {"cancel_grace_s", "backoff_base_s", "prices", "on_budget", "tools", "max_continuations"}
"""Fields of `Limits` that bound nothing by themselves: they say how a limit of the table is kept."""


def table() -> list[list[str]]:
    lines = (ROOT / "docs" / "limits-and-recovery.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    start = rows.index(HEAD) + 1
    return [row for row in rows[start:] if len(row) == len(HEAD)]


def test_every_limit_says_how_strong_it_is_and_what_proves_it() -> None:
    """Each row has a mechanism, one of the defined strengths, a guarantee, and at least one test."""
    rows = table()
    assert len(rows) > 40
    for limit, mechanism, strength, guarantee, tests in rows:
        assert mechanism, limit
        assert guarantee, limit
        assert strength.startswith(STRENGTHS), limit
        assert re.search(r"`test_\w+`", tests), limit


def test_every_field_of_limits_has_a_row() -> None:
    """Whoever looks for a limit that can be set finds it in the table."""
    named = " ".join(row[0] for row in table())
    missing = {name for name in Limits.model_fields if f"`{name}`" not in named}
    assert missing - HOW_IT_IS_KEPT == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    """No page names a proof that is not there."""
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    assert named - names_of_tests() == set()
