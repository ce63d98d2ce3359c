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
    from .folding import fold, prompts, state_at, states
    from .forking import fork
    from .importing import ImportReport, import_chats, read_chats
    from .reading import read_history
    from .retention import Account, Rewritten, prune, redact
    from .searching import Match, Query, search
    from .travelling import Timeline
    from .verification import Finding, Verification, verify, verify_journal

__all__ = [
    "Account",
    "Change",
    "Comparison",
    "CopyReport",
    "Divergence",
    "DivergenceReport",
    "Finding",
    "ImportReport",
    "Match",
    "Pair",
    "Query",
    "Rewritten",
    "Timeline",
    "Verification",
    "compare",
    "copy_journal",
    "diverge",
    "export_chats",
    "fold",
    "fork",
    "import_chats",
    "prompts",
    "prune",
    "read_chats",
    "read_history",
    "redact",
    "search",
    "state_at",
    "states",
    "verify",
    "verify_journal",
]


def __getattr__(name: str) -> Any:
    found = _otherwise(name)
    if found is not None:
        return found
    if name in ("CopyReport", "copy_journal"):
        from . import copying

        return getattr(copying, name)
    if name == "export_chats":
        from . import exporting

        return getattr(exporting, name)
    if name in ("fold", "prompts", "state_at", "states"):
        from . import folding

        return getattr(folding, name)
    if name in ("ImportReport", "import_chats", "read_chats"):
        from . import importing

        return getattr(importing, name)
    if name == "read_history":
        from . import reading

        return getattr(reading, name)
    if name in ("Account", "Rewritten", "prune", "redact"):
        from . import retention

        return getattr(retention, name)
    if name in ("Match", "Query", "search"):
        from . import searching

        return getattr(searching, name)
    if name == "Timeline":
        from . import travelling

        return getattr(travelling, name)
    if name in ("Finding", "Verification", "verify", "verify_journal"):
        from . import verification

        return getattr(verification, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _otherwise(name: str) -> Any:
    """Return what is about histories that might have gone otherwise, None where the name is of none of that."""
    if name in ("Comparison", "Pair", "compare"):
        from . import comparison

        return getattr(comparison, name)
    if name in ("Change", "Divergence", "DivergenceReport"):
        from . import divergence

        return getattr(divergence, name)
    if name == "diverge":
        from . import diverging

        return diverging.diverge
    if name == "fork":
        from . import forking

        return forking.fork
    return None
