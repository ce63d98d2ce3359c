"""Replay: everything that can be done with a history without performing anything.

Verify it, look at any point of it, ask it for what a re-run needs, bring chat logs in and out, copy it between
journals. May import core, ports, journal and models. Must never call a model, a tool or a person.
"""

from .copying import CopyReport, copy_journal
from .exporting import export_chats
from .folding import fold, prompts, state_at
from .importing import ImportReport, import_chats
from .verification import Finding, Verification, verify, verify_journal

__all__ = [
    "CopyReport",
    "Finding",
    "ImportReport",
    "Verification",
    "copy_journal",
    "export_chats",
    "fold",
    "import_chats",
    "prompts",
    "state_at",
    "verify",
    "verify_journal",
]
