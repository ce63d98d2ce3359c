"""What an engine puts around its sessions, as their histories name it.

A middleware or a context provider goes by the name of its class, or by what it says itself: `recorded_as` may be
another name, with a version in it for instance, or None where what it does shapes nothing that is recorded. May import
core and its neighbours. Must never call any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from ..core.values import Surroundings
from .parts import Parts


@runtime_checkable
class RecordedAs(Protocol):
    """A middleware or context provider that says how histories name it."""

    @property
    def recorded_as(self) -> str | None:
        """The name; None to be left out."""
        ...


def recorded_name(part: object) -> str | None:
    """Return how histories name a middleware or context provider, None where they do not."""
    return part.recorded_as if isinstance(part, RecordedAs) else type(part).__qualname__


def surroundings(parts: Parts) -> Surroundings:
    """Return what an engine puts around its sessions."""
    return Surroundings.trusted(
        middleware=_names(parts.middleware),
        providers=_names(parts.providers),
        max_memory_mb=parts.limits.max_memory_mb,
    )


def _names(parts: Iterable[object]) -> tuple[str, ...]:
    return tuple(name for part in parts if (name := recorded_name(part)) is not None)
