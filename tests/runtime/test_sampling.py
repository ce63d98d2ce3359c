"""Sampling: what the readings say, and that nothing is read while nothing runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count

import anyio
import pytest

from engine.core.values import ResourceUsage
from engine.errors import UsageError
from engine.runtime.sampling import Gauge, Sampler
from engine.testing.scheduling import counting_steps


def seconds() -> Callable[[], float]:
    """Return a clock that moves on by a second whenever it is read."""
    return map(float, count()).__next__


pytestmark = pytest.mark.virtual_time

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"], stdin=subprocess.PIPE)
input()
child.communicate(b"end")
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that has a child, both waiting."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"up"
        yield process
        if process.poll() is None:
            process.communicate(b"end\n")


def test_v15_own_process_is_read() -> None:
    """Memory, processor time, threads and files of this process are there; network traffic is not known."""
    reading = Gauge(now_s=seconds()).read()
    assert reading.processes == 1
    assert reading.rss_bytes > 1024 * 1024
    assert reading.cpu_s > 0
    assert reading.threads >= 1
    assert reading.open_files is None or reading.open_files >= 3
    assert reading.network_bytes is None


def test_v15_memory_alone_agrees_with_the_reading() -> None:
    """The quick figure is the same memory, within what the reading itself takes."""
    gauge = Gauge(now_s=seconds())
    assert abs(gauge.rss_bytes() - gauge.read().rss_bytes) < 32 * 1024 * 1024


def test_v15_processor_share_is_over_the_time_between_readings() -> None:
    """The first reading has no share; the next says what was used since, 100 a busy processor and second."""
    gauge = Gauge(now_s=seconds())
    first = gauge.read()
    sum(range(300_000))
    second = gauge.read()
    assert first.cpu_percent == 0
    assert second.cpu_percent == pytest.approx(100 * (second.cpu_s - first.cpu_s))


def test_v15_share_needs_time_to_pass() -> None:
    """Two readings at one moment have no share."""
    gauge = Gauge(now_s=lambda: 1.0)
    gauge.read()
    assert gauge.read().cpu_percent == 0


def test_v15_tree_counts_descendants(parent: subprocess.Popen[bytes]) -> None:
    """A tree is the process and its child; the process alone is one."""
    tree = Gauge(parent.pid, tree=True, now_s=seconds()).read()
    alone = Gauge(parent.pid, now_s=seconds()).read()
    assert (tree.processes, alone.processes) == (2, 1)
    assert tree.rss_bytes > alone.rss_bytes


@pytest.mark.parametrize("tree", [True, False])
def test_v15_usage_outlives_the_process(parent: subprocess.Popen[bytes], tree: bool) -> None:
    """What a process or tree had used when it was last seen stays known after its end."""
    gauge = Gauge(parent.pid, tree=tree, now_s=seconds())
    peak_bytes = gauge.read().rss_bytes
    parent.communicate(b"end\n")
    gone = gauge.read()
    assert (gone.processes, gone.rss_bytes, gauge.rss_bytes()) == (0, 0, 0)
    usage = gauge.usage()
    assert usage.peak_memory_bytes == peak_bytes
    assert usage.cpu_s == gone.cpu_s > 0


def test_v15_nothing_read_is_nothing_known() -> None:
    """Without a reading every figure is None; a process that never was has none either."""
    assert Gauge(now_s=seconds()).usage() == ResourceUsage()
    nobody = Gauge(2**22 + 1, now_s=seconds())
    assert nobody.read().read_bytes is None
    assert nobody.usage() == ResourceUsage()


def test_psutil_is_imported_by_the_first_reading_only() -> None:
    """Importing the module leaves the slow import to whoever takes a reading."""
    script = "import sys, engine.runtime.sampling as s; print('psutil' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


class Samples:
    """Counts samples, and wakes who waits for a number of them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def take(self) -> None:
        """Take note of the time."""
        self.times.append(anyio.current_time())


@pytest.mark.anyio
async def test_v15_samples_are_taken_while_a_turn_runs() -> None:
    """The first sample comes with the turn, the next ones at the interval."""
    samples = Samples()
    sampler = Sampler(samples.take, 0.1)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.serve)
        await anyio.sleep(5)
        begun = anyio.current_time()
        with sampler.turn():
            await anyio.sleep(0.35)
        group.cancel_scope.cancel()
    assert samples.times == pytest.approx([begun, begun + 0.1, begun + 0.2, begun + 0.3])


@pytest.mark.anyio
async def test_v5_sampler_wakes_nothing_while_the_engine_rests() -> None:
    """From one interval after the last turn on, no sample is taken and the loop does not run."""
    samples = Samples()
    sampler = Sampler(samples.take, 0.1)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.serve)
        with sampler.turn():
            await anyio.sleep(0.05)
        await anyio.sleep(0.1)
        taken = len(samples.times)
        with counting_steps() as steps:
            await anyio.sleep(3600)
        assert steps.count <= 2
        assert len(samples.times) == taken
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_v5_many_short_turns_share_a_sample() -> None:
    """Turns shorter than the interval do not cost a sample each."""
    samples = Samples()
    sampler = Sampler(samples.take, 0.1)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.serve)
        for _ in range(20):
            with sampler.turn():
                await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    assert len(samples.times) == 1


@pytest.mark.anyio
async def test_v28_a_second_start_of_the_sampler_is_an_error() -> None:
    """One task samples; another is refused, and may serve when the first has ended."""
    sampler = Sampler(lambda: None)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.serve)
        await anyio.sleep(1)
        with pytest.raises(UsageError, match="served already"):
            await sampler.serve()
        group.cancel_scope.cancel()
    with anyio.move_on_after(1) as scope:
        await sampler.serve()
    assert scope.cancelled_caught
