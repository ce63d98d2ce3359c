"""Chat logs in Anthropic's format and traces by the command line: in, out, and what cannot be taken."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import Run

LOG = {"id": "one", "system": "Be brief.", "messages": [
    {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."},
]}  # fmt: skip


def test_anthropic_log_goes_in_and_out(command: Run, tmp_path: Path) -> None:
    """What was imported is exported equal, and the histories between verify."""
    (tmp_path / "log.jsonl").write_text(json.dumps(LOG) + "\n", encoding="utf-8")
    assert command("import", "log.jsonl", "--journal", "j.db", "--format", "anthropic").status == 0
    assert command("replay", "--journal", "j.db").status == 0
    assert command("export", "--journal", "j.db", "--format", "anthropic", "--output", "out.jsonl").status == 0
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8")) == LOG


def test_anthropic_line_that_cannot_be_taken_is_refused(command: Run, tmp_path: Path) -> None:
    """It is told with its line; `--skip-bad` takes the others."""
    bad = {**LOG, "id": "two", "model": "m"}
    lines = [json.dumps(entry) for entry in (bad, LOG)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = command("import", "log.jsonl", "--journal", "j.db", "--format", "anthropic")
    assert (done.status, "line 1" in done.err) == (1, True)
    done = command("import", "log.jsonl", "--journal", "j.db", "--format", "anthropic", "--skip-bad", "--json")
    assert (done.status, done.json["sessions"], done.json["refused"]) == (1, 1, 1)


def test_traces_go_out_and_in(command: Run, tmp_path: Path) -> None:
    """A journal that was exported as traces and imported holds the same records."""
    assert command("run", "note buy milk", "--journal", "j.db", "--model", "scripted", "--quiet").status == 0
    done = command("export", "--journal", "j.db", "--format", "otlp", "--output", "traces.jsonl", "--json")
    assert (done.status, done.json["traces"]) == (0, 2)
    done = command("import", "traces.jsonl", "--journal", "copy.db", "--format", "otlp", "--json")
    assert done.json == {"sessions": 1}
    for name in ("j.db", "copy.db"):
        assert command("export", "--journal", name, "--format", "jsonl", "--output", f"{name}.jsonl").status == 0
    assert (tmp_path / "j.db.jsonl").read_bytes() == (tmp_path / "copy.db.jsonl").read_bytes()


def test_what_is_no_trace_is_refused(command: Run, tmp_path: Path) -> None:
    """A chat log is no trace, and nothing of traces is skipped."""
    (tmp_path / "log.jsonl").write_text(json.dumps(LOG) + "\n", encoding="utf-8")
    done = command("import", "log.jsonl", "--journal", "j.db", "--format", "otlp")
    assert (done.status, "line 1: this is no OTLP" in done.err) == (1, True)
    done = command("import", "log.jsonl", "--journal", "j.db", "--format", "otlp", "--skip-bad")
    assert (done.status, "imported whole" in done.err) == (2, True)
