"""A local model: llama.cpp inside this process, through the package `xllamacpp` (the extra `local`).

Loads a GGUF file when it is first asked, renders the chat with the model's own template, streams, and stops between two
tokens when its turn is cancelled. May import core, errors, ports and the pure modules beside it. Must never download
anything, open a port, or let llama.cpp write to the host's output.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from pydantic import Field

from ..core.notices import Notice
from ..core.tokens import Window, estimated_tokens
from ..core.values import ModelReply, Value
from ..errors import MissingExtra, ModelError, UsageError
from ..ports import Emit, ModelRequest
from .generation import Generation, Server
from .text_calls import CallReader, TextCallFormat
from .wire import scrub, to_wire, tools_to_wire

T = TypeVar("T")

_RESERVED = frozenset({"messages", "tools", "stream", "stream_options", "return_progress", "verbose"})
_SAMPLERS = ["penalties", "top_k", "min_p", "temperature"]
_SILENT = -1
_SOCKET_PATH_BYTES = 100
"""Unix socket addresses hold 104 to 108 bytes, by system."""


class LlamaSettings(Value):
    """How a local model is loaded and sampled.

    Of loading: `n_ctx` is the window in tokens (None: the model's own, less where memory does not hold it), `n_batch`
    how many prompt tokens are decoded at a time (where either is 1, llama.cpp aborts the whole process),
    `chat_template` a Jinja template instead of the model's own, `prompt_cache_mib` the memory in MiB for the prefixes
    of other conversations. More than one of `n_threads` pays only on idle cores.

    Of sampling, and replaceable by the parameters of a request: `max_tokens` of one reply (the window bounds it too),
    `temperature` (None: 0 for the packaged model, else 0.7; 0 is greedy), `top_k`, `min_p`, `repeat_penalty` over the
    last `repeat_last_n` tokens, `seed`, and `stop`, texts that end a reply and are cut off it.

    `text_calls` names the formats in which tool calls are read out of the text, instead of leaving that to llama.cpp:
    for a model that writes calls in another way than its template does.
    """

    n_ctx: Annotated[int, Field(ge=2)] | None = None
    n_batch: Annotated[int, Field(ge=2)] = 512
    n_threads: Annotated[int, Field(ge=1)] = 1
    chat_template: str | None = None
    prompt_cache_mib: Annotated[int, Field(ge=0)] = 256
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] = 40
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.01
    repeat_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    repeat_last_n: Annotated[int, Field(ge=0)] = 64
    seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = 0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    text_calls: tuple[TextCallFormat, ...] = ()


_ONE_TOKEN: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


def _ignore(notice: Notice) -> None:
    """Show nothing of what is only read."""


def _stop_at_once(chunk: dict[str, Any]) -> bool:
    return True


PACKAGED_CTX = 2048
"""The window of the packaged model, in tokens; it reads single bytes."""


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def packaged_model() -> Path:
    """Return where the tiny model is that the engine ships: 312 thousand parameters, three tools, little else."""
    package = __name__.rpartition(".")[0]
    return Path(str(files(package).joinpath("data", "tiny-agent.gguf")))


class LlamaCppModel:
    """A GGUF model in this process. Sessions take turns on it, in one event loop at a time.

    The ids of tool calls are `call_{turn}_{round}_{index}`: llama.cpp draws random ones, and the same run would differ
    each time. The binding holds Python's global lock while it loads a file, so nothing else runs meanwhile: load a
    large one (`await model.load()`) before serving.
    """

    def __init__(self, path: str | Path | None = None, *, settings: LlamaSettings | None = None) -> None:
        """Remember what is to be loaded; nothing is read yet.

        Args:
            path: a GGUF file; the packaged model if None.
            settings: how it is loaded and sampled.

        Raises:
            MissingExtra: xllamacpp is not installed.
            UsageError: there is no such file.
        """
        try:
            import xllamacpp as library
        except ImportError as error:
            raise MissingExtra("LlamaCppModel", "local") from error
        self._library: Any = library
        self._packaged = path is None
        self._told_ctx = PACKAGED_CTX if path is None else None
        self._path = packaged_model() if path is None else Path(path)
        if not self._path.is_file():
            raise UsageError(
                f"there is no model file {str(self._path)!r}; give the path of a GGUF file, "
                "or no path for the packaged model"
            )
        self._settings = settings or LlamaSettings()
        self._temperature = self._settings.temperature
        if self._temperature is None:
            self._temperature = 0.0 if path is None else 0.7
        self._answered = False
        self._reading: threading.Event | None = None
        self._server: Server | None = None
        self._turn = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        self._loop: object = None

    def __repr__(self) -> str:
        return f"LlamaCppModel({self._path.name!r})"

    @property
    def window(self) -> Window | None:
        """What the model can be shown; None for a file whose window nobody has said, until a request does not fit."""
        tokens = self._settings.n_ctx or self._told_ctx
        if tokens is None:
            return None
        return Window(tokens, tokens_of=_bytes_of if self._packaged else estimated_tokens)

    async def load(self) -> None:
        """Load the model now instead of at the first call. Idempotent.

        Raises:
            ModelError: the file or the chat template cannot be used.
        """
        await self._alone(self._load, threading.Event())

    async def aclose(self) -> None:
        """Free the model, cancelled or not, after the reply that is being generated. The next call loads it again."""
        with anyio.CancelScope(shield=True):
            await self._alone(self._free, threading.Event())

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return the reply, telling `emit` about text, reasoning and tool input while they grow.

        Cancelled, it ends between two tokens, and not before its thread has ended.

        Raises:
            ModelError: the model cannot be loaded, or the conversation does not fit its window or its template.
        """
        if self._reading is not None:
            self._reading.set()
        body = self._body(request)
        stop = threading.Event()
        cancelled = anyio.get_cancelled_exc_class()

        def tell(notice: Notice) -> None:
            try:
                # Whoever waits for this thread may have been cancelled, and not have run since.
                anyio.from_thread.check_cancelled()
            except cancelled:
                stop.set()
            else:
                anyio.from_thread.run_sync(emit, notice)

        formats = self._settings.text_calls
        reader = CallReader(formats, request.tools) if formats else None
        generation = Generation(body, tell, stop, f"call_{request.turn}_{request.round}", reader)

        def answer() -> ModelReply:
            try:
                reply = generation.run(self._load(), self._path.stem)
            finally:
                self._told_ctx = generation.n_ctx or self._told_ctx
            self._answered = True
            return reply

        return await self._alone(answer, stop)

    async def warm(self, request: ModelRequest) -> None:
        """Read the conversation of a request ahead, so that a request that begins like it finds it in the cache.

        Does nothing while the model is at work, and gives way, between two batches, as soon as it is asked.

        Raises:
            ModelError: as in `generate`.
        """
        if self._turn.locked():
            return
        body = {**self._body(request), "max_tokens": 0}
        stop = self._reading = threading.Event()
        reading = Generation(body, _ignore, stop)

        def read() -> None:
            reading.ask(self._load(), self._path.stem)
            self._answered = True

        try:
            await self._alone(read, stop)
        finally:
            self._reading = None

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        reserved = sorted(_RESERVED & request.parameters.keys())
        if reserved:
            raise ModelError(f"the parameters of a request may not set {', '.join(reserved)}", retryable=False)
        settings = self._settings
        body: dict[str, Any] = {
            "messages": [to_wire(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            # Without it nothing is heard, and nothing can be stopped, before a long prompt has been read.
            "return_progress": True,
            "parallel_tool_calls": True,
            "samplers": _SAMPLERS,
            "max_tokens": settings.max_tokens,
            "temperature": self._temperature,
            "top_k": settings.top_k,
            "min_p": settings.min_p,
            "repeat_penalty": settings.repeat_penalty,
            "repeat_last_n": settings.repeat_last_n,
            "seed": settings.seed,
            "stop": list(settings.stop),
        }
        if request.tools:
            body["tools"] = tools_to_wire(request.tools)
            if settings.text_calls:
                # The tools stand in the prompt all the same; llama.cpp only leaves the reply as it is.
                body["tool_choice"] = "none"
        body.update(scrub(request.parameters))
        # Only the verbose form tells a stop sequence from the end of the text, and it repeats the whole prompt.
        body["verbose"] = bool(body["stop"])
        return body

    async def _alone(self, work: Callable[[], T], stop: threading.Event) -> T:
        """Run blocking work in the one thread. Cancelled, set `stop` and wait for its end before passing that on."""
        token = anyio.lowlevel.current_token()
        if self._loop != token:
            # Locks belong to the loop they were waited for in; a loop that ended has left nobody waiting.
            self._turn, self._thread, self._loop = anyio.Lock(), anyio.CapacityLimiter(1), token
        done = anyio.Event()
        values: list[T] = []
        failures: list[Exception] = []

        async def carry() -> None:
            try:
                # A thread that was started is waited for, cancelled or not: `stop` is what ends it early.
                values.append(await anyio.to_thread.run_sync(work, limiter=self._thread))
            except Exception as error:  # raised below, outside of the task group: it would come out wrapped
                failures.append(error)
            done.set()

        async with self._turn, anyio.create_task_group() as group:
            group.start_soon(carry)
            try:
                await done.wait()
            finally:
                stop.set()
        for failure in failures:
            raise failure
        return values[0]

    def _load(self) -> Server:
        if self._server is None:
            self._check_file()
            with tempfile.TemporaryDirectory(prefix="agent-engine-") as folder:
                try:
                    self._server = self._library.Server(self._loading(folder))
                except RuntimeError as error:
                    raise ModelError(
                        f"llama.cpp cannot load {self._path.name}: the file is damaged, of an architecture that this "
                        "release does not know, or too large for the memory with this n_ctx, or the chat template does "
                        "not parse",
                        retryable=False,
                    ) from error
        assert self._server is not None
        return self._server

    def _free(self) -> None:
        server, self._server = self._server, None
        if server is not None and not self._answered:
            # Ended before its loop has begun, llama.cpp waits for itself for ever; once it has answered, the loop runs.
            server.handle_chat_completions(_ONE_TOKEN, _stop_at_once)
        self._answered = False
        # The destructor ends llama.cpp's own threads and waits for them.
        del server

    def _check_file(self) -> None:
        try:
            with self._path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise ModelError(f"{self._path.name} cannot be read: {error.strerror}", retryable=False) from error
        if magic != b"GGUF":
            raise ModelError(f"{self._path.name} is no GGUF file; convert it with llama.cpp's tools", retryable=False)

    def _loading(self, folder: str) -> Any:
        """Return llama.cpp's parameters: silent, offline, one conversation at a time, no way in from outside."""
        settings = self._settings
        parameters = self._library.CommonParams()
        parameters.model.path = str(self._path)
        parameters.n_ctx = settings.n_ctx or 0
        parameters.n_batch = settings.n_batch
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings.n_threads
        parameters.warmup = False
        parameters.cache_ram_mib = settings.prompt_cache_mib
        parameters.verbosity = _SILENT
        parameters.offline = True
        if settings.chat_template is not None:
            parameters.chat_template = settings.chat_template
        # llama.cpp insists on listening. A socket file that is removed at once cannot be connected to; where there are
        # none, a key that nobody knows closes the port.
        parameters.api_keys = [token_hex(32)]
        parameters.ui = parameters.endpoint_slots = False
        parameters.port, parameters.n_threads_http = 0, 1
        address = str(Path(folder, "llama.sock"))
        if hasattr(socket, "AF_UNIX") and len(address.encode()) <= _SOCKET_PATH_BYTES:
            parameters.hostnames = [address]
        return parameters
