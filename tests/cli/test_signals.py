"""SIGINT, SIGTERM and closed pipes, met by real processes at exact moments: a model that never answers holds a turn
open.
"""

from __future__ import annotations

import json
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
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], socket.socket]]]:
    """Start a command with a model behind the silent server; the function returned waits until the model is asked."""
    url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    given = start_of(*arguments, "--model", "http", "--base-url", url, "--model-name", "m", "--quiet")
    open_calls: list[socket.socket] = []

    def wait_until_asked() -> socket.socket:
        connection, _ = server.accept()
        open_calls.append(connection)
        assert connection.recv(65_536).startswith(b"POST ")
        return connection

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


def test_v33_sigterm_parks_the_turn_of_a_chat_and_the_next_chat_ends_it(
    command: Run, silent_server: socket.socket, tmp_path: Path
) -> None:
    """The second SIGTERM does not wait for the reply: the turn is recorded as shut down, not as cancelled, the status
    is 143, and the next chat shows the end of the turn before it takes a line.
    """
    with asked(silent_server, tmp_path, "chat", "--journal", "j.db", "--session", "s") as (running, wait):
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write("add 1 2\n")
        running.stdin.flush()
        wait()
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline().startswith("session s")
        assert running.stdout.readline().startswith("stopping at the next safe point")
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=LIMIT_S)
    assert (running.returncode, err) == (143, "")
    assert "goes on with: agent-engine chat --journal j.db --session s" in out
    shown = command("replay", "--journal", "j.db", "s", "--show").out
    assert (shown.count("shutdown_requested"), shown.count("turn_cancelled")) == (1, 0)
    again = command("chat", "--journal", "j.db", "--session", "s", "--model", "scripted", "--quiet")
    assert (again.status, again.out.splitlines()[1:]) == (0, ["The sum is 3."])


def test_v33_sigterm_lets_the_reply_of_a_chat_come(command: Run, silent_server: socket.socket, tmp_path: Path) -> None:
    """A reply that comes after SIGTERM is recorded and shown; then the chat ends with 143 and takes no further line."""
    with asked(silent_server, tmp_path, "chat", "--journal", "j.db", "--session", "s") as (running, wait):
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write("hello\nhello again\n")
        running.stdin.flush()
        connection = wait()
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline().startswith("session s")
        assert running.stdout.readline().startswith("stopping at the next safe point")
        reply = {"choices": [{"index": 0, "delta": {"content": "at last"}, "finish_reason": "stop"}]}
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        connection.sendall(f"{head}data: {json.dumps(reply)}\n\ndata: [DONE]\n\n".encode())
        connection.close()
        out, err = running.communicate(timeout=LIMIT_S)
    assert (running.returncode, err, out) == (143, "", "at last\n")
    stats = command("stats", "--journal", "j.db", "--json").json
    assert stats["sessions"]["s"]["turns"] == 1


def test_v33_sigterm_at_the_prompt_of_a_chat_ends_it(
    command: Run, silent_server: socket.socket, tmp_path: Path
) -> None:
    """Where no turn runs nothing is waited for."""
    with asked(silent_server, tmp_path, "chat", "--journal", "j.db", "--session", "s") as (running, _):
        assert running.stdout is not None
        assert running.stdout.readline().startswith("session s")
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=LIMIT_S)
    assert (running.returncode, out, err) == (143, "", "")
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
