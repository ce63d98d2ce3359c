"""The processes below this one: found, measured, asked to end, killed. Used by supervisors, in the process they watch.

On Linux every orphan below an adopting process becomes its child, so the tree is complete whatever the processes did to
leave it: a session of their own, a double fork. Elsewhere psutil answers, and orphans are missed. May import psutil
and ctypes. Must never touch a process that is not below its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
"""Numbers from <linux/prctl.h>."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_LINUX = sys.platform == "linux" and Path(f"/proc/self/task/{os.getpid()}/children").exists()
_ROLLUP = Path("/proc/self/smaps_rollup").exists()


class Sample(NamedTuple):
    """The tree at one moment: its processes, their memory, and their processor time with that of their ended children.

    `memory_bytes` is a sum of resident sets, in which shared pages count once for each process.
    """

    pids: tuple[int, ...]
    memory_bytes: int
    cpu_s: float


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process, where the system knows how."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent dies. The parent must have one thread: it is followed, not the
    process.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def look() -> Sample:
    """Return the tree below this process. A process that ends while it is looked at is left out."""
    return _look_in_proc() if _LINUX else look_with_psutil()


def _look_in_proc() -> Sample:
    pids: list[int] = []
    pages = ticks = 0
    waiting = [*_children(os.getpid())]
    while waiting:
        pid = waiting.pop()
        fields = _stat(pid)
        if fields is None:
            continue
        waiting += _children(pid)
        pids.append(pid)
        # Fields 14 to 17 and 24 of proc(5), counted from the third.
        ticks += sum(map(int, fields[11:15]))
        pages += int(fields[21])
    return Sample(tuple(pids), pages * _PAGE_BYTES, ticks / _TICKS)


def _stat(pid: int) -> list[bytes] | None:
    with suppress(OSError):
        # The name in the second field may hold anything: what follows its last bracket is meant.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    return None


def _children(pid: int) -> Iterator[int]:
    """Yield the children of each thread of a process."""
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                yield from map(int, (thread / "children").read_bytes().split())


def look_with_psutil() -> Sample:
    """Return the tree as far as any system shows it."""
    pids: list[int] = []
    memory_bytes, cpu_s = 0, 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied), process.oneshot():
            times = process.cpu_times()
            memory_bytes += process.memory_info().rss
            cpu_s += times.user + times.system + times.children_user + times.children_system
            pids.append(process.pid)
    return Sample(tuple(pids), memory_bytes, cpu_s)


def proportional_bytes(sample: Sample) -> int:
    """Return the memory of a tree with shared pages counted once, where the system says it; costs 1 ms for 200 MB."""
    if not _ROLLUP:
        return sample.memory_bytes
    kibibytes = 0
    for pid in sample.pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        except PermissionError:  # it runs as somebody else
            return sample.memory_bytes
        kibibytes += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(b"Pss:"))
    return kibibytes * 1024


def ask_to_end() -> None:
    """Ask every process below this one to end."""
    for pid in look().pids:
        _send(pid, signal.SIGTERM)


def kill() -> None:
    """Kill every process below this one that can be seen: all are stopped before any is killed, so none starts another
    meanwhile.
    """
    stopped: set[int] = set()
    while fresh := set(look().pids) - stopped:
        for pid in fresh:
            _send(pid, signal.SIGSTOP)
        stopped |= fresh
    for pid in stopped:
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Ended(NamedTuple):
    """A child that ended: how, and the processor time of it and of the children that it waited for."""

    pid: int
    exit_code: int | None
    signal: int | None
    cpu_s: float


def reap() -> Iterator[Ended]:
    """Yield the children that have ended.

    Raises:
        ChildProcessError: there are no children any more, and so nothing is below this process.
    """
    while True:
        pid, how, usage = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(how)
        cpu_s = usage.ru_utime + usage.ru_stime
        yield Ended(pid, code if code >= 0 else None, -code if code < 0 else None, cpu_s)
