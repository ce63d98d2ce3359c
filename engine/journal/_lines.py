"""Where the records of a JSONL file stand: an index that grows with the file and finds damage on its way.

A line is taken by its envelope (session, sequence, hash), which costs a fraction of decoding it; whoever reads the
record checks its hash. Lines end with the byte 10 and nothing else. An unterminated last line, or NULs at the end, is
what a crash leaves: a torn tail. Everything else that is not the next record is damage. May import errors, ports and
the codec. Must never write.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from ..core.events import HISTORY_PRUNED
from ..errors import JournalCorrupt
from ..ports import StoredLine
from .codec import GENESIS
from .forking import DECLARES

_ENVELOPE = re.compile(
    rb',"hash":"([0-9a-f]{64})","mono_ns":-?[0-9]+,"prev":"[0-9a-f]{64}","seq":([0-9]+),"session":"([A-Za-z0-9_-]{1,128})",'
    rb'"source":"[a-z_]+","trigger":"[^"\\]*","v":[0-9]+\}\n'
)
_DECLARES = DECLARES.encode("ascii")
_END = -64
"""The trigger stands within so many bytes from the end of a line."""
_FIRST = b'{"at":"'
"""How every record of this release begins."""


class Damage(NamedTuple):
    """The first place of a file that cannot be trusted."""

    offset: int
    reason: str


class Envelope(NamedTuple):
    """What a line says about itself."""

    session: str
    seq: int
    hash: str
    begins: bool = False


def read_envelope(line: bytes) -> Envelope | None:
    """Return what a terminated line says about itself, None if it is no record of any release."""
    found = _ENVELOPE.fullmatch(line, max(line.rfind(b',"hash":"'), 0))
    if found is not None:
        digest, seq, session = found.groups()
        return Envelope(session.decode("ascii"), int(seq), digest.decode("ascii"))
    try:
        fields = json.loads(line)
        session, seq, digest, version = fields["session"], fields["seq"], fields["hash"], fields["v"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    typed = isinstance(session, str) and isinstance(seq, int) and isinstance(digest, str) and isinstance(version, int)
    begins = typed and fields.get("trigger") == HISTORY_PRUNED and "rewritten" in fields
    return Envelope(session, seq, digest, begins) if typed else None


class Located:
    """The records of one session within a file. What precedes them up to `base` are its `parent`'s, or was pruned;
    those in `declared` say what was rewritten.
    """

    __slots__ = ("base", "declared", "external_id", "hash", "offsets", "parent")

    def __init__(self, base: int = 0, parent: str | None = None) -> None:
        self.base = base
        self.parent = parent
        self.offsets = array("q")
        self.declared: list[int] = []
        self.hash = GENESIS
        self.external_id: str | None = None

    @property
    def seq(self) -> int:
        """Sequence of the last record."""
        return self.base + len(self.offsets)


class Index:
    """Where the records of a file stand.

    Args:
        session: the one session the file may hold; None for any number of them.
    """

    def __init__(self, session: str | None = None) -> None:
        self._only = session
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.sessions: dict[str, Located] = {}
        self.end = 0
        self.size = 0
        self.damage: Damage | None = None
        self._file: tuple[int, int] | None = None

    def catch_up(self, fd: int) -> None:
        """Index what was added since the last time; everything, where the file was replaced or has shrunk.

        Raises:
            OSError: the file cannot be read.
        """
        found = os.fstat(fd)
        if self._file != (found.st_dev, found.st_ino) or found.st_size < self.size:
            self._begin(found)
        if found.st_size == self.end or (self.damage is not None and found.st_size == self.size):
            self.size = found.st_size
            return
        start = self.end
        self._scan_from(fd, start, found.st_size)
        if self.damage is not None and start > 0:  # perhaps lines that were indexed have been taken back since
            self._begin(found)
            self._scan_from(fd, 0, found.st_size)

    def _begin(self, found: os.stat_result) -> None:
        self.clear()
        self._file = (found.st_dev, found.st_ino)

    def _scan_from(self, fd: int, start: int, size: int) -> None:
        self.size = size
        self.damage = None
        with _open_at(fd, start) as file:
            self._scan(file)

    def _scan(self, file: BinaryIO) -> None:
        padded = False
        for line in file:
            if not line.endswith(b"\n"):
                return
            if not line.strip(b"\0\n"):
                padded = True
                continue
            reason = "NUL bytes stand between records" if padded else self.add(line)
            if reason is not None:
                self.damage = Damage(self.end, reason)
                return

    def add(self, line: bytes) -> str | None:
        """Take the next line in; return what is wrong with it, None if nothing is."""
        envelope = read_envelope(line)
        if envelope is None:
            return "the line is not a transition record"
        if self._only is not None and envelope.session != self._only:
            return f"a record of session {envelope.session!r} stands here"
        located = self.sessions.get(envelope.session)
        begun = located or _begun(line, envelope)
        if envelope.seq != begun.seq + 1:
            return f"sequence {envelope.seq} of session {envelope.session!r} follows {begun.seq}"
        if located is None:
            located = self.sessions[envelope.session] = begun
            located.external_id = _external_id(line)
        located.offsets.append(self.end)
        located.hash = envelope.hash
        if line.find(_DECLARES, _END) >= 0:
            located.declared.append(envelope.seq)
        self.end += len(line)
        return None

    def tail(self, session: str) -> tuple[int, str]:
        """Return sequence and hash of a session's last record."""
        located = self.sessions.get(session)
        return (located.seq, located.hash) if located else (0, GENESIS)

    def check(self, where: str) -> None:
        """Make sure that no damage was found.

        Raises:
            JournalCorrupt: it was.
        """
        if self.damage is not None:
            raise JournalCorrupt(where, self.damage.offset, self.damage.reason)

    def foreign(self, fd: int) -> bool:
        """Say whether the file, nothing of which could be indexed, shows no sign of ever having been a journal."""
        if self.end or not self.size:
            return False
        head = os.pread(fd, 1 << 16, 0)
        if self.damage is not None:
            return b'"hash":"' not in head and b'"prev":"' not in head
        return not head.startswith(_FIRST[: len(head)]) and bool(head.strip(b"\0\n"))

    def page(self, fd: int, session: str, after: int, limit: int) -> list[StoredLine] | None:
        """Return a session's own records after a sequence; None if the file no longer holds what was indexed.

        Raises:
            OSError: the file cannot be read.
        """
        located = self.sessions.get(session)
        base = 0 if located is None else located.base
        start = max(0, after - base)
        offsets: Iterable[int] = located.offsets[start : start + limit] if located else ()
        lines: list[StoredLine] = []
        with _open_at(fd, 0) as file:
            for seq, offset in enumerate(offsets, base + start + 1):
                if file.tell() != offset:
                    file.seek(offset)
                line = file.readline()
                envelope = read_envelope(line)
                if envelope is None or envelope[:2] != (session, seq):
                    return None
                lines.append(StoredLine(line[:-1].decode("latin-1"), offset))
        return lines


def _open_at(fd: int, offset: int) -> BinaryIO:
    """Return a buffered reader over a descriptor of its own, so that reading moves no one else's place."""
    file = os.fdopen(os.dup(fd), "rb", buffering=1 << 16)
    file.seek(offset)
    return file


def _begun(line: bytes, envelope: Envelope) -> Located:
    """Return where a session's records stand that begin with this line."""
    if envelope.begins:
        return Located(envelope.seq - 1)
    if envelope.seq > 1 and (parent := parent_in(line)) is not None:
        return Located(envelope.seq - 1, parent)
    return Located()


def parent_in(line: bytes) -> str | None:
    """Return the parent of the fork that begins with this line, None if none does."""
    try:
        event = json.loads(line)["event"]
        parent = event["parent"] if event["kind"] == "session_forked" else None
    except (ValueError, KeyError, TypeError, RecursionError):  # then it is out of sequence, and that is reported
        return None
    return parent if isinstance(parent, str) else None


def _external_id(line: bytes) -> str | None:
    try:
        external_id = json.loads(line)["event"].get("external_id")
    except (ValueError, KeyError, AttributeError, RecursionError):  # damaged within: whoever decodes it reports that
        return None
    return external_id if isinstance(external_id, str) else None
