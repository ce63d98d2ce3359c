"""The example of misbehaving tools, run as its own text says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from examples.misbehaving_tools import TOOLS

ROOT = Path(__file__).resolve().parents[2]


def test_f3_example_leaves_no_process_behind() -> None:
    """Each tool of the example gets its line, and no line has a process left."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "misbehaving_tools.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [tool.spec.name for tool in TOOLS]
    assert [line for line in lines if not re.search(r" 0 of \d processes left", line)] == []
