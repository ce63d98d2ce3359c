"""One tool for each way to misbehave in the engine's own process; what becomes of each call, and of the session.

    python examples/misbehaving_at_home.py

Nobody can stop a thread, or a coroutine that swallows its cancellation: the turn goes on without them, and they are
counted until they end. Those that can be stopped run in `misbehaving_tools.py`, in processes of their own.
"""

from __future__ import annotations

import time
from contextlib import suppress

import anyio

from engine import Engine, EngineSettings, Limits, ModelReply, ModelRequest, Prompt, Redactor, Session, ToolCall, tool
from engine.models import FunctionModel

API_KEY = "sk-live-6f1d0c2b9a"
"""A secret that the host knows, and one of the tools gives away."""


@tool(effect="read", timeout_s=0.2)
async def hangs() -> None:
    """Never come back."""
    await anyio.sleep_forever()


@tool(effect="read", timeout_s=0.2)
async def swallows_cancellation() -> str:
    """Go on for five seconds, whoever cancels it."""
    until = anyio.current_time() + 5
    while anyio.current_time() < until:
        with suppress(anyio.get_cancelled_exc_class()):
            await anyio.sleep(0.1)
    return "at last"


@tool(effect="read")
async def blocks_the_loop() -> str:
    """Keep the event loop from everybody else."""
    await anyio.sleep(0.05)
    time.sleep(1.0)  # noqa: ASYNC251 - that is the point
    return "alone"


@tool(timeout_s=0.2)
def sleeps_in_a_thread() -> str:
    """Sleep in a thread, which nobody can stop; nobody knows what this write still does."""
    time.sleep(0.6)
    return "late"


@tool(effect="read")
async def returns_nan() -> list[float]:
    """Return what no journal can hold."""
    return [1.0, float("nan")]


@tool(effect="read")
async def never_ends_its_story() -> str:
    """Return a megabyte."""
    return "and so on, " * 100_000


@tool(effect="read")
async def gives_a_secret_away() -> str:
    """Fail, and say too much about it."""
    raise ConnectionError(f"https://api.example/v1?key={API_KEY} refused the connection")


@tool
async def exits() -> None:
    """End the whole program."""
    raise SystemExit(3)


@tool(effect="read")
async def sees_nothing_new() -> str:
    """Give the same answer each time; the model asks again and again."""
    return "as before"


ALONE = (
    hangs, swallows_cancellation, blocks_the_loop, sleeps_in_a_thread, returns_nan, never_ends_its_story,
    gives_a_secret_away, exits,
)  # fmt: skip
"""Those that misbehave in one call."""


def think(request: ModelRequest) -> ModelReply:
    """Answer; told to loop, ask for the same thing in every round."""
    prompt = next(message.text for message in reversed(request.messages) if message.role == "user")
    if prompt == "loop" and request.tools:
        return ModelReply(tool_calls=[ToolCall(id=f"c{request.round}", name="sees_nothing_new")])
    return ModelReply(text="Still here.")


async def report(engine: Engine, session: Session, name: str) -> None:
    """Run one tool and print how its call ended, what was noticed, and that the session goes on."""
    prompt = (
        Prompt(text="loop") if name == "sees_nothing_new" else Prompt(text="go", calls=[ToolCall(id="c", name=name)])
    )
    result = await session.ask(prompt)
    last = result.tool_calls[-1]
    shown = last.content.splitlines()[0][:70]
    noticed = "".join(f" · blocked the loop: {found.tool}" for found in engine.stats().blocked if found.tool == name)
    running = f" · still running: {engine.stats().running_tools}" if engine.stats().running_tools else ""
    again = (await session.ask("and now?")).text
    print(f"{name:22} {result.outcome:10} {last.status:10} {shown}{noticed}{running} · {again}")


async def main() -> None:
    """Run them one by one."""
    settings = EngineSettings(loop_limit_s=0.2, on_unknown="tell_model")
    limits, redactor = Limits(cancel_grace_s=0.1), Redactor({"api": API_KEY})
    tools = (*ALONE, sees_nothing_new)
    async with Engine(
        model=FunctionModel(think), tools=tools, limits=limits, settings=settings, redactor=redactor
    ) as engine:
        session = await engine.open("misbehaving")
        for each in tools:
            await report(engine, session, each.spec.name)


if __name__ == "__main__":
    anyio.run(main)
