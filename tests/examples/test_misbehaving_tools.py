"""The examples of misbehaving tools, run as their own text says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from examples import misbehaving_at_home as home
from examples.misbehaving_tools import TOOLS

ROOT = Path(__file__).resolve().parents[2]


ENDS = {
    "hangs": "completed timed_out timed out after 0.2 s",
    "swallows_cancellation": "completed timed_out timed out and did not end",
    "blocks_the_loop": "completed completed alone · blocked the loop: blocks_the_loop",
    "sleeps_in_a_thread": "completed unknown timed out after 0.2 s; it may still take effect",
    "returns_nan": "completed failed the tool ran, but its result cannot be recorded",
    "never_ends_its_story": "completed completed [This result is too long",
    "gives_a_secret_away": "completed failed ConnectionError: https://api.example/v1?key=[redacted:api]",
    "exits": "completed failed SystemExit: 3",
    "sees_nothing_new": "failed denied not run: the model goes round in circles",
}
"""What the line of each tool begins with: how the turn ended, how the call ended, what its result says."""


def run(name: str) -> list[str]:
    """Run an example and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


def test_f3_example_leaves_no_process_behind() -> None:
    """Each tool of the example gets its line, and no line has a process left."""
    lines = run("misbehaving_tools.py")
    assert [line.split()[0] for line in lines] == [tool.spec.name for tool in TOOLS]
    assert [line for line in lines if not re.search(r" 0 of \d processes left", line)] == []


def test_f4_f5_f7_f18_example_survives_every_tool_at_home() -> None:
    """Each tool ends as the example says, the session answers after each, and the secret is nowhere."""
    lines = run("misbehaving_at_home.py")
    assert list(ENDS) == [made.spec.name for made in (*home.ALONE, home.sees_nothing_new)]
    for line, (name, end) in zip(lines, ENDS.items(), strict=True):
        assert " ".join(line.split()).startswith(f"{name} {end}")
        assert line.endswith(" · Still here.")
        assert home.API_KEY not in line
