"""The two pages that say what is proven: every row is there, and every test they name exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# How many rows the acceptance table has of each origin.
ROWS = {"V": 34, "A": 22, "P": 14, "L": 17, "M": 22}
PROMISES = 20

_NOT_YET = "not yet"


class Row(NamedTuple):
    """One row of a page: its id, the tests that it names, and whether it says that something is missing."""

    id: str
    tests: tuple[str, ...]
    not_yet: bool


def rows(page: str) -> list[Row]:
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    table = (line for line in lines if re.match(r"\| [A-Z]?\d+ \|", line))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [Row(row[0], tuple(re.findall(r"`(test_\w+)`", row[-1])), _NOT_YET in row[-1]) for row in cells]


@cache
def names_of_tests() -> frozenset[str]:
    """Return the name of every test of the project."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py"))
    functions = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def test_every_row_is_there_once_in_order() -> None:
    """The table of acceptance has all rows, the page of promises all twenty."""
    wanted = [f"{origin}{number}" for origin, count in ROWS.items() for number in range(1, count + 1)]
    assert [row.id for row in rows("acceptance.md")] == wanted
    assert [row.id for row in rows("why.md")] == [str(number) for number in range(1, PROMISES + 1)]


@pytest.mark.parametrize("page", ["acceptance.md", "why.md"])
def test_every_named_test_exists(page: str) -> None:
    """A proof is a test that is there."""
    known = names_of_tests()
    assert [(row.id, name) for row in rows(page) for name in row.tests if name not in known] == []


@pytest.mark.parametrize("page", ["acceptance.md", "why.md"])
def test_every_row_is_proven_or_says_not_yet(page: str) -> None:
    """No row claims a thing without a test."""
    assert [row.id for row in rows(page) if not row.tests and not row.not_yet] == []


def test_no_row_hides_its_own_tests() -> None:
    """A row without tests has none: no test carries its id in its name."""
    unproven = {row.id.lower() for row in rows("acceptance.md") if not row.tests}
    assert [name for name in names_of_tests() if unproven & set(name.split("_"))] == []
