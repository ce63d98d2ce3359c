"""A model that says what it was told to say: for tests, demonstrations and benchmarks. May import ports and core."""

from __future__ import annotations

from collections.abc import Iterable

from ..core.notices import TextDelta
from ..core.values import ModelReply, ToolCall
from ..errors import ModelError
from ..ports import Emit, ModelRequest


class ScriptedModel:
    """Give prepared replies, one a request, in order; text is streamed line by line.

    Args:
        replies: a string is a final text, a tool call or a list of them asks for tools, an exception is raised.
    """

    def __init__(self, replies: Iterable[ModelReply | ToolCall | list[ToolCall] | str | Exception]) -> None:
        self._replies = iter(replies)
        self.requests: list[ModelRequest] = []

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return the next reply.

        Raises:
            ModelError: the script is at its end, or it says so.
        """
        self.requests.append(request)
        scripted = next(self._replies, None)
        if scripted is None:
            raise ModelError(f"the script ended before request {len(self.requests)}", retryable=False)
        if isinstance(scripted, Exception):
            raise scripted
        reply = _reply(scripted)
        for line in (reply.text or "").splitlines(keepends=True):
            emit(TextDelta(line))
        return reply


def _reply(scripted: ModelReply | ToolCall | list[ToolCall] | str) -> ModelReply:
    if isinstance(scripted, ModelReply):
        return scripted
    if isinstance(scripted, str):
        return ModelReply(text=scripted)
    calls = [scripted] if isinstance(scripted, ToolCall) else scripted
    return ModelReply(tool_calls=calls, finish="tool_calls")
