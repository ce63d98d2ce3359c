"""The scenes of `demo --faults`, as data: what the model says, what the tools do, what must be true in the end.

May import core, the scenes' own tools and hosts, and psutil for the memory that the process has already. Must never
play anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import psutil
from pydantic import JsonValue

from ..core.limits import Limits
from ..core.record import TransitionRecord
from ..core.values import ModelReply, Outcome, ToolCall, ToolStatus
from ..errors import ModelError
from ..ports import Decision, Policy, Tool, ToolOptions
from ..runtime.compact_settings import CompactionSettings
from ..runtime.parts import EngineSettings, TurnResult
from ..runtime.stats import EngineStats
from ..tools.policy import RulePolicy
from . import fault_tools as bad
from .fault_stage import (
    Host,
    asks,
    cancels_what_runs,
    closes_and_reopens,
    makes_room,
    says_that_it_took_effect,
    says_yes,
)

Script: TypeAlias = Sequence[ModelReply | ToolCall | list[ToolCall] | str | Exception]

_MEBIBYTE: Final = 2**20
_QUICK: Final = Limits(backoff_base_s=1.0)
"""Limits whose back-offs a person likes to watch."""


class Told(NamedTuple):
    """What came of a scene: how its turn ended, its records, the processes it has started, the engine's figures."""

    result: TurnResult
    records: Sequence[TransitionRecord]
    processes: Sequence[int]
    stats: EngineStats

    @property
    def statuses(self) -> list[ToolStatus]:
        """How the calls of the turn ended."""
        return [made.status for made in self.result.tool_calls]

    def failed(self, words: str) -> bool:
        """Return whether the turn failed for a reason with these words in it."""
        return self.result.outcome is Outcome.FAILED and words in self.result.reason

    def left(self) -> list[int]:
        """Return the processes that are still there."""
        return [pid for pid in self.processes if psutil.pid_exists(pid)]

    def count(self, trigger: str) -> int:
        """Return how many records of a trigger there are."""
        return sum(record.trigger == trigger for record in self.records)


def _do_nothing() -> None:
    """Leave the engine as it is."""


@dataclass(frozen=True)
class Scene:
    """One fault.

    `script` is what the model says, `claim` what must be true in the end, `said` the claim in words. `metered` gives
    the model a quota, and so a gate; `full_disk` fails the first intent of a write; `afterwards` is called before the
    engine is left.
    """

    group: str
    title: str
    script: Script
    claim: Callable[[Told], bool]
    said: str
    tools: tuple[Tool, ...] = (bad.hang, bad.look)
    limits: Limits = field(default_factory=Limits)
    policy: Policy | None = None
    settings: EngineSettings = field(default_factory=EngineSettings)
    host: Host = asks
    metered: bool = False
    full_disk: bool = False
    afterwards: Callable[[], object] = _do_nothing

    @property
    def in_workers(self) -> bool:
        """Whether it needs worker processes."""
        return any(tool in (bad.hoard, bad.ignore_sigterm) for tool in self.tools)


def scenes() -> tuple[Scene, ...]:
    """Return every scene, in the order they are shown."""
    return (*_TOOLS, _stubborn(), _service(), *_PROCESSES, *_THE_MODEL, *_of_limits(), *_of_people_and_journals())


def call(name: str, **arguments: JsonValue) -> ToolCall:
    """Return what the model asks for."""
    return ToolCall(id=f"call_{name}", name=name, arguments=arguments)


# --- tools ------------------------------------------------------------------------------------------------------------


_TOOLS: Final = (
    Scene(
        "Tools",
        "A tool that does not come back is stopped at its deadline; the model is told",
        [call("hang"), "I could not find out."],
        lambda told: told.statuses == ["timed_out"] and told.result.outcome is Outcome.COMPLETED,
        "the call timed out, the turn completed",
    ),
    Scene(
        "Tools",
        "One that blocks the event loop is named with the line where it does",
        [call("block"), "That took a while."],
        lambda told: [blocked.tool for blocked in told.stats.blocked] == ["block"],
        "the watchdog found it while it blocked",
        tools=(bad.block,),
        settings=EngineSettings(loop_limit_s=0.2),
    ),
    Scene(
        "Tools",
        "A write in a thread outlives its deadline: nobody knows what it did, so a person is asked",
        [call("transfer", amount=20), "It is done."],
        lambda told: told.result.tool_calls[0].content == "moved 20" and told.count("late_result") == 1,
        "the person's word counts; what the thread returned later is on record and ignored",
        tools=(bad.transfer,),
        host=says_that_it_took_effect,
    ),
    Scene(
        "Tools",
        "A failure that leaves nothing to go on with ends the turn, when its siblings have ended",
        [[call("break_down"), call("look")]],
        lambda told: told.statuses == ["failed", "completed"] and told.failed("break_down"),
        "the turn failed, every call has its result",
        tools=(bad.break_down, bad.look),
    ),
)


def _stubborn() -> Scene:
    stubborn = bad.Stubborn()
    return Scene(
        "Tools",
        "One that swallows its cancellation is given up after a grace; its sibling has long ended",
        [[call("swallow"), call("look")], "Then without it."],
        lambda told: told.statuses == ["timed_out", "completed"] and told.stats.running_tools == 1,
        "the turn went on; the tool keeps its place until it ends",
        tools=(stubborn.tool(), bad.look),
        limits=Limits(cancel_grace_s=0.1),
        afterwards=stubborn.let_end,
    )


def _service() -> Scene:
    service = bad.Counted()
    return Scene(
        "Tools",
        "A read that fails is tried again, with doubling waits",
        [call("call_service"), "It answers."],
        lambda told: told.count("tool_retried") == 2 and service.runs == ["call_service"] * 3,
        "it ran three times, the model saw the success alone",
        tools=service.tools(),
        limits=_QUICK,
    )


_PROCESSES: Final = (
    Scene(
        "Tools in processes of their own",
        "One that is deaf to SIGTERM is killed, with everything that it has started",
        [call("ignore_sigterm")],
        lambda told: told.statuses == ["cancelled"] and len(told.processes) == 1 and told.left() == [],
        "its process is gone",
        tools=(bad.ignore_sigterm,),
        limits=Limits(max_concurrent_tools=1),
        host=cancels_what_runs,
    ),
    Scene(
        "Tools in processes of their own",
        "One that wants 2 GB and may have 120 MB is killed; its sibling ends as usual",
        [[call("hoard", megabytes=2048), call("look")], "Too much."],
        lambda told: told.statuses == ["memory_exceeded", "completed"] and told.left() == [],
        "the process is gone, the sibling and the turn completed",
        tools=(bad.hoard, bad.look),
        limits=Limits(max_concurrent_tools=2),
    ),
)


# --- the model --------------------------------------------------------------------------------------------------------


_SAME_ID_TWICE: Final = ModelReply(tool_calls=[call("look"), call("look")])

_TOO_LONG: Final = ModelError("400: the prompt is too long", kind="context_full", retryable=False, status=400)

_THE_MODEL: Final = (
    Scene(
        "The model",
        "A provider asks to wait: nothing is sent before that, and the interrupted step is resumed",
        [ModelError("429: slow down", kind="rate_limit", retry_after_s=0.3), "Here I am."],
        lambda told: told.result.text == "Here I am." and told.result.duration_s >= 0.3,
        "the question was asked again after the wait, once",
        limits=_QUICK,
    ),
    Scene(
        "The model",
        "A wait that is too long to sleep through: the turn is put aside, and goes on by itself",
        [ModelError("429: come back later", kind="rate_limit", retry_after_s=1.2), "Later."],
        lambda told: told.result.text == "Later." and told.count("recovery_needs_user") == 1,
        "nothing slept in the turn; it went on when its time had come",
        limits=Limits(park_after_s=0.4, backoff_base_s=0.1),
        metered=True,
    ),
    Scene(
        "The model",
        "A model that fails is asked again, with a back-off, a bounded number of times",
        [ModelError("502: bad gateway", retryable=True), "Second try."],
        lambda told: told.result.text == "Second try.",
        "the second attempt answered",
        limits=_QUICK,
    ),
    Scene(
        "The model",
        "A request that is wrong is never sent again",
        [ModelError("401: who are you?", status=401, retryable=True)],
        lambda told: told.failed("401") and told.count("recovered") == 0,
        "the turn failed at once",
    ),
    Scene(
        "The model",
        "A reply that uses a call id twice, and one that is empty, are faults and no answers",
        [_SAME_ID_TWICE, ModelReply(), "Now with words."],
        lambda told: told.result.text == "Now with words." and told.count("faulted") == 2,
        "it was asked again, twice",
    ),
    Scene(
        "The model",
        "A model that has only empty replies is given up",
        [ModelReply()] * 3,
        lambda told: told.failed("neither text nor calls") and told.count("faulted") == 3,
        "the third one ended the turn",
        limits=Limits(max_model_retries=2),
    ),
    Scene(
        "The model",
        "A conversation that does not fit the model's window is summarized, on record, and asked about again",
        [
            ModelReply(text="Thinking aloud. " * 60, tool_calls=[call("look")]),
            call("look"),
            _TOO_LONG,
            "It looked twice.",
            "Now it fits.",
        ],
        lambda told: told.result.text == "Now it fits." and told.count("context_compacted") == 1,
        "the same round was asked for again; the history is as long as it was",
        settings=EngineSettings(compaction=CompactionSettings(keep_messages=2)),
    ),
    Scene(
        "The model",
        "A model that goes round in circles is told, then refused, then stopped",
        [call("look")] * 5,
        lambda told: told.failed("circles") and told.statuses == ["completed"] * 3 + ["denied"] * 2,
        "the fifth identical call ended the turn",
    ),
    Scene(
        "The model",
        "Arguments that cannot be read go back with the exact complaint, a bounded number of times",
        [ModelReply(tool_calls=[ToolCall(id="c1", name="look", arguments_text="{oops")])] * 3,
        lambda told: told.failed("") and told.result.tool_calls[0].error == "malformed_arguments",
        "the third malformed call in a row ended the turn",
    ),
)


# --- limits -----------------------------------------------------------------------------------------------------------


def _of_limits() -> tuple[Scene, ...]:
    group = "Limits of a turn"
    used_mb = psutil.Process().memory_info().rss // _MEBIBYTE
    limit_mb = (used_mb + 40) * 5 // 4
    return (
        Scene(
            group,
            "A turn that takes too long is ended at its limit",
            [call("hang")],
            lambda told: told.failed("longer than"),
            "the limit held",
            limits=Limits(max_execution_time_s=0.15),
        ),
        Scene(
            group,
            "Rounds are counted: calls beyond the limit do not run",
            [call("look")] * 3,
            lambda told: told.failed("2 tool rounds") and told.statuses == ["completed", "completed", "denied"],
            "two rounds ran, the third was refused",
            limits=Limits(max_tool_rounds=2),
        ),
        Scene(
            group,
            "A budget that is used up: a person is asked for more, and gives it",
            [call("look"), call("look"), call("look"), call("look"), "Seen twice."],
            lambda told: told.result.text == "Seen twice." and told.statuses.count(ToolStatus.COMPLETED) == 2,
            "one call before the question, one after it, none in between",
            limits=Limits(max_tool_calls=1, on_budget="ask", loops=None),
            host=says_yes,
        ),
        Scene(
            group,
            f"The process reaches its memory limit of {limit_mb} MiB: caches are freed, tools halved, the turn ended",
            [call("hoard_here", megabytes=limit_mb - used_mb + 60)],
            lambda told: told.failed("max_memory_mb") and {step.step for step in told.stats.memory_steps} >= _SHED,
            "memory was shed first; the tool ended and gave its own back",
            tools=(bad.hoard_here,),
            limits=Limits(max_memory_mb=limit_mb),
        ),
    )


_SHED: Final = frozenset({"shed", "refuse"})


# --- people and journals ----------------------------------------------------------------------------------------------


class _Broken:
    """A policy that fails."""

    def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
        """Fail."""
        raise RuntimeError("the rules cannot be read")


def _of_people_and_journals() -> tuple[Scene, ...]:
    group = "People, hosts and journals"
    unpaid, paid, read = bad.Counted(), bad.Counted(), bad.Counted()
    return (
        Scene(
            group,
            "A write needs a person; nobody answers in time, so the answer is no",
            [call("pay"), "Then not."],
            lambda told: told.statuses == ["denied"] and unpaid.runs == [],
            "nothing was paid",
            tools=unpaid.tools(),
            limits=Limits(approval_timeout_s=0.2),
            policy=RulePolicy(["allow look"]),
        ),
        Scene(
            group,
            "A policy that breaks lets nothing run",
            [call("look")],
            lambda told: told.failed("the policy failed") and told.statuses == [],
            "the turn failed, no tool ran",
            policy=_Broken(),
        ),
        Scene(
            group,
            "The disk is full when the intent of a write is to be kept: the write does not start",
            [call("pay"), "Paid."],
            lambda told: paid.runs == ["pay"] and told.result.text == "Paid.",
            "the session went on from what is durable; it paid once",
            tools=paid.tools(),
            host=makes_room,
            full_disk=True,
        ),
        Scene(
            group,
            "A turn is interrupted in the middle of its batch: what had ended does not run again",
            [[call("read_one"), call("read_slowly")], "Both."],
            lambda told: sorted(read.runs) == ["read_one", "read_slowly", "read_slowly"],
            "one read ran once, the interrupted one twice",
            tools=read.tools(),
            host=closes_and_reopens,
        ),
    )
