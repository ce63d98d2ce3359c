"""The stored form of one transition.

A `TransitionRecord` is what the journal keeps, observers see and replay reads. `line` is its canonical text, the very
bytes that `hash` covers (see `journal.codec`). May import the other core modules' types. Must never do I/O.
"""

from typing import NamedTuple

from .effects import KnownEffect
from .events import HISTORY_PRUNED, KnownEvent, UnknownEvent
from .values import State


class TransitionRecord(NamedTuple):
    """One transition: `seq` counts from 1 without gaps, `at` is UTC (ISO 8601), `mono_ns` a monotonic clock.

    `hash` is the SHA-256 over the canonical bytes of everything else, `prev` the hash of the record before (64 zeros in
    the first). A record that was rewritten keeps the hash it had; `rewritten` is then the digest of what it is, which a
    later record of its history declares, and empty in any other.
    """

    v: int
    session: str
    seq: int
    at: str
    mono_ns: int
    trigger: str
    source: State
    dest: State
    event: KnownEvent | UnknownEvent
    effects: tuple[KnownEffect, ...]
    prev: str
    hash: str
    line: str
    rewritten: str = ""

    @property
    def begins(self) -> bool:
        """Whether this is what a pruned history begins with, in place of every record up to it."""
        return self.trigger == HISTORY_PRUNED and bool(self.rewritten)
