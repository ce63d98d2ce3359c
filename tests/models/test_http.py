"""The HTTP adapter against real servers on the loopback: scripted faults, a mock that others wrote, and llama.cpp."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, strategies as st

from engine.core.notices import Notice, ReasoningDelta, TextDelta, ToolInputDelta
from engine.core.values import Message, ModelReply, ToolSpec, Usage
from engine.errors import ModelError, UsageError
from engine.models.chunks import ReplyBuilder
from engine.models.http import HttpModel, HttpSettings
from engine.models.http_faults import Cleaner, error_in, status_error
from engine.models.sse import SseDecoder
from engine.ports import Model, ModelRequest
from tests.models.servers import (
    Answer,
    Handler,
    ScriptedServer,
    call_delta,
    delta,
    drop,
    hang,
    llama_server,
    mock_server,
    refused_url,
    reset,
    stream,
    whole,
)

pytest.importorskip("httpx2", reason="httpx2 is not installed: pip install 'agent-engine[http]'")

KEY = "sk-very-secret-key"
OK = stream(delta(content="hi"), delta("stop"), "[DONE]")
WEATHER = ToolSpec(
    name="get_weather",
    description="Tell the weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def settings(**fields: Any) -> HttpSettings:
    """Return settings that no proxy of the environment can bend."""
    return HttpSettings(trust_env=False, **fields)


def asking(text: str = "hello", **fields: Any) -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", text=text),), **fields)


@asynccontextmanager
async def model_at(url: str, *, timeout_s: float = 20.0, **fields: Any) -> AsyncIterator[HttpModel]:
    model = HttpModel(url, "m", api_key=KEY, timeout_s=timeout_s, settings=settings(**fields))
    try:
        yield model
    finally:
        await model.aclose()


async def ask(model: Model, request: ModelRequest | None = None) -> tuple[ModelReply, list[Notice]]:
    notices: list[Notice] = []
    reply = await model.generate(request or asking(), notices.append)
    return reply, notices


async def failure(*answers: Answer, **fields: Any) -> tuple[ModelError, ScriptedServer]:
    """Return the error that a server's answers lead to, and the server."""
    with ScriptedServer(*answers) as server:
        async with model_at(server.url, **fields) as model:
            with pytest.raises(ModelError) as caught:
                await ask(model)
    assert KEY not in str(caught.value)
    return caught.value, server


async def success(*answers: Answer, **fields: Any) -> tuple[ModelReply, list[Notice], ScriptedServer]:
    with ScriptedServer(*answers) as server:
        async with model_at(server.url, **fields) as model:
            reply, notices = await ask(model)
    return reply, notices, server


# What is sent


@pytest.mark.anyio
async def test_v17_the_request_is_a_chat_completion() -> None:
    """Messages, tools, parameters, stream options and the key arrive as the format has them."""
    with ScriptedServer(OK) as server:
        async with model_at(server.url, headers={"x-team": "blue-team"}) as model:
            await ask(model, asking(tools=(WEATHER,), parameters={"temperature": 0, "model": "other"}))
        _, headers, body = server.requests[0]
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert body["tools"][0]["function"]["name"] == "get_weather"
    assert (body["model"], body["temperature"], body["stream"]) == ("other", 0, True)
    assert body["stream_options"] == {"include_usage": True}
    assert (headers["authorization"], headers["x-team"]) == (f"Bearer {KEY}", "blue-team")


@pytest.mark.anyio
async def test_a_lone_surrogate_anywhere_in_the_request_arrives_as_u_fffd() -> None:
    """Text that no server would parse does not stop the session."""
    with ScriptedServer(OK) as server:
        async with model_at(server.url) as model:
            await ask(model, asking("x\ud800", parameters={"user": "\udc00"}))
        assert server.body["messages"][0]["content"] == "x\ufffd"
        assert server.body["user"] == "\ufffd"


@pytest.mark.anyio
@pytest.mark.parametrize("parameters", [{"messages": []}, {"stream": False}, {"x": float("nan")}, {"x": object()}])
async def test_parameters_that_cannot_be_sent_are_an_error_before_anything_is(parameters: dict[str, Any]) -> None:
    """The adapter's own fields and what JSON cannot hold are refused; nothing reaches the server."""
    with ScriptedServer(OK) as server:
        async with model_at(server.url) as model:
            with pytest.raises(ModelError, match=r"parameters|JSON") as caught:
                await ask(model, asking(parameters=parameters))
        assert not caught.value.retryable
        assert server.requests == []


@pytest.mark.anyio
async def test_f16_urls_in_messages_are_passed_on_and_never_fetched() -> None:
    """The only request that is made is the one to the endpoint."""
    with ScriptedServer(OK) as server:
        image = f"{server.url}/image.png"
        message = Message.model_validate(
            {
                "role": "user",
                "text": image,
                "patch": {"put": {"content": [{"type": "image_url", "image_url": {"url": image}}]}},
            }
        )
        async with model_at(server.url) as model:
            await model.generate(ModelRequest(messages=(message,)), lambda notice: None)
        assert len(server.requests) == 1
        assert server.body["messages"][0]["content"][0]["image_url"]["url"] == image


def test_f18_the_key_is_in_no_repr() -> None:
    """Neither the model's nor the settings' repr shows a key, a header's value or a query."""
    held = settings(headers={"api-key": "header-secret"})
    model = HttpModel("http://127.0.0.1:9/v1?code=query-secret", "m", api_key=KEY, settings=held)
    assert repr(model) == "HttpModel('http://127.0.0.1:9/v1', 'm')"
    assert "secret" not in repr(held) + str(held) + repr(model)


@pytest.mark.parametrize(
    "url", ["", "ftp://x/v1", "http://", "http://x:0/v1", "http://x:99999/v1", "http://u:pw@x/v1", "http://x/\n"]
)
def test_a_base_url_that_cannot_work_is_refused(url: str) -> None:
    """A UsageError says what to give instead and does not repeat what may hold a password."""
    with pytest.raises(UsageError, match="base_url") as caught:
        HttpModel(url, "m")
    assert "pw" not in str(caught.value)


def test_a_key_with_a_line_break_is_refused_without_being_shown() -> None:
    """The usual slip of reading a key from a file is named, the key is not."""
    with pytest.raises(UsageError, match="line break") as caught:
        HttpModel("http://127.0.0.1/v1", "m", api_key=KEY + "\n")
    assert KEY not in str(caught.value)
    with pytest.raises(UsageError, match="timeout_s"):
        HttpModel("http://127.0.0.1/v1", "m", timeout_s=0)


def test_the_extra_is_imported_only_when_a_model_is_made_and_named_when_missing() -> None:
    """Importing the adapter works without httpx2; making a model says which extra to install."""
    program = (
        "import sys; sys.modules['httpx2'] = None\n"
        "import engine\nfrom engine.models.http import HttpModel\n"
        "try:\n    HttpModel('http://127.0.0.1/v1', 'm')\n"
        "except engine.errors.MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'agent-engine[http]'" in done.stdout


# What comes back


@pytest.mark.anyio
async def test_v17_text_and_reasoning_are_streamed_and_the_reply_is_whole() -> None:
    """Deltas come out in order; the reply holds the text, the usage with cached tokens, and the model's name."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    reply, notices, _ = await success(
        stream(
            delta(role="assistant", content=None), b": ping\n\n", delta(reasoning_content="hm"), delta(content="Hel"),
            delta(content="lo\u2028"), delta("stop"), {"choices": [], "usage": usage}, "[DONE]",
        )
    )  # fmt: skip
    assert notices == [ReasoningDelta("hm"), TextDelta("Hel"), TextDelta("lo\u2028")]
    assert reply == ModelReply(
        text="Hello\u2028", finish="stop", model="m-1", usage=Usage(input_tokens=9, output_tokens=4, cached_tokens=5)
    )


@pytest.mark.anyio
async def test_parallel_calls_are_put_together_by_index() -> None:
    """Interleaved pieces of two calls end as two calls, with input deltas that count them."""
    reply, notices, _ = await success(
        stream(
            call_delta(index=0, id="a", name="f"), call_delta(index=1, id="b", name="g"), call_delta('{"x"', index=0),
            call_delta('{"y":2}', index=1), call_delta(":1}", index=0), delta("tool_calls"), "[DONE]",
        )
    )  # fmt: skip
    assert [(c.id, c.name, c.arguments, c.arguments_text) for c in reply.tool_calls] == [
        ("a", "f", {"x": 1}, None), ("b", "g", {"y": 2}, None),
    ]  # fmt: skip
    assert reply.finish == "tool_calls"
    assert notices[2:] == [
        ToolInputDelta(0, "f", '{"x"'),
        ToolInputDelta(1, "g", '{"y":2}'),
        ToolInputDelta(0, "f", ":1}"),
    ]


WHOLE = '{"x":1}'


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param(
            [call_delta(WHOLE, id="a", name="f"), call_delta(WHOLE, id="b", name="f")], 2, id="whole calls, no index"
        ),
        pytest.param([call_delta(WHOLE, name="f"), call_delta(WHOLE, name="f")], 2, id="whole calls, no index, no id"),
        pytest.param([call_delta(WHOLE, index=0, id=i, name="f") for i in "ab"], 2, id="whole calls, all of index 0"),
        pytest.param([call_delta(WHOLE, index=0, name="f")] * 2, 2, id="whole calls, all of index 0, no id"),
        pytest.param(
            [call_delta(t, index=0, id="a", name="f") for t in ('{"x"', ":1}", "")], 1, id="id and name repeated"
        ),
        pytest.param([call_delta(t, name="f") for t in ('{"x"', ":1}")], 1, id="name repeated, no index, no id"),
        pytest.param([call_delta('{"x"', id="a", name="f"), call_delta(":1}")], 1, id="no index, pieces"),
        pytest.param(
            [call_delta(t, index=0, id=i) for t, i in (('{"x"', "a"), (":1}", "b"))], 1, id="another id a piece"
        ),
        pytest.param(
            [delta(tool_calls=[{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}])], 1, id="an object"
        ),
    ],
)
def test_calls_of_servers_that_differ_are_told_apart(deltas: list[dict[str, Any]], expected: int) -> None:
    """Without index, without id, repeated or whole: every call is found once, with its arguments."""
    builder = ReplyBuilder(lambda notice: None)
    for chunk in [*deltas, delta("stop")]:
        builder.add(chunk)
    reply = builder.reply()
    assert [call.arguments for call in reply.tool_calls] == [{"x": 1}] * expected
    assert len({call.id for call in reply.tool_calls}) == expected
    assert reply.finish == "tool_calls"


def test_what_stands_beside_a_call_is_kept_for_the_provider() -> None:
    """A signature in a call's delta is in the reply's patch, over the call's own rendering."""
    builder = ReplyBuilder(lambda notice: None)
    builder.add(call_delta("{}", index=0, id="a", name="f", extra_content={"signature": "s"}))
    builder.add(delta("tool_calls"))
    patch = builder.reply().patch
    assert patch is not None
    assert patch.put["tool_calls"] == [
        {
            "id": "a",
            "type": "function",
            "function": {"name": "f", "arguments": "{}"},
            "extra_content": {"signature": "s"},
        }
    ]


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
        ("new", "stop"),
    ],
)
def test_finish_reasons_are_put_in_the_engine_s_words(said: str, finish: str) -> None:
    """Known reasons are translated, an unknown one is an end."""
    builder = ReplyBuilder(lambda notice: None)
    builder.add(delta(said, content="x"))
    assert builder.reply().finish == finish


def test_a_character_split_between_deltas_is_joined_and_a_refusal_is_text() -> None:
    """Halves of a surrogate pair make one character again; what a model refuses with is what the user reads."""
    builder = ReplyBuilder(lambda notice: None)
    for chunk in (delta(content="\ud83d"), delta(content="\ude00"), delta(refusal=" no"), delta("stop")):
        builder.add(chunk)
    assert builder.reply().text == "\U0001f600 no"


@pytest.mark.parametrize(
    "chunks", [[call_delta("{}", id="x" * 600, name="f"), delta("stop")], [delta("error", content="x")]]
)
def test_a_reply_that_cannot_be_used_is_a_model_error(chunks: list[dict[str, Any]]) -> None:
    """An id beyond every bound and a reply that the server gave up are faults."""
    builder = ReplyBuilder(lambda notice: None)
    for chunk in chunks:
        builder.add(chunk)
    with pytest.raises(ModelError):
        builder.reply()


@pytest.mark.parametrize("number", [float("inf"), -1, True, None, "7"])
def test_token_counts_that_are_none_count_as_zero(number: object) -> None:
    """Garbage in the usage does not cost the reply."""
    builder = ReplyBuilder(lambda notice: None)
    builder.add({**delta("stop", content="x"), "usage": {"prompt_tokens": number, "completion_tokens": 3}})
    assert builder.reply().usage == Usage(output_tokens=3)


@pytest.mark.anyio
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_whole_answer_is_taken_whether_asked_for_or_not(streamed: bool) -> None:
    """Unstreamed mode works, and so does a server that ignores `stream`."""
    message = {
        "role": "assistant",
        "content": "hi",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}],
    }
    answer = whole(body={"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}})
    reply, notices, server = await success(answer, stream=streamed)
    assert (reply.text, reply.tool_calls[0].name, reply.finish) == ("hi", "f", "tool_calls")
    assert notices[0] == TextDelta("hi")
    assert server.body["stream"] is streamed
    assert ("stream_options" in server.body) is streamed


@pytest.mark.anyio
@pytest.mark.parametrize("then", [drop, reset])
async def test_a_break_after_the_finish_reason_costs_nothing(then: Answer) -> None:
    """The reply is whole when its finish reason has arrived, whatever the connection does then."""
    reply, _, _ = await success(stream(delta(content="hi"), delta("stop"), then=then))
    assert reply.text == "hi"


@pytest.mark.anyio
async def test_a_stream_without_its_last_empty_line_is_taken() -> None:
    """Some servers leave out what ends the last event."""
    last = f"data: {json.dumps(delta('stop', content='hi'))}".encode()
    reply, _, _ = await success(stream(last))
    assert reply.text == "hi"


# What goes wrong


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(stream(delta(content="h")), "after a part of the reply, without a finish reason", id="no finish"),
        pytest.param(stream(delta(content="h"), "[DONE]"), "without a finish reason", id="done without finish"),
        pytest.param(stream(), "before the reply began, without a finish reason", id="nothing"),
        pytest.param(stream("[DONE]"), "before the reply began", id="only done"),
        pytest.param(stream(delta(content="h"), '{"choices": [{"del'), "malformed answer", id="malformed JSON"),
        pytest.param(stream("[1]"), "no JSON object", id="no object"),
        pytest.param(stream('{"choices": NaN}'), "NaN is not JSON", id="NaN"),
        pytest.param(stream("[" * 100_000), "deeper than 100", id="depth bomb"),
        pytest.param(stream(b"<html>\xff oops</html>"), "without a finish reason", id="no events"),
        pytest.param(stream(delta(content="h"), then=drop), "broke off", id="ends early"),
        pytest.param(stream(delta(content="h"), then=reset), "broke off", id="reset"),
        pytest.param(whole(body="hello"), "without a finish reason", id="text"),
        pytest.param(whole(body={}), "without a finish reason", id="empty object"),
        pytest.param(whole(body={"choices": [{"message": {"content": "x"}}]}), "a finish reason", id="whole"),
        pytest.param(drop, "broke off", id="closed at once"),
        pytest.param(reset, "broke off", id="reset at once"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_whole_is_retryable_and_sent_once(answer: Answer, words: str) -> None:
    """Every way a reply can be cut short is a model failure that says what happened; nothing is retried in secret."""
    error, server = await failure(answer)
    assert words in str(error)
    assert (error.kind, error.retryable, error.status) == ("model_failure", True, None)
    assert len(server.requests) == 1


@pytest.mark.anyio
async def test_a_refused_connection_says_where_and_what_to_check() -> None:
    """Nobody listens: retryable, with the host and the advice."""
    url = refused_url()
    async with model_at(url) as model:
        with pytest.raises(ModelError, match="check that the server runs") as caught:
            await ask(model)
    assert url[7:-3] in str(caught.value)
    assert caught.value.retryable


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [hang, stream(delta(content="h"), then=hang)])
async def test_a_silent_server_is_a_timeout(answer: Answer) -> None:
    """Silence before or within the answer ends after timeout_s, retryable, asked once."""
    error, server = await failure(answer, timeout_s=0.2)
    assert "was silent for 0.2 s" in str(error)
    assert error.retryable
    assert len(server.requests) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("header", "value", "wait_s"),
    [
        ("retry_after", "7", 7.0), ("retry_after", "1.5", 1.5), ("retry_after_ms", "250", 0.25),
        ("retry_after", "0", None),
        ("retry_after", "-3", None), ("retry_after", "soon", None), ("retry_after", "nan", None),
        ("x_other", "1", None),
    ],
)  # fmt: skip
async def test_f20_v24_a_rate_limit_carries_the_server_s_wish(header: str, value: str, wait_s: float | None) -> None:
    """429 is a rate limit with the wish as data, and the adapter does not try again."""
    error, server = await failure(whole(429, {"error": {"message": "slow down"}}, **{header: value}))
    assert (error.kind, error.status, error.retryable, error.retry_after_s) == ("rate_limit", 429, True, wait_s)
    assert "slow down" in str(error)
    assert len(server.requests) == 1


@pytest.mark.anyio
async def test_f20_f11_a_date_is_judged_by_the_server_s_own_clock() -> None:
    """A Retry-After date means the distance to the Date of the same answer, however wrong both are."""

    def answer(handler: Handler) -> None:
        handler.send_response_only(429)
        handler.send_header("date", format_datetime(NOW - timedelta(days=400), usegmt=True))
        handler.send_header("retry-after", format_datetime(NOW - timedelta(days=400, seconds=-30), usegmt=True))
        handler.send_header("content-length", "0")
        handler.end_headers()

    error, _ = await failure(answer)
    assert error.retry_after_s == 30.0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (401, False),
        (403, False),
        (404, False),
        (422, False),
        (408, True),
        (409, True),
        (500, True),
        (503, True),
    ],
)
async def test_v21_a_status_says_whether_to_try_again(status: int, retryable: bool) -> None:
    """The server's own message is in the text, once asked; only what may pass is retryable."""
    error, server = await failure(whole(status, {"error": {"message": f"no: \x1b[2J\n{KEY} " + "y" * 900}}))
    assert (error.status, error.retryable, error.kind) == (status, retryable, "model_failure")
    assert "no: \\x1b[2J\\n[secret] yyy" in str(error)
    assert len(str(error)) < 700
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": "flat"}, "flat"),
        ({"detail": [{"msg": "x"}]}, "msg"),
        ({"message": "top"}, "top"),
        ("text", "text"),
        (None, "400"),
    ],
)
def test_the_server_s_message_is_found_wherever_it_stands(body: object, words: str) -> None:
    """Servers wrap their message in different ways."""
    assert words in str(status_error(400, body, "h", Cleaner([])))


def test_an_exhausted_account_is_not_retried() -> None:
    """A 429 that waiting does not mend says so."""
    error = status_error(429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "h", Cleaner([]))
    assert (error.kind, error.retryable) == ("rate_limit", False)


@pytest.mark.parametrize(
    ("chunk", "kind", "retryable", "status"),
    [
        ({"error": {"message": "m", "code": 429}}, "rate_limit", True, 429),
        ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "rate_limit", True, None),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, "model_failure", False, None),
        ({"object": "error", "message": "m", "code": 400}, "model_failure", False, 400),
        ({"type": "error", "error": {"message": "m", "type": "overloaded_error"}}, "model_failure", True, None),
        ({"error": "m"}, "model_failure", True, None),
    ],
)
def test_an_error_inside_a_stream_is_read(
    chunk: dict[str, Any], kind: str, retryable: bool, status: int | None
) -> None:
    """Numbers, codes and types say the same as a status would."""
    error = error_in(chunk, "h", Cleaner([]))
    assert error is not None
    assert (error.kind, error.retryable, error.status) == (kind, retryable, status)
    assert ": m" in str(error)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer", [stream(delta(content="h"), {"error": {"message": "broken"}}), whole(body={"error": "broken"})]
)
async def test_an_error_in_place_of_a_reply_is_a_model_error(answer: Answer) -> None:
    """An error object under status 200 is an error nevertheless."""
    error, _ = await failure(answer)
    assert "broken" in str(error)


@pytest.mark.anyio
async def test_f16_redirects_are_not_followed() -> None:
    """A redirect is an error that names its target; the target sees nothing."""
    with ScriptedServer(OK) as other:
        error, server = await failure(whole(307, "", location=f"{other.url}/chat/completions"))
        assert other.requests == []
    assert "redirects are not followed" in str(error)
    assert other.url in str(error)
    assert (error.retryable, len(server.requests)) == (False, 1)


@pytest.mark.anyio
async def test_an_answer_beyond_every_bound_is_cut_off() -> None:
    """A reply longer than max_reply_bytes is given up instead of being held."""
    error, _ = await failure(stream(*[delta(content="x" * 500)] * 10), max_reply_bytes=2000)
    assert "longer than 2000 bytes" in str(error)


# Connections


@pytest.mark.anyio
async def test_v9_warmed_connection_is_the_one_that_is_used() -> None:
    """Warming opens a connection and sends nothing else; the request that follows goes over it."""
    with ScriptedServer(OK) as server:
        async with model_at(server.url) as model:
            await model.warm(asking("a secret"))
            assert (server.connections, server.requests) == (1, [])
            await ask(model)
            await model.warm(asking())
            await ask(model)
        assert (server.connections, len(server.requests)) == (1, 2)


@pytest.mark.anyio
async def test_v9_server_that_cannot_be_reached_fails_the_warming() -> None:
    """Who warms is told that nobody listens, as who asks would be."""
    async with model_at(refused_url()) as model:
        with pytest.raises(ModelError, match="no connection"):
            await model.warm(asking())


@pytest.mark.anyio
async def test_connections_are_reused_and_closed_ones_replaced_by_aclose() -> None:
    """Two calls share one connection; after aclose the model works again on a new one; aclose twice is fine."""
    with ScriptedServer(OK) as server:
        async with model_at(server.url) as model:
            await ask(model)
            await ask(model)
            await model.aclose()
            await model.aclose()
            await ask(model)
        assert [number for number, _, _ in server.requests] == [0, 0, 1]


@pytest.mark.anyio
@pytest.mark.parametrize("ending", [drop, reset])
async def test_a_kept_connection_that_was_closed_is_replaced_once(ending: Answer) -> None:
    """When a reused connection dies before a byte of the answer, the request is sent once more on a fresh one."""
    with ScriptedServer(OK, ending, OK) as server:
        async with model_at(server.url) as model:
            await ask(model)
            reply, _ = await ask(model)
        assert reply.text == "hi"
        assert [number for number, _, _ in server.requests] == [0, 0, 1]


@pytest.mark.anyio
async def test_forty_requests_over_kept_connections_all_succeed() -> None:
    """Kept connections die under requests now and then: none is lost, and each is answered once."""
    answers = [drop if number % 8 == 7 else OK for number in range(45)]
    with ScriptedServer(*answers, OK) as server:
        async with model_at(server.url) as model:
            for _ in range(40):
                assert (await ask(model))[0].text == "hi"
        assert len(server.requests) == 45
        assert server.connections < 15


@pytest.mark.anyio
async def test_a_fresh_connection_that_is_closed_too_is_an_error() -> None:
    """Once more means once: the second death in a row is reported."""
    with ScriptedServer(OK, drop) as server:
        async with model_at(server.url) as model:
            await ask(model)
            with pytest.raises(ModelError, match="broke off"):
                await ask(model)
        assert [number for number, _, _ in server.requests] == [0, 0, 1]


@pytest.mark.anyio
async def test_a_break_within_the_answer_is_not_sent_again_on_a_reused_connection() -> None:
    """As soon as a byte has arrived the engine decides about retries, not the adapter."""
    with ScriptedServer(OK, stream(delta(content="h"), then=drop), OK) as server:
        async with model_at(server.url) as model:
            await ask(model)
            with pytest.raises(ModelError, match="broke off"):
                await ask(model)
        assert len(server.requests) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [hang, stream(delta(content="h"), then=hang)])
async def test_m11_cancellation_hangs_up_and_leaves_the_model_usable(answer: Answer) -> None:
    """A cancelled call closes its connection at once; the server sees it, and the next call works."""
    with ScriptedServer(answer, OK) as server:
        async with model_at(server.url) as model:
            async with anyio.create_task_group() as group:
                group.start_soon(ask, model)
                await anyio.to_thread.run_sync(server.arrived.wait, 20)
                group.cancel_scope.cancel()
            assert await anyio.to_thread.run_sync(server.left.wait, 20)
            reply, _ = await ask(model)
        assert reply.text == "hi"


# The connections of a loop that ended cannot be closed any more: that is the very case.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_model_works_in_one_event_loop_after_another() -> None:
    """A loop that ended without aclose leaves nothing behind that the next loop would stumble over."""
    with ScriptedServer(OK) as server:
        model = HttpModel(server.url, "m", settings=settings())
        for backend in ("asyncio", "trio", "asyncio"):
            reply, _ = anyio.run(ask, model, backend=backend)
            assert reply.text == "hi"
        assert [number for number, _, _ in server.requests] == [0, 1, 2]
        # What is left is collected here, where its warning is expected.
        del model
        gc.collect()


# Events


@given(st.data())
def test_events_do_not_depend_on_where_the_bytes_are_cut(data: st.DataObject) -> None:
    """Property: any cutting of a stream, with any line ending, gives the same events."""
    texts = data.draw(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), max_size=5)
    )
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    raw = "".join(f"event: x{end}:c{end}data: {text}{end}{end}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    decoder = SseDecoder()
    found: list[str] = []
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += decoder.feed(raw[start:stop])
    assert found + decoder.close() == texts


def test_lines_of_one_event_are_joined() -> None:
    """Several data lines are one event; fields that mean nothing here are passed over."""
    assert SseDecoder().feed(b"id: 1\ndata: {\ndata:}\nretry: 5\n\n\n") == ["{\n}"]


# Servers that others wrote

FIXTURES: dict[str, Any] = {
    "fixtures": [
        {
            "match": {"userMessage": "two cities"},
            "response": {
                "toolCalls": [
                    {"id": "call_a", "name": "get_weather", "arguments": '{"city":"Oslo"}'},
                    {"id": "call_b", "name": "get_weather", "arguments": '{"city":"Kampala"}'},
                ],
                "usage": {"prompt_tokens": 40, "completion_tokens": 12},
            },
        },
        {"match": {"userMessage": "think"}, "response": {"content": "It is forty-two.", "reasoning": "Let me see."}},
        {"match": {"userMessage": "limit"}, "response": {"error": {"message": "Rate limited"}, "status": 429}},
        {
            "match": {"userMessage": "patience"},
            "response": {"error": {"message": "Rate limited"}, "status": 429, "retryAfter": 7},
        },
        *(
            {"match": {"userMessage": f"chaos {kind}"}, "response": {"content": "never"}, "chaos": {f"{kind}Rate": 1.0}}
            for kind in ("drop", "malformed", "disconnect", "rateLimit")
        ),
        {
            "match": {"userMessage": "in text"},
            "response": {
                "content": 'So: <tool_call>{"name": "get_weather", "arguments": {"city": "Oslo",}}</tool_call>',
            },
        },
        {
            "match": {"userMessage": "cut"},
            "response": {"content": "a b c d e f g h i j k l"},
            "truncateAfterChunks": 2,
            "chunkSize": 2,
        },
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def mock_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("fixtures")
    (folder / "chat.json").write_text(json.dumps(FIXTURES), encoding="utf-8")
    with mock_server(folder) as url:
        yield url


@pytest.fixture(scope="module")
def llama_url() -> Iterator[str]:
    with llama_server() as url:
        yield url


@pytest.mark.anyio
async def test_v17_a_mock_that_others_wrote_is_understood(mock_url: str) -> None:
    """Parallel calls with usage, and text with reasoning, come out of a server that knows nothing of us."""
    async with model_at(mock_url) as model:
        calls, _ = await ask(model, asking("two cities", tools=(WEATHER,)))
        text, notices = await ask(model, asking("think"))
    assert [(call.id, call.arguments) for call in calls.tool_calls] == [
        ("call_a", {"city": "Oslo"}), ("call_b", {"city": "Kampala"}),
    ]  # fmt: skip
    assert (calls.finish, calls.usage) == ("tool_calls", Usage(input_tokens=40, output_tokens=12))
    assert text.text == "It is forty-two."
    assert notices[0] == ReasoningDelta("Let me see.")


@pytest.mark.anyio
async def test_v24_the_mock_s_faults_are_faults(mock_url: str) -> None:
    """Its rate limit carries a wait, its truncated stream is retryable."""
    async with model_at(mock_url) as model:
        with pytest.raises(ModelError, match="Rate limited") as limited:
            await ask(model, asking("limit"))
        with pytest.raises(ModelError) as cut:
            await ask(model, asking("cut"))
    assert (limited.value.kind, limited.value.retry_after_s) == ("rate_limit", 1.0)
    assert (cut.value.kind, cut.value.retryable) == ("model_failure", True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("chaos drop", "model_failure"), ("chaos malformed", "model_failure"), ("chaos disconnect", "model_failure"),
        ("chaos rateLimit", "rate_limit"), ("patience", "rate_limit"),
    ],
)  # fmt: skip
async def test_v24_every_fault_of_the_mock_is_a_retryable_fault(mock_url: str, fault: str, kind: str) -> None:
    """Dropped, malformed, disconnected, limited: a typed error each, and the model answers the next request."""
    async with model_at(mock_url) as model:
        with pytest.raises(ModelError) as caught:
            await ask(model, asking(fault))
        reply, _ = await ask(model, asking("think"))
    assert (caught.value.kind, caught.value.retryable) == (kind, True)
    assert fault != "patience" or caught.value.retry_after_s == 7.0
    assert reply.text == "It is forty-two."


@pytest.mark.anyio
async def test_l9_calls_in_the_text_of_the_mock_are_read(mock_url: str) -> None:
    """Streamed in the mock's own pieces, nothing of the call is seen as text."""
    async with model_at(mock_url, text_calls=("hermes",)) as model:
        reply, notices = await ask(model, asking("in text", tools=(WEATHER,)))
    assert (reply.text, [call.arguments for call in reply.tool_calls]) == ("So: ", [{"city": "Oslo"}])
    assert "".join(notice.text for notice in notices if isinstance(notice, TextDelta)) == "So: "


@pytest.mark.anyio
async def test_v17_a_turn_with_tools_on_real_llama_cpp(llama_url: str) -> None:
    """A real model behind a real server asks for two calls in parallel, streamed, and then answers in text."""
    async with model_at(llama_url, timeout_s=60) as model:
        question = Message(role="user", text="weather in Oslo and Kampala")
        parameters = {"temperature": 0}
        reply, notices = await ask(model, ModelRequest((question,), (WEATHER,), parameters))
        assert [call.arguments for call in reply.tool_calls] == [{"city": "Oslo"}, {"city": "Kampala"}]
        assert reply.finish == "tool_calls"
        assert {notice.index for notice in notices if isinstance(notice, ToolInputDelta)} == {0, 1}
        asked = Message(role="assistant", text=reply.text, tool_calls=reply.tool_calls, patch=reply.patch)
        results = [Message(role="tool", text='{"degrees": 7}', tool_call_id=call.id) for call in reply.tool_calls]
        answer, heard = await ask(model, ModelRequest((question, asked, *results), (WEATHER,), parameters))
    assert answer.text
    assert answer.finish == "stop"
    assert "".join(notice.text for notice in heard if isinstance(notice, TextDelta)) == answer.text
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0


@pytest.mark.anyio
async def test_a4_malformed_arguments_in_the_history_do_not_stop_llama_cpp(llama_url: str) -> None:
    """The server parses the calls of the history: malformed ones must reach it as something that parses."""
    broken = Message.model_validate(
        {"role": "assistant", "tool_calls": [{"id": "c1", "name": "get_weather", "arguments_text": '{"city": "\ud800'}]}
    )
    told = Message(role="tool", text="the arguments are not valid JSON", tool_call_id="c1")
    async with model_at(llama_url, timeout_s=60) as model:
        question = Message(role="user", text="weather in Oslo")
        reply, _ = await ask(
            model, ModelRequest((question, broken, told), (WEATHER,), {"temperature": 0, "max_tokens": 40})
        )
    assert reply.text or reply.tool_calls
