"""Sessions as canonical text: what `core.snapshot` reads back.

Snapshots are named tuples around values. A tuple's fields are written as an object, sorted, those at their defaults
left out, so that a field that is added later does not change what an older session is written as. May import core and
the canonical form. Must never do I/O.
"""

from __future__ import annotations

from operator import itemgetter
from typing import cast

from ..core.session import Session, Turn
from ..core.snapshot import snapshot_of
from .canonical import canonical


def session_text(session: Session) -> str:
    """Return everything of a session but its conversation.

    Raises:
        EncodingError: it holds something JSON cannot.
    """
    return _write(snapshot_of(session))


def turn_text(turn: Turn) -> str:
    """Return a turn. Raises as `session_text`."""
    return _write(turn)


def message_lines(session: Session) -> list[str]:
    """Return the conversation, a message a line. Raises as `session_text`."""
    return session.transcript.lines(canonical)


def _write(value: object) -> str:
    if not isinstance(value, tuple):
        return canonical(value)
    items = cast(tuple[object, ...], value)
    names: tuple[str, ...] | None = getattr(items, "_fields", None)
    if names is None:
        return "[" + ",".join(map(_write, items)) + "]"
    defaults: dict[str, object] = getattr(items, "_field_defaults", {})
    members = [
        f'"{name}":{_write(held)}'
        for name, held in sorted(zip(names, items, strict=True), key=itemgetter(0))
        if name not in defaults or held != defaults[name]
    ]
    return "{" + ",".join(members) + "}"
