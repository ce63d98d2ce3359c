"""A tool's function as `isolation="process"` calls it: by name, in a worker.

What travels are the arguments as the model wrote them; the worker validates them again. What the host has made of them
could be any object, and is not needed here. May import anyio, ports and its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from ...core.values import ToolEffect
from ...ports import ToolContext, ToolOutput
from .limits import WorkerLimits
from .pool import WorkerPool
from .protocol import WorkerCall, context_to_json
from .target import target_of


class ProcessCallee:
    """A function of the host's that runs in a worker process.

    Args:
        function: what to call, sync or async.
        effect: of the tool.
        limits: what one call may use.

    Raises:
        ToolDefinitionError: another process cannot find the function.
    """

    def __init__(self, function: Callable[..., Any], effect: ToolEffect, limits: WorkerLimits) -> None:
        self.target = target_of(function)
        self.effect: ToolEffect = effect
        self.limits = limits

    async def run(self, pool: WorkerPool, context: ToolContext) -> ToolOutput:
        """Run the call of this context, within its `timeout_s`. Every end is an output; only cancellation is raised.

        Args:
            pool: where to run it.
            context: holds the arguments as they were written.
        """
        call = WorkerCall(
            self.target, context.arguments, context_to_json(context), context.timeout_s, self.limits, _backend()
        )
        outcome = await pool.run(call, context.progress)
        return outcome.output(self.effect)


def _backend() -> str:
    """Return the name of the running event loop's library: where its cancellation comes from."""
    return anyio.get_cancelled_exc_class().__module__.partition(".")[0]
