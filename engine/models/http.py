"""`HttpModel`: a model behind any endpoint that speaks the OpenAI chat format. Needs the extra `http`.

One POST a call, streamed. Nothing is retried here, because the engine owns and records retries; the one exception is
a kept connection that turns out to be closed before a byte of the answer came, which says nothing about the request
and is sent once more on a fresh connection. Redirects are not followed, and no URL inside a message is ever fetched.
`httpx2` is imported when a model is made, not with this module. May import core, errors, ports and its siblings. Must
never put the API key into a text.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.lowlevel
from pydantic import Field

from ..core.arguments import parse_json
from ..core.values import ModelReply, Value
from ..errors import MissingExtra, ModelError, UsageError
from ..ports import Emit, ModelRequest
from .chunks import ReplyBuilder
from .http_faults import Cleaner, error_in, status_error
from .rate_headers import wait_s
from .sse import SseDecoder
from .text_calls import CallReader, TextCallFormat
from .wire import scrub, to_wire, tools_to_wire

if TYPE_CHECKING:
    import httpx2

DONE = "[DONE]"
"""The data of the last event of a stream."""

_RESERVED = frozenset({"messages", "tools", "stream"})
_ERROR_BODY_BYTES = 65_536
_DRAIN_S = 0.5
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class HttpSettings(Value):
    """How an endpoint is talked to.

    `headers` are sent with every request; their values are treated as secrets. `include_usage` asks a stream for token
    counts: turn it off for a server that refuses `stream_options`. `max_reply_bytes` bounds one answer. `trust_env`
    lets proxies be taken from the environment. More than `max_connections` calls at once wait for one another.
    `text_calls` names the formats in which tool calls are read out of the text, for a server that does not do that; it
    is then asked to leave them there (`tool_choice` is "none", unless the request says otherwise).
    """

    headers: Mapping[str, str] = Field(default_factory=dict, repr=False)
    stream: bool = True
    include_usage: bool = True
    connect_timeout_s: _Seconds = 10.0
    max_connections: Annotated[int, Field(ge=1)] = 100
    max_reply_bytes: Annotated[int, Field(ge=1024)] = 16_777_216
    trust_env: bool = True
    text_calls: tuple[TextCallFormat, ...] = ()


class _StaleConnection(Exception):
    """A kept connection was closed by the server before the answer began."""


class HttpModel:
    """A model behind an OpenAI-compatible endpoint. Safe for many calls at once, in one event loop at a time."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        settings: HttpSettings | None = None,
    ) -> None:
        """Remember where the endpoint is; nothing is connected yet.

        Args:
            base_url: where the API begins, usually ending in `/v1`; a query is kept.
            model: the name the server knows the model by.
            api_key: sent as a bearer token.
            timeout_s: how long the server may be silent, in seconds, before and between the pieces of an answer.
            settings: the rest.

        Raises:
            MissingExtra: httpx2 is not installed.
            UsageError: the URL or the key cannot be used.
        """
        try:
            import httpx2 as library
        except ImportError as error:
            raise MissingExtra("HttpModel", "http") from error
        if not timeout_s > 0:
            raise UsageError(f"timeout_s is {timeout_s}; give the seconds a server may be silent, more than 0")
        self._httpx2 = library
        self._settings = settings or HttpSettings()
        self._model = model
        parts = _split(base_url)
        self._host = parts.netloc
        self._shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._url = parts._replace(path=parts.path.rstrip("/") + "/chat/completions", fragment="").geturl()
        self._headers = _headers(api_key, self._settings.headers)
        self._quota_key = _quota_key(self._host, model, self._headers)
        self._clean = Cleaner(_secrets(self._headers, parts.query))
        self._timeout = library.Timeout(timeout_s, connect=self._settings.connect_timeout_s, pool=None)
        self._timeout_s = timeout_s
        self._client: httpx2.AsyncClient | None = None
        self._loop: object = None

    def __repr__(self) -> str:
        return f"HttpModel({self._shown!r}, {self._model!r})"

    @property
    def quota_key(self) -> str:
        """What requests count against: server, model, and which credentials, without giving them away."""
        return self._quota_key

    async def aclose(self) -> None:
        """Close the connections. Idempotent; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop == anyio.lowlevel.current_token():
            await client.aclose()

    async def warm(self, request: ModelRequest) -> None:
        """Open a connection for the next request, unless one is kept open already. Sends nothing of the conversation.

        Raises:
            ModelError: the server cannot be reached.
        """
        try:
            # Whatever the server says to a HEAD, afterwards there is a connection.
            await self._shared_client().head(self._url, headers=self._headers)
        except self._httpx2.HTTPError as error:
            raise self._unreached(error) from None

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return the model's reply, telling `emit` about text, reasoning and tool input while they grow.

        Raises:
            ModelError: there is no whole reply; `retryable`, `kind`, `status` and `retry_after_s` say what to do.
        """
        content = self._encode(request)
        formats = self._settings.text_calls
        # Nothing of an answer has arrived where a connection is stale, so one builder serves both attempts.
        builder = ReplyBuilder(emit, CallReader(formats, request.tools) if formats else None)
        try:
            try:
                return await self._exchange(self._shared_client(), content, builder)
            except _StaleConnection:
                async with self._new_client() as fresh:
                    return await self._exchange(fresh, content, builder)
        except self._httpx2.HTTPError as error:
            raise self._unreached(error) from None

    def _encode(self, request: ModelRequest) -> bytes:
        reserved = sorted(_RESERVED & request.parameters.keys())
        if reserved:
            raise ModelError(f"the parameters of a request may not set {', '.join(reserved)}", retryable=False)
        body: dict[str, Any] = {"model": self._model, "messages": [to_wire(message) for message in request.messages]}
        if request.tools:
            body["tools"] = tools_to_wire(request.tools)
            if self._settings.text_calls:
                body["tool_choice"] = "none"
        body["stream"] = self._settings.stream
        if self._settings.stream and self._settings.include_usage:
            body["stream_options"] = {"include_usage": True}
        try:
            body.update(scrub(request.parameters))
            return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ModelError(
                f"the request cannot be written as JSON: {self._clean(str(error))}", retryable=False
            ) from None

    def _shared_client(self) -> httpx2.AsyncClient:
        token = anyio.lowlevel.current_token()
        if self._client is None or self._loop != token:
            # Connections belong to the event loop that opened them: those of an ended loop cannot be used or closed.
            self._client, self._loop = self._new_client(), token
        return self._client

    def _new_client(self) -> httpx2.AsyncClient:
        limits = self._httpx2.Limits(max_connections=self._settings.max_connections)
        return self._httpx2.AsyncClient(
            timeout=self._timeout, limits=limits, follow_redirects=False, trust_env=self._settings.trust_env
        )

    async def _exchange(self, client: httpx2.AsyncClient, content: bytes, builder: ReplyBuilder) -> ModelReply:
        opened = False
        answered = False

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal opened
            opened = opened or event.startswith("connection.connect")

        library = self._httpx2
        try:
            async with client.stream(
                "POST", self._url, content=content, headers=self._headers, extensions={"trace": trace}
            ) as response:
                answered = True
                return await self._answer(response, builder)
        except (library.ReadError, library.WriteError, library.RemoteProtocolError):
            if opened or answered:
                raise
            raise _StaleConnection from None

    async def _answer(self, response: httpx2.Response, builder: ReplyBuilder) -> ModelReply:
        if not response.is_success:
            raise await self._refusal(response)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream" or (self._settings.stream and kind != "application/json"):
            await self._read_stream(response, builder)
        else:
            await self._read_whole(response, builder)
        return builder.reply()

    async def _read_whole(self, response: httpx2.Response, builder: ReplyBuilder) -> None:
        body = bytearray()

        def take(piece: bytes) -> bool:
            body.extend(piece)
            return True

        await self._each(response, take)
        self._take(body.decode("utf-8", "replace"), builder)

    async def _read_stream(self, response: httpx2.Response, builder: ReplyBuilder) -> None:
        decoder = SseDecoder()

        def take(piece: bytes) -> bool:
            return self._events(decoder.feed(piece), builder)

        try:
            await self._each(response, take)
        except self._httpx2.HTTPError:
            # After the finish reason only the token counts are missing: the reply is whole.
            if not builder.finished:
                raise
        self._events(decoder.close(), builder)

    def _events(self, events: list[str], builder: ReplyBuilder) -> bool:
        """Take events in; return whether more may follow."""
        for data in events:
            if data.strip() == DONE:
                return False
            self._take(data, builder)
        return True

    async def _each(self, response: httpx2.Response, take: Callable[[bytes], bool]) -> None:
        """Hand the pieces of a body to `take` until it returns False or raises."""
        limit, taken = self._settings.max_reply_bytes, 0
        async with aclosing(response.aiter_bytes()) as parts:
            try:
                async for part in parts:
                    taken += len(part)
                    if taken > limit:
                        raise ModelError(
                            f"the answer of {self._host} is longer than {limit} bytes; limit the model's output with "
                            "max_tokens, or raise max_reply_bytes",
                            retryable=False,
                        )
                    if not take(part):
                        # Reading on to the end lets the connection be used again; a server that stays silent loses it.
                        return await self._leave(parts, _DRAIN_S)
            except Exception:
                await self._leave(parts, 0.0)
                raise

    async def _leave(self, parts: AsyncGenerator[bytes, None], within_s: float) -> None:
        """Read on to the end or until the time is over.

        Being cancelled ends the generators inside `parts` too; closing it would leave them to the garbage collector, of
        which trio complains.
        """
        with anyio.move_on_after(within_s), suppress(self._httpx2.HTTPError):
            async for _ in parts:
                pass

    def _take(self, data: str, builder: ReplyBuilder) -> None:
        if not data.strip():
            return
        try:
            chunk = parse_json(data)
        except ValueError as error:
            raise ModelError(
                f"{self._host} sent a malformed answer ({self._clean(str(error), 200)}): {self._clean(data, 200)}"
            ) from None
        if not isinstance(chunk, dict):
            raise ModelError(f"{self._host} sent a malformed answer, no JSON object: {self._clean(data, 200)}")
        error_found = error_in(chunk, self._host, self._clean)
        if error_found is not None:
            raise error_found
        builder.add(chunk)

    async def _refusal(self, response: httpx2.Response) -> ModelError:
        status = response.status_code
        if 300 <= status < 400:
            where = self._clean(response.headers.get("location", "elsewhere"), 200)
            return ModelError(
                f"{self._host} redirects to {where}; redirects are not followed: set base_url to where the API is",
                retryable=False, status=status,
            )  # fmt: skip
        text = await self._error_text(response)
        try:
            body: object = parse_json(text)
        except ValueError:
            body = text
        return status_error(status, body, self._host, self._clean, wait_s(response.headers, datetime.now(UTC)))

    async def _error_text(self, response: httpx2.Response) -> str:
        text = bytearray()

        def take(piece: bytes) -> bool:
            text.extend(piece)
            return len(text) < _ERROR_BODY_BYTES

        # The status says enough, should its explanation break off.
        with suppress(self._httpx2.HTTPError):
            await self._each(response, take)
        return text[:_ERROR_BODY_BYTES].decode("utf-8", "replace")

    def _unreached(self, error: httpx2.HTTPError) -> ModelError:
        library = self._httpx2
        detail = self._clean(str(error) or type(error).__name__, 200)
        if isinstance(error, library.ConnectTimeout | library.ConnectError):
            what = f"no connection to {self._host} ({detail}): check that the server runs and that base_url is right"
        elif isinstance(error, library.TimeoutException):
            what = f"{self._host} was silent for {self._timeout_s:g} s: check the server's load, or raise timeout_s"
        elif isinstance(error, library.ProxyError):
            what = f"the proxy before {self._host} failed ({detail}): check HTTPS_PROXY, or set trust_env=False"
        else:
            what = f"the connection to {self._host} broke off ({detail}): check the server's log"
        return ModelError(
            what, retryable=not isinstance(error, library.LocalProtocolError | library.UnsupportedProtocol)
        )


def _split(base_url: str) -> SplitResult:
    refusal = UsageError("base_url is no http(s) URL; give one such as http://127.0.0.1:8080/v1")
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        raise refusal from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise refusal
    if not base_url.isprintable() or " " in base_url:
        raise refusal
    if "@" in parts.netloc:
        raise UsageError("base_url holds credentials; give them as api_key, or in HttpSettings(headers=…)")
    return parts


def _headers(api_key: str | None, extra: Mapping[str, str]) -> dict[str, str]:
    # Identity: a compressed answer could grow beyond every bound, and would arrive later than the words in it.
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        "accept-encoding": "identity",
    }
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    headers.update({name.lower(): value for name, value in extra.items()})
    for name, value in headers.items():
        if not (
            value.isascii() and value.isprintable() and value == value.strip() and name.isascii() and name.isprintable()
        ):
            raise UsageError(
                f"the header {name!a} cannot be sent: control characters, outer white space or letters beyond ASCII; "
                "check the API key for a line break at its end"
            )
    return headers


_PLAIN = frozenset({"content-type", "accept", "accept-encoding"})


def _quota_key(host: str, model: str, headers: Mapping[str, str]) -> str:
    given = sorted((name, value) for name, value in headers.items() if name not in _PLAIN)
    return f"{host} {model} #{sha256(repr(given).encode()).hexdigest()[:8]}"


def _secrets(headers: Mapping[str, str], query: str) -> list[str]:
    values = [value for name, value in headers.items() if name not in _PLAIN]
    return [
        *values,
        *(value.rpartition(" ")[2] for value in values),
        *(pair.partition("=")[2] for pair in query.split("&")),
    ]
