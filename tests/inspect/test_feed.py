"""A feed tells everybody who follows each record once, in order, and nobody has to ask."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from engine import Engine, tool
from engine.inspect.feed import Feed
from engine.inspect.live import application
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.testing.records import read_all
from tests.runtime.scenes import calls

from .pages import Reading, example

pytestmark = pytest.mark.anyio


async def test_every_follower_gets_every_record_once() -> None:
    """Whoever comes late gets what was, whoever waits gets what comes, and all end when the feed is closed."""
    records = example()
    feed = Feed("order-4711")
    heard: dict[str, list[int]] = {"early": [], "late": [], "knowing": []}

    async def listen(name: str, after: int) -> None:
        async for chunk in feed.follow(after):
            heard[name].append(chunk.seq)

    async with anyio.create_task_group() as group:
        group.start_soon(listen, "early", 0)
        await anyio.wait_all_tasks_blocked()
        feed.add(records[:5])
        await anyio.wait_all_tasks_blocked()
        group.start_soon(listen, "late", 0)
        group.start_soon(listen, "knowing", 5)
        feed.add(records[3:9])
        feed.add(records[:9])
        await anyio.wait_all_tasks_blocked()
        feed.add(records[9:])
        feed.close()
    assert heard == {"early": [5, 9, 33], "late": [5, 9, 33], "knowing": [9, 33]}


async def test_feed_observes_an_engine() -> None:
    """An engine keeps a feed up to date while it runs; records of other sessions are not for it."""

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    journal, feed = MemoryJournal(), Feed("watched")
    model = ScriptedModel([calls("look"), "done", "not for the feed"])
    async with Engine(model=model, tools=[look], journal=journal, observers=[feed]) as engine:
        await (await engine.open("watched")).ask("go")
        await (await engine.open("other")).ask("go")
    records = await read_all(journal, "watched")
    feed.close()
    chunks = [chunk.records async for chunk in feed.follow(0)]
    assert Reading("watched", json.loads(json.dumps(chunks))).events == [
        json.loads(one.line)["event"] for one in records
    ]


Message = dict[str, Any]


async def get(
    application: Callable[..., Awaitable[None]], path: str, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Make one request of an ASGI application; return the status and the whole body."""
    path, _, query = path.partition("?")
    given = {"host": "127.0.0.1:8765", **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError("nobody hangs up")

    async def send(message: Message) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


async def test_page_and_events_come_over_http() -> None:
    """The page holds what there is and may ask its own server; the events are what follows a sequence."""
    feed = Feed("order-4711")
    feed.add(example()[:9])
    feed.add(example()[9:])
    feed.close()
    shown = application(feed)
    status, page = await get(shown, "/")
    assert status == 200
    assert "connect-src 'self'" in page
    for path, headers, wanted in (
        ("/events", {}, ["9", "33"]),
        ("/events?after=9", {}, ["33"]),
        ("/events?after=0", {"last-event-id": "9"}, ["33"]),
        ("/events?after=x", {}, ["9", "33"]),
    ):
        status, body = await get(shown, path, headers)
        assert (status, re.findall(r"^id: (\d+)$", body, re.MULTILINE)) == (200, wanted)
        assert json.loads(body.rsplit("data: ", 1)[1])["first"] == 10


async def test_only_requests_to_this_machine_are_answered() -> None:
    """A page of somebody else's that points its name at this machine is refused, whatever it asks for."""
    feed = Feed("order-4711")
    feed.add(example())
    feed.close()
    for path in ("/", "/events"):
        status, body = await get(application(feed), path, {"host": "rebound.example:8765"})
        assert status == 400
        assert "order-4711" not in body
