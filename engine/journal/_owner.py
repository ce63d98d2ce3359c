"""Who holds a session, and whether that holder still lives.

A holder is named by its host, the boot of that host, its space of process numbers, its process, when that process
started, and its journal object. A process that is gone on this host is known to be gone at once, without waiting for a
lease; what cannot be judged from here (another host, another container) counts as alive, because a wrong "dead" would
let two writers in. Reads /proc where there is one and asks psutil elsewhere. Must never touch a journal's files.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4
from weakref import WeakSet

_LIVING: WeakSet[Token] = WeakSet()
"""Tokens of this process that are in use; any other token of this process belongs to a journal object that is gone."""

_TOLERANCE_S = 1.0
"""Two start times closer than this, of one process number, are one process: numbers are not used again that fast."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A holder as the store keeps it. `started_s` counts from an arbitrary moment of the boot, in seconds."""

    host: str
    boot: str
    space: str
    pid: int
    started_s: float
    journal: str

    @property
    def text(self) -> str:
        """Return the stored form: canonical JSON in ASCII."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def describe(self) -> str:
        """Return who that is, for an error text."""
        if (self.host, self.boot, self.space, self.pid) == (*_machine(), os.getpid()):
            return f"this process, {self.pid}"
        return f"process {self.pid} on host {self.host.partition('/')[0]}"


class Token:
    """The name of one journal object as a holder. It stops counting as alive when it is retired or collected."""

    def __init__(self) -> None:
        pid = os.getpid()
        host, boot, space = _machine()
        self.owner = Owner(host, boot, space, pid, _started_s(pid) or 0.0, uuid4().hex)
        self.text = self.owner.text
        _LIVING.add(self)

    def retire(self) -> None:
        """Say that everything held under this name may be taken by others of this process."""
        _LIVING.discard(self)


def living_owner(text: str | None) -> str | None:
    """Return a description of the stored holder if it may still write, None if there is none or it is certainly gone.

    Args:
        text: the stored form, or None where nobody holds the session.
    """
    if text is None:
        return None
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError):
        return "a holder that this release cannot read"
    return owner.describe() if _lives(owner) else None


def _lives(owner: Owner) -> bool:
    host, boot, space = _machine()
    if owner.host != host:
        return True
    if owner.boot != boot:
        return False
    if owner.space != space:
        return True
    if owner.pid == os.getpid():
        return any(token.owner == owner for token in list(_LIVING))
    started_s = _started_s(owner.pid)
    return started_s is not None and abs(started_s - owner.started_s) < _TOLERANCE_S


@cache
def _machine() -> tuple[str, str, str]:
    """Return host, boot and space of process numbers. A name alone is no host: images are cloned, names repeat."""
    identity = boot = space = ""
    with suppress(OSError):
        identity = Path("/etc/machine-id").read_text("ascii").strip()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{platform.node()}/{identity}", boot, space


def _started_s(pid: int) -> float | None:
    """Return when the process started, None if it is gone. A killed child that nobody has waited for yet is gone.

    psutil's figure moves with the wall clock, the kernel's own does not: it is preferred where it can be read.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:  # it lives and is someone else's
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return _started_by_psutil(pid)
    state, *numbers = stat.rpartition(b") ")[2].split()
    return None if state in b"ZX" else int(numbers[18]) / os.sysconf("SC_CLK_TCK")


def _started_by_psutil(pid: int) -> float | None:
    import psutil  # only where there is no /proc to read

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
