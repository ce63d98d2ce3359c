"""`inspect`: what it writes where, and what it says when there is nothing to look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.inspect.filtering import filtered
from tests.inspect.pages import EXAMPLE, example

from .commands import Run


def test_page_goes_where_it_is_told(command: Run, journal: str, tmp_path: Path) -> None:
    """A page is written to the file that was named, or to one named after the session, and nothing else is."""
    assert command("inspect", journal, "a", "-o", "run.html").status == 0
    assert command("inspect", "--journal", journal, "b").status == 0
    pages = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html")}
    assert sorted(pages) == ["b.html", "run.html"]
    assert "<h1>a</h1>" in pages["run.html"]


def test_only_session_need_not_be_named(command: Run) -> None:
    """A journal of one session is looked at without its id; `--json` says what was done."""
    done = command("inspect", str(EXAMPLE), "-o", "x.html", "--json")
    assert done.json == {
        "session": "order-4711", "format": "html", "records": 33, "output": "x.html", "damage": None,
    }  # fmt: skip


def test_trace_is_json_on_standard_output(command: Run) -> None:
    """Without a file the trace is printed, ready for a pipe."""
    done = command("inspect", str(EXAMPLE), "--format", "trace")
    assert {event["ph"] for event in json.loads(done.out)["traceEvents"]} == {"M", "X", "i"}


@pytest.mark.parametrize(("diagram", "first"), [("sequence", "sequenceDiagram"), ("states", "stateDiagram-v2")])
def test_mermaid_draws_either_diagram(command: Run, diagram: str, first: str) -> None:
    """The sequence is drawn unless the states are asked for."""
    assert command("inspect", str(EXAMPLE), "--format", "mermaid", "--diagram", diagram).out.startswith(first)


def test_text_can_be_filtered(command: Run) -> None:
    """The lines are those that the filter leaves, and the count says how many."""
    wanted = [record.seq for record, _ in filtered(example(), "tool:track_parcel")]
    done = command("inspect", str(EXAMPLE), "--format", "text", "--filter", "tool:track_parcel")
    assert [int(line[:6]) for line in done.out.splitlines() if line.startswith(" ")] == wanted
    counted = command("inspect", str(EXAMPLE), "--format", "text", "--filter", "tool:track_parcel", "--json")
    assert counted.json["records"] == len(wanted)


def test_damaged_history_is_shown_up_to_the_damage(command: Run, tmp_path: Path) -> None:
    """A flipped letter costs what follows, not what came before; the page and the exit status say so."""
    lines = EXAMPLE.read_text(encoding="ascii").splitlines(keepends=True)
    lines[19] = lines[19].replace("sent to ada", "sent to eve")
    (tmp_path / "damaged.jsonl").write_text("".join(lines), encoding="ascii")
    done = command("inspect", "damaged.jsonl", "-o", "run.html", "--json")
    assert done.status == 1
    assert done.json["records"] == 19
    assert "hash does not match" in done.json["damage"]
    assert "hash does not match" in (tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes a journal"),
        (["J", "a", "b"], "takes a journal"),
        (["missing.db"], "no journal at"),
        (["J"], "2 sessions: name one of them after the journal (a, b)"),
        (["J", "nobody"], "nobody"),
        (["J", "a", "-o", "no/such/x.html"], "no folder"),
        (["J", "a", "--filter", "x"], "--filter is for"),
        (["J", "a", "--follow", "-o", "x.html"], "--follow serves a page"),
        (["J", "a", "--follow", "--port", "70000"], "ports count"),
    ],
)
def test_wrong_usage_says_what_to_do(command: Run, journal: str, arguments: list[str], said: str) -> None:
    """Whatever cannot be meant is refused with a word about what can."""
    done = command("inspect", *[journal if one == "J" else one for one in arguments])
    assert done.status in (1, 2)
    assert said in done.err
