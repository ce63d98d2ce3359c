"""What one call in a worker process may use, and what this machine can enforce of it.

Resource limits of the kernel bind one process each; the sums over the tree are sampled by the supervisor. May import
the core's values. Must never change a limit of the process that imports it, but in `confine`, which workers call.
"""

from __future__ import annotations

import math
import sys
from typing import Annotated

from pydantic import Field

from ...core.limits import MemoryStrength
from ...core.values import Value

try:
    import resource
except ImportError:  # no such limits on this system
    resource = None  # type: ignore[assignment]

_LINUX: bool = sys.platform == "linux"

SAMPLE_S = 0.02
"""How often the tree is looked at. A sample of a small tree takes about 50 µs."""

MEBIBYTE = 2**20


class WorkerLimits(Value):
    """What one call may use. None is no limit.

    `tree_memory_mb` is summed over the worker and everything it started, looked at every 20 ms: what is allocated
    between two looks is the overshoot. `address_space_mb` binds each process on its own, in the kernel, and exactly; it
    counts what is mapped and not what is used, so give it where no library reserves far more than it needs. `cpu_s` is
    summed over the tree. `file_mb` bounds each written file, `open_files` the descriptors of each process.
    `output_bytes` bounds what leaves the worker: result, progress and prints together. `grace_s` lies between the
    request to stop and the kill, in seconds.
    """

    cpu_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    address_space_mb: Annotated[int, Field(ge=64)] | None = None
    tree_memory_mb: Annotated[int, Field(ge=1)] | None = 1024
    file_mb: Annotated[int, Field(ge=0)] | None = 1024
    open_files: Annotated[int, Field(ge=16)] = 256
    output_bytes: Annotated[int, Field(ge=1024)] = 4 * MEBIBYTE
    grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5

    @property
    def memory_bytes(self) -> float:
        """The limit of the tree, infinite where there is none."""
        return math.inf if self.tree_memory_mb is None else self.tree_memory_mb * MEBIBYTE


class Strength(Value):
    """What this machine can enforce.

    `memory` is the strongest that there is for memory: advisory where there are no workers at all, sampled (late by 20
    ms), rlimit (in the kernel, for one process). `rlimits` names the limits of the kernel that exist. `orphans` says
    whether a process that cut itself off from its parents is still found and killed.
    """

    memory: MemoryStrength
    rlimits: tuple[str, ...]
    orphans: bool


def strength() -> Strength:
    """Return what this machine can enforce."""
    names = ("AS", "CPU", "FSIZE", "NOFILE", "CORE")
    found = tuple(name for name in names if hasattr(resource, f"RLIMIT_{name}"))
    # Elsewhere RLIMIT_AS is accepted and ignored, or refused: it is promised only where it is known to bind.
    if _LINUX:
        return Strength(memory="rlimit", rlimits=found, orphans=True)
    return Strength(memory="sampled" if found else "advisory", rlimits=found, orphans=False)


def confine(limits: WorkerLimits) -> None:
    """Set the kernel's limits for this process and all it will start.

    They cannot be raised again, so a process serves calls of the same limits only; the processor time, which is counted
    from the start of a process, is the exception and has to be set for each call.
    """
    assert resource is not None
    _lower("CORE", 0)
    _lower("NOFILE", limits.open_files)
    if limits.file_mb is not None:
        _lower("FSIZE", limits.file_mb * MEBIBYTE)
    if limits.address_space_mb is not None and _LINUX:
        _lower("AS", limits.address_space_mb * MEBIBYTE)
    if limits.cpu_s is not None:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        # Whole seconds, and one more: the sampled sum is exact and comes first, this is the net below it.
        until_s = math.ceil(spent.ru_utime + spent.ru_stime + limits.cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (until_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _lower(name: str, most: int) -> None:
    assert resource is not None
    kind: int = getattr(resource, f"RLIMIT_{name}")
    _, hard = resource.getrlimit(kind)
    # "Unlimited" is a negative number in Python.
    bound = most if hard < 0 else min(most, hard)
    resource.setrlimit(kind, (bound, bound))
