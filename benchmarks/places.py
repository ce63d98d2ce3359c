"""Where durable things are measured: a RAM disk, which takes the disk out of the number, and a real disk.

May import the standard library. Removes everything it has created.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .numbers import Laps, Number, mark

RAM_DISK = Path("/dev/shm")  # noqa: S108 - the one place that is memory on every Linux

NO_RAM_DISK = "this machine has no RAM disk at /dev/shm: what is called ram was measured in the folder of the disk"


class Place(NamedTuple):
    """A folder to measure in. Its label is part of the numbers' names."""

    label: str
    folder: Path


def has_ram_disk() -> bool:
    """Return whether there is a RAM disk that can be written to."""
    return RAM_DISK.is_dir() and os.access(RAM_DISK, os.W_OK)


def notes() -> tuple[str, ...]:
    """Return what a reader has to know about the places of this machine."""
    return () if has_ram_disk() else (NO_RAM_DISK,)


@contextmanager
def ram_disk(disk: Path) -> Generator[Place]:
    """Give an empty folder on the RAM disk, or on the disk where there is none."""
    with _empty_folder(RAM_DISK if has_ram_disk() else disk) as folder:
        yield Place("ram", folder)


@contextmanager
def real_disk(disk: Path) -> Generator[Place]:
    """Give an empty folder in `disk`."""
    with _empty_folder(disk) as folder:
        yield Place("disk", folder)


@contextmanager
def both(disk: Path) -> Generator[tuple[Place, ...]]:
    """Give both places."""
    with ram_disk(disk) as ram, real_disk(disk) as real:
        yield ram, real


@contextmanager
def _empty_folder(parent: Path) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=parent) as folder:
        yield Path(folder)


def flush_number(place: Place, runs: int) -> Number:
    """Return what one write of 4 kB and its fsync take: a disk that answers in a few µs keeps nothing safe."""
    laps = Laps()
    with (place.folder / "probe").open("wb", buffering=0) as file:
        for _ in range(runs):
            since = mark()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            laps.add(since)
    return laps.numbers(f"append.{place.label}.fsync")[0]
