"""The web application of docs/embedding.md, taken from the page and spoken to as a server would."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.parse import urlencode

import anyio
import pytest

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "embedding.md"

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    """The application, defined by the page's own blocks."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    blocks = [block.split("\n```", 1)[0] for block in PAGE.read_text(encoding="utf-8").split("\n```python\n")[1:]]
    for block in (blocks[0], next(block for block in blocks if "FastAPI(" in block)):
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), vars(module))  # noqa: S102 - the project's own page
    return cast(Application, vars(module)["app"])


@asynccontextmanager
async def served(application: Application) -> AsyncGenerator[None]:
    """Start the application's lifespan, and end it."""
    to_send, to_receive = anyio.create_memory_object_stream[Message](2)
    seen, told = anyio.create_memory_object_stream[Message](2)
    async with to_send, to_receive, seen, told, anyio.create_task_group() as group:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        group.start_soon(application, scope, to_receive.receive, seen.send)
        await to_send.send({"type": "lifespan.startup"})
        assert (await told.receive())["type"] == "lifespan.startup.complete"
        yield
        await to_send.send({"type": "lifespan.shutdown"})
        assert (await told.receive())["type"] == "lifespan.shutdown.complete"


async def request(
    application: Application, method: str, path: str, query: dict[str, str] | None = None, body: object = None
) -> tuple[int, str]:
    """Make one request; return the status and the whole body."""
    content = b"" if body is None else json.dumps(body).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": urlencode(query or {}).encode(),
        "headers": [(b"content-type", b"application/json")], "server": ("test", 80), "client": ("test", 1),
    }  # fmt: skip
    asked = [{"type": "http.request", "body": content, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not asked:
            await anyio.sleep_forever()
        return asked.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


@pytest.mark.anyio
async def test_application_of_the_page_asks_streams_and_catches_up(application: Application) -> None:
    """A turn answers, a stream gives its records and ends with the result, and a client can read what it missed."""
    async with served(application):
        status, text = await request(application, "POST", "/sessions/guest/turns", body={"prompt": "When?"})
        assert status == 200
        assert json.loads(text) == {"text": "We are open: 9 to 5.", "outcome": "completed", "pending": []}

        status, text = await request(application, "GET", "/sessions/guest/stream", {"prompt": "Again?"})
        events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.split("\n\n") if event]
        records = [json.loads(event["data"]) for event in events if event["event"] == "record"]
        assert status == 200
        assert records[0]["trigger"] == "prompt_received"
        assert json.loads(events[-1]["data"]) == {"text": "We are open: 9 to 5.", "outcome": "completed"}

        status, text = await request(application, "GET", "/sessions/guest/records", {"after": events[0]["id"]})
        assert json.loads(text) == records[1:]


@pytest.mark.anyio
async def test_application_of_the_page_refuses_with_a_reason(application: Application) -> None:
    """What the engine refuses is a status and the text that says what to do."""
    async with served(application):
        status, text = await request(application, "POST", "/sessions/a.b/turns", body={"prompt": "When?"})
    assert status == 409
    assert "does not match" in json.loads(text)["error"]
