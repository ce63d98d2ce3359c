"""Frames on a stream socket: a length, a kind, and JSON text. The whole language between host, supervisor and worker.

Only JSON is ever decoded, and only at the two ends: the supervisor hands progress and results on as they are. May
import the standard library. Must never block: whoever wants to wait does so before it calls.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

_HEADER = struct.Struct(">IB")
_CHUNK_BYTES = 65_536


class Kind(IntEnum):
    """What a frame is. CALL and STOP come from the host, the rest goes there.

    LAST_RESULT is a result of a worker that must not be used again, END how the call ended, with what it used.
    """

    CALL = 1
    STOP = 2
    PROGRESS = 3
    RESULT = 4
    LAST_RESULT = 5
    END = 6


class Frame(NamedTuple):
    """One message: its kind and its body, still encoded."""

    kind: int
    body: bytes

    @property
    def value(self) -> Any:
        """The decoded body."""
        return json.loads(self.body.decode("utf-8", "surrogatepass"))


def frame(kind: Kind, value: object) -> bytes:
    """Return the bytes of a frame. Lone surrogates, which models do emit, pass as they are."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return relayed(kind, body.encode("utf-8", "surrogatepass"))


def relayed(kind: int, body: bytes) -> bytes:
    """Return the bytes of a frame whose body is encoded already."""
    return _HEADER.pack(len(body), kind) + body


class Reader:
    """Takes bytes as they come and gives frames as they are complete."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        """How much of a frame that is not complete has come."""
        return len(self._held)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that these bytes complete."""
        self._held += data
        while len(self._held) >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._held)
            end = _HEADER.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_HEADER.size : end])
            del self._held[:end]
            yield Frame(kind, body)


class Channel:
    """One end of a socket that is never waited for: what cannot be sent at once is kept.

    Attributes:
        dry: whether the last attempt to receive found nothing.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.reader = Reader()
        self.dry = False
        self._unsent = bytearray()

    @property
    def unsent_bytes(self) -> int:
        """How much is kept until the socket takes it."""
        return len(self._unsent)

    def send(self, data: bytes) -> None:
        """Send these bytes after what is kept, as far as the socket takes them."""
        self._unsent += data
        while self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except BlockingIOError:
                return
            except ConnectionError:
                # The other end is gone: receiving says so too, and that is where it is acted on.
                self._unsent.clear()
                return
            del self._unsent[:sent]

    def receive(self) -> list[Frame] | None:
        """Return the frames that have come, possibly none; None where the other end is gone."""
        try:
            data = self.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            self.dry = True
            return []
        except ConnectionError:
            data = b""
        self.dry = not data
        return list(self.reader.feed(data)) if data else None
