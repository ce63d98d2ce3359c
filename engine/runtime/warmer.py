"""Prepares what the next calls will need, beside the model's thinking, where that has shown to pay.

A `Warmer` watches the records of an engine's sessions, as an observer does: a request to the model is the moment to
choose and begin, the end of a call settles what was made for it, a prompt stops what idle time began. Nothing waits for
it, and nothing of it is journaled: what is prepared changes how long a turn takes, never what happens in it, so replay
needs to know nothing of it. Every preparation is a notice, and counted in the books of its owner and of the engine. May
import core, ports, predict and its neighbours. Must never raise into a turn, and never have anything run but a hook, a
read or the model's own preparation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

import anyio

from ..core.events import ModelReplied, PromptReceived, ShutdownRequested, ToolFinished, TurnCancelled
from ..core.notices import Notice, WarmUp
from ..core.record import TransitionRecord
from ..core.values import State, ToolCall, ToolStatus
from ..log import logger
from ..predict import Allowance, Chooser, Predictor, Tally
from .crew import Crew
from .driver import Driver
from .idle import IdleReport, IdleTime
from .learning import Learner
from .parts import Parts
from .preparing import Preparer
from .stock import Key, Preparation, Stock
from .wares import MODEL, Offer, wares_of

ASKED_AGAIN = 0.9
"""How probably an open session is asked again: what idle time prepares has to be worth it at that."""

_MODEL_ONLY = Allowance(1, inf)
_RAN = frozenset({ToolStatus.COMPLETED, ToolStatus.FAILED})


class WarmReport(NamedTuple):
    """What was prepared since the engine was opened: only noted, and really done; what runs now; the tools whose hooks
    were retired because they failed; what idle time was used for.
    """

    noted: Tally
    done: Tally
    running: int
    retired: tuple[str, ...]
    idle: IdleReport


class _Seen:
    """One session: the calls it asked for, when its model was asked, and what its turn may still begin."""

    __slots__ = ("asked", "asked_ns", "calls", "left")

    def __init__(self, left: Allowance, direct: Sequence[ToolCall]) -> None:
        self.asked = {call.id: call for call in direct}
        self.asked_ns = 0
        self.calls = 0
        self.left = left


class Warmer:
    """Prepares ahead for the sessions of one engine.

    Args:
        parts: what the engine is made of.
        learner: who predicts; it has to see each record before.
        crew: runs the preparations.
        drivers: those of the engine's open sessions, by their ids.
    """

    def __init__(self, parts: Parts, learner: Learner, crew: Crew, drivers: Mapping[str, Driver]) -> None:
        self._parts = parts
        self._settings = parts.settings.warming
        self._learner = learner
        self._crew = crew
        self._drivers = drivers
        self._wares = wares_of(parts)
        self._real, self._shadow = Stock(real=True), Stock(real=False)
        self._seen: dict[str, _Seen] = {}
        self._preparer = Preparer(crew, self._real, self._now_s, self._settings.timeout_s, self._tell)
        cache = parts.pipeline.cache
        steps = {
            "contexts": learner.decay,
            "cache_bytes": lambda: 0 if cache is None else cache.expire(anyio.current_time()),
            "preparations": lambda: self._expire(self._now_s()),
        }
        self._idle = IdleTime(steps, drivers, self._now_s)

    # --- what it sees -------------------------------------------------------------------------------------------------

    def on_record(self, record: TransitionRecord) -> None:
        """Take in a record; the learner has learned from it already."""
        event, session = record.event, record.session
        if isinstance(event, ToolFinished):
            self._ended(record, event)
        elif isinstance(event, ModelReplied):
            self._replied(record, event)
        elif isinstance(event, PromptReceived):
            self._idle.stop()
            self._preparer.stop_idle()
            left = Allowance(self._settings.per_turn, self._settings.seconds_per_turn)
            self._seen[session] = _Seen(left, event.direct_calls)
        elif isinstance(event, TurnCancelled | ShutdownRequested):
            self._preparer.stop(session)
        if record.dest is State.GENERATING_RESPONSE and record.source is not State.GENERATING_RESPONSE:
            self._thinking(record)
        elif record.dest is State.EXECUTING_TOOLS and record.source is State.GENERATING_RESPONSE:
            # A batch that has settled leads to the model, whatever its calls gave.
            self._ready_model(session, 1.0)
        elif record.dest is State.IDLE and record.source is not State.IDLE:
            self._at_rest(session)

    def on_notice(self, session: str, notice: Notice) -> None:
        """Do nothing: notices say nothing that records do not."""

    def opened(self, session: str) -> None:
        """Use the time until the first prompt of a session that was opened."""
        self._crew.start(partial(self._idle.use, partial(self._foresee, session)))

    def forget(self, session: str) -> None:
        """Let go of a session that is closed, and of what was prepared for it alone."""
        self._seen.pop(session, None)
        self._preparer.stop(session)
        self._shadow.leave(session)
        for made in self._real.leave(session):
            self._tell(session, WarmUp(made.tool, "wasted", made.spent_s))

    def report(self) -> WarmReport:
        """Return what was prepared so far."""
        retired = tuple(name for name, warm in self._wares.hooks.items() if self._preparer.retired(warm))
        return WarmReport(self._shadow.tally, self._real.tally, self._preparer.running, retired, self._idle.report())

    # --- settling -----------------------------------------------------------------------------------------------------

    def _replied(self, record: TransitionRecord, event: ModelReplied) -> None:
        seen, predictor = self._seen.get(record.session), self._learner.predictor(record.session)
        if seen is None or predictor is None:
            return
        if seen.asked_ns:
            predictor.books.benefit.thought((record.mono_ns - seen.asked_ns) / 1e9)
            seen.asked_ns = 0
        seen.asked = {call.id: call for call in event.reply.tool_calls}

    def _ended(self, record: TransitionRecord, event: ToolFinished) -> None:
        """Settle what a call has used, and what it has not."""
        session, predictor = record.session, self._learner.predictor(record.session)
        seen = self._seen.get(session)
        call = None if seen is None else seen.asked.pop(event.call_id, None)
        if seen is None or call is None or predictor is None or event.status is ToolStatus.DENIED:
            return
        seen.calls += 1
        now_s = record.mono_ns / 1e9
        began_s = now_s - event.duration_s
        key, warm = self._wares.key(call, session), self._wares.hooks.get(call.name)
        if key is not None:
            if warm is not None and event.status in _RAN and not self._preparer.runs(key):
                cold = not self._real.holds(key, began_s)
                predictor.books.benefit.called(call.name, event.duration_s, cold=cold)
            self._use(key, began_s)
            if warm is not None:
                for stock in (self._real, self._shadow):
                    stock.keep(key, now_s + warm.lifetime_s)
        self._shadow.called(session)
        for made in self._real.called(session):
            self._tell(session, WarmUp(made.tool, "wasted", made.spent_s))

    def _use(self, key: Key, now_s: float) -> None:
        self._shadow.use(key, now_s)
        used = self._real.use(key, now_s)
        if used is not None:
            self._tell(used.made.session, WarmUp(used.made.tool, "used", used.saved_s))

    def _expire(self, now_s: float) -> int:
        gone = len(self._shadow.expire(now_s))
        over = self._real.expire(now_s)
        for made in over:
            self._tell(made.session, WarmUp(made.tool, "wasted", made.spent_s))
        return gone + len(over)

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _thinking(self, record: TransitionRecord) -> None:
        """The model is being asked: choose what its calls will need, and begin."""
        session, seen, driver = record.session, self._seen.get(record.session), self._drivers.get(record.session)
        predictor = self._learner.predictor(session)
        if seen is None or predictor is None or driver is None:
            return
        seen.asked_ns = record.mono_ns
        now_s = record.mono_ns / 1e9
        model = Key(MODEL, session)
        self._use(model, now_s)
        for stock in (self._real, self._shadow):
            stock.drop(model)
        if seen.left.preparations > 0 and self._wares.any_open(session, now_s, self._real, self._shadow):
            # In a task of its own: the request to the model must not wait for what is learned and chosen meanwhile.
            self._crew.start(partial(self._choose, driver, seen, predictor))

    async def _choose(self, driver: Driver, seen: _Seen, predictor: Predictor) -> None:
        session = driver.session
        if session.state is not State.GENERATING_RESPONSE:
            return
        try:
            self._expire(self._now_s())
            offers = self._wares.offers(session, predictor, self._learner.situation(session.id))
            seen.left = self._prepare(offers, session.id, predictor, seen.left)
        except Exception:
            logger.exception("nothing could be prepared", session=session.id)

    def _ready_model(self, session: str, probability: float) -> None:
        """Get the model ready for the next request of a session, if it can be."""
        if self._wares.model is None:
            return
        predictor, driver = self._learner.predictor(session), self._drivers.get(session)
        if predictor is not None and driver is not None:
            offer = self._wares.model_offer(driver.session, probability)
            if offer is not None:
                self._prepare([offer], session, predictor, _MODEL_ONLY)

    def _at_rest(self, session: str) -> None:
        seen, predictor = self._seen.get(session), self._learner.predictor(session)
        if seen is not None and predictor is not None and seen.calls:
            seen.calls = 0
            predictor.books.end_run()
        self.opened(session)

    def _foresee(self, session: str) -> None:
        """Prepare for the next prompt of a session that rests."""
        predictor, driver = self._learner.predictor(session), self._drivers.get(session)
        if predictor is None or driver is None or driver.session.turn is not None:
            return
        predictor.catch_up()
        found = self._wares.offers(driver.session, predictor, None)
        offers = [offer._replace(probability=offer.probability * ASKED_AGAIN) for offer in found]
        model = self._wares.model_offer(driver.session, ASKED_AGAIN)
        allowance = Allowance(self._settings.per_turn, self._settings.seconds_per_turn)
        self._prepare([*offers, *([] if model is None else [model])], session, predictor, allowance, idle=True)

    def _prepare(
        self, offers: Sequence[Offer], session: str, predictor: Predictor, allowance: Allowance, *, idle: bool = False
    ) -> Allowance:
        """Choose among offers, begin what was chosen, or take note of it; return what is left of the allowance."""
        books, now_s = predictor.books, self._now_s()
        really = self._settings.mode == "on" or (self._settings.mode == "auto" and books.acting)
        stock = self._real if really else self._shadow
        # What will be over when the model has replied is of no more use.
        used_s = now_s + books.benefit.thinking_s
        open_offers = {
            offer.tool: offer
            for offer in offers
            if not (
                stock.holds(offer.key, used_s)
                or self._real.holds(offer.key, used_s)
                or self._preparer.runs(offer.key)
                or self._preparer.retired(offer.key.ware)
            )
        }
        if not open_offers or not self._parts.monitor.admitting:
            return allowance
        for offer in open_offers.values():
            books.benefit.declare(offer.tool, offer.start_s)
        books.rule.waste = self._settings.waste
        guesses = [(offer.tool, books.trusted(offer.probability)) for offer in open_offers.values()]
        declared = {offer.tool: offer.declared for offer in open_offers.values()}
        preparations, seconds = allowance
        for choice in Chooser(books.rule, books.benefit).choose(guesses, declared, (), allowance):
            offer = open_offers[choice.tool]
            if stock.holds(offer.key, used_s) or (really and self._preparer.running >= self._settings.at_once):
                continue
            start_s = books.benefit.start_s(offer.tool)
            made = Preparation(
                offer.tool, session, books, now_s, offer.declared.cost_s, start_s, predictor.settings.horizon
            )
            stock.put(offer.key, made, now_s + offer.lifetime_s, offer.probability)
            if really:
                self._preparer.begin(offer, made, idle=idle)
            preparations, seconds = preparations - 1, seconds - offer.declared.cost_s
        return Allowance(preparations, seconds)

    # --- within -------------------------------------------------------------------------------------------------------

    def _now_s(self) -> float:
        return self._parts.clock.monotonic_ns() / 1e9

    def _tell(self, session: str, notice: WarmUp) -> None:
        driver = self._drivers.get(session)
        if driver is not None:
            driver.broadcast.notice(notice)
