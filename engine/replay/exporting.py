"""Export: histories become chat logs in the OpenAI format, imported ones exactly as they came.

May import core, ports, the codec and its neighbours. Must never write anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ..core.cursor import Cursor
from ..core.session import Session
from ..core.step import reproduce
from ..core.values import check_id
from ..errors import UnknownSession
from ..journal.codec import Chain
from ..models.wire import as_object
from ..ports import Journal
from .chats import write_chat
from .importing import CHAT_METADATA, session_of

_PAGE = 512


async def export_chats(journal: Journal, sessions: Sequence[str] | None = None) -> AsyncIterator[dict[str, Any]]:
    """Iterate over conversations as `{"id": …, "messages": […]}`.

    An imported conversation equals its original, other members of its line included. A call that has not ended yet
    appears with a result that says so.

    Args:
        journal: where to read.
        sessions: ids of the sessions to export; all of them, sorted, if not given.

    Raises:
        InvalidId, UnknownSession: one of `sessions` is no session of this journal.
        JournalCorrupt, JournalTooNew, ReplayError: a history does not hold; the conversations before it were given.
    """
    if sessions is None:
        names = [info.id for info in await journal.sessions()]
    else:
        names = [check_id(name) for name in sessions]
    for name in names:
        yield chat_of(await _load(journal, name))


def chat_of(session: Session) -> dict[str, Any]:
    """Return one conversation as a line of a chat log holds it."""
    opened = session.opened
    external_id = opened.external_id
    # A host's own name may stand beside any session; it is the log's only where the session is named after it.
    imported = external_id is not None and session_of(external_id) == session.id
    beside = as_object(opened.metadata.get(CHAT_METADATA))
    return {"id": external_id if imported else session.id, "messages": write_chat(session.messages()), **beside}


async def _load(journal: Journal, name: str) -> Session:
    cursor, chain = Cursor(Session(name)), Chain(name)
    while page := await journal.read(name, cursor.seq, _PAGE):
        for line in page:
            reproduce(cursor, chain.decode(line.text, line.offset))
    if cursor.seq == 0:
        raise UnknownSession(name)
    chain.finish()
    return cursor.frozen()
