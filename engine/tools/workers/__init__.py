"""Tools in processes of their own, which can be limited, watched and killed with everything they started.

    host (event loop) ── pool ── worker ═ socket ═ supervisor ── the worker process ── whatever the tool starts

A supervisor is a fresh Python interpreter that forks the worker processes, one at a time, and runs no code of the
host's. It adopts every orphan below it, so nothing can leave the tree; it holds the other end of a socket of the host,
so it learns at once that the host is gone, whatever killed it, and takes the tree with it.
"""

from .callee import ProcessCallee
from .limits import Strength, WorkerLimits, strength
from .outcome import Ending, WorkerOutcome, WorkerUsage
from .pool import WorkerPool
from .protocol import WorkerCall
from .target import Target, target_of

__all__ = [
    "Ending",
    "ProcessCallee",
    "Strength",
    "Target",
    "WorkerCall",
    "WorkerLimits",
    "WorkerOutcome",
    "WorkerPool",
    "WorkerUsage",
    "strength",
    "target_of",
]
