"""Rewriting a session's records in a JSON Lines file: a new file beside it that takes its name when it is durable.

Whoever appends holds the lock that this is done under; readers notice that the file is another one. May import the
index. Must never be called on an event loop.
"""

from __future__ import annotations

import os

from ._claims import OPEN_FLAGS, write_all
from ._lines import Index
from ._orders import Rewrite

_PIECE_BYTES = 1 << 20


def replace_lines(folder: int, name: str, index: Index, order: Rewrite) -> None:
    """Carry the order out on the file of this name; a crash at any moment leaves the old one or the new one.

    Raises:
        OSError: nothing has changed.
    """
    located = index.sessions[order.session]
    changes: dict[int, bytes] = {}
    for seq, offset in enumerate(located.offsets, located.base + 1):
        if seq < order.first:
            changes[offset] = b""
        elif seq in order.lines:
            changes[offset] = order.lines[seq].encode("ascii") + b"\n"
    spare = f"{name}.new"
    source = os.open(name, os.O_RDONLY | OPEN_FLAGS, dir_fd=folder)
    try:
        target = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | OPEN_FLAGS, 0o600, dir_fd=folder)
        try:
            _copy(source, target, index.end, changes)
            os.fsync(target)
        except OSError:
            os.unlink(spare, dir_fd=folder)
            raise
        finally:
            os.close(target)
    finally:
        os.close(source)
    os.replace(spare, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _copy(source: int, target: int, end: int, changes: dict[int, bytes]) -> None:
    """Copy a file up to `end`, with other lines at some places."""
    with os.fdopen(os.dup(source), "rb") as file:
        file.seek(0)
        pieces: list[bytes] = []
        held = 0
        at = 0
        while at < end:
            line = file.readline()
            pieces.append(changes.get(at, line))
            at += len(line)
            held += len(pieces[-1])
            if held >= _PIECE_BYTES or at >= end:
                write_all(target, b"".join(pieces))
                pieces, held = [], 0
