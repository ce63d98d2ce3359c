"""A host that dies: nothing of what its tools have started outlives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.workers.host import REPORTED
from tests.tools.workers.talking import PATIENCE_S, Watching

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("run", range(2))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_f3_host_that_is_killed_leaves_no_orphans(backend: str, run: int) -> None:
    """Killed with SIGKILL, a host takes everything along: in its own session, forked twice, deaf to SIGTERM."""
    command = [sys.executable, "-m", "tests.tools.workers.host", backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as host:
        assert host.stdout is not None
        watching = Watching([int(host.stdout.readline()) for _ in range(REPORTED)])
        host.kill()
        host.wait(PATIENCE_S)
        assert watching.gone()
