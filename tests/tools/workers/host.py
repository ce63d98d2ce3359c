"""A host to be killed: `python -m tests.tools.workers.host BACKEND`. Prints the numbers of the processes that its
tool has started, one a line, and then waits.
"""

from __future__ import annotations

import sys
from functools import partial

import anyio

from engine.tools.workers import WorkerPool
from tests.tools.workers.functions import detaches_and_waits
from tests.tools.workers.talking import MEASURED, call_of

REPORTED = 3
"""How many processes one call of the tool reports."""


say = partial(print, flush=True)
"""Print a line that the parent sees at once."""


async def main() -> None:
    """Run the tool that gets away."""
    async with WorkerPool(size=1, idle=0, environment=MEASURED) as pool:
        await pool.run(call_of(detaches_and_waits), say)


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
