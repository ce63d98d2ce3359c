"""SIGINT, SIGTERM and closed pipes, met by real processes at exact moments: a model that never answers holds a turn
open.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.commands import LIMIT_S, Run, environment, start_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
pytest.importorskip("httpx2")


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        yield server


@contextmanager
def asked(
    server: socket.socket, folder: Path, *arguments: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], None]]]:
    """Start a command with a model behind the silent server; the function returned waits until the model is asked."""
    url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    given = start_of(*arguments, "--model", "http", "--base-url", url, "--model-name", "m", "--quiet")
    open_calls: list[socket.socket] = []

    def wait_until_asked() -> None:
        connection, _ = server.accept()
        open_calls.append(connection)
        assert connection.recv(65_536).startswith(b"POST ")

    with subprocess.Popen(
        given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=environment(NO_PROXY="127.0.0.1"),
    ) as running:  # fmt: skip
        try:
            yield running, wait_until_asked
        finally:
            running.kill()
            for connection in open_calls:
                connection.close()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_v33_run_stops_in_order_and_goes_on_later(
    command: Run, silent_server: socket.socket, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """Two signals inside a turn: recorded as a shutdown, status 128 + n; `run` without a prompt finishes the turn."""
    with asked(silent_server, tmp_path, "run", "add 1 2", "--journal", "j.db", "--session", "s") as (running, wait):
        wait()
        running.send_signal(number)
        assert running.stdout is not None
        assert running.stdout.readline().startswith("stopping at the next safe point")
        running.send_signal(number)
        out, err = running.communicate(timeout=LIMIT_S)
    assert (running.returncode, err) == (status, "")
    assert "goes on with: agent-engine run --journal j.db --session s" in out
    assert command("replay", "--journal", "j.db", "s", "--show").out.count("shutdown_requested") == 1
    again = command("run", "--journal", "j.db", "--session", "s", "--model", "scripted", "--json")
    assert (again.status, again.json["text"]) == (0, "The sum is 3.")


def test_m11_ctrl_c_cancels_the_turn_of_a_chat_and_leaves_it_the_second_time(
    command: Run, silent_server: socket.socket, tmp_path: Path
) -> None:
    """The first SIGINT cancels the running turn and the chat goes on; one at the prompt ends it with 130."""
    with asked(silent_server, tmp_path, "chat", "--journal", "j.db", "--session", "s") as (running, wait):
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write("hello\n")
        running.stdin.flush()
        wait()
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline().startswith("session s")
        assert running.stdout.readline().startswith("cancelled")
        running.send_signal(signal.SIGINT)
        running.wait(LIMIT_S)
        assert running.stderr is not None
        assert (running.returncode, running.stderr.read()) == (130, "")
    shown = command("replay", "--journal", "j.db", "s", "--show")
    assert shown.status == 0
    assert "turn_cancelled" in shown.out


def test_sigterm_inside_a_turn_of_a_chat_ends_it(command: Run, silent_server: socket.socket, tmp_path: Path) -> None:
    """SIGTERM is no request to cancel a turn: the chat ends with 143 and the history holds."""
    with asked(silent_server, tmp_path, "chat", "--journal", "j.db", "--session", "s") as (running, wait):
        assert running.stdin is not None
        running.stdin.write("hello\n")
        running.stdin.flush()
        wait()
        running.send_signal(signal.SIGTERM)
        running.wait(LIMIT_S)
        assert running.stderr is not None
        assert (running.returncode, running.stderr.read()) == (143, "")
    assert command("replay", "--journal", "j.db").status == 0


def test_broken_pipe_is_quiet(tmp_path: Path) -> None:
    """A reader that leaves early, as `| head` does, is no error worth a word."""
    with subprocess.Popen(
        start_of("graph"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == ""
        running.wait(LIMIT_S)
    assert running.returncode == 141
