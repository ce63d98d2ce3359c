"""What an engine is given, looked at before anything is made of it: a slip is told where it was made.

May import core, ports and errors. Must never change what it looks at.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from ..core.limits import Limits
from ..errors import UsageError


def check_given(model: object, journal: object, limits: object) -> None:
    """Refuse what cannot be a model, a journal or limits.

    Raises:
        UsageError: one of them is something else; the text says what to write instead.
    """
    if not hasattr(model, "generate"):
        how = "FunctionModel(…) makes one of a function" if callable(model) else "see engine.models"
        raise UsageError(f"model={model!r} is no model: it has no `generate`; {how}")
    if journal is not None and not hasattr(journal, "claim"):
        raise UsageError(
            f"journal={journal!r} is no journal; name the file with SqliteJournal('runs.db') or JsonlJournal('runs')"
        )
    if limits is not None and not isinstance(limits, Limits):
        raise UsageError(f"limits={limits!r} must be Limits: Limits(max_tool_rounds=…)")


def check_extras(given: Mapping[str, object], known: type) -> None:
    """Refuse an argument that no engine has, as any other function does; an approver misspelt would approve nothing.

    Raises:
        TypeError: there is such an argument; the text names the nearest one.
    """
    names = ("model", "tools", "journal", "limits", *known.__annotations__)
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, 1) or [", ".join(names)]
            raise TypeError(f"Engine() got an unexpected keyword argument {name!r}; it has {near[0]}")
