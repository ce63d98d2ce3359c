"""A host to be killed: `python -m tests.tools.workers.host BACKEND`. Prints the numbers of the processes that its
tool has started, one a line, and then waits.
"""

from __future__ import annotations

import sys
from functools import partial

import anyio

from engine import Engine, Limits, ModelReply, Prompt, ToolCall
from engine.core.notices import Notice, ToolProgress
from engine.core.record import TransitionRecord
from engine.models import FunctionModel
from tests.tools.workers import living
from tests.tools.workers.functions import detaches_and_waits
from tests.tools.workers.talking import PATIENCE_S

REPORTED = 3
"""How many processes one call of the tool reports."""

TOOL = living.bounded(detaches_and_waits, PATIENCE_S)


say = partial(print, flush=True)
"""Print a line that the parent sees at once."""


class Saying:
    """Prints what tools report, so that the parent sees it at once."""

    def on_record(self, record: TransitionRecord) -> None:
        """Let it pass."""

    def on_notice(self, session: str, notice: Notice) -> None:
        """Print progress."""
        if isinstance(notice, ToolProgress):
            say(notice.text)


async def main() -> None:
    """Run the tool that gets away."""
    model = FunctionModel(lambda request: ModelReply(text="It came back."))
    limits = Limits(max_concurrent_tools=1)
    async with Engine(model=model, tools=[TOOL], limits=limits, observers=[Saying()]) as engine:
        await (await engine.open("s")).ask(Prompt(calls=[ToolCall(id="c1", name=TOOL.spec.name)]))


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
