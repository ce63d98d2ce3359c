"""Replay: everything that can be done with a history without performing anything.

Verify it, look at any point of it, ask it for what a re-run needs, bring chat logs in and out, copy it between
journals. May import core, ports, journal and models. Must never call a model, a tool or a person.

Each part is loaded when it is first asked for: an engine that runs needs few of them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Comparison, Pair, compare
    from .copying import CopyReport, copy_journal
    from .divergence import Change, Divergence, DivergenceReport
    from .diverging import diverge
    from .exporting import export_chats
    from .folding import fold, prompts, state_at
    from .forking import fork
    from .importing import ImportReport, import_chats, read_chats
    from .reading import read_history
    from .verification import Finding, Verification, verify, verify_journal

__all__ = [
    "Change",
    "Comparison",
    "CopyReport",
    "Divergence",
    "DivergenceReport",
    "Finding",
    "ImportReport",
    "Pair",
    "Verification",
    "compare",
    "copy_journal",
    "diverge",
    "export_chats",
    "fold",
    "fork",
    "import_chats",
    "prompts",
    "read_chats",
    "read_history",
    "state_at",
    "verify",
    "verify_journal",
]


def __getattr__(name: str) -> Any:
    if name in ("Comparison", "Pair", "compare"):
        from . import comparison

        return getattr(comparison, name)
    if name in ("CopyReport", "copy_journal"):
        from . import copying

        return getattr(copying, name)
    if name in ("Change", "Divergence", "DivergenceReport"):
        from . import divergence

        return getattr(divergence, name)
    if name == "diverge":
        from . import diverging

        return diverging.diverge
    if name == "export_chats":
        from . import exporting

        return getattr(exporting, name)
    if name in ("fold", "prompts", "state_at"):
        from . import folding

        return getattr(folding, name)
    if name == "fork":
        from . import forking

        return forking.fork
    if name in ("ImportReport", "import_chats", "read_chats"):
        from . import importing

        return getattr(importing, name)
    if name == "read_history":
        from . import reading

        return getattr(reading, name)
    if name in ("Finding", "Verification", "verify", "verify_journal"):
        from . import verification

        return getattr(verification, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
