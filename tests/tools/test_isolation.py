"""What a tool that asks for a process is refused for: where it is made, and where an engine is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import Engine, Limits, ModelReply, tool
from engine.cli.doctor import isolation
from engine.core.limits import MemoryStrength
from engine.errors import EngineClosed, LimitNotEnforceable, ToolDefinitionError
from engine.models import FunctionModel
from engine.tools.isolation import check_machine
from engine.tools.workers import Strength, WorkerLimits
from tests.tools.workers.talking import CONTEXT

MODEL = FunctionModel(lambda request: ModelReply(text="ok"))
LINUX = Strength(memory="rlimit", rlimits=("AS", "CPU"), orphans=True)
ELSEWHERE = Strength(memory="sampled", rlimits=("CPU",), orphans=False)
NO_FORKS = Strength(memory="advisory", rlimits=(), orphans=False)


def top(a: int) -> int:
    return a


async def awaited(a: int) -> int:
    return a


isolated = tool(isolation="process")(top)
unbounded = tool(isolation="process", limits=WorkerLimits(tree_memory_mb=None))(top)
bounded_by_samples = tool(isolation="process", limits=WorkerLimits(tree_memory_mb=100))(top)
by_the_kernel = tool(isolation="process", limits=WorkerLimits(address_space_mb=1024))(top)


def nested() -> Callable[[int], int]:
    def inner(a: int) -> int:
        return a

    return inner


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (lambda: None, {"isolation": "process", "name": "f"}, "at the top of a module"),
        (nested(), {"isolation": "process"}, "at the top of a module"),
        (top, {"isolation": "fibre"}, "none of thread, process"),
        (top, {"limits": WorkerLimits()}, "add isolation='process'"),
        (top, {"isolation": "process", "limits": {"cpu_s": 1}}, "must be a WorkerLimits"),
        (awaited, {"isolation": "thread"}, "runs in the event loop"),
    ],
)
def test_tool_that_cannot_be_isolated_as_it_says_is_refused_where_it_is_made(
    function: Callable[..., object], options: Any, says: str
) -> None:
    """No other process finds a function without a name of its own; options that mean nothing are refused too."""
    with pytest.raises(ToolDefinitionError, match=says):
        tool(**options)(function)


def test_isolation_is_asked_for() -> None:
    """A tool runs in a process only where it says so, and still calls its function where it is called itself."""
    assert isolated.isolated
    assert isolated.worker_limits == WorkerLimits()
    assert isolated(3) == 3
    assert not tool(isolation="thread")(top).isolated
    assert tool(top).worker_limits is None


@pytest.mark.anyio
async def test_isolated_tool_does_not_run_without_an_engine() -> None:
    """Where there are no workers, a tool that asks for one is refused, and does not run unbounded instead."""
    with pytest.raises(EngineClosed, match="an engine's"):
        await isolated.run({"a": 1}, CONTEXT)


@pytest.mark.parametrize(
    ("given", "demanded"),
    [(top, "sampled"), (unbounded, "sampled"), (isolated, "rlimit"), (bounded_by_samples, "rlimit")],
)
def test_v16_engine_that_cannot_bound_a_tool_as_it_demands_is_refused(given: Any, demanded: MemoryStrength) -> None:
    """An engine starts with tools only that are bounded as strongly as it demands, and says how to bind the others."""
    limits = Limits(required_memory_strength=demanded)
    with pytest.raises(LimitNotEnforceable, match=r"isolation=\"process\", limits=WorkerLimits"):
        Engine(model=MODEL, tools=[given], limits=limits)
    assert Engine(model=MODEL, tools=[given]).limits.required_memory_strength == "advisory"


@pytest.mark.parametrize(
    ("given", "demanded"),
    [(isolated, "sampled"), (bounded_by_samples, "sampled"), (by_the_kernel, "sampled"), (by_the_kernel, "rlimit")],
)
def test_v16_engine_whose_tools_are_bounded_as_it_demands_is_made(given: Any, demanded: MemoryStrength) -> None:
    """A tool with the limit that is demanded is taken on a machine that enforces it."""
    engine = Engine(model=MODEL, tools=[given], limits=Limits(required_memory_strength=demanded))
    assert engine.limits.required_memory_strength == demanded


@pytest.mark.parametrize(
    ("machine", "demanded", "says"),
    [
        (ELSEWHERE, "rlimit", "this machine gives 'sampled'"),
        (NO_FORKS, "advisory", "this system forks none"),
        (NO_FORKS, "sampled", "this system forks none"),
    ],
)
def test_v16_demand_beyond_the_machine_is_refused(machine: Strength, demanded: MemoryStrength, says: str) -> None:
    """What a machine cannot enforce is no limit: whoever demands it is told what there is."""
    with pytest.raises(LimitNotEnforceable, match=says):
        check_machine("f", demanded, machine)
    check_machine("f", demanded, LINUX)


def test_doctor_says_how_strongly_processes_are_bounded() -> None:
    """On each kind of machine `doctor` says what holds there, and notes what does not."""
    told = {machine.memory: isolation(machine) for machine in (LINUX, ELSEWHERE, NO_FORKS)}
    assert {finding.level for finding in told["rlimit"]} == {"ok"}
    assert [finding.level for finding in told["sampled"]] == ["ok", "note", "note"]
    assert [finding.level for finding in told["advisory"]] == ["note"]
    assert "address_space_mb in the kernel" in told["rlimit"][1].shown
