"""A function of the host's as a model. May import ports and core."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable

from ..core.values import ModelReply
from ..ports import Emit, ModelRequest


class FunctionModel:
    """Ask a function for every reply.

    Args:
        function: takes the request and returns the reply, or an awaitable of it.
    """

    def __init__(self, function: Callable[[ModelRequest], Awaitable[ModelReply] | ModelReply]) -> None:
        self._function = function

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Return what the function returns. What it raises becomes a fault of the turn."""
        reply = self._function(request)
        return await reply if isawaitable(reply) else reply
