"""Calls that failed for good after their retries, for whoever runs the engine to look at.

The journal holds every one of them; this is the short list that needs no search through histories. Bounded: the newest
are kept, the dropped ones counted. Arguments stand here as a digest, so that the list can be shown and logged. May
import core. Must never hold a session or a result.
"""

from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from ..core.arguments import json_text
from ..core.session import CallState

MAX_LETTERS = 256
"""How many calls are kept if nothing else is said."""

_MESSAGE_CHARS = 500


class DeadLetter(NamedTuple):
    """One call that failed for good.

    `arguments_sha256` is that of the canonical JSON of the arguments; `error` the kind of the last failure and
    `message` the beginning of its text; `attempts` counts every run, the first included; `at_ns` is the time of day of
    the last one's end, nanoseconds since 1970-01-01 UTC.
    """

    session: str
    call_id: str
    tool: str
    arguments_sha256: str
    error: str
    message: str
    attempts: int
    at_ns: int


def dead_letter(session: str, call: CallState, *, attempts: int, at_ns: int) -> DeadLetter:
    """Return what is kept of a call whose last attempt has failed.

    Args:
        session: whose call it was.
        call: the call as it ended.
        attempts: how often it ran.
        at_ns: the time of day, as `Clock.time_ns` says it.
    """
    digest = sha256(json_text(call.call.arguments).encode("ascii")).hexdigest()
    error, message = call.error or call.status.value, call.content[:_MESSAGE_CHARS]
    return DeadLetter(session, call.call.id, call.call.name, digest, error, message, attempts, at_ns)


class DeadLetters:
    """The newest dead letters, the oldest first.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = MAX_LETTERS) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=most)
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        """Iterate over the letters as they are now; more may come meanwhile."""
        return iter(tuple(self._letters))

    @property
    def dropped(self) -> int:
        """How many older ones had to make room."""
        return self._dropped

    def add(self, letter: DeadLetter) -> None:
        """Add a letter; the oldest makes room."""
        self._dropped += len(self._letters) == self._letters.maxlen
        self._letters.append(letter)
