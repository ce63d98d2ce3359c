"""The local model: the packaged GGUF file behind the real llama.cpp, on both event loops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

import anyio
import psutil
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from engine import Engine, EngineSettings, Outcome, State, TurnResult, tool
from engine.core.events import ContextCompacted
from engine.core.notices import Notice, TextDelta, ToolInputDelta
from engine.core.tokens import message_tokens
from engine.core.values import Message, ModelReply, ToolSpec
from engine.errors import MissingExtra, ModelError, UsageError
from engine.journal import MemoryJournal
from engine.models.llama_cpp import LlamaCppModel, LlamaSettings, packaged_model
from engine.ports import Model, ModelRequest
from engine.replay import verify
from engine.testing.records import read_all

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'agent-engine[local]'")


def spec(name: str, **parameters: str) -> ToolSpec:
    properties: dict[str, object] = {key: {"type": kind} for key, kind in parameters.items()}
    return ToolSpec.model_validate({"name": name, "parameters": {"type": "object", "properties": properties}})


TOOLS = (spec("get_weather", city="string"), spec("add", a="integer", b="integer"), spec("write_note", text="string"))
LONG = "echo " + "abcd " * 60
"""What the model answers with about 300 tokens."""


def ask(*said: Message | str, tools: tuple[ToolSpec, ...] = TOOLS, **parameters: object) -> ModelRequest:
    """Return a request of round 2 in turn 3; plain strings are what the user says."""
    messages = [Message(role="user", text=item) if isinstance(item, str) else item for item in said]
    return ModelRequest(messages, tools, parameters, session="s", turn=3, round=2)


def quiet(notice: Notice) -> None:
    """Take a notice and do nothing."""


def follow_up(reply: ModelReply, *results: str) -> list[Message]:
    """Return the messages that hand the results of a reply's calls back."""
    answers = zip(reply.tool_calls, results, strict=True)
    asked = Message(role="assistant", text=reply.text, tool_calls=reply.tool_calls)
    return [asked, *(Message(role="tool", text=text, tool_call_id=call.id) for call, text in answers)]


def threads_inside() -> int:
    """Return how many threads are running code of the adapter."""
    inside = 0
    for innermost in sys._current_frames().values():
        names = set()
        frame: FrameType | None = innermost
        while frame is not None:
            names.add(Path(frame.f_code.co_filename).name)
            frame = frame.f_back
        inside += "llama_cpp.py" in names and "test_llama_cpp.py" not in names
    return inside


@pytest.fixture
async def model() -> AsyncIterator[LlamaCppModel]:
    """The packaged model, freed in the end."""
    local = LlamaCppModel()
    yield local
    await local.aclose()


@pytest.mark.anyio
async def test_v17_text_turn(model: LlamaCppModel) -> None:
    """A greeting is answered in text, with usage, and the file's name is the model's name."""
    reply = await model.generate(ask("hello"), quiet)
    assert isinstance(model, Model)
    assert (reply.text, reply.tool_calls, reply.finish, reply.model) == (
        "Hello! How can I help?",
        (),
        "stop",
        "tiny-agent",
    )
    assert reply.usage is not None
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens == len("Hello! How can I help?") + 1


@pytest.mark.anyio
async def test_tool_call_turn(model: LlamaCppModel) -> None:
    """The model calls the tool, reads its result and answers with it."""
    first = await model.generate(ask("add 19 23"), quiet)
    assert [(call.name, call.arguments) for call in first.tool_calls] == [("add", {"a": 19, "b": 23})]
    assert first.finish == "tool_calls"
    second = await model.generate(ask("add 19 23", *follow_up(first, "42")), quiet)
    assert (second.text, second.finish) == ("The sum is 42.", "stop")


@pytest.mark.anyio
async def test_l16_parallel_calls(model: LlamaCppModel) -> None:
    """Two cities make two calls in one reply, and their results are told apart."""
    first = await model.generate(ask("weather in Oslo and Kampala"), quiet)
    assert [call.arguments["city"] for call in first.tool_calls] == ["Oslo", "Kampala"]
    results = follow_up(first, "7 degrees", "27 degrees")
    second = await model.generate(ask("weather in Oslo and Kampala", *results), quiet)
    assert second.text == "It is 7 degrees in Oslo and 27 degrees in Kampala."


@pytest.mark.anyio
async def test_refused_tool_is_told(model: LlamaCppModel) -> None:
    """A refusal in a tool's place is understood as one."""
    first = await model.generate(ask("note buy milk"), quiet)
    second = await model.generate(ask("note buy milk", *follow_up(first, "denied by user")), quiet)
    assert second.text == "The note was not saved."


@pytest.mark.anyio
async def test_call_ids_are_the_same_in_every_run(model: LlamaCppModel) -> None:
    """Ids are made of turn, round and index, not drawn."""
    reply = await model.generate(ask("weather in Oslo and Kampala"), quiet)
    assert [call.id for call in reply.tool_calls] == ["call_3_2_0", "call_3_2_1"]


@pytest.mark.anyio
async def test_l1_text_deltas_make_the_text(model: LlamaCppModel) -> None:
    """The text notices, joined, are the reply's text, and there is more than one of them."""
    notices: list[Notice] = []
    reply = await model.generate(ask("echo one two three"), notices.append)
    deltas = [notice.text for notice in notices if isinstance(notice, TextDelta)]
    assert "".join(deltas) == reply.text == "one two three"
    assert len(deltas) > 1


@pytest.mark.anyio
async def test_l1_tool_input_deltas_make_the_arguments(model: LlamaCppModel) -> None:
    """The tool notices of each call, joined, are its arguments."""
    notices: list[Notice] = []
    reply = await model.generate(ask("weather in Oslo and Kampala"), notices.append)
    inputs = [notice for notice in notices if isinstance(notice, ToolInputDelta)]
    texts = ["".join(notice.text for notice in inputs if notice.index == index) for index in (0, 1)]
    assert texts == ['{"city": "Oslo"}', '{"city": "Kampala"}'] == [call.arguments_text for call in reply.tool_calls]
    assert {notice.name for notice in inputs} == {"get_weather"}


@pytest.mark.anyio
async def test_v9_prefix_that_was_read_ahead_is_not_read_again(model: LlamaCppModel) -> None:
    """After warming with what a request begins like, only what is new in it is evaluated; nothing was generated."""
    system = Message(role="system", text="Always be brief. " * 20)
    await model.generate(ask("an entirely other conversation"), quiet)
    await model.warm(ask(system, ""))
    reply = await model.generate(ask(system, "hello"), quiet)
    assert reply.usage is not None
    assert reply.usage.input_tokens - reply.usage.cached_tokens < 32
    assert reply.text


@pytest.mark.anyio
async def test_v9_reading_ahead_gives_way_to_a_request(model: LlamaCppModel) -> None:
    """A request that comes while the model reads ahead ends that; while the model works, nothing is read ahead."""
    text: list[str | None] = []
    begun = anyio.Event()

    def emit(notice: Notice) -> None:
        begun.set()

    async def speak() -> None:
        text.append((await model.generate(ask("hello"), emit)).text)

    async with anyio.create_task_group() as group:
        group.start_soon(model.warm, ask("word " * 300))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(speak)
        await begun.wait()
        await model.warm(ask("nothing of this is read"))
    assert text == ["Hello! How can I help?"]
    assert threads_inside() == 0


@pytest.mark.anyio
async def test_l17_cancelled_between_tokens(model: LlamaCppModel) -> None:
    """Cancelled in the middle, the generation stops: nothing is told any more and no thread is left."""
    told: list[Notice] = []

    def emit(notice: Notice) -> None:
        told.append(notice)
        if len(told) == 3:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await model.generate(ask(LONG), emit)
    assert scope.cancelled_caught
    assert threads_inside() == 0
    assert (await model.generate(ask("hello"), quiet)).text == "Hello! How can I help?"
    assert len(told) == 3


@pytest.mark.anyio
async def test_l2_a_turn_that_is_cancelled_in_its_reply_ends_as_cancelled(model: LlamaCppModel) -> None:
    """Cancelled while the model writes, the reason is in the result and in the last record, which replays."""
    journal = MemoryJournal()
    async with Engine(model=model, journal=journal) as engine:
        session = await engine.open("s")
        seen: list[object] = []
        async with anyio.create_task_group() as group:
            async for item in session.stream(LONG):
                seen.append(item)
                if isinstance(item, TextDelta) and sum(isinstance(one, TextDelta) for one in seen) == 3:
                    group.start_soon(session.cancel, "enough")
        again = await (await engine.open("t")).ask("hello")
    result = seen[-1]
    assert isinstance(result, TurnResult)
    assert (result.outcome, result.reason, result.text) == (Outcome.CANCELLED, "enough", None)
    records = await read_all(journal, "s")
    [ended] = [record for record in records if record.trigger == "turn_cancelled"]
    assert (ended.source, ended.dest) == (State.GENERATING_RESPONSE, State.IDLE)
    assert verify(records).ok
    assert again.text == "Hello! How can I help?"


@pytest.mark.anyio
async def test_cancelled_before_its_turn(model: LlamaCppModel) -> None:
    """A session that waits for the model is cancelled at once, and the one that has it is not disturbed."""
    told: list[Notice] = []
    begun = anyio.Event()
    scope = anyio.CancelScope()
    replies: list[ModelReply] = []

    def emit(notice: Notice) -> None:
        told.append(notice)
        begun.set()

    async def speak() -> None:
        replies.append(await model.generate(ask(LONG, max_tokens=300), emit))

    async def wait() -> None:
        with scope:
            await model.generate(ask("hello"), told.append)
        assert not replies

    async with anyio.create_task_group() as group:
        group.start_soon(speak)
        await begun.wait()
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
    assert scope.cancelled_caught
    assert replies[0].text == "".join(notice.text for notice in told if isinstance(notice, TextDelta))


@pytest.mark.anyio
async def test_m22_sessions_take_turns(model: LlamaCppModel) -> None:
    """Asked by several sessions at once, the model answers each of them rightly."""
    texts: dict[str, str | None] = {}

    async def speak(word: str) -> None:
        texts[word] = (await model.generate(ask(f"echo {word}"), quiet)).text

    async with anyio.create_task_group() as group:
        for word in ("one", "two", "three", "four"):
            group.start_soon(speak, word)
    assert texts == {"one": "one", "two": "two", "three": "three", "four": "four"}


@pytest.mark.anyio
async def test_l4_prefix_is_reused(model: LlamaCppModel) -> None:
    """The second turn evaluates only what is new; and of the very same prompt, still one token."""
    first = await model.generate(ask("hello"), quiet)
    said = Message(role="assistant", text=first.text)
    second = await model.generate(ask("hello", said, "echo again"), quiet)
    third = await model.generate(ask("hello", said, "echo again"), quiet)
    assert first.usage is not None
    assert second.usage is not None
    assert third.usage is not None
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= first.usage.input_tokens
    assert third.usage.cached_tokens == third.usage.input_tokens - 1


@pytest.mark.anyio
@settings(max_examples=12)
@given(texts=st.lists(st.text("abé", max_size=40), min_size=2, max_size=8), batch=st.sampled_from([2, 16, 512]))
async def test_l4_l6_exactly_the_common_prefix_is_reused(texts: list[str], batch: int) -> None:
    """Property: prompt after prompt, the cache is extended, cut back or nearly cleared to what both have in common.

    A byte is a token of the packaged model. What stands before the user's text is common to all, and at least one token
    is always evaluated.
    """
    local = LlamaCppModel(settings=LlamaSettings(prompt_cache_mib=0, n_batch=batch))

    async def counted(text: str) -> tuple[int, int]:
        usage = (await local.generate(ask(text, tools=(), max_tokens=1), quiet)).usage
        assert usage is not None
        return usage.input_tokens, usage.cached_tokens

    frame, _ = await counted("")
    _, head = await counted("x")
    before = b"x"
    for text in map(str.encode, texts):
        same = next((at for at, (one, other) in enumerate(zip(before, text, strict=False)) if one != other), None)
        same = min(len(before), len(text)) if same is None else same
        whole = frame + len(text)
        # Up to the end of the shorter text they agree; the token behind it ends the message and differs.
        expected = whole - 1 if text == before else head + same
        assert await counted(text.decode()) == (whole, expected)
        before = text
    await local.aclose()


@pytest.mark.anyio
async def test_l7_packaged_model_is_greedy(model: LlamaCppModel) -> None:
    """Unless told otherwise, the packaged model answers what is likeliest, and a fresh one answers the same."""
    fresh = LlamaCppModel()
    said = "zwx qqq vvv"
    # With `min_p` at 0 any other temperature would show.
    one = await model.generate(ask(said, min_p=0.0), quiet)
    other = await fresh.generate(ask(said, min_p=0.0), quiet)
    greedy = await model.generate(ask(said, min_p=0.0, temperature=0), quiet)
    await fresh.aclose()
    assert (one.text, one.tool_calls) == (other.text, other.tool_calls) == (greedy.text, greedy.tool_calls)


@pytest.mark.anyio
async def test_l7_seed_decides_what_is_drawn() -> None:
    """Hot sampling repeats itself under one seed, and not under another."""
    texts: list[str | None] = []
    for seed in (1, 1, 2):
        hot = LlamaCppModel(settings=LlamaSettings(temperature=5.0, min_p=0.0, seed=seed, max_tokens=30))
        texts.append((await hot.generate(ask("hello", tools=()), quiet)).text)
        await hot.aclose()
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.anyio
async def test_l2_length(model: LlamaCppModel) -> None:
    """A reply that reaches `max_tokens` says so."""
    reply = await model.generate(ask("hello", max_tokens=5), quiet)
    assert (reply.text, reply.finish) == ("Hello", "length")


@pytest.mark.anyio
async def test_l2_call_that_is_cut_off_is_malformed(model: LlamaCppModel) -> None:
    """Of a call that `max_tokens` cut off, the text is kept and no arguments are made up."""
    reply = await model.generate(ask("weather in Oslo", max_tokens=45), quiet)
    assert reply.finish == "length"
    assert reply.tool_calls[0].arguments == {}
    assert reply.tool_calls[0].arguments_text == '{"city'


@pytest.mark.anyio
async def test_l2_l8_stop_sequence() -> None:
    """A stop sequence ends the reply, is cut off it, never shows in a notice, and is the reason given."""
    stopping = LlamaCppModel(settings=LlamaSettings(stop=("three",)))
    notices: list[Notice] = []
    reply = await stopping.generate(ask("echo one two three four"), notices.append)
    await stopping.aclose()
    assert (reply.text, reply.finish) == ("one two ", "stop_sequence")
    assert "".join(notice.text for notice in notices if isinstance(notice, TextDelta)) == "one two "


@pytest.mark.anyio
async def test_l2_end_of_text_beside_a_stop_sequence() -> None:
    """A reply that ends by itself says `stop`, also where there are stop sequences."""
    stopping = LlamaCppModel(settings=LlamaSettings(stop=("three",)))
    reply = await stopping.generate(ask("echo one two"), quiet)
    await stopping.aclose()
    assert (reply.text, reply.finish) == ("one two", "stop")


@pytest.mark.anyio
async def test_l2_context_full() -> None:
    """A reply that fills the window before `max_tokens` says so."""
    small = LlamaCppModel(settings=LlamaSettings(n_ctx=256))
    reply = await small.generate(ask("echo " + "abcd " * 26), quiet)
    await small.aclose()
    assert reply.finish == "context_full"


@pytest.mark.anyio
async def test_context_overflow_is_a_model_error(model: LlamaCppModel) -> None:
    """A conversation larger than the window is refused with both numbers, and the model goes on to work."""
    with pytest.raises(ModelError, match=r"takes 30\d\d tokens and the window of tiny-agent holds 2048") as caught:
        await model.generate(ask("x" * 3000), quiet)
    assert not caught.value.retryable
    assert (await model.generate(ask("echo ok"), quiet)).text == "ok"


@pytest.mark.anyio
async def test_l3_custom_template() -> None:
    """A given template takes the place of the model's own."""
    own = packaged_model().with_name("chat-template.jinja").read_text(encoding="utf-8")
    echoing = own.replace(r"message.role + '\n' + message.content", r"message.role + '\necho ' + message.content")
    custom = LlamaCppModel(settings=LlamaSettings(chat_template=echoing))
    reply = await custom.generate(ask("templated"), quiet)
    await custom.aclose()
    assert reply.text == "templated"


@pytest.mark.anyio
async def test_l3_template_that_does_not_parse() -> None:
    """A broken template is a model error that names the template, every time it is tried."""
    custom = LlamaCppModel(settings=LlamaSettings(chat_template="{{ messages[0]"))
    for _ in range(2):
        with pytest.raises(ModelError, match="template") as caught:
            await custom.generate(ask("hello"), quiet)
        assert not caught.value.retryable


@pytest.mark.anyio
async def test_file_that_is_no_model(tmp_path: Path) -> None:
    """A file of another kind is named as what it is not."""
    path = tmp_path / "notes.gguf"
    path.write_text("not a model")
    with pytest.raises(ModelError, match=r"notes\.gguf is no GGUF file") as caught:
        await LlamaCppModel(path).load()
    assert not caught.value.retryable


@pytest.mark.anyio
async def test_damaged_model(tmp_path: Path) -> None:
    """A model file that was cut off is a model error."""
    path = tmp_path / "half.gguf"
    path.write_bytes(packaged_model().read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"cannot load half\.gguf: the file is damaged"):
        await LlamaCppModel(path).load()


@pytest.mark.anyio
async def test_file_that_went_away(tmp_path: Path) -> None:
    """A file that is gone when it is to be loaded is a model error."""
    path = tmp_path / "gone.gguf"
    path.write_bytes(b"GGUF")
    late = LlamaCppModel(path)
    path.unlink()
    with pytest.raises(ModelError, match=r"gone\.gguf cannot be read"):
        await late.load()


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    """A path that leads nowhere is refused where it is given."""
    with pytest.raises(UsageError, match=r"there is no model file .*nowhere\.gguf"):
        LlamaCppModel(tmp_path / "nowhere.gguf")


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without xllamacpp the error says what to install."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtra, match=r"agent-engine\[local\]"):
        LlamaCppModel()


@pytest.mark.anyio
async def test_parameters_that_belong_to_the_engine(model: LlamaCppModel) -> None:
    """A request cannot smuggle in other messages."""
    with pytest.raises(ModelError, match="may not set messages"):
        await model.generate(ask("hello", messages=[]), quiet)


@pytest.mark.anyio
@pytest.mark.parametrize("value", ["hot", object()])
async def test_parameter_of_a_wrong_type(model: LlamaCppModel, value: object) -> None:
    """A parameter that llama.cpp or JSON cannot take is a model error that is not worth a retry."""
    with pytest.raises(ModelError, match=r"llama\.cpp") as caught:
        await model.generate(ask("hello", temperature=value), quiet)
    assert not caught.value.retryable


@pytest.mark.anyio
async def test_grammar_constrains_the_reply(model: LlamaCppModel) -> None:
    """A response format given as a parameter of the request holds."""
    schema = {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    reply = await model.generate(ask("hello", tools=(), response_format=form, max_tokens=40), quiet)
    assert reply.text is not None
    assert reply.text.replace(" ", "").replace("\n", "").startswith('{"a":7}')


@pytest.mark.anyio
async def test_aclose_and_reuse(model: LlamaCppModel) -> None:
    """Freed twice, the model is loaded again by the next call, with an empty cache."""
    await model.generate(ask("hello"), quiet)
    await model.aclose()
    await model.aclose()
    again = await model.generate(ask("hello"), quiet)
    assert again.text == "Hello! How can I help?"
    assert again.usage is not None
    assert again.usage.cached_tokens == 0


@pytest.mark.anyio
async def test_aclose_ends_the_threads_of_llama_cpp(model: LlamaCppModel) -> None:
    """Once freed, fewer native threads run than while the model was loaded; being cancelled changes nothing."""
    await model.load()
    loaded = psutil.Process().num_threads()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await model.aclose()
    assert psutil.Process().num_threads() < loaded


def test_same_model_in_one_loop_after_another() -> None:
    """A model that was used in a loop that ended works in the next one, also of the other kind."""
    local = LlamaCppModel()
    texts = [anyio.run(local.generate, ask("echo ok"), quiet, backend=kind).text for kind in ("asyncio", "trio")]
    anyio.run(local.aclose)
    assert texts == ["ok", "ok"]


@pytest.mark.anyio
async def test_error_of_emit_comes_out(model: LlamaCppModel) -> None:
    """What `emit` raises against its contract is not swallowed on the way through llama.cpp."""

    def broken(notice: Notice) -> None:
        raise LookupError("emit is broken")

    with pytest.raises(LookupError, match="emit is broken"):
        await model.generate(ask("hello"), broken)
    assert threads_inside() == 0


@pytest.fixture
def no_socket_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A temporary folder whose path is too long for a socket."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def listening() -> list[int]:
    return [c.laddr.port for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]


@pytest.mark.anyio
@pytest.mark.skipif(os.name == "nt", reason="Windows has no socket files: a locked port is used there")
async def test_no_port_is_open(model: LlamaCppModel) -> None:
    """llama.cpp's own server is not to be reached from outside: no port, and no file that leads to it."""
    await model.load()
    assert listening() == []
    paths = [str(connection.laddr) for connection in psutil.Process().net_connections("unix")]
    ours = [path for path in paths if "agent-engine" in path]
    assert ours
    assert not any(map(os.path.exists, ours))


@pytest.mark.anyio
@pytest.mark.usefixtures("no_socket_files")
async def test_port_is_locked_where_one_is_needed(model: LlamaCppModel) -> None:
    """Where a socket file cannot be, the port on the loopback answers nobody without the key."""
    await model.load()
    (port,) = listening()
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        body = b'{"messages": []}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send(head.encode() + body)
        assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.anyio
async def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Loading, generating, failing and freeing write nothing to the host's output."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(packaged_model().read_bytes()[:5000])
    noisy = LlamaCppModel()
    await noisy.generate(ask("hello"), quiet)
    with pytest.raises(ModelError):
        await noisy.generate(ask("x" * 3000), quiet)
    await noisy.aclose()
    with pytest.raises(ModelError):
        await LlamaCppModel(bad).load()
    assert capfd.readouterr() == ("", "")


def test_freeing_before_the_first_reply_ends() -> None:
    """A model that was loaded and never asked can be freed: llama.cpp is let answer once before it is ended."""
    source = (
        "import anyio\nfrom engine.models import LlamaCppModel\n"
        "async def main():\n"
        "    for _ in range(20):\n"
        "        model = LlamaCppModel()\n        await model.load()\n        await model.aclose()\n"
        "anyio.run(main)"
    )
    # In a process of its own: a thread that hangs in native code could not be ended here.
    done = subprocess.run([sys.executable, "-c", source], timeout=60, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0


@pytest.mark.parametrize(
    "field", [{"temperature": -1.0}, {"n_ctx": 1}, {"n_batch": 1}, {"stop": ("",)}, {"n_threds": 2}]
)
def test_settings_are_validated(field: dict[str, object]) -> None:
    """A value out of its range, or a name that does not exist, is refused."""
    with pytest.raises(ValidationError):
        LlamaSettings.model_validate(field)


@tool(effect="read")
def get_weather(city: str) -> str:
    """Get the weather."""
    return f"{len(city)} degrees"


@pytest.mark.anyio
async def test_a8_a_conversation_outgrows_the_window_and_goes_on() -> None:
    """More is said than the packaged model's 2048 tokens hold; every turn completes, and each request fits."""
    journal = MemoryJournal()
    settings = EngineSettings(system="Tools: get_weather \nYou are a helper.")
    engine = Engine(model=LlamaCppModel(), tools=[get_weather], journal=journal, settings=settings)
    async with engine, await engine.open("s") as session:
        for turn in range(30):
            result = await session.ask(f"weather in {('Oslo', 'Lima', 'Tokyo', 'Berlin', 'Quito')[turn % 5]}")
            assert result.outcome is Outcome.COMPLETED, result.reason
        whole = sum(message_tokens(message, len) for message in session.messages)
        records = [record async for record in engine.history("s")]
    done = [record.event for record in records if isinstance(record.event, ContextCompacted)]
    assert whole > 2048
    assert len(done) > 2
    assert all(event.text and event.tokens_before > 0.75 * 2048 > event.tokens_after for event in done), done
    assert verify(records).ok
