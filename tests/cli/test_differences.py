"""`diff`: a journal against an engine, or two sessions; `fork` and `counterfactual`. The exit status says it all."""

from __future__ import annotations

import json
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


def _say(request):
    results = [message.text for message in request.messages if message.role == "tool"]
    return ModelReply(text=f"Results: {', '.join(results)}")


saying = Engine(model=FunctionModel(_say), tools=tools)
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


def test_fork_is_counted_once_in_all(command: Run, journal: str) -> None:
    """`stats` shows a fork with everything it begins with; in the total what it shares counts once."""
    before = command("stats", "--journal", journal, "--json").json
    command("fork", "--journal", journal, "a", "--at", "8", "--name", "a2")
    after = command("stats", "--journal", journal, "--json").json
    assert after["sessions"]["a2"]["records"] == before["sessions"]["a"]["records"] + 1
    assert after["sessions"]["a2"]["tools"] == before["sessions"]["a"]["tools"]
    assert after["total"]["records"] == before["total"]["records"] + 1
    assert after["total"]["tools"] == before["total"]["tools"]
    alone = command("stats", "--journal", journal, "a2", "--json").json
    assert alone["total"]["records"] == alone["sessions"]["a2"]["records"] == 9


def test_counterfactual_reuses_what_does_not_depend_on_the_change(command: Run, journal: str, shop: str) -> None:
    """One of two results is another one: both are given, no tool runs, and only the last reply is asked anew."""
    end = _first_end(command, journal)
    change = ("--at", str(end), "--change", '{"content": "40 degrees"}')
    done = command("counterfactual", "--journal", journal, "a", *change, "--engine", f"{shop}:saying", "--json")
    found = done.json
    assert done.status == 0, done.err
    assert sorted(use["kind"] for use in found["reused"]) == ["model", "tool", "tool"]
    assert [use["kind"] for use in found["run_again"]] == [use["kind"] for use in found["invalidated"]] == ["model"]
    assert found["comparison"]["changed"] == 2
    told = command("replay", "--journal", journal, found["session"], "--json")
    assert told.json["diverged"] == 0
    assert command("replay", "--journal", journal, "a", "--json").json["records"] == 8
    done = command("counterfactual", "--journal", journal, "a", *change, "--engine", f"{shop}:saying")
    assert "reused: 3 (the model, get_weather)" in done.out


def test_f2_counterfactual_withholds_writes_unless_they_may_run(command: Run, journal: str, shop: str) -> None:
    """A write that was not recorded is withheld, which is status 1, and runs where it is allowed by name."""
    reply = '{"reply": {"tool_calls": [{"id": "n1", "name": "write_note", "arguments": {"text": "buy tea"}}]}}'
    asked = ("counterfactual", "--journal", journal, "b", "--at", "4", "--change", reply, "--engine", f"{shop}:saying")
    done = command(*asked, "--json")
    assert (done.status, [use["name"] for use in done.json["withheld"]]) == (1, ["write_note"]), done.err
    done = command(*asked, "--may-run", "write", "--json")
    assert (done.status, done.json["withheld"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("a", "--at", "99"), 1),
        (("a", "--at", "99", "--change", "{}"), 1),
        (("a", "--at", "1"), 1),
        (("nobody", "--at", "1"), 2),
        (("a", "--at", "2", "--change", "{}"), 2),
        (("a", "--at", "4", "--change", "{"), 2),
        (("a", "--at", "4", "--change", "[]"), 2),
        (("a", "--at", "4", "--change", '{"kind": "resumed"}'), 2),
        (("a", "--at", "4", "--change", '{"nothing": 1}'), 2),
        (("a", "--at", "4", "--may-run", "anything"), 2),
    ],
)
def test_bad_counterfactual_is_told(
    command: Run, journal: str, shop: str, arguments: tuple[str, ...], status: int
) -> None:
    """What cannot be changed is told in one line, and no session is made."""
    done = command("counterfactual", "--journal", journal, *arguments, "--engine", f"{shop}:saying")
    assert done.status == status, done.out
    assert "Traceback" not in done.err
    assert command("stats", "--journal", journal, "--json").json["total"]["sessions"] == 2


def _first_end(command: Run, journal: str) -> int:
    """Return the record of the first result of session a."""
    command("export", "--journal", journal, "--format", "jsonl", "--output", "a.jsonl")
    lines = [json.loads(line) for line in Path("a.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(int(line["seq"]) for line in lines if (line["session"], line["trigger"]) == ("a", "tool_finished"))
