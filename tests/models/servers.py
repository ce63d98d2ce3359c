"""Real servers on the loopback for the tests of the HTTP adapter.

`ScriptedServer` answers each request as it is told and counts what it sees; `mock_server` runs the npm package
`@copilotkit/aimock`; `llama_server` runs llama.cpp's own HTTP server on the model that the engine ships. What cannot
be had on this machine makes the test skip with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import engine.models

AIMOCK = "@copilotkit/aimock@1.43"


class Handler(BaseHTTPRequestHandler):
    """One connection; HTTP/1.1, kept open until an answer closes it."""

    protocol_version = "HTTP/1.1"
    script: ScriptedServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        try:
            self.script.seen(self, body)(self)
        except (BrokenPipeError, ConnectionResetError):
            # The client hung up while it was being answered.
            self.script.left.set()
            self.close_connection = True

    do_GET = do_POST

    def do_HEAD(self) -> None:
        self.script.meet(self)
        self.send_response(405)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Stay silent: the tests look at what was recorded."""


Answer: TypeAlias = Callable[[Handler], None]


class ScriptedServer:
    """Gives the answers it was made with, in order; the last one again and again.

    `requests` holds (connection number, headers, body) of everything that arrived; `left` is set when a
    client hangs up.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[int, dict[str, str], Any]] = []
        self.left = threading.Event()
        self.arrived = threading.Event()
        self._ports: list[int] = []
        self._sockets: list[socket.socket] = []
        handler = type("BoundHandler", (Handler,), {"script": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def body(self) -> Any:
        return self.requests[-1][2]

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return len(self._ports)

    def meet(self, handler: Handler) -> int:
        port = handler.client_address[1]
        if port not in self._ports:
            self._ports.append(port)
            self._sockets.append(handler.connection)
        return port

    def seen(self, handler: Handler, body: bytes) -> Answer:
        port = self.meet(handler)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append((self._ports.index(port), headers, json.loads(body) if body else None))
        self.arrived.set()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # The other side was faster.
        self._thread.join()


def whole(status: int = 200, body: object = None, **headers: str) -> Answer:
    """Answer with a body of known length: JSON, or text as it is."""

    def answer(handler: Handler) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        handler.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def stream(*pieces: bytes | str | Mapping[str, Any], then: Answer | None = None) -> Answer:
    """Answer with events. A mapping is a chunk, a string the data of an event, bytes go out as they are.

    `then` says what happens instead of the proper end of the body.
    """

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            text = json.dumps(piece) if isinstance(piece, Mapping) else piece
            data = f"data: {text}\n\n".encode() if isinstance(text, str) else text
            handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()
        if then is not None:
            then(handler)
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def hang(handler: Handler) -> None:
    """Send nothing until the client hangs up."""
    try:
        gone = handler.connection.recv(1) == b""
    except OSError:
        gone = True
    if gone:
        handler.script.left.set()
    handler.close_connection = True


def drop(handler: Handler) -> None:
    """Close the connection without another byte."""
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Tear the connection down without a farewell."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk of a stream."""
    return {"model": "m-1", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def call_delta(text: str = "", *, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk that holds a piece of a tool call."""
    function = {"arguments": text} if name is None else {"name": name, "arguments": text}
    return delta(tool_calls=[{**fields, "function": function}])


def refused_url() -> str:
    """Return a URL of this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@contextmanager
def mock_server(fixtures: Path) -> Iterator[str]:
    """Run the npm mock server on a folder of fixtures and give its base URL."""
    program = _installed()
    command = [str(program), "-p", "0", "-f", str(fixtures)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if "listening on " in line:
                break
        else:
            pytest.fail(f"the mock server ended at once: {''.join(said)}")
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        try:
            yield said[-1].rpartition("listening on ")[2].strip() + "/v1"
        finally:
            process.terminate()
            process.wait(10)
            drain.join()


def _installed() -> Path:
    named = os.environ.get("AGENT_ENGINE_TEST_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = (Path(named) if named else caches / "agent-engine-tests") / "aimock"
    program = folder / "node_modules" / ".bin" / "llmock"
    if program.exists():
        return program
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed; the mock server comes from npm")
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), AIMOCK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0 or not program.exists():
        pytest.skip(f"npm could not install {AIMOCK}: {done.stderr.strip()[-300:]}")
    return program


@contextmanager
def llama_server() -> Iterator[str]:
    """Run llama.cpp's own server on the model that the engine ships and give its base URL."""
    library = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'agent-engine[local]'")
    data = Path(engine.models.__file__).parent / "data"
    model, template = data / "tiny-agent.gguf", data / "chat-template.jinja"
    if not model.exists() or not template.exists():
        pytest.skip(f"{model.name} or {template.name} is missing in engine/models/data")
    parameters = library.CommonParams()
    parameters.model.path = str(model)
    parameters.chat_template = template.read_text(encoding="utf-8")
    parameters.use_jinja = True
    parameters.warmup = False
    parameters.n_ctx, parameters.n_parallel, parameters.port = 2048, 1, 0
    # More threads than one make single turns take seconds on a busy machine.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = library.Server(parameters)
    yield server.listening_address + "/v1"
    del server
