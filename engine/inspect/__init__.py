"""Looking at a run and at the machine behind it. Importing it draws nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inspector import inspect_page

__all__ = ["inspect_page"]


def __getattr__(name: str) -> Any:
    if name == "inspect_page":
        from .inspector import inspect_page

        return inspect_page
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
