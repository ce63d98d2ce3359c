"""Notices without secrets: what models and tools show on the way, cleaned before anybody sees it.

Records are cleaned in `ledger.commit`, where they all pass. May import core and ports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..core.events import KnownEvent, ModelReplied
from ..core.notices import Notice
from ..core.redaction import NoticeRedactor, Redactor
from ..ports import Emit


def shown(redactor: Redactor | None, emit: Emit) -> Emit:
    """Return the way out for the notices of one tool."""
    return emit if redactor is None else _through(NoticeRedactor(redactor), emit)


def with_emit(
    redactor: Redactor | None, emit: Emit, ask: Callable[[Emit], Awaitable[KnownEvent]]
) -> Awaitable[KnownEvent]:
    """Ask a model with the way out for its notices; what came of it is to be awaited.

    A secret may come in pieces, so the end of a text is held back until it is clear that none begins there.
    """
    return ask(emit) if redactor is None else _in_pieces(NoticeRedactor(redactor), emit, ask)


async def _in_pieces(pieces: NoticeRedactor, emit: Emit, ask: Callable[[Emit], Awaitable[KnownEvent]]) -> KnownEvent:
    event = await ask(_through(pieces, emit))
    if isinstance(event, ModelReplied):
        for rest in pieces.end():
            emit(rest)
    return event


def _through(pieces: NoticeRedactor, emit: Emit) -> Emit:
    def show(notice: Notice) -> None:
        cleaned = pieces.see(notice)
        if cleaned is not None:
            emit(cleaned)

    return show
