"""A function of the host's as a model. May import ports, core and its neighbours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable

from ..core.values import ModelReply
from ..ports import Emit, ModelRequest
from .text_calls import TextCallFormat, reply_with_calls


class FunctionModel:
    """Ask a function for every reply.

    Args:
        function: takes the request and returns the reply, or an awaitable of it.
        text_calls: formats in which tool calls are read out of the text of a reply.
    """

    def __init__(
        self,
        function: Callable[[ModelRequest], Awaitable[ModelReply] | ModelReply],
        *,
        text_calls: Sequence[TextCallFormat] = (),
    ) -> None:
        self._function = function
        self._formats = tuple(text_calls)

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return what the function returns. What it raises becomes a fault of the turn."""
        reply = self._function(request)
        reply = await reply if isawaitable(reply) else reply
        return reply_with_calls(reply, request, self._formats) if self._formats else reply
