"""Every command at least once as a real process, and what all promise: exit status, JSON, one line of complaint."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from engine.cli import build_parser
from engine.core.table import ROWS
from tests.cli.commands import Run

CHATS = [
    {"id": "one", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]},
    {"id": "two", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ünï"}]},
]


def write_chats(path: Path) -> None:
    path.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS), encoding="utf-8")


# --- as processes -----------------------------------------------------------------------------------------------------


def test_run_prints_states_and_the_answer(process: Run) -> None:
    """`run` tells every transition in order and ends with the model's text."""
    done = process("run", "weather in Oslo and Lima", "--journal", "r.db", "--session", "s1", "--model", "scripted")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[-1] == "It is 7 degrees in Oslo and 19 degrees in Lima."
    assert [int(line.split()[0]) for line in lines if line[:4].strip().isdigit()] == list(range(1, 9))
    assert "in parallel" in done.out


def test_chat_works_with_piped_input(process: Run) -> None:
    """`chat` takes a turn a line and ends with its input; empty lines are no turns."""
    given = "hello\n\nadd 40 2"
    done = process("chat", "--journal", "r.db", "--session", "s1", "--model", "scripted", "--quiet", given=given)
    assert done.status == 0, done.err
    assert done.out.splitlines()[1:] == ["Hello! How can I help?", "The sum is 42."]


def test_chat_goes_on_with_a_session(process: Run) -> None:
    """A second `chat` on the same session continues its history."""
    for prompt in ("hello", "add 1 2"):
        done = process("chat", "--journal", "r.db", "--session", "s1", "--model", "scripted", "--json", given=prompt)
        assert done.status == 0, done.err
    stats = process("stats", "--journal", "r.db", "--json").json
    assert stats["sessions"]["s1"]["turns"] == 2


def test_replay_stats_import_export_as_processes(process: Run, tmp_path: Path) -> None:
    """A chat log goes in, verifies, is counted, and comes out equal."""
    write_chats(tmp_path / "chats.jsonl")
    assert process("import", "chats.jsonl", "--journal", "j.db").status == 0
    assert process("replay", "--journal", "j.db").status == 0
    assert process("stats", "--journal", "j.db").status == 0
    done = process("export", "--journal", "j.db", "--format", "openai", "--output", "back.jsonl")
    assert done.status == 0, done.err
    back = [json.loads(line) for line in (tmp_path / "back.jsonl").read_text(encoding="utf-8").splitlines()]
    assert back == CHATS


@pytest.mark.parametrize("name", ["mermaid", "table", "dot", "page"])
def test_graph_as_a_process(process: Run, name: str) -> None:
    """`graph` prints each of its forms."""
    done = process("graph", "--format", name)
    assert done.status == 0
    assert done.err == ""
    assert "generating_response" in done.out


def test_doctor_as_a_process(process: Run) -> None:
    """`doctor` finds what it runs on, and everything required."""
    done = process("doctor", "--json")
    assert done.status == 0, done.err
    assert done.json["missing"] == []
    assert {finding["part"] for finding in done.json["findings"]} == {"installed", "optional", "machine", "limits"}


# --- in this process --------------------------------------------------------------------------------------------------


def test_replay_json_has_the_fixed_members(command: Run, journal: str) -> None:
    """The last line of `replay --json` is an object with sessions, records, seconds, diverged."""
    found = command("replay", "--journal", journal, "--json").json
    assert (found["sessions"], found["records"], found["diverged"]) == (2, 16, 0)
    assert found["seconds"] > 0


def test_replay_of_one_session(command: Run, journal: str) -> None:
    """With a session id only that session is verified."""
    assert command("replay", "--journal", journal, "b", "--json").json["sessions"] == 1


def test_replay_at_shows_the_state_there(command: Run, journal: str) -> None:
    """`--at` folds the history up to a record and shows its state and its conversation."""
    found = command("replay", "--journal", journal, "a", "--at", "5", "--json").json
    assert (found["state"], found["seq"]) == ("executing_tools", 5)
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "tool", "tool"]
    shown = command("replay", "--journal", journal, "a", "--at", "5").out
    assert "queued" in shown
    assert "get_weather(city=" in shown.splitlines()[0]


def test_replay_show_tells_the_story(command: Run, journal: str) -> None:
    """`--show` prints a line a record, then the verdict."""
    out = command("replay", "--journal", journal, "b", "--show").out
    assert "intent recorded" in out
    assert "1 sessions, 8 records" in out.splitlines()[-1]


def test_stats_count_what_happened(command: Run, journal: str) -> None:
    """Numbers by session and in total: turns, calls by tool and status, states entered."""
    found = command("stats", "--journal", journal, "--json").json
    assert found["sessions"]["a"]["tools"]["get_weather"]["calls"] == 2
    assert found["total"]["turns"] == 2
    assert found["total"]["tools"]["write_note"]["statuses"] == {"completed": 1}
    assert found["total"]["states_entered"] == {
        "processing": 4, "generating_response": 4, "executing_tools": 2, "idle": 2,
    }  # fmt: skip
    weather = found["total"]["tools"]["get_weather"]
    assert 0 < weather["mean_s"] <= weather["p95_s"]


def test_stats_prints_a_table(command: Run, journal: str) -> None:
    """Without `--json` there is a line a session, a total, and the tools."""
    out = command("stats", "--journal", journal).out
    assert "2 sessions" in out
    assert "get_weather" in out


def test_export_copies_sqlite_to_jsonl_and_back(command: Run, journal: str, tmp_path: Path) -> None:
    """Records survive the way through the other form byte by byte, and a second copy adds nothing."""
    assert command("export", "--journal", journal, "--format", "jsonl", "--output", "c.jsonl").status == 0
    assert command("export", "--journal", "c.jsonl", "--format", "sqlite", "--output", "c.db").status == 0
    again = command("export", "--journal", journal, "--format", "sqlite", "--output", "c.db", "--json").json
    assert (again["records"], again["present"]) == (0, 16)
    lines = [
        sqlite3.connect(tmp_path / name).execute("SELECT line FROM records ORDER BY session, seq").fetchall()
        for name in (journal, "c.db")
    ]
    assert lines[0] == lines[1]


def test_export_of_one_session(command: Run, journal: str, tmp_path: Path) -> None:
    """With a session id only that conversation is written."""
    assert command("export", "--journal", journal, "b", "--output", "b.jsonl").status == 0
    assert [json.loads(line)["id"] for line in (tmp_path / "b.jsonl").read_text(encoding="ascii").splitlines()] == ["b"]


def test_export_replaces_an_old_chat_log_as_a_whole(command: Run, journal: str, tmp_path: Path) -> None:
    """The file is replaced when the new one is complete, and nothing else is left in the folder."""
    (tmp_path / "out.jsonl").write_text("old\n", encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    assert command("export", "--journal", journal, "--output", "out.jsonl").status == 0
    assert len((tmp_path / "out.jsonl").read_text(encoding="ascii").splitlines()) == 2
    assert {path.name for path in tmp_path.iterdir()} == before


def test_import_refuses_a_bad_line_with_its_number(command: Run, tmp_path: Path) -> None:
    """A line that is no conversation: status 1 and its number; with --skip-bad the others are imported."""
    (tmp_path / "bad.jsonl").write_text('{"id": "x"}\n' + json.dumps(CHATS[0]) + "\n", encoding="utf-8")
    refused = command("import", "bad.jsonl", "--journal", "j.db")
    assert refused.status == 1
    assert refused.err.startswith("agent-engine: line 1: ")
    skipped = command("import", "bad.jsonl", "--journal", "j.db", "--skip-bad", "--json")
    assert (skipped.status, skipped.json["sessions"], skipped.json["refused"]) == (1, 1, 1)


def test_graph_writes_a_file(command: Run, tmp_path: Path) -> None:
    """`--output` writes the whole page."""
    done = command("graph", "--output", "page.md", "--json")
    assert done.json["rows"] == len(ROWS)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == done.json["text"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "--journal", "{journal}"),
        ("stats", "--journal", "{journal}"),
        ("export", "--journal", "{journal}", "--output", "o.jsonl"),
        ("graph",),
        ("doctor",),
        ("run", "hello", "--journal", "{journal}", "--session", "c", "--model", "scripted"),
        ("import", "chats.jsonl", "--journal", "{journal}"),
    ],
)
def test_json_prints_one_object_and_nothing_else(
    command: Run, journal: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """With `--json` standard output is one line that parses."""
    write_chats(tmp_path / "chats.jsonl")
    done = command(*(part.format(journal=journal) for part in arguments), "--json")
    assert done.status == 0, done.err
    assert isinstance(json.loads(done.out), dict)
    assert done.out.count("\n") == 1


def test_every_command_has_help(command: Run) -> None:
    """`--help` of the whole and of each command ends with status 0."""
    assert command("--help").status == 0
    assert command("--version").out.startswith("agent-engine ")
    names = ("demo", "run", "chat", "replay", "diff", "fork", "graph", "import", "export", "stats", "doctor")
    for name in names:
        assert name in build_parser().format_help()
        assert command(name, "--help").status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unheard-of",),
        ("replay",),
        ("run", "hi"),
        ("run", "--journal", "j.db", "--model", "scripted"),
        ("run", "hi", "--journal", "no/such/folder/j.db", "--model", "scripted"),
        ("run", "hi", "--journal", "j.db", "--session", "no such id!", "--model", "scripted"),
        ("run", "hi", "--journal", "j.txt", "--model", "scripted"),
        ("run", "hi", "--journal", "j.db", "--model", "http"),
        ("run", "hi", "--journal", "j.db", "--model", "local", "--model-file", "nothing.gguf"),
        ("replay", "--journal", "nothing.db"),
        ("stats", "--journal", "nothing.jsonl"),
        ("import", "nothing.jsonl", "--journal", "j.db"),
        ("export", "--journal", "nothing.db", "--output", "o.jsonl"),
        ("graph", "--output", "no/such/folder/page.md"),
        ("graph", "--format", "painting"),
    ],
)
def test_wrong_usage_is_status_2_with_a_clear_line(command: Run, arguments: tuple[str, ...]) -> None:
    """The caller is told on standard error what is wrong; nothing is a traceback."""
    done = command(*arguments)
    assert done.status == 2
    assert done.err.splitlines()[-1].startswith("agent-engine")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "--journal", "{journal}", "nobody"),
        ("replay", "--journal", "{journal}", "../a"),
        ("replay", "--journal", "{journal}", "a", "--at", "0"),
        ("replay", "--journal", "{journal}", "a", "--at", "99"),
        ("replay", "--journal", "{journal}", "--at", "1"),
        ("fork", "--journal", "{journal}", "nobody", "--at", "1"),
        ("fork", "--journal", "{journal}", "a", "--at", "1", "--name", "b"),
        ("fork", "--journal", "{journal}", "a", "--at", "1", "--name", "../b"),
        ("stats", "--journal", "{journal}", "nobody"),
        ("export", "--journal", "{journal}", "nobody", "--output", "o.jsonl"),
        ("export", "--journal", "{journal}", "--output", "{journal}"),
        ("export", "--journal", "{journal}", "--format", "jsonl", "--output", "o.txt"),
        ("export", "--journal", "{journal}", "a", "--format", "sqlite", "--output", "o.db"),
    ],
)
def test_wrong_question_to_a_journal_is_status_2(command: Run, journal: str, arguments: tuple[str, ...]) -> None:
    """An unknown session, an id that could leave its place, a record that is not there: status 2, one line."""
    done = command(*(part.format(journal=journal) for part in arguments))
    assert done.status == 2
    assert done.err.startswith("agent-engine: ")
    assert done.err.count("\n") == 1


def test_error_with_json_is_an_object_too(command: Run) -> None:
    """With `--json` the last line of the output is an object even when the command cannot be carried out."""
    done = command("replay", "--journal", "nothing.db", "--json")
    assert (done.status, list(done.json)) == (2, ["error"])
