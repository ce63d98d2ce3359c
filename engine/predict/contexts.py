"""Knows where a session stands, and under which keys that is remembered.

A decision point (which tool comes next?) is looked at in many ways at once: after the last tool, after the last four,
at this place in the turn, with these tools used so far, and so on. Each way is a `Kind` of context; each yields one
key. May import this package's words, counts, sources and horizon. Must never be shared by
two sessions: what is learned from all of them is kept elsewhere.
"""

from __future__ import annotations

from copy import copy
from enum import IntEnum
from typing import NamedTuple

from .counts import FAST, SESSION, SLOW, Table
from .horizon import Pending
from .sources import Sources
from .words import Symbol, Words, constant_word

END = "<end>"
"""The symbol for "no more tool in this turn". It is predicted like a tool."""

START = "<start>"
"""Stands before the first tool of a session. Never predicted."""

MAX_USED = 16
"""Distinct tools that the set of used ones distinguishes."""

MAX_CALLS_FOR_SET = 40
"""Calls after which the set of used tools says nothing any more."""

MAX_REMEMBERED = 64
"""Tables of a session's own, and calls of it that are remembered to notice a repetition."""


class Kind(IntEnum):
    """The ways of looking at a decision point. The values index the mixing weights and stay as they are."""

    ALWAYS = 0
    LAST = 1
    LAST_TWO = 2
    LAST_THREE = 3
    LAST_FOUR = 4
    LAST_SIX = 5
    PLACE = 6
    USED = 7
    RUN = 8
    SKIP = 9
    FIRST = 10
    ARGUMENTS = 11
    SITUATION = 12
    LAST_RECENTLY = 13
    LAST_TWO_RECENTLY = 14
    LAST_THREE_RECENTLY = 15
    ARGUMENTS_RECENTLY = 16
    LAST_HERE = 17
    LAST_TWO_HERE = 18


GROWTH = tuple(
    FAST if kind.name.endswith("RECENTLY") else SESSION if kind.name.endswith("HERE") else SLOW for kind in Kind
)
"""How fast the tables of each kind forget."""

_HERE = (Kind.LAST_HERE, Kind.LAST_TWO_HERE)
_DEPTHS = {"LAST": 1, "LAST_TWO": 2, "LAST_THREE": 3, "LAST_FOUR": 4, "LAST_SIX": 6}

Key = tuple[int, int]
"""A kind and the 64-bit key of one context of that kind."""


class Situation(NamedTuple):
    """What only the engine, or its host, knows about a decision point. What is not known is left out.

    `state` is the machine's state, `round` counts the model calls of the turn from 1, `hint` is anything that the host
    knows, such as a step of its workflow.
    """

    state: str = ""
    round: int = 0
    began_with_text: bool | None = None
    hint: str = ""


_K = tuple(constant_word(f"kind {kind.name}") for kind in Kind)
_PLACES = tuple(tuple(constant_word(f"turn {turn} call {call}") for call in range(7)) for turn in range(4))
_RUNS = tuple(constant_word(f"run {length}") for length in range(9))


class Session:
    """One conversation as the predictor sees it: the last six symbols, the turn, what was used, and its own tables."""

    __slots__ = (
        "calls", "first", "here", "here_keys", "history", "keys", "pending", "place", "repeats", "run", "sources",
        "turn", "used", "used_word",
    )  # fmt: skip

    def __init__(self, start: Symbol) -> None:
        self.history: list[Symbol] = [start]
        self.first = start
        self.turn = self.place = self.run = self.calls = self.used_word = 0
        self.used: set[str] = set()
        self.repeats: dict[int, None] = {}
        self.here: dict[int, Table] = {}
        self.pending: list[Pending] = []
        self.sources = Sources()
        self.keys: list[Key] = []
        self.here_keys: list[Key] = []
        self._find_keys(0)

    def ahead(self) -> Session:
        """Return another session that stands where this one does, to be moved on for the sake of argument."""
        other = copy(self)
        other.history, other.used = list(self.history), set(self.used)
        return other

    def push(self, symbol: Symbol, arguments_word: int) -> None:
        """Go on to the point after a call. `arguments_word` is 0 where nothing is known about the arguments."""
        self.run = self.run + 1 if self.history[-1].tool == symbol.tool else 1
        self.place += 1
        self.calls += 1
        if self.calls == 1:
            self.first = symbol
        if symbol.tool not in self.used and len(self.used) < MAX_USED:
            self.used.add(symbol.tool)
            self.used_word ^= symbol.words[6]
        self._remember(symbol)
        self._find_keys(arguments_word)

    def push_end(self, end: Symbol) -> None:
        """Go on to the beginning of the next turn."""
        self.turn += 1
        self.place = self.run = 0
        self._remember(end)
        self._find_keys(0)

    def is_repetition(self, call_word: int) -> bool:
        """Say whether the session has made this very call before, and remember it."""
        if call_word in self.repeats:
            return True
        if len(self.repeats) >= MAX_REMEMBERED:
            del self.repeats[next(iter(self.repeats))]
        self.repeats[call_word] = None
        return False

    def evidence_here(self) -> list[tuple[int, Table]]:
        """Return the session's own tables of the contexts it is in, with their kinds."""
        here = self.here
        return [(kind, here[key]) for kind, key in self.here_keys if key in here]

    def count_here(self, symbol: str) -> None:
        """Count what came next in this session's own tables."""
        here = self.here
        for _, key in self.here_keys:
            table = here.get(key)
            if table is None:
                if len(here) >= MAX_REMEMBERED:
                    del here[next(iter(here))]
                here[key] = Table({symbol: 1})
            else:
                table.add(symbol, SESSION)

    def key_in(self, situation: Situation, words: Words) -> Key:
        """Return the key of the situation together with the last tool."""
        state, round_, began_with_text, hint = situation
        told = words.value([state, min(round_, 8), began_with_text, hint])
        return Kind.SITUATION.value, _K[Kind.SITUATION] ^ self.history[-1].words[0] ^ told

    def before(self, tool: str) -> str:
        """Return the tool that was called before the latest call of `tool`, as far back as the history goes."""
        for position in range(len(self.history) - 1, 0, -1):
            if self.history[position].tool == tool:
                return self.history[position - 1].tool
        return START

    def describe(self, kind: Kind) -> str:
        """Say in words what context of this kind the session is in."""
        last = str(self.history[-1])
        back = _DEPTHS.get(kind.name.removesuffix("_RECENTLY").removesuffix("_HERE"))
        if back is not None:
            when = ", lately" if kind.name.endswith("RECENTLY") else ", in this session" if kind in _HERE else ""
            return f"after {', '.join(map(str, self.history[-back:]))}{when}"
        return {
            Kind.ALWAYS: "at any time",
            Kind.PLACE: f"after {last}, {self.place} calls into turn {self.turn + 1}",
            Kind.USED: f"after {last}, having used {', '.join(sorted(self.used)) or 'nothing'}",
            Kind.RUN: f"after {last} {self.run} times in a row",
            Kind.SKIP: f"after {', '.join(map(str, self.history[-3:-1]))} and any other",
            Kind.FIRST: f"after {last} in a session that began with {self.first}",
            Kind.ARGUMENTS: f"after {last} with such arguments",
            Kind.ARGUMENTS_RECENTLY: f"after {last} with such arguments, lately",
            Kind.SITUATION: f"after {last} in this state of the engine",
        }[kind]

    def _remember(self, symbol: Symbol) -> None:
        self.history.append(symbol)
        if len(self.history) > 6:
            del self.history[0]

    def _find_keys(self, arguments_word: int) -> None:
        """Compute the keys once, here, for every prediction and for the update that follows."""
        words = [symbol.words for symbol in reversed(self.history)]
        depth = len(words)
        last = words[0][0]
        place = _PLACES[min(self.turn, 3)][min(self.place, 6)]
        # Kinds stand as numbers in this function and its readers: an enumeration's attribute costs a look-up each.
        keys: list[Key] = [
            (0, _K[0]),
            (1, _K[1] ^ last),
            (6, _K[6] ^ last ^ place),
            (8, _K[8] ^ last ^ _RUNS[min(self.run, 8)]),
            (10, _K[10] ^ last ^ self.first.words[7]),
            (13, _K[13] ^ last),
        ]
        here: list[Key] = [(17, _K[17] ^ last)]
        if self.calls < MAX_CALLS_FOR_SET:
            keys.append((7, _K[7] ^ last ^ self.used_word))
        if arguments_word:
            keys += ((11, _K[11] ^ last ^ arguments_word), (16, _K[16] ^ last ^ arguments_word))
        if depth > 1:
            two = last ^ words[1][1]
            keys += ((2, _K[2] ^ two), (14, _K[14] ^ two))
            here.append((18, _K[18] ^ two))
            if depth > 2:
                three = two ^ words[2][2]
                keys += ((3, _K[3] ^ three), (15, _K[15] ^ three), (9, _K[9] ^ three ^ last))
                if depth > 3:
                    four = three ^ words[3][3]
                    keys.append((4, _K[4] ^ four))
                    if depth > 5:
                        keys.append((5, _K[5] ^ four ^ words[4][4] ^ words[5][5]))
        self.keys = keys
        self.here_keys = here

    def horizon_keys(self) -> tuple[int, ...]:
        """Return the keys that `horizon` looks at, the widest context first."""
        last = self.history[-1].words[0]
        used = _K[7] ^ last ^ self.used_word
        if len(self.history) == 1:
            return _K[0], _K[1] ^ last, used
        return _K[0], _K[1] ^ last, _K[2] ^ last ^ self.history[-2].words[1], used
