"""Tool calls in text through the adapters: a real llama.cpp, a real HTTP server, a function of the host's."""

from __future__ import annotations

import pytest

from engine import Engine, Outcome, tool
from engine.core.notices import Notice, TextDelta, ToolInputDelta
from engine.core.values import Message, ModelReply, ToolSpec
from engine.journal import MemoryJournal
from engine.models import TEXT_CALL_FORMATS, FunctionModel
from engine.models.http import HttpModel, HttpSettings
from engine.models.llama_cpp import LlamaCppModel, LlamaSettings
from engine.ports import ModelRequest
from engine.replay import verify
from engine.testing.records import read_all
from tests.models.servers import ScriptedServer, call_delta, delta, stream
from tests.models.text_calls.writing import WRITERS

pytestmark = pytest.mark.anyio

CITY = ToolSpec(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
ASKED = ModelRequest((Message(role="user", text="weather in Oslo and Kampala"),), (CITY,), turn=3, round=2)


@tool(effect="read")
def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"7 degrees in {city}"


async def test_l9_what_llama_cpp_leaves_in_the_text_is_read_as_it_reads_it_itself() -> None:
    """A real model: the calls of its bare text, ids and all, are those that llama.cpp finds; nobody sees the text."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'agent-engine[local]'")
    notices: list[Notice] = []
    theirs, ours = LlamaCppModel(), LlamaCppModel(settings=LlamaSettings(text_calls=TEXT_CALL_FORMATS))
    expected, found = await theirs.generate(ASKED, notices.append), await ours.generate(ASKED, notices.append)
    await theirs.aclose()
    await ours.aclose()
    assert [call.arguments["city"] for call in found.tool_calls] == ["Oslo", "Kampala"]
    assert (found.text, found.tool_calls, found.finish) == (expected.text, expected.tool_calls, expected.finish)
    assert not any(isinstance(notice, TextDelta) for notice in notices)


async def test_l9_a_server_that_leaves_calls_in_the_text_is_understood() -> None:
    """Streamed in pieces: words are shown, calls become calls, and the server is asked not to look for any."""
    pytest.importorskip("httpx2", reason="httpx2 is not installed: pip install 'agent-engine[http]'")
    pieces = ["I look. <to", 'ol_call>{"name": "get_weather", ', '"arguments": {"city": "Oslo",}}</tool_', "call> So."]
    answer = stream(*[delta(content=piece) for piece in pieces], delta("stop"), "[DONE]")
    settings = HttpSettings(trust_env=False, text_calls=("hermes",))
    notices: list[Notice] = []
    with ScriptedServer(answer) as server:
        model = HttpModel(server.url, "m", settings=settings)
        reply = await model.generate(ASKED, notices.append)
        await model.aclose()
        assert server.body["tool_choice"] == "none"
    assert (reply.text, reply.finish, reply.tool_calls[0].arguments) == ("I look.  So.", "tool_calls", {"city": "Oslo"})
    assert notices == [
        TextDelta("I look. "), ToolInputDelta(0, "get_weather", '{"city": "Oslo"}'), TextDelta(" So."),
    ]  # fmt: skip


async def test_l9_l2_a_call_that_the_limit_cut_off_is_malformed() -> None:
    """With finish reason length nothing is completed; calls that the server found itself stand beside it."""
    pytest.importorskip("httpx2", reason="httpx2 is not installed: pip install 'agent-engine[http]'")
    text = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"'
    answer = stream(call_delta("{}", index=0, id="a", name="f"), delta(content=text), delta("length"), "[DONE]")
    settings = HttpSettings(trust_env=False, text_calls=TEXT_CALL_FORMATS)
    with ScriptedServer(answer) as server:
        model = HttpModel(server.url, "m", settings=settings)
        reply = await model.generate(ASKED, lambda notice: None)
        await model.aclose()
    assert [call.name for call in reply.tool_calls] == ["f", "get_weather"]
    assert (reply.finish, reply.tool_calls[1].arguments_text) == ("length", text.removeprefix("<tool_call>"))


async def test_l9_a_function_may_answer_as_a_model_writes() -> None:
    """Ids name turn, round and place; one that the model gave is kept unless it is taken; other replies stay."""
    said = ModelReply(text='[TOOL_CALLS] [{"name": "f", "id": "x"}, {"name": "g", "id": "x"}]')
    model = FunctionModel(lambda request: said, text_calls=["mistral"])
    reply = await model.generate(ASKED, lambda notice: None)
    assert [(call.id, call.name) for call in reply.tool_calls] == [("x", "f"), ("call_3_2_1", "g")]
    assert (reply.text, reply.finish) == (None, "tool_calls")
    plain = FunctionModel(lambda request: said, text_calls=["hermes"])
    assert await plain.generate(ASKED, lambda notice: None) == said


@pytest.mark.parametrize("form", WRITERS)
async def test_l9_a4_a_turn_runs_on_calls_in_text(form: str) -> None:
    """In every form: damage beyond repair is told and mended by the model, the tool runs, the history verifies."""
    seen: list[str] = []

    def think(request: ModelRequest) -> ModelReply:
        last = request.messages[-1]
        seen.append(last.text or "")
        if last.role == "user":
            return ModelReply(text='<tool_call>{"name": "get_weather", "arguments": {"city": "Os</tool_call>')
        if "invalid arguments" in (last.text or ""):
            return ModelReply(text=WRITERS[form]([("get_weather", {"city": "Oslo"})]))
        return ModelReply(text=last.text)

    journal = MemoryJournal()
    model = FunctionModel(think, text_calls=TEXT_CALL_FORMATS)
    async with Engine(model=model, tools=[get_weather], journal=journal) as engine:
        session = await engine.open("s")
        result = await session.ask("weather in Oslo")
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "7 degrees in Oslo")
    assert "Unterminated string" in seen[1]
    assert verify(await read_all(journal, "s")).ok
