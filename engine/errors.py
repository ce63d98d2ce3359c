"""The exceptions of the engine, in one tree.

An exception here means misuse or broken infrastructure. What is *expected* to go wrong in an agent (a tool that fails,
a model that refuses, a limit that is reached) is data: a `Fault`, a tool status, an outcome. Every message says what
was attempted, what is legal there, and what to do.

    EngineError
    ├── UsageError                  the caller can mend it
    │   ├── IllegalTransition       the event is not legal in this state
    │   ├── InvalidEvent            the event names a call or request that is not open
    │   ├── InvalidId               an id outside [A-Za-z0-9_-]{1,128}
    │   ├── UnknownSession          no such session in the journal
    │   ├── SessionBusy             another writer owns the session
    │   ├── InboxFull               more prompts wait than the session admits
    │   ├── SessionPagedOut         what was asked for is not in memory
    │   ├── EngineClosed            the engine is not open
    │   ├── PlanRefused             a recovery handler decided what cannot be done
    │   ├── ToolDefinitionError     a function cannot be made a tool; a name is taken
    │   ├── LimitNotEnforceable     a limit is demanded that nothing here can enforce
    │   ├── SecretRefused           a secret that cannot be kept out of records
    │   └── MissingExtra            an optional dependency is not installed
    ├── TableError                  the transition table itself is wrong (raised at import)
    ├── EncodingError               a value cannot be written as JSON
    ├── JournalError
    │   ├── JournalUnavailable      a write or read failed; nothing acknowledged is lost
    │   ├── JournalCorrupt          a stored record is damaged
    │   ├── JournalTooNew           written by a newer release
    │   ├── NotAJournal             the file belongs to another program
    │   └── StaleWriter             the session was taken over by another writer
    ├── ModelError                  an adapter's failure; the driver turns it into a fault
    │   ├── GateClosed              the gate before the model opens too late
    │   └── RecordedModelMismatch   a recorded model was asked something else than it recorded
    ├── PredictorRefused            a file is no predictor that can be used here
    ├── ReplayError                 a history does not hold
    └── ImportRefused               a foreign log cannot be read as a history

Imports nothing. Must never log, format for a terminal, or hold an open resource.
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of everything the engine raises on purpose."""


class UsageError(EngineError):
    """The call cannot be carried out as it was made; the text says how to make it."""


class IllegalTransition(UsageError):
    """Refuse an event that the table does not allow in the session's state. Nothing has changed.

    Attributes:
        trigger: kind of the refused event.
        state: value of the state it met.
        legal: kinds of the events that are legal there, sorted.
    """

    def __init__(self, trigger: str, state: str, legal: tuple[str, ...]) -> None:
        self.trigger = trigger
        self.state = state
        self.legal = legal
        super().__init__(f"{trigger} is not legal in state {state}; legal there: {', '.join(legal) or 'nothing'}")


class InvalidEvent(UsageError):
    """Refuse an event that refers to something the session does not have open. Nothing has changed."""


class InvalidId(UsageError):
    """Refuse an id that could leave its place in a file system, a query or a log line.

    Attributes:
        value: what was given.
    """

    def __init__(self, value: object, what: str = "session id") -> None:
        self.value = value
        shown = ascii(value) if len(ascii(value)) <= 80 else ascii(value)[:77] + "..."
        super().__init__(
            f"{what} {shown} does not match [A-Za-z0-9_-]{{1,128}}; "
            "choose such an id and keep your own name beside it: engine.open(id, external_id=your_name)"
        )


class UnknownSession(UsageError):
    """Say that the journal holds no such session."""

    def __init__(self, session: str) -> None:
        self.session = session
        super().__init__(
            f"no session {session!r} in this journal; `agent-engine stats --journal …` lists what is there"
        )


class SessionBusy(UsageError):
    """Refuse a second writer. Readers are never refused.

    Attributes:
        session: the session that was asked for.
        owner: who holds it, as far as the journal knows.
    """

    def __init__(self, session: str, owner: str) -> None:
        self.session = session
        self.owner = owner
        super().__init__(
            f"session {session!r} is held by another writer ({owner}); read it with journal.read or replay, wait for "
            "the holder to release it, or take it over with engine.open(..., takeover=True)"
        )


class HistoryShared(UsageError):
    """Refuse to change records that forks share. Nothing has changed.

    Attributes:
        session: whose records they are.
        forks: the sessions that begin with them, sorted.
    """

    def __init__(self, session: str, forks: tuple[str, ...]) -> None:
        self.session = session
        self.forks = forks
        super().__init__(
            f"records of session {session!r} are also those of its forks ({', '.join(forks)}); nothing was changed: "
            "prune each fork up to a point of its own, where it stands by itself, and then do the same again"
        )


class InboxFull(UsageError):
    """Refuse a prompt because as many as the session admits already wait for their turn."""

    def __init__(self, session: str, waiting: int) -> None:
        self.session = session
        self.waiting = waiting
        super().__init__(
            f"session {session!r} already has {waiting} prompts waiting; await one of them first, or raise inbox_size"
        )


class SessionPagedOut(UsageError):
    """Say that the conversation of an idle session has left memory. It comes back by itself where it can be waited for.

    Attributes:
        session: its id.
    """

    def __init__(self, session: str) -> None:
        self.session = session
        super().__init__(
            f"session {session!r} was idle and has been paged out: `await session.load()` brings it back, and so does "
            "every prompt; what is needed without waiting is read right after it"
        )


class EngineClosed(UsageError):
    """Say that the engine (or session) is not open."""


class ToolDefinitionError(UsageError):
    """Refuse a tool whose name, annotations or options cannot work."""


class LimitNotEnforceable(UsageError):
    """Refuse an engine whose tools cannot be bounded as it demands, on this machine or as they are made."""


class PlanRefused(UsageError):
    """Say what a recovery handler decided that cannot be done. It is logged; the engine's own plan is carried out."""


class SecretRefused(UsageError):
    """Refuse a secret that cannot be kept out of records without damaging them. The text never shows its value."""


class MissingExtra(UsageError):
    """Say which optional dependency is missing and how to get it."""

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs an optional dependency: pip install 'agent-engine[{extra}]'")


class TableError(EngineError):
    """Report a transition table that is not total, not unique or misspelt. Raised at import, never later."""


class EncodingError(EngineError):
    """Report a value that JSON cannot hold.

    Attributes:
        path: where in the value, as a JSON path such as `$.rows[3].price`.
        reason: what is wrong there.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot encode the value at {path}: {reason}")


class JournalError(EngineError):
    """Root of what a journal can report."""


class JournalUnavailable(JournalError):
    """A write or a read did not succeed. Everything acknowledged before is intact, and no effect of the unwritten
    records started.
    """


class JournalCorrupt(JournalError):
    """A stored record is damaged, and what follows it cannot be trusted. Nothing was skipped or changed.

    Attributes:
        where: file or session.
        offset: byte offset of the damaged line in a file, or the sequence number in a database.
        reason: what does not hold there.
    """

    def __init__(self, where: str, offset: int, reason: str) -> None:
        self.where = where
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"{where} is damaged at {offset}: {reason}; restore it from a backup, or export what precedes the damage"
        )


class JournalTooNew(JournalError):
    """The record was written by a newer release of the engine; upgrade to read it."""


class NotAJournal(JournalError):
    """The file exists and is something else. It was not touched."""


class StaleWriter(JournalError):
    """Another writer has taken the session over; this one's append was refused and wrote nothing."""

    def __init__(self, session: str, epoch: int) -> None:
        self.session = session
        self.epoch = epoch
        super().__init__(
            f"epoch {epoch} of session {session!r} is over: another writer took it; open the session again to go on"
        )


class ModelError(EngineError):
    """Report from a model adapter why there is no reply. The driver records it as a fault; hosts see it as data.

    Args:
        message: what happened, in words for a human.
        retryable: whether the same request may succeed later.
        kind: "model_failure", "rate_limit", or "context_full": the conversation does not fit the model's window.
        status: the HTTP status, where there was one.
        retry_after_s: the provider's own wish in seconds, where it said one.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = True,
        kind: str = "model_failure",
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.retryable = retryable
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(message)


class GateClosed(ModelError):
    """Say that a request was not sent: the gate before its model opens later than the caller can wait.

    Attributes:
        wait_s: how long it would take, in seconds.
    """

    def __init__(self, key: str, wait_s: float, *, for_all: bool) -> None:
        self.wait_s = wait_s
        super().__init__(
            f"{key} takes no request of this turn for another {wait_s:.0f} s",
            kind="gate_closed",
            retry_after_s=wait_s if for_all else None,
        )


class RecordedModelMismatch(ModelError):
    """A recorded model was asked something that its history does not hold at this place."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class PredictorRefused(EngineError):
    """Refuse a file that holds no predictor which can be used here. The file was not touched.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path} is not a predictor that can be used here: {reason}; it was not touched. Move it away to begin "
            "anew, or use the release and the salt that it was written with"
        )


class ReplayError(EngineError):
    """A history cannot be folded: it is empty, or a record does not follow from the ones before it."""


class ImportRefused(EngineError):
    """A foreign log cannot be read as a history.

    Attributes:
        line: line of the file, from 1.
    """

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(f"line {line}: {reason}")
