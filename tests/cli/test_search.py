"""`search` finds records, says so by its status, and lets one bad session not keep the others from being searched."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.commands import Run


@pytest.fixture
def stored(command: Run) -> str:
    for session, prompt in (("one", "weather in Oslo"), ("two", "note buy milk")):
        done = command("run", prompt, "--journal", "j.db", "--session", session, "--model", "scripted")
        assert done.status == 0
    return "j.db"


def test_search_finds_text_and_shows_it(command: Run, stored: str) -> None:
    """The record, its place and the text around the find are printed; the status is 0."""
    done = command("search", "--journal", stored, "--text", "MILK", "--trigger", "tool_finished")
    assert (done.status, done.out.splitlines()) == (1, ["0 records"])
    done = command("search", "--journal", stored, "--text", "MILK", "--trigger", "model_replied")
    assert done.status == 0
    assert done.out.startswith("two:4")
    assert "buy milk" in done.out


def test_search_in_json(command: Run, stored: str) -> None:
    """The JSON object holds what was found, in order."""
    done = command("search", "--journal", stored, "--tool", "get_weather", "--json")
    assert [(found["session"], found["trigger"]) for found in done.json["found"]] == [
        ("one", "model_replied"),
        ("one", "tool_finished"),
    ]


def test_search_stops_at_its_limit(command: Run, stored: str) -> None:
    """No more than the limit is found, and the output says that there may be more."""
    done = command("search", "--journal", stored, "--limit", "3")
    assert (done.status, done.out.splitlines()[-1]) == (0, "3 records, there may be more: --limit")


def test_search_goes_on_after_a_damaged_session(command: Run, stored: str, tmp_path: Path) -> None:
    """Damage is told with its place, the other sessions are searched, the status is 1."""
    connection = sqlite3.connect(tmp_path / stored)
    connection.execute("UPDATE records SET line = replace(line, 'Oslo', 'Rome') WHERE session = 'one'")
    connection.commit()
    connection.close()
    done = command("search", "--journal", stored, "--text", "milk", "--json")
    assert (done.status, done.json["damaged"]) == (1, ["one"])
    assert done.json["found"]


@pytest.mark.parametrize("option", [("--since", "yesterday"), ("--limit", "0"), ("--trigger", "x"), ("--state", "x")])
def test_search_refuses_what_means_nothing(command: Run, stored: str, option: tuple[str, str]) -> None:
    """A time, a count, an event or a state that is none is wrong usage."""
    assert command("search", "--journal", stored, *option).status == 2
