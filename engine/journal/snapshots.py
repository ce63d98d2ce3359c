"""Sessions as canonical text: what `core.snapshot` reads back.

Snapshots are named tuples around values. A tuple's fields are written as an object, sorted, those at their defaults
left out, so that a field that is added later does not change what an older session is written as. May import core and
the canonical form. Must never do I/O.
"""

from __future__ import annotations

from typing import Any

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


def _write(value: Any) -> str:
    if not isinstance(value, tuple):
        return canonical(value)
    names: tuple[str, ...] | None = getattr(value, "_fields", None)
    if names is None:
        return "[" + ",".join(map(_write, value)) + "]"
    defaults: dict[str, Any] = getattr(value, "_field_defaults", {})
    held = {name: getattr(value, name) for name in names}
    members = [
        f'"{name}":{_write(held[name])}'
        for name in sorted(held)
        if name not in defaults or held[name] != defaults[name]
    ]
    return "{" + ",".join(members) + "}"
