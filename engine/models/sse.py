"""Server-sent events: the bytes of a response to the data of its events, whatever the chunks they arrive in.

Pure, and synchronous on purpose: a reader of async generators inside async generators could not stop early on trio.
Only the `data` field is of interest to a chat stream. Lines end at LF, CR or CR LF and nowhere else, so U+2028 inside
a text stays where it is. Imports the standard library only. Must never do I/O; whoever feeds it bounds the bytes.
"""

from __future__ import annotations


class SseDecoder:
    """Collects bytes and gives back the data of every event that is complete."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._data: list[str] = []

    def feed(self, part: bytes) -> list[str]:
        """Return the data of the events that end within `part`."""
        self._pending.append(part)
        if b"\n" not in part and b"\r" not in part and not self._pending[0].endswith(b"\r"):
            return []
        lines = b"".join(self._pending).splitlines(keepends=True)
        # A CR at the very end may be the first half of a CR LF.
        self._pending = [lines.pop()] if lines and not lines[-1].endswith(b"\n") else []
        return self._events(lines)

    def close(self) -> list[str]:
        """Return what is left when the stream ends: some servers leave out the empty line after their last event."""
        lines, self._pending = b"".join(self._pending).splitlines(), []
        return self._events([*lines, b""])

    def _events(self, lines: list[bytes]) -> list[str]:
        events: list[str] = []
        for raw in lines:
            line = raw.rstrip(b"\r\n").decode("utf-8", "replace")
            if not line:
                if self._data:
                    events.append("\n".join(self._data))
                    self._data = []
                continue
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
        return events
