"""Diverge: a history against this code and this configuration, without performing anything.

Each record is judged on the past that was recorded: what is decided today about the calls of its event, and what this
table makes of it. Then the walk follows the record, whatever was found. So the two sequences stay aligned, one
divergence hides no other, and all are reported. Only where the table itself no longer takes what was recorded is the
past lost; the walk then passes over records until one comes out as recorded again, at the latest where the next turn
begins. May import core, the codec, and the words of `divergence`. Must never call a model, a tool or a person; a policy
and a tool's validation of arguments are asked, as they are before a call is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

from ..core.cursor import Cursor
from ..core.events import ModelReplied, PromptReceived, UnknownEvent, UserAnswered
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import reproduce, take
from ..core.table import fire
from ..core.values import ModelReply, PlannedCall, SessionSettings, State, Surroundings, ToolCall
from ..errors import IllegalTransition, InvalidEvent, JournalCorrupt, ReplayError
from ..journal.codec import Chain
from .around import Around, MemoryBound
from .divergence import (
    Divergence,
    DivergenceReport,
    Kind,
    Outcome,
    outcome_difference,
    plan_differences,
    setting_changes,
)


class Declared(NamedTuple):
    """What a configuration declares once for all sessions: what the core decides by; the system prompt, None where
    prompts bring their own; what stands around a session, None where that is not known.
    """

    settings: SessionSettings
    system: str | None = None
    around: Surroundings | None = None


class Rules(Protocol):
    """What a configuration decides by itself, beside the table."""

    @property
    def declared(self) -> Declared:
        """What is declared once for all sessions."""
        ...

    def memory_bound(self, tool: str) -> MemoryBound | None:
        """Return what bounds the memory of a tool's calls; None where that is not known."""
        ...

    def plans(self, session: Session, calls: Sequence[ToolCall], at: str) -> tuple[PlannedCall, ...] | None:
        """Return the decision about each call, as of the time `at`; None where nothing is known about tools."""
        ...

    def cost_pico(self, session: Session, reply: ModelReply) -> int | None:
        """Return what a reply cost, in 10^-12 of the unit of the prices; None where nothing is priced."""
        ...


@runtime_checkable
class HasRules(Protocol):
    """An engine, or whatever else can say its rules."""

    @property
    def rules(self) -> Rules:
        """The rules."""
        ...


def diverge(
    records: Iterable[TransitionRecord],
    engine_or_settings: HasRules | SessionSettings,
    move: Callable[[Cursor], None] = fire,
) -> DivergenceReport:
    """Return everything that comes out otherwise than recorded with this code and this configuration.

    A history of an older release is brought up to date while it is decoded, so that it may be given here as it was
    read. What middleware, providers and models did is in the records, and is not judged; that there are other ones is.

    Args:
        records: the whole history of one session, from sequence 1. Nothing is written anywhere.
        engine_or_settings: an engine, which need not be open; or settings, by which only the core decides.
        move: how to consult the table; only tests give another one.

    Raises:
        ReplayError: the history is empty, or its records do not follow one another.
    """
    rules = engine_or_settings.rules if isinstance(engine_or_settings, HasRules) else _Core(engine_or_settings)
    walk: _Walk | None = None
    chain: Chain | None = None
    for record in records:
        if walk is None or chain is None:
            walk, chain = _Walk(Cursor(Session(record.session)), rules, move), Chain(None)
        try:
            chain.check(record)
        except JournalCorrupt as error:
            raise ReplayError(f"{record.session}:{record.seq}: {error.reason}") from error
        walk.take(record)
    if walk is None:
        raise ReplayError("an empty history cannot be judged: give the records of one session, from sequence 1")
    return walk.report()


class _Core:
    """Rules of somebody who knows the settings only."""

    def __init__(self, settings: SessionSettings) -> None:
        self.declared = Declared(settings)

    def memory_bound(self, tool: str) -> None:
        return None

    def plans(self, session: Session, calls: Sequence[ToolCall], at: str) -> None:
        return None

    def cost_pico(self, session: Session, reply: ModelReply) -> None:
        return None


class _Walk:
    """The walk along one history. `cursor` stands where the record before led, by this code."""

    def __init__(self, cursor: Cursor, rules: Rules, move: Callable[[Cursor], None]) -> None:
        self._cursor = cursor
        self._rules = rules
        self._settings, self._system, around = rules.declared
        self._around = None if around is None else Around(around, rules.memory_bound)
        self._now_around = around
        self._move = move
        self._found: list[Divergence] = []
        self._astray = False
        self._seen = 0
        self._unknown = 0

    def report(self) -> DivergenceReport:
        """Return what was found."""
        cursor = self._cursor
        changes = setting_changes(cursor.opened.settings, self._settings)
        if self._now_around is not None:
            changes += setting_changes(cursor.opened.around, self._now_around)
        return DivergenceReport(cursor.id, self._seen, tuple(self._found), changes, self._unknown)

    def take(self, record: TransitionRecord) -> None:
        """Judge a record, then follow it."""
        self._seen += 1
        cursor = self._cursor
        if self._astray and not self._found_again(record):
            self._found[-1] = replace(self._found[-1], until=record.seq)
            return
        if isinstance(record.event, UnknownEvent):
            self._unknown += not record.begins
            reproduce(cursor, record)
            return
        before = self._cursor.frozen()
        if self._around is not None:
            for kind, text, recorded, now in self._around.differences(before, record):
                self._report(record, kind, text, recorded, now)
        count = len(self._found)
        decided = self._decide(before, record)
        reproduced = self._follow(before, record)
        trial = before._replace(opened=before.opened.model_copy(update={"settings": self._settings}))
        if reproduced and len(self._found) == count and before.opened.settings != self._settings:
            self._try(trial, record)
        elif reproduced and decided is not None:
            self._try(trial, record._replace(event=decided), "as a consequence, ")

    # --- what is decided today ----------------------------------------------------------------------------------------

    def _decide(self, before: Session, record: TransitionRecord) -> ModelReplied | PromptReceived | None:
        """Report what is decided otherwise about the event; return it as it would be, where another decision is."""
        event = record.event
        if isinstance(event, PromptReceived):
            self._check_system(before, record, event)
            plans = self._replan(before, record, event.direct_calls, event.plans)
            return None if plans is None else event.model_copy(update={"plans": plans})
        if isinstance(event, ModelReplied):
            self._check_cost(before, record, event)
            plans = self._replan(before, record, event.reply.tool_calls, event.plans)
            return None if plans is None else event.model_copy(update={"plans": plans})
        if isinstance(event, UserAnswered) and event.plan is not None and event.arguments is not None:
            self._check_answer(before, record, event)
        return None

    def _check_system(self, before: Session, record: TransitionRecord, event: PromptReceived) -> None:
        system = self._system
        said = [message.text for message in event.messages if message.role == "system"]
        if system is not None and (said or before.turns == 0) and said[-1:] != [system]:
            self._report(record, "prompt", "the system prompt", _quoted(said[-1] if said else None), _quoted(system))

    def _check_cost(self, before: Session, record: TransitionRecord, event: ModelReplied) -> None:
        if event.cost_pico is None and self._settings.max_cost_pico is None:
            return
        try:
            cost = self._rules.cost_pico(before, event.reply)
        except Exception as error:
            self._report(record, "budget", "the cost of the reply", str(event.cost_pico), f"{error}")
            return
        if cost is not None and cost != event.cost_pico:
            self._report(record, "budget", "the cost of the reply", str(event.cost_pico), str(cost))

    def _check_answer(self, before: Session, record: TransitionRecord, event: UserAnswered) -> None:
        """Judge the arguments that a person wrote; neither grants nor the guard against loops have a say about them."""
        turn = before.turn
        asked = {request.id: request.call_id for request in before.pending}.get(event.request_id)
        call = next((call.call for call in (turn.calls if turn else ()) if call.call.id == asked), None)
        if turn is None or call is None or event.plan is None or event.arguments is None:
            return
        changed = ToolCall(id=call.id, name=call.name, arguments=event.arguments)
        alone = before._replace(grants=(), turn=turn._replace(done=()))
        plans = self._plans(alone, record, (changed,))
        if plans:
            said = {"note": event.plan.note, "timeout_s": event.plan.timeout_s}
            self._compare(record, (changed,), (event.plan,), (plans[0].model_copy(update=said),))

    def _replan(
        self, before: Session, record: TransitionRecord, calls: Sequence[ToolCall], recorded: tuple[PlannedCall, ...]
    ) -> tuple[PlannedCall, ...] | None:
        """Report what is decided otherwise about calls; return the decisions of today where there are others."""
        if not calls:
            return None
        opened = before.opened.model_copy(update={"settings": self._settings})
        plans = self._plans(before._replace(opened=opened), record, calls)
        if plans is None or not self._compare(record, calls, recorded, plans):
            return None
        return plans

    def _plans(
        self, session: Session, record: TransitionRecord, calls: Sequence[ToolCall]
    ) -> tuple[PlannedCall, ...] | None:
        try:
            return self._rules.plans(session, calls, record.at)
        except Exception as error:
            self._report(record, "approval", "the policy", "a decision", f"failed: {error}")
            return None

    def _compare(
        self,
        record: TransitionRecord,
        calls: Sequence[ToolCall],
        recorded: Sequence[PlannedCall],
        now: Sequence[PlannedCall],
    ) -> bool:
        differs = False
        for call, was, becomes in zip(calls, recorded, now, strict=True):
            for kind, text, before, after in plan_differences(call, was, becomes, record.at):
                differs = True
                self._report(record, kind, text, before, after)
        return differs

    # --- what the table makes of it -----------------------------------------------------------------------------------

    def _follow(self, before: Session, record: TransitionRecord) -> bool:
        """Take the event as it was recorded; report and go astray where this code gives something else."""
        now = self._step(self._cursor, record)
        recorded = Outcome(record.dest, record.effects)
        if isinstance(now, Outcome):
            # The same fault on both sides: only what follows from it is compared.
            differs = outcome_difference(recorded, now._replace(fault_kind=None))
            if differs is None:
                return True
            kind, text = differs
            self._report(record, kind, f"{text} after {record.trigger}, by this code", str(recorded), str(now))
        else:
            self._cursor = Cursor(before)
            self._report(record, "order", f"{record.trigger}, by this code", str(recorded), f"refused: {now}")
        self._astray = True
        return False

    def _try(self, session: Session, record: TransitionRecord, consequence: str = "") -> None:
        """Step the event by today's settings and decisions, beside what was recorded."""
        now = self._step(Cursor(session), record)
        turn = self._cursor.turn or self._cursor.last_turn
        fault = None if turn is None or turn.fault is None else turn.fault.kind
        recorded = Outcome(record.dest, record.effects, fault)
        if not isinstance(now, Outcome):
            self._report(record, "order", f"{consequence}{record.trigger}", str(recorded), f"refused: {now}")
            return
        differs = outcome_difference(recorded, now)
        if differs is None:
            return
        if consequence:
            last = self._found[-1]
            self._found[-1] = replace(last, now=f"{last.now}, then {now.state.value}")
        else:
            self._report(record, differs[0], f"{differs[1]} after {record.trigger}", str(recorded), str(now))

    def _step(self, cursor: Cursor, record: TransitionRecord) -> Outcome | str:
        """Return what the event of a record gives, or why it is refused."""
        assert not isinstance(record.event, UnknownEvent)
        try:
            effects = take(cursor, record.event, self._move)
        except (IllegalTransition, InvalidEvent) as error:
            return str(error)
        except Exception as error:
            # An action that meets a session as another table left it.
            return f"{type(error).__name__}: {error}"
        turn = cursor.turn or cursor.last_turn
        fault = None if turn is None or turn.fault is None else turn.fault.kind
        return Outcome(cursor.state, effects, fault)

    def _found_again(self, record: TransitionRecord) -> bool:
        """Whether the record can be judged again: it comes out as recorded, or it begins a turn."""
        session = self._cursor.frozen()._replace(seq=record.seq - 1)
        if record.trigger == "prompt_received" and record.source is State.IDLE:
            # What is left of the turn before is not known; the next one begins at rest.
            self._cursor = Cursor(session._replace(state=State.IDLE, turn=None, left=None))
        elif isinstance(record.event, UnknownEvent):
            return False
        else:
            now = self._step(Cursor(session), record)
            if not isinstance(now, Outcome) or outcome_difference(
                Outcome(record.dest, record.effects), now._replace(fault_kind=None)
            ):
                return False
            self._cursor = Cursor(session)
        self._astray = False
        return True

    def _report(self, record: TransitionRecord, kind: Kind, text: str, recorded: str, now: str) -> None:
        self._found.append(Divergence(record.seq, kind, text, recorded, now, record.seq))


def _quoted(text: str | None) -> str:
    return "none" if text is None else repr(text)


__all__ = ["Declared", "HasRules", "Rules", "diverge"]
