"""The predictor of one tenant and workflow: tell it what tools were called, ask it what comes next.

It learns online and needs no training run: what it says about a call was said before the call was counted. May import
this package's modules and errors. Must never read a clock, draw a random number or keep an argument in the clear beyond
its session; asking changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from operator import itemgetter
from typing import NamedTuple

from . import files
from .arguments import Guess
from .books import Books
from .contexts import END, GROWTH, START, Session, Situation
from .counts import Table
from .files import AnyPath
from .learned import Learned, PredictorSettings, merged
from .mixing import Evidence
from .patterns import Execution, Pattern
from .persistence import decode, encode

MAX_PUT_OFF = 64
"""Things to be told that may wait."""


class Reason(NamedTuple):
    """One context behind a guess: `weight` times `probability` is what it adds; `seen` says on how many observations
    that rests.
    """

    context: str
    weight: float
    probability: float
    seen: float


class Predictor:
    """Learns which tools follow which, and predicts the next ones.

    A session is named by any hashable key and begins with the first word about it. Calls may be told from many sessions
    in any order. With `frozen` set, sessions are followed and nothing is learned.

    Args:
        settings: the tenant's salt, and the bounds.
    """

    def __init__(self, settings: PredictorSettings | None = None) -> None:
        self._adopt(Learned(settings or PredictorSettings()))

    def _adopt(self, learned: Learned) -> None:
        self._put_off: list[Callable[[], None]] = []
        self._frozen = False
        self._all_learned = learned
        self._all_sessions: dict[Hashable, Session] = {}
        self._unknown = self._new_session()
        self._always = self._unknown.keys[0][1]

    # -- telling

    def update(
        self,
        key: Hashable,
        tool: str,
        ok: bool | None = None,
        args: Mapping[str, object] | None = None,
        *,
        situation: Situation | None = None,
    ) -> None:
        """Tell that a tool was called, in the order of the calls.

        Args:
            key: the session.
            tool: its name; `END` for the end of a turn.
            ok: whether it succeeded, None if that is not known.
            args: its arguments, as JSON values; kept as salted digests.
            situation: what the engine knew when the call was asked for; the same that `predict` was given.
        """
        if tool == END:
            self.end_turn(key, situation=situation)
            return
        session = self._open(key)
        symbol = self._learned.words.symbol(tool)
        self._learn(session, symbol.tool, situation)
        learned, learn = self._learned, not self.frozen
        learned.horizon.see(session.pending, session.horizon_keys(), symbol.tool, learn)
        arguments_word = 0
        if args:
            arguments_word = learned.favourites.word(session, symbol, args, learn)
        if learned.settings.arguments:
            learned.rules.learn(session.sources, symbol.tool, args or {}, learn)
        session.push(symbol if ok is not False else learned.words.symbol(tool, failed=True), arguments_word)
        learned.make_room()

    def record(self, key: Hashable, tool: str, execution: Execution) -> None:
        """Tell how a call ran that `update` has told of: its time and memory, and the result that later arguments may
        be taken from.
        """
        session = self._open(key)
        name = self._learned.words.symbol(tool).tool
        if not self.frozen:
            self._learned.patterns.add(session.before(name), name, execution)
        if self._learned.settings.arguments and execution.result is not None:
            session.sources.note_result(name, execution.result)

    def end_turn(self, key: Hashable, *, situation: Situation | None = None) -> None:
        """Tell that the turn is over without another call, and that the session goes on."""
        session = self._open(key)
        self._learn(session, END, situation)
        session.push_end(self._learned.words.symbol(END))
        self._learned.make_room()

    def end(self, key: Hashable) -> None:
        """Tell that a session is over, and with it its turn."""
        session = self._sessions.pop(key, None) or self._new_session()
        self._learn(session, END, None)
        self._learned.horizon.end(session.pending, not self.frozen)
        self._learned.make_room()

    def forget(self, key: Hashable) -> None:
        """Tell that a session is over, between two turns or inside one that nobody ended: it has no next tool."""
        session = self._sessions.pop(key, None)
        if session is not None:
            self._learned.horizon.end(session.pending, not self.frozen)
            self._learned.make_room()

    def decay(self) -> int:
        """Forget the weakest contexts in idle time, so that the next turns find room.

        Returns:
            How many were forgotten: 0 while a fifth of the room is free.
        """
        return self._learned.decay()

    def later(self, tell: Callable[[], None]) -> None:
        """Put something off that is to be told. It is told, in its order, before anything else is told or asked, so
        nobody sees a difference; whoever has no time to learn just now does not have to.

        Args:
            tell: tells it; must not raise.
        """
        self._put_off.append(tell)
        if len(self._put_off) >= MAX_PUT_OFF:
            self.catch_up()

    def catch_up(self) -> None:
        """Tell what was put off."""
        if self._put_off:
            put_off, self._put_off = self._put_off, []
            for tell in put_off:
                tell()

    # -- asking

    def predict(self, key: Hashable, k: int = 3, *, situation: Situation | None = None) -> list[tuple[str, float]]:
        """Return the `k` most probable next tools with their probabilities, best first; `END` stands for none.

        The probabilities of all symbols add up to less than 1: what is left is for tools never seen.
        """
        evidence = self._evidence(self._session(key), situation)
        return self._learned.mixture.ranked(evidence, k, self._symbols())

    def sequence(self, key: Hashable, k: int = 4) -> list[tuple[str, float]]:
        """Return the most probable next calls, at most `k` and none beyond the end of the turn: each the best guess if
        those before it came and went well, with its probability then.
        """
        session = self._session(key).ahead()
        found: list[tuple[str, float]] = []
        while len(found) < k:
            best = self._learned.mixture.ranked(self._evidence(session, None), 1, self._symbols())
            if not best or best[0][0] == END:
                break
            found += best
            session.push(self._learned.words.symbol(best[0][0]), 0)
        return found

    def because(self, key: Hashable, tool: str, *, situation: Situation | None = None) -> list[Reason]:
        """Return what speaks for `tool` as the next one, the weightiest first.

        Weight times probability, summed up, is the probability that `predict` gives, but for the share (1.2 %) that it
        spreads over all symbols.
        """
        session = self._session(key)
        shares = self._learned.mixture.explain(self._evidence(session, situation), tool)
        return [Reason(session.describe(share.kind), *share[1:]) for share in shares]

    def within(self, key: Hashable, horizon: int | None = None, k: int = 3) -> list[tuple[str, float]]:
        """Return the `k` tools most probably used within the next `horizon` calls of the session, best first.

        Args:
            key: the session.
            horizon: calls, at most (and if not given) that of the settings.
            k: how many tools.
        """
        learned = self._learned.horizon
        calls = learned.horizon if horizon is None else max(0, horizon)
        estimate = learned.within(self._session(key).horizon_keys(), calls)
        return sorted(estimate.items(), key=itemgetter(1), reverse=True)[:k]

    def predict_within(self, key: Hashable, k: int, horizon: int) -> list[tuple[str, float]]:
        """Return `within(key, horizon, k)`: the form in which evaluations ask for it."""
        return self.within(key, horizon, k)

    def arguments(self, key: Hashable, tool: str) -> list[Guess]:
        """Return guesses of the arguments of the next call of `tool`, best first; none without a rule for each.

        Needs the setting `arguments`. A result computed ahead may be used only if name and canonical arguments of the
        real call are exactly these.
        """
        return self._learned.rules.guess(self._session(key).sources, self._learned.words.symbol(tool).tool)

    def pattern(self, tool: str, before: str | None = None) -> Pattern:
        """Return how a tool has behaved: calls, failures, durations, memory; after any tool, or after a certain one."""
        return self._learned.patterns.of(tool, before)

    def patterns(self, k: int = 10) -> list[tuple[tuple[str, str], Pattern]]:
        """Return the `k` most frequent pairs (tool before, tool), each with how the second behaved."""
        return self._learned.patterns.most_frequent(k)

    @property
    def settings(self) -> PredictorSettings:
        """Whose predictor it is, and what it may hold."""
        return self._all_learned.settings

    @property
    def frozen(self) -> bool:
        """Whether sessions are only followed, and nothing is learned from them."""
        return self._frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        self.catch_up()
        self._frozen = frozen

    @property
    def heavy(self) -> Mapping[str, int]:
        """The tools that have taken 64 MiB of memory or more, with the most that one call did, in bytes.

        What is put off is not part of it.
        """
        return self._all_learned.patterns.heavy

    @property
    def books(self) -> Books:
        """What preparing ahead has cost and saved; see `Books`."""
        return self._all_learned.books

    @property
    def observations(self) -> int:
        """How many decisions it has learned from: calls, and ends of turns."""
        return self._learned.observations

    @property
    def contexts(self) -> int:
        """How many contexts it holds, those of the horizon included."""
        return len(self._learned.tables.by_key) + len(self._learned.horizon.by_key)

    # -- keeping

    def save(self, path: AnyPath) -> None:
        """Write what was learned to a file, atomically. Open sessions are not part of it.

        Raises:
            PredictorRefused: what stands there is no predictor that could be loaded; it was not touched.
            OSError: it cannot be written; the old file is intact.
        """
        files.write(path, encode(self._learned))

    @classmethod
    def load(cls, path: AnyPath, settings: PredictorSettings | None = None) -> Predictor:
        """Return the predictor that was saved, with no session open.

        Raises:
            FileNotFoundError: there is no file.
            PredictorRefused: it is damaged, of a newer version, or of another salt or horizon; it was not touched.
        """
        loaded = cls(settings)
        learned = decode(files.read(path), loaded._learned.settings, str(path))
        loaded._adopt(learned)
        return loaded

    def pack(self) -> bytes:
        """Return what was learned as text, which takes a sixth of the memory. Open sessions are not part of it."""
        return encode(self._learned).encode("ascii")

    @classmethod
    def unpack(cls, packed: bytes, settings: PredictorSettings) -> Predictor:
        """Return the predictor that was packed, with no session open.

        Raises:
            PredictorRefused: the settings are of another salt or horizon.
        """
        unpacked = cls(settings)
        unpacked._adopt(decode(packed.decode("ascii"), settings, "a packed predictor"))
        return unpacked

    def merge(self, other: Predictor) -> Predictor:
        """Return a new predictor that has learned what both have; neither is changed, the order does not matter.

        Raises:
            UsageError: their settings differ.
        """
        both = Predictor(self._learned.settings)
        both._adopt(merged(self._learned, other._learned))
        return both

    # -- within

    @property
    def _learned(self) -> Learned:
        if self._put_off:
            self.catch_up()
        return self._all_learned

    @property
    def _sessions(self) -> dict[Hashable, Session]:
        if self._put_off:
            self.catch_up()
        return self._all_sessions

    def _new_session(self) -> Session:
        return Session(self._learned.words.symbol(START))

    def _session(self, key: Hashable) -> Session:
        return self._sessions.get(key, self._unknown)

    def _open(self, key: Hashable) -> Session:
        """Return the session, the last to be forgotten of all that are open."""
        session = self._sessions.pop(key, None)
        if session is None:
            if len(self._sessions) >= self._learned.settings.max_sessions:
                del self._sessions[next(iter(self._sessions))]
            session = self._new_session()
        self._sessions[key] = session
        return session

    def _symbols(self) -> int:
        always = self._learned.tables.by_key.get(self._always)
        return 2 if always is None else len(always.counts) + 2

    def _evidence(self, session: Session, situation: Situation | None) -> Evidence:
        evidence = [(kind, table) for kind, _, table in self._known(session, situation) if table is not None]
        return evidence + session.evidence_here()

    def _known(self, session: Session, situation: Situation | None) -> list[tuple[int, int, Table | None]]:
        """Return each kind of context with its key, and its table if there is one."""
        tables = self._learned.tables.by_key
        at_hand, find = tables.at_hand, tables.get
        known = [(kind, key, at_hand(key) or find(key)) for kind, key in session.keys]
        if situation is not None:
            kind, key = session.key_in(situation, self._learned.words)
            known.append((kind, key, find(key)))
        return known

    def _learn(self, session: Session, symbol: str, situation: Situation | None) -> None:
        """Learn from what came next: first whom to trust, then what to expect."""
        if self.frozen:
            return
        learned = self._learned
        known = self._known(session, situation)
        evidence = [(kind, table) for kind, _, table in known if table is not None] + session.evidence_here()
        if evidence:
            learned.mixture.learn(evidence, symbol, self._symbols())
        add = learned.tables.add
        for kind, key, table in known:
            add(key, table, symbol, GROWTH[kind])
        session.count_here(symbol)
        learned.observations += 1
