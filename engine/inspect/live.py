"""The page of a feed over HTTP: the page itself, and what follows it as server-sent events.

An ASGI application, so that a host mounts it in its own server; `serve` runs it alone. Needs the extra `ui`. Answers
only requests that name a host it was told: a page of somebody else's that points its name at this machine gets nothing.
May import its neighbours and, inside functions, starlette and uvicorn. Must never change a session.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import MissingExtra
from .feed import Feed

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""The names under which a machine reaches itself."""


def application(feed: Feed, hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """Return an ASGI application that shows a feed: `/` is the page, `/events` what follows.

    Args:
        feed: what to show.
        hosts: the names, without ports, that requests may be addressed to.

    Raises:
        MissingExtra: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra("the live page", "ui") from error

    async def show(request: Request) -> Response:
        return HTMLResponse(feed.page(), headers={"cache-control": "no-store"})

    async def events(request: Request) -> Response:
        # A browser that has lost the connection says itself where it was.
        known = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        after = int(known) if known.isascii() and known.isdigit() else 0
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(_stream(feed, after), media_type="text/event-stream", headers=headers)

    return Starlette(
        routes=[Route("/", show), Route("/events", events)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False)],
    )


async def _stream(feed: Feed, after: int) -> AsyncIterator[str]:
    async for chunk in feed.follow(after):
        yield f"id: {chunk.seq}\nevent: chunk\ndata: {json.dumps(chunk.records, separators=(',', ':'))}\n\n"


async def serve(feed: Feed, place: tuple[str, int], started: Callable[[str, Callable[[], None]], None]) -> None:
    """Serve a feed until it is told to stop. Needs asyncio.

    Args:
        feed: what to show.
        place: the address and port to listen at; port 0 for any that is free.
        started: is called with the page's address and a function that stops serving, once connections are taken.

    Raises:
        MissingExtra: uvicorn is not installed.
        OSError: the address cannot be listened at.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("the live page", "ui") from error

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            """Leave signals to the program."""
            yield

    host, port = place
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        shown = f"[{host}]" if family is socket.AF_INET6 else host
        app = application(feed, (*LOOPBACK, shown))
        server = Server(uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False))

        def stop() -> None:
            server.should_exit = True
            feed.close()

        started(f"http://{shown}:{listening.getsockname()[1]}/", stop)
        await server.serve(sockets=[listening])


__all__ = ["LOOPBACK", "application", "serve"]
