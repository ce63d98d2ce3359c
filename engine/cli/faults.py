"""`demo --faults`: one turn through every fault, each with what the engine does about it.

A scene is a model that is told what to do, the tools it needs and the limits that it runs into; what is printed are the
engine's own records. Each scene ends with a claim that is checked, and with one more turn: whatever happened, the
session is usable. May import the public surface and its neighbours. Must never need a network or sleep longer than a
person watches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
from pydantic import JsonValue

from ..api import Engine, Extras
from ..core.limits import Limits
from ..core.notices import Notice
from ..core.record import TransitionRecord
from ..core.values import ModelReply, Outcome, State, ToolCall
from ..errors import ModelError
from ..journal import MemoryJournal
from ..models.scripted import ScriptedModel
from ..replay.verification import verify_journal
from ..runtime.parts import TurnResult
from ..tools.function import tool
from ..tools.policy import RulePolicy
from .story import Storyteller
from .terminal import Screen, safe

Script = Sequence[ModelReply | ToolCall | list[ToolCall] | str | Exception]


@dataclass(frozen=True)
class Scene:
    """One fault.

    `script` is what the model says, `claim` what must be true of the turn in the end, `said` the claim in words.
    """

    title: str
    script: Script
    claim: Callable[[TurnResult], bool]
    said: str
    limits: Limits | None = None
    policy: RulePolicy | None = None


def scenes() -> tuple[Scene, ...]:
    """Return every scene, in the order they are shown."""
    return (
        Scene(
            "A tool that does not come back is stopped at its deadline; the model is told",
            [call("hang"), "I could not find out."],
            lambda result: result.tool_calls[0].status == "timed_out" and result.outcome is Outcome.COMPLETED,
            "the call timed out, the turn completed",
        ),
        Scene(
            "A provider asks to wait: nothing is sent before that, and the interrupted step is resumed",
            [ModelError("429: slow down", kind="rate_limit", retry_after_s=0.3), "Here I am."],
            lambda result: result.text == "Here I am." and result.duration_s >= 0.3,
            "the question was asked again after the wait, once",
        ),
        Scene(
            "A model that fails is asked again, with a back-off, a bounded number of times",
            [ModelError("502: bad gateway", retryable=True), "Second try."],
            lambda result: result.text == "Second try.",
            "the second attempt answered",
            Limits(backoff_base_s=0.5),
        ),
        Scene(
            "An empty reply is a fault, not an answer",
            [ModelReply(), "Now with words."],
            lambda result: result.text == "Now with words.",
            "it was asked again",
        ),
        Scene(
            "A model that goes round in circles is told, then refused, then stopped",
            [call("look")] * 5,
            lambda result: result.outcome is Outcome.FAILED and "circles" in result.reason,
            "the fifth identical call ended the turn",
        ),
        Scene(
            "Arguments that cannot be read go back with the exact complaint, a bounded number of times",
            [ModelReply(tool_calls=[ToolCall(id="c1", name="look", arguments_text="{oops")])] * 3,
            lambda result: result.outcome is Outcome.FAILED and result.tool_calls[0].error == "malformed_arguments",
            "the third malformed call in a row ended the turn",
        ),
        Scene(
            "A turn that takes too long is ended at its limit",
            [call("hang")],
            lambda result: result.outcome is Outcome.FAILED and "longer than" in result.reason,
            "the limit held",
            Limits(max_execution_time_s=0.2),
        ),
        Scene(
            "A write needs a person; nobody answers in time, so the answer is no",
            [call("pay"), "Then not."],
            lambda result: result.tool_calls[0].status == "denied" and result.outcome is Outcome.COMPLETED,
            "nothing was paid",
            Limits(approval_timeout_s=0.2),
            RulePolicy(["allow look"]),
        ),
    )


async def tell_faults(screen: Screen) -> tuple[bool, list[JsonValue]]:
    """Play every scene.

    Returns:
        Whether every claim held, and one object a scene.
    """
    report: list[JsonValue] = []
    all_held = True
    for number, scene in enumerate(scenes(), 1):
        screen.heading(f"{number}  {scene.title}")
        screen.line()
        held = await _play(scene, screen)
        mark = screen.paint("✓", "green") if held else screen.paint("✗ does not hold:", "red")
        screen.line(f"  {mark} {safe(scene.said)}; the next turn was answered; the history verifies")
        report.append({"scene": scene.title, "holds": held})
        all_held &= held
    return all_held, report


async def _play(scene: Scene, screen: Screen) -> bool:
    journal, rest = MemoryJournal(), _Rest()
    extras: Extras = {"observers": [Storyteller(screen), rest]}
    if scene.policy is not None:
        extras["policy"] = scene.policy
    model = ScriptedModel([*scene.script, "Still here."])
    async with Engine(model=model, tools=(hang, look, pay), journal=journal, limits=scene.limits, **extras) as engine:
        session = await engine.open("faults")
        result = await session.ask("go")
        if result.outcome is Outcome.WAITING:
            await rest.ended.wait()
            result = await session.result()
        again = await session.ask("and now?")
    (verification,) = await verify_journal(journal)
    return scene.claim(result) and again.text == "Still here." and verification.ok


class _Rest:
    """Tells when a turn has ended. An observer."""

    def __init__(self) -> None:
        self.ended = anyio.Event()

    def on_record(self, record: TransitionRecord) -> None:
        """Look at where the record leads."""
        if record.dest is State.IDLE and record.trigger != "session_opened":
            self.ended.set()

    def on_notice(self, session: str, notice: Notice) -> None:
        """Look away."""


# --- the tools --------------------------------------------------------------------------------------------------------


@tool(effect="read", timeout_s=0.2)
async def hang() -> str:
    """Wait for something that never comes."""
    await anyio.sleep_forever()
    return "never"


@tool(effect="read")
async def look() -> str:
    """Look at something that never changes."""
    return "as before"


@tool
async def pay(amount: int = 1) -> str:
    """Pay."""
    return f"paid {amount}"


def call(name: str, **arguments: JsonValue) -> ToolCall:
    """Return what the model asks for."""
    return ToolCall(id=f"call_{name}", name=name, arguments=arguments)
