"""One reply of llama.cpp while it grows, in the thread that generates it.

May import core, errors, ports and the pure modules beside it. Must never be used from two threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, cast

from ..core.values import ModelReply
from ..errors import ModelError
from ..ports import Emit
from .chunks import ReplyBuilder
from .text_calls import CallReader


class Server(Protocol):
    """What is used of llama.cpp's server. A callback that returns True ends the generation."""

    def handle_chat_completions(self, prompt: dict[str, Any], callback: Callable[[dict[str, Any]], bool]) -> None:
        """Answer a request, chunk by chunk."""
        ...


class Generation:
    """One reply while it grows, in the worker thread.

    Args:
        body: what llama.cpp is asked.
        emit: is told about every piece.
        stop: once it is set, the generation ends.
        id_prefix: of the ids of calls, before their index.
        reader: finds tool calls in the text; None where llama.cpp does.

    Attributes:
        n_ctx: the model's window in tokens, where llama.cpp said it: a request did not fit.
    """

    def __init__(
        self,
        body: dict[str, Any],
        emit: Emit,
        stop: threading.Event,
        id_prefix: str = "",
        reader: CallReader | None = None,
    ) -> None:
        self._body = body
        self._stop = stop
        self._id_prefix = id_prefix
        self._builder = ReplyBuilder(emit, reader, id_prefix)
        self.n_ctx: int | None = None
        self._stop_type: object = None
        self._refusal: dict[str, Any] | None = None
        self._failure: BaseException | None = None

    def run(self, server: Server, model: str) -> ModelReply:
        """Generate, and return the reply as far as it came.

        Raises:
            ModelError: there is none.
        """
        if self._stop.is_set():
            return ModelReply(finish="cancelled", model=model)
        self.ask(server, model)
        if self._stop.is_set() and not self._builder.finished:
            return ModelReply(finish="cancelled", model=model)
        return self._finished(self._builder.reply().model_copy(update={"model": model}))

    def ask(self, server: Server, model: str) -> None:
        """Let llama.cpp work on the request until it is done or stopped.

        Raises:
            ModelError: it cannot take the request.
        """
        try:
            server.handle_chat_completions(self._body, self._hear)
        except (TypeError, ValueError, RuntimeError, RecursionError) as error:
            raise ModelError(f"llama.cpp cannot take the request: {error}", retryable=False) from error
        if self._failure is not None:
            raise self._failure
        if self._refusal is not None:
            raise _refused(self._refusal, model)

    def _hear(self, chunk: dict[str, Any]) -> bool:
        """Take in a chunk; True ends the generation. llama.cpp drops what is raised here, so it is kept for `run`."""
        if self._stop.is_set():
            return True
        try:
            self._take(chunk)
        except BaseException as error:
            self._failure = error
        return self._failure is not None or self._refusal is not None

    def _take(self, chunk: dict[str, Any]) -> None:
        refusal = chunk.get("error")
        if isinstance(refusal, dict):
            self._refusal = cast(dict[str, Any], refusal)
            n_ctx = self._refusal.get("n_ctx")
            self.n_ctx = n_ctx if isinstance(n_ctx, int) and n_ctx > 0 else None
            return
        verbose = chunk.get("__verbose")
        if isinstance(verbose, dict):
            self._stop_type = cast(dict[str, Any], verbose).get("stop_type")
        for choice in chunk.get("choices", ()):
            for call in choice.get("delta", {}).get("tool_calls", ()):
                if "id" in call:
                    call["id"] = f"{self._id_prefix}_{call['index']}"
        self._builder.add(chunk)

    def _finished(self, reply: ModelReply) -> ModelReply:
        used = reply.usage.output_tokens if reply.usage else 0
        limit = self._body["max_tokens"]
        if reply.finish == "length" and isinstance(limit, int) and 0 <= used < limit:
            return reply.model_copy(update={"finish": "context_full"})
        if reply.finish == "stop" and self._stop_type == "word":
            return reply.model_copy(update={"finish": "stop_sequence"})
        return reply


def _refused(refusal: dict[str, Any], model: str) -> ModelError:
    status = refusal.get("code")
    if refusal.get("type") == "exceed_context_size_error":
        return ModelError(
            f"the conversation takes {refusal.get('n_prompt_tokens')} tokens and the window of {model} holds "
            f"{refusal.get('n_ctx')}: shorten the conversation, or give a larger n_ctx if the model knows one",
            retryable=False,
            kind="context_full",
        )
    retryable = isinstance(status, int) and status >= 500
    return ModelError(f"llama.cpp refused the request: {refusal.get('message')}", retryable=retryable)
