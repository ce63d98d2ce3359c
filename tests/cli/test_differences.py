"""`diff`: a journal against an engine, or two sessions against each other; and `fork`. The exit status says it all."""

from __future__ import annotations

from pathlib import Path

import pytest

from .commands import Run

SHOP = """
from engine import Engine, Limits, ModelReply
from engine.cli.world import World
from engine.models import FunctionModel

model = FunctionModel(lambda request: ModelReply(text="never asked"))
tools = World("notes.db").tools()
same = Engine(model=model, tools=tools)
smaller = Engine(model=model, tools=tools[:1])
"""


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """A module in the working folder with two engines."""
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SHOP, encoding="utf-8")
    return name


def test_diff_against_an_engine(command: Run, journal: str, shop: str) -> None:
    """The engine that the history was recorded with gives status 0, one without its tools 1 and the reasons."""
    assert command("diff", "--journal", journal, "--engine", f"{shop}:same").status == 0
    done = command("diff", "--journal", journal, "b", "--engine", f"{shop}:smaller")
    assert done.status == 1
    assert "missing_tool" in done.out
    found = command("diff", "--journal", journal, "--engine", f"{shop}:smaller", "--json").json
    assert (found["sessions"], found["diverged"]) == (2, 1)
    assert [report["diverged"] for report in found["reports"]] == [False, True]


def test_diff_of_two_sessions(command: Run, journal: str) -> None:
    """Two sessions are aligned; a session against itself differs in nothing."""
    done = command("diff", "--journal", journal, "a", "b", "--json")
    assert (done.status, done.json["differ"]) == (1, True)
    same = command("diff", "--journal", journal, "a", "a", "--other-journal", journal)
    assert same.status == 0
    assert same.out.splitlines()[-1] == "a and a: 8 the same, 0 changed, 0 only left, 0 only right"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a",),
        ("a", "b", "--engine", "x:y"),
        ("a", "nobody"),
        ("a", "--engine", "shop"),
        ("a", "--engine", "no_such_module:engine"),
        ("a", "--engine", "json:dumps"),
        ("a", "--engine", "json:nothing"),
    ],
)
def test_bad_question_to_diff_is_status_2(command: Run, journal: str, arguments: tuple[str, ...]) -> None:
    """What cannot be compared or imported is told in one line; nothing is a traceback."""
    done = command("diff", "--journal", journal, *arguments)
    assert done.status == 2, done.out
    assert done.err.startswith("agent-engine: ")
    assert "Traceback" not in done.err


def test_fork_goes_on_and_leaves_its_parent(command: Run, journal: str) -> None:
    """A fork is a session that `run` goes on with; the parent stays, and both verify."""
    done = command("fork", "--journal", journal, "a", "--at", "4", "--name", "a2", "--json")
    assert (done.status, done.json) == (0, {"session": "a2", "parent": "a", "at": 4})
    assert command("run", "--journal", journal, "--session", "a2", "--model", "scripted").status == 0
    assert command("diff", "--journal", journal, "a", "a2", "--json").json["only_left"] == 0
    assert command("replay", "--journal", journal, "--json").json["diverged"] == 0
    assert command("fork", "--journal", journal, "a", "--at", "99").status == 1
