"""What hosts hand over when they open a session or a turn, checked before anything of it is recorded.

May import core, pydantic, ports and its neighbours. Must never do I/O.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

from pydantic import ValidationError

from ..core.events import Faulted, KnownEvent, PromptReceived, SessionOpened
from ..core.loans import Loan
from ..core.session import Session
from ..core.values import JsonObject, Message, Prompt
from ..errors import EncodingError, UsageError
from ..journal.canonical import canonical
from ..tools.encode import complaint
from .answering import with_due_times
from .parts import Parts
from .spending import admit, declared_tokens
from .surroundings import surroundings


class Who(TypedDict, total=False):
    """Whose session it is, in the host's own words: recorded with the session and handed to its tools."""

    external_id: str | None
    user: str | None
    workspace: str | None
    parent: str | None
    metadata: JsonObject


class Entry:
    """An event from outside on its way in. It is made only when the session is ready for it."""

    def __init__(self, make: Callable[[], Sequence[KnownEvent]], on_open: Callable[[], None] | None = None) -> None:
        self._make = make
        self.on_open = on_open

    async def events(self) -> Sequence[KnownEvent]:
        """Return the event, and what follows from it at once."""
        return self._make()


def as_prompt(given: str | Prompt) -> Prompt:
    """Return what opens a turn.

    Raises:
        UsageError: it is neither a text nor a `Prompt`, or its messages hold tool calls or results.
    """
    if isinstance(given, Prompt):
        if any(message.tool_calls or message.tool_call_id for message in given.messages):
            raise UsageError("messages of a prompt hold no tool calls or results: ask(Prompt(calls=[…])) runs calls")
        return given
    if not isinstance(given, str):
        raise UsageError(f"a prompt is a str or a Prompt, not {type(given).__name__}: ask(Prompt(text=…, calls=[…]))")
    return Prompt(text=given)


class Room(NamedTuple):
    """How many places for children a session has, and how many are taken."""

    places: int
    taken: int


def check_siblings(parent: str, room: Room, loan: Loan | None) -> None:
    """Refuse a session beyond those that its parent may have open at a time.

    Args:
        parent: its parent.
        room: what that has for children.
        loan: what the session is lent, places for children of its own included.

    Raises:
        UsageError: there are as many already.
    """
    wanted = 1 if loan is None else 1 + loan.parallel_tasks
    if room.taken + wanted > room.places:
        raise UsageError(
            f"session {parent!r} already has {room.taken} open child sessions; close one of them first, or raise "
            f"max_parallel_tasks: it has {room.places} places, and this one takes {wanted}"
        )


def opening_event(session: Session, parts: Parts, who: Who, loan: Loan | None = None) -> SessionOpened | None:
    """Return the event that records whose session it is, by which settings it goes on and in what surroundings, where
    something of it is new.

    Args:
        session: the snapshot that was rebuilt.
        parts: what its engine is made of.
        who: what the host says; what is not given stays as it was recorded.
        loan: what its parent lends it, where that is new or goes on.

    Raises:
        UsageError: the journal could not hold it.
    """
    known = session.opened
    given = {name: value for name, value in {**who, "loan": loan}.items() if value is not None}
    settings = parts.limits.settings(parts.settings.on_unknown, declared_tokens(parts.parameters))
    now = {"settings": settings, "around": surroundings(parts)}
    try:
        # Validated, not copied: what the journal could not be read with later is refused here.
        # Cleaned before it is compared: what was recorded is.
        event = parts.clean(SessionOpened.model_validate({**dict(known), **given, **now}))
        canonical(event)
    except (ValidationError, EncodingError) as error:
        reason = complaint(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"session {session.id!r} cannot be opened with this: {reason}; nothing was recorded") from None
    return event if session.seq == 0 or event != known else None


def prompt_events(parts: Parts, session: Session, prompt: Prompt, known_system: str | None) -> Sequence[KnownEvent]:
    """Return the event that opens a turn, with the system prompt before it where the session has another one or none;
    and the fault that ends it at once, where the process has no memory for it.

    Args:
        parts: what the engine is made of.
        session: the snapshot at rest.
        prompt: what opens the turn.
        known_system: the newest system prompt of the conversation.
    """
    prompt = parts.clean(prompt)
    system = parts.settings.system
    messages = list(prompt.messages)
    if prompt.text is not None:
        messages.append(Message(role="user", text=prompt.text))
    if prompt.pinned:
        messages = [message.model_copy(update={"pinned": True}) for message in messages]
    if system is not None and system != known_system:
        messages.insert(0, Message(role="system", text=system))
    calls, plans = admit(parts, session, prompt.calls) if prompt.calls else ((), ())
    opened = PromptReceived(
        messages=tuple(messages),
        direct_calls=tuple(calls),
        plans=with_due_times(parts, plans),
        priority=prompt.priority,
        metadata=prompt.metadata,
    )
    fault = parts.monitor.objection()
    return (opened,) if fault is None else (opened, Faulted(fault=fault))


def last_system(session: Session) -> str | None:
    """Return the newest system prompt of a conversation, if it has one."""
    newest = session.transcript.newest("system")
    return None if newest is None else newest.text
