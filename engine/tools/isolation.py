"""The worker processes of one engine, and whether its tools are bounded as strongly as it demands.

The workers themselves are imported only where a tool asks for them. May import core, errors, ports and its neighbours.
Must never start a process before a call needs one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..core.limits import Limits, MemoryStrength
from ..errors import LimitNotEnforceable
from ..ports import Tool
from .function import FunctionTool

if TYPE_CHECKING:
    from .workers import Strength, WorkerPool

_ORDER: tuple[MemoryStrength, ...] = ("advisory", "sampled", "rlimit")


class Workers:
    """The pool of one engine's workers, which is there from the first call that needs it until it is closed.

    Args:
        limits: as many workers run at a time as one session may run tools; more calls wait, outside their time.
    """

    def __init__(self, limits: Limits) -> None:
        self._size = limits.max_concurrent_tools
        self._demanded: MemoryStrength = limits.required_memory_strength
        self._pool: WorkerPool | None = None

    def serving(self, tool: Tool) -> Tool:
        """Return a tool as this engine runs it.

        Raises:
            LimitNotEnforceable: it cannot be run as it is made, or not be bounded as is demanded.
        """
        check_bounded(tool, self._demanded)
        return cast("FunctionTool[..., object]", tool).served_by(self.pool) if is_isolated(tool) else tool

    def pool(self) -> WorkerPool:
        """Return the pool that is open."""
        if self._pool is None:
            from .workers import WorkerPool

            self._pool = WorkerPool(size=self._size)
        return self._pool

    async def aclose(self) -> None:
        """End every worker with all it has started. Idempotent; the next use opens another pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()


def is_isolated(tool: Tool) -> bool:
    """Return whether calls of a tool run in a process of their own, which ends them in time by itself."""
    return isinstance(tool, FunctionTool) and tool.isolated


def memory_bounds(tool: FunctionTool[..., object]) -> tuple[int | None, int | None]:
    """Return how many bytes a call may use, and how many it may map; None where nothing bounds it."""
    limits = tool.worker_limits
    given = (None, None) if limits is None else (limits.tree_memory_mb, limits.address_space_mb)
    used, mapped = (None if mib is None else mib << 20 for mib in given)
    return used, mapped


def check_bounded(tool: Tool, demanded: MemoryStrength) -> None:
    """Make sure that a tool can run as it is made, bounded as the engine demands.

    Raises:
        LimitNotEnforceable: this machine cannot, or the tool does not ask for it.
    """
    if not is_isolated(tool) and demanded == "advisory":
        return
    from .workers import strength

    check_machine(tool.spec.name, demanded, strength())
    if demanded == "advisory":
        return
    bound = "address_space_mb" if demanded == "rlimit" else "tree_memory_mb"
    limits = tool.worker_limits if isinstance(tool, FunctionTool) else None
    if limits is None or getattr(limits, bound) is None:
        raise LimitNotEnforceable(
            f"required_memory_strength={demanded!r} and nothing bounds the memory of {tool.spec.name!r} that strongly: "
            f'make it @tool(isolation="process", limits=WorkerLimits({bound}=…)), or demand less'
        )


def check_machine(name: str, demanded: MemoryStrength, machine: Strength) -> None:
    """Make sure that a machine can run a tool in a process of its own and bound it as is demanded.

    Raises:
        LimitNotEnforceable: it cannot.
    """
    if machine.memory == "advisory":
        raise LimitNotEnforceable(
            f"{name!r} cannot run in a process of its own: this system forks none; leave isolation out, and see "
            "`agent-engine doctor` for what it can enforce"
        )
    if _ORDER.index(machine.memory) < _ORDER.index(demanded):
        raise LimitNotEnforceable(
            f"required_memory_strength={demanded!r}, and this machine gives {machine.memory!r} (see `agent-engine "
            f"doctor`): demand that, or run the engine on Linux"
        )
