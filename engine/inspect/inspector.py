"""The inspector for those who have records in their hands: a history in, a page out. May import its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.record import TransitionRecord
from ..errors import UsageError
from .assembling import page
from .encoding import Encoder, head


def inspect_page(records: Sequence[TransitionRecord], source: str = "", damage: str | None = None) -> str:
    """Return a history as one HTML page that needs nothing else.

    A history that stops to hold is shown whole; the page says where, and shows no state from there on.

    Args:
        records: the history of one session, from sequence 1.
        source: what to call the place it comes from.
        damage: what to say of records after these that could not be read.

    Raises:
        UsageError: there is no record.
    """
    if not records:
        raise UsageError("an empty history has nothing to show: give the records of one session, from sequence 1")
    session = records[0].session
    return page(head(session, source, damage), [Encoder(session).encode(records)])
