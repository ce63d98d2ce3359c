"""One session and its journal: the only place where a session changes.

`commit` steps events, makes the records durable, swaps the snapshot and publishes, in this order. When the journal
fails, the snapshot stays at what is durable; outcomes that were already known (a reply, a tool's end) are kept and
written first when the journal works again, so nothing that happened is lost or done twice. May import anyio, core,
journal, replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import anyio.lowlevel

from ..core.cursor import Cursor
from ..core.effects import CANCEL_WORK, PREPARE_CONTEXT, KnownEffect
from ..core.events import ContextPrepared, KnownEvent, ModelReplied, Resumed, SessionOpened, ToolFinished, ToolRetried
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import reproduce, take
from ..core.values import State
from ..journal.codec import GENESIS, Chain, seal
from ..log import log_steps
from ..ports import Writer
from ..replay.checkpoints import Checkpoint
from ..replay.turns import TurnLog
from .broadcast import Broadcast
from .checkpointing import Start, keep_checkpoint
from .clock import timestamp
from .crew import Crew
from .gauge import gauge_of
from .parts import Parts

_PAGE = 512
_SHARE = 4
"""A session that stays open leaves a checkpoint when it has grown by a fourth: the whole of it is written each time."""
_CONTEXT_READY = ContextPrepared.trusted()
_OUTCOMES = (ModelReplied, ToolFinished, ToolRetried)


class Ledger:
    """The durable side of one session.

    Attributes:
        session: the snapshot at the last durable record.
        recent: the newest records as their lines, at most `limits.history_ring`: a fifth of what the objects take.
        turns: the newest ended turns, at most `limits.turns_ring`.
        gauge: watches how much the model is shown; None where nobody wants to know.
        cut_bytes: how many bytes of a torn record the journal cut off when the session was claimed.
        keeping: set when the checkpoint that is being written stands; None while none is.
    """

    def __init__(self, session: str, parts: Parts, writer: Writer, broadcast: Broadcast) -> None:
        self.session = Session(session)
        self.recent: deque[str] = deque(maxlen=parts.limits.history_ring)
        self.turns = TurnLog(parts.limits.turns_ring)
        self.cut_bytes = writer.tail.cut_bytes
        self._name = session
        self._parts = parts
        self._writer = writer
        self._broadcast = broadcast
        self._digest = GENESIS
        self._begun_at = 0
        self.keeping: anyio.Event | None = None
        self._attempted: list[TransitionRecord] = []
        self._cursor: Cursor | None = None
        self._clock = parts.clock
        self._asks_providers = bool(parts.providers)
        self.gauge = gauge_of(parts)
        self._redactor = parts.redactor
        self._monitor = parts.monitor

    @property
    def shaken(self) -> bool:
        """Whether the last append did not succeed, so that what is durable has to be found out first."""
        return bool(self._attempted)

    def begin_at(self, start: Start) -> None:
        """Begin at a checkpoint instead of the first record; `load` does the rest."""
        session, self._digest, turns, opened_at = start.checkpoint
        self.session, self._begun_at = session, session.seq
        self.recent.extend(start.recent)
        self.turns.begin(turns, session.last_turn, opened_at)

    async def load(self, *, publish: bool = False) -> None:
        """Rebuild the snapshot from everything in the journal that follows it; publish it if nobody has seen it yet.

        Raises:
            JournalCorrupt: a record is damaged or does not follow from the one before.
            ReplayError: a record does not reproduce.
        """
        self._cursor = None
        chain = Chain(self._name, self.session.seq, self._digest)
        while page := await self._parts.journal.read(self._name, self.session.seq, _PAGE):
            cursor = Cursor(self.session)
            for line in page:
                record = chain.decode(line.text, line.offset)
                reproduce(cursor, record)
                self._note((record,), cursor)
                if publish:
                    self._broadcast.record(record)
            self.session = cursor.frozen()
            # A long history must not keep the other sessions of this loop waiting.
            await anyio.lowlevel.checkpoint()
        chain.finish()

    async def commit(self, events: Sequence[KnownEvent]) -> list[KnownEffect]:
        """Step events, append their records together, then swap and publish.

        Where a step asks for the context and nobody provides any, that step is taken too: the records of both become
        durable at once, which saves a commit a round. Records of one commit carry the same time.

        Returns:
            What the last of the steps asked for, and what the earlier ones asked for that it did not call off.

        Raises:
            IllegalTransition, InvalidEvent: an event was refused; nothing was written.
            JournalUnavailable, StaleWriter: the records are not known to be durable; the snapshot is as before.
        """
        # The cursor of the last commit stands where the snapshot does; after a failure it does not, and is not kept.
        cursor, self._cursor = self._cursor or Cursor(self.session), None
        records: list[TransitionRecord] = []
        effects: list[KnownEffect] = []
        digest = self._digest
        at, mono_ns = timestamp(self._clock.time_ns()), self._clock.monotonic_ns()
        waiting = list(events)
        for event in waiting:
            if self._redactor is not None:
                event = self._redactor.clean(event)
            asked = take(cursor, event)
            record = seal(
                session=cursor.id,
                seq=cursor.seq,
                at=at,
                mono_ns=mono_ns,
                source=cursor.source,
                dest=cursor.state,
                event=event,
                effects=asked,
                prev=digest,
            )
            records.append(record)
            digest = record.hash
            if asked:
                if asked[-1] is PREPARE_CONTEXT and len(records) == len(waiting) and not self._must_prepare(cursor):
                    waiting.append(_CONTEXT_READY)
                elif asked[0] is CANCEL_WORK:
                    effects = list(asked)
                else:
                    effects += asked
        # Whatever but success the append ends with, what became durable is found out before anything else.
        self._attempted = records
        await self._writer.append(records)
        self._attempted = []
        self.session, self._cursor = cursor.frozen(), cursor
        self._note(records, cursor)
        log_steps(records)
        if self._broadcast.watched:
            for record in records:
                self._broadcast.record(record)
        self._monitor.see(records)
        return effects

    async def commit_opening(self, opened: SessionOpened | None) -> None:
        """Record how the session was opened, if that is new; wake a session that was shut down with nothing to do."""
        events: list[KnownEvent] = [] if opened is None else [opened]
        if self.session.state is State.SHUTDOWN and self.session.left in (State.IDLE, State.WAITING_FOR_USER):
            events.append(Resumed())
        if events:
            await self.commit(events)
        if self._parts.learner is not None:
            await self._parts.learner.enter(self.session)

    async def mend(self) -> list[KnownEvent]:
        """Find out what became durable of the last append, and take it over.

        Returns:
            The outcomes that are known and not durable yet: commit them before anything else.

        Raises:
            JournalError: the journal still fails, or another writer has the session.
        """
        await self._writer.release()
        self._writer = await self._parts.journal.claim(self.session.id)
        await self.load(publish=True)
        lost = [record for record in self._attempted if record.seq > self.session.seq]
        self._attempted = []
        if lost and lost[0].prev != self._digest:
            return []
        return [record.event for record in lost if isinstance(record.event, _OUTCOMES)]

    def keep_if_due(self, crew: Crew) -> None:
        """Begin to leave a checkpoint behind while the session stays open: the rarer, the longer it is."""
        every = self._parts.settings.checkpoint_records
        new = self.session.seq - self._begun_at
        if every is not None and new >= max(every, self._begun_at // _SHARE) and self.keeping is None:
            crew.start(self.keep)

    async def keep(self) -> None:
        """Leave a checkpoint behind where enough is new. What is committed meanwhile is not in it."""
        while self.keeping is not None:
            await self.keeping.wait()
        every = self._parts.settings.checkpoint_records
        if every is None or self.session.seq - self._begun_at < every:
            return
        self._begun_at = self.session.seq
        turns, opened_at = self.turns.kept()
        checkpoint = Checkpoint(self.session, self._digest, tuple(turns), opened_at)
        done = self.keeping = anyio.Event()
        try:
            await keep_checkpoint(self._parts.journal, checkpoint)
        finally:
            self.keeping = None
            done.set()

    async def release(self) -> None:
        """Leave a checkpoint behind where enough is new, and give the right to write up."""
        try:
            await self.keep()
        finally:
            await self._give_up()

    async def _give_up(self) -> None:
        try:
            await self._writer.release()
        finally:
            if self._parts.learner is not None:
                await self._parts.learner.leave(self.session.id)

    def retire(self) -> Writer:
        """Drop everything that is kept in memory and return the right to write. Nothing can be committed any more."""
        self.session, self._cursor = Session(self.session.id), None
        self.recent.clear()
        self.turns = TurnLog(1)
        return self._writer

    def _must_prepare(self, cursor: Cursor) -> bool:
        """Whether there is something to wait for before the model can be asked."""
        return self._asks_providers or (self.gauge is not None and self.gauge.due(cursor))

    def _note(self, records: Sequence[TransitionRecord], cursor: Cursor) -> None:
        self._digest = records[-1].hash
        self.recent.extend([record.line for record in records])
        self.turns.see(records, cursor.last_turn)
