"""`check` reads rules, never runs them, and shows the shortest counter-example."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Run

RULES = '''"""What must hold."""
from engine.replay.monitors import leads_to, never, on, within

quiet = never(on(trigger=("faulted", "recovery_failed")))
answered = leads_to(on(trigger="prompt_received"), on(tool="get_weather", trigger="tool_finished"))
soon = within(on(trigger="prompt_received"), on(state="idle"), records=20)
'''


@pytest.fixture
def stored(command: Run) -> str:
    for session, text in (("one", "weather in Oslo"), ("two", "hello")):
        assert command("run", text, "--journal", "j.db", "--session", session, "--model", "scripted").status == 0
    return "j.db"


def test_check_shows_the_counter_example(command: Run, stored: str, tmp_path: Path) -> None:
    """Rules that hold are said to; of one that does not, the records that show it are printed, and the status is 1."""
    (tmp_path / "rules.py").write_text(RULES, encoding="utf-8")
    done = command("check", "rules.py", stored)
    assert done.status == 1
    lines = done.out.splitlines()
    assert (lines[0], lines[-1]) == ("quiet: holds", "soon: holds")
    assert lines[1] == "answered: 1 times violated; in two: the turn ended first"
    assert [line.split()[0] for line in lines[2:4]] == ["2", "4"]
    assert command("check", "rules.py", stored, "one", "--json").json["rules"][1]["violations"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1",
        "import os\nos.remove('j.db')",
        "x = never(on(tool=open('/etc/passwd').read()))",
        "x = print(on(tool='a'))",
        "x = never('a')",
        "x = never(on(tool='a'), **{})",
        "x = within(on(tool='a'), on(tool='b'))",
        "x = never(on(nothing='a'))",
        "never(",
    ],
)
def test_file_that_is_no_rules_is_refused(command: Run, stored: str, tmp_path: Path, text: str) -> None:
    """Whatever is not a rule with literal arguments is refused with its line, and nothing of it is run."""
    (tmp_path / "rules.py").write_text(text, encoding="utf-8")
    done = command("check", "rules.py", stored)
    assert (done.status, "rules.py" in done.err) == (2, True)
    assert (tmp_path / stored).exists()
    assert command("check", "nowhere.py", stored).status == 2
