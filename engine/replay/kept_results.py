"""The long results that a session keeps beside its journal, without a value that is taken out of it.

A result is named by its content, so without the value it has another name, and so do the records that name it. The copy
is kept before anything is declared; the original goes when no record names it any more. If the process ends in between,
the next redaction finds what is left: it looks at what is kept for the session, and not at what its records name. May
import core, journal, tools and ports. Must never drop what is named still.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from ..core.budgets import MIN_OUTPUT_BYTES
from ..core.events import EVENT_TYPES, KnownEvent, ToolFinished, UnknownEvent, UserAnswered
from ..core.redaction import Redactor
from ..journal.blobs import FolderBlobs, MemoryBlobs
from ..journal.canonical import canonical
from ..tools.spill import kept_form, kept_text, preview_of


class Copy(NamedTuple):
    """What stands in the place of a kept result: its name, and the text without the value."""

    handle: str
    text: str


async def clean_copies(blobs: MemoryBlobs | FolderBlobs, session: str, redactor: Redactor) -> Mapping[str, Copy]:
    """Keep a copy without the value of each result of a session that holds it; return them by the originals' names.

    Raises:
        JournalUnavailable, JournalCorrupt: a kept value cannot be read, so nobody knows whether it holds the value.
    """
    copies: dict[str, Copy] = {}
    for name in await blobs.names():
        text = kept_text(session, await blobs.get(name))
        if text is not None and (clean := redactor.text(text)) != text:
            copies[name] = Copy(await blobs.put(kept_form(session, clean)), clean)
    return copies


def with_copies(event: KnownEvent | UnknownEvent, copies: Mapping[str, Copy]) -> KnownEvent | UnknownEvent:
    """Return an event that names the copies. The preview of one is made anew: it may have cut a value in two."""
    text = written = canonical(event.data if isinstance(event, UnknownEvent) else event)
    for name, one in copies.items():
        text = text.replace(name, one.handle)
    if text == written:
        return event
    data = json.loads(text)
    if isinstance(event, UnknownEvent):
        return UnknownEvent(kind=event.kind, data=data)
    copy = copies.get(event.blob or "") if isinstance(event, ToolFinished | UserAnswered) else None
    field = "content" if isinstance(event, ToolFinished) else "result"
    if copy is not None and (shown := str(data.get(field, ""))):
        data[field] = preview_of(copy.text, copy.handle, max(MIN_OUTPUT_BYTES, len(shown.encode("utf-8", "replace"))))
    return EVENT_TYPES[event.kind].model_validate(data)
