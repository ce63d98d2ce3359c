"""The port of a model that knows how much it can be shown. May import core and ports."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..core.tokens import Window
from ..ports import Model


@runtime_checkable
class Windowed(Model, Protocol):
    """A model that knows its own window."""

    @property
    def window(self) -> Window | None:
        """What it can be shown; None as long as it does not know. Asked often, so it must be quick."""
        ...


__all__ = ["Window", "Windowed"]
