"""The diagram is the table: same rows, same guards, and the generated page is fresh."""

from __future__ import annotations

import re
from pathlib import Path

from engine.core.table import ROWS
from engine.core.values import State
from engine.inspect.diagram import dot, mermaid, page, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state-machine.md"


def moves() -> set[tuple[str, str]]:
    return {(source.value, (row.dest or source).value) for row in ROWS for source in row.sources}


def test_page_is_fresh() -> None:
    """`docs/state-machine.md` is what `agent-engine graph --output docs/state-machine.md` writes."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_mermaid_has_an_arrow_for_each_move() -> None:
    """Every pair of states that a row connects is an arrow of the Mermaid diagram, and nothing else is."""
    drawn = set(re.findall(r"^ *(\w+) --> (\w+):", mermaid(), re.MULTILINE))
    assert drawn == moves()


def test_mermaid_labels_name_each_row() -> None:
    """A row stands at its arrows with its trigger and its guard."""
    text = mermaid()
    for row in ROWS:
        guard = "" if row.guard is None else rf" \[{row.guard.__name__}\]"
        for source in row.sources:
            inside = r" \[internal\]" if row.dest is None else ""
            dest = (row.dest or source).value
            assert re.search(
                rf"^ *{source.value} --> {dest}:.*\b{row.trigger}{inside}{guard}(<br/>|$)", text, re.MULTILINE
            )


def test_mermaid_begins_with_a_title_and_the_first_state() -> None:
    """The front matter is YAML with a title, and the arrow from nowhere leads to idle."""
    lines = mermaid().splitlines()
    assert lines[0] == lines[2] == "---"
    assert lines[1].startswith("title: ")
    assert lines[-1].strip() == f"[*] --> {State.IDLE.value}"


def test_dot_has_an_arrow_for_each_move() -> None:
    """The Graphviz form holds the same arrows."""
    assert set(re.findall(r"^  (\w+) -> (\w+) \[", dot(), re.MULTILINE)) == moves()


def test_table_has_a_line_for_each_row() -> None:
    """The Markdown table lists the rows in the order in which they are tried."""
    lines = table().splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [row.trigger for row in ROWS]
    assert [line.split("|")[5].strip() for line in lines] == [row.action.__name__ for row in ROWS]


def test_page_is_written_in_whole_pieces() -> None:
    """The page names every state and fences exactly one diagram."""
    text = page()
    assert text.count("```mermaid\n") == 1
    assert all(f"| `{state.value}` |" in text for state in State)
