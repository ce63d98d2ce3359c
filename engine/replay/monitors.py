"""Rules about the order of events in time, checked over histories and live.

`never`, `before`, `within` and `leads_to` make rules of queries. A rule watches one session record by record and tells
of every violation with the records that show it. Rules are data: the same ones check a journal and an engine that runs.
May import core, journal, ports and the log. Must never change anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from ..core.notices import Notice
from ..core.record import TransitionRecord
from ..core.values import State
from ..errors import UsageError
from ..ports import Journal
from .reading import read_history
from .searching import Finder, Query

Scope: TypeAlias = Literal["turn", "session"]
"""Within which a rule looks back and waits: from a prompt to the end of its turn, or the whole history."""

_SESSIONS = 10_000


class Violation(NamedTuple):
    """Where a rule does not hold: the rule's name, the session, and what is wrong, in words.

    `seqs` are the records that show it: what it is about first, where it was broken last.
    """

    rule: str
    session: str
    seqs: tuple[int, ...]
    reason: str

    @property
    def length(self) -> int:
        """How many records one has to read to see it."""
        return self.seqs[-1] - self.seqs[0] + 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule; made by `never`, `before`, `within` and `leads_to`.

    Attributes:
        kind: which of them.
        name: how it is called in reports.
        first: what it begins with; for `never` what must not happen.
        then: what must, or must only, follow.
        scope: see `Scope`.
        records: for `within`, after how many records at the latest.
        seconds: for `within`, after how many seconds at the latest.
    """

    kind: Literal["never", "before", "within", "leads_to"]
    name: str
    first: Query
    then: Query | None = None
    scope: Scope = "session"
    records: int | None = None
    seconds: float | None = None


def on(
    *, trigger: str | Sequence[str] = (), tool: str | Sequence[str] = (), state: str | Sequence[str] = (),
    text: str = "",
) -> Query:  # fmt: skip
    """Return a query for a rule; see `Query`. Where several are given, one of them must be so.

    Raises:
        UsageError: there is no such event or state, or nothing is asked for.
    """
    names = [(given,) if isinstance(given, str) else tuple(given) for given in (trigger, tool, state)]
    if not any(names) and not text:
        raise UsageError("on() is about every record; say which: on(trigger=…, tool=…, state=…, text=…)")
    try:
        states = frozenset(map(State, names[2]))
    except ValueError as error:
        raise UsageError(f"{error}; there are: {', '.join(one.value for one in State)}") from None
    return Query(text, frozenset(names[0]), frozenset(names[1]), states)


def never(what: Query, *, name: str = "") -> Rule:
    """Return the rule that this never happens."""
    return Rule("never", name or "never", what)


def before(first: Query, then: Query, *, scope: Scope = "session", name: str = "") -> Rule:
    """Return the rule that `then` does not happen until `first` has happened in the same scope."""
    return Rule("before", name or "before", first, then, scope)


def within(
    first: Query, then: Query, *, records: int | None = None, seconds: float | None = None, name: str = ""
) -> Rule:
    """Return the rule that after each `first`, `then` follows in so many records, or so many seconds, or both.

    What a history that ends earlier would still have had time for is no violation.

    Raises:
        UsageError: there is no bound, or it is not positive.
    """
    bounds = [bound for bound in (records, seconds) if bound is not None]
    if not bounds or min(bounds) <= 0:
        raise UsageError("within(…) needs a bound above 0: records=10, or seconds=2.5, or both")
    return Rule("within", name or "within", first, then, "session", records, seconds)


def leads_to(first: Query, then: Query, *, scope: Scope = "turn", name: str = "") -> Rule:
    """Return the rule that each `first` is followed by `then`: before its turn ends, or before the history does."""
    return Rule("leads_to", name or "leads_to", first, then, scope)


class Watch:
    """One rule over one session.

    Args:
        rule: the rule.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._first = Finder(rule.first)
        self._then = Finder(rule.first if rule.then is None else rule.then)
        self._begun: TransitionRecord | None = None
        self._open: list[TransitionRecord] = []

    def see(self, record: TransitionRecord) -> Iterator[Violation]:
        """Take the next record; iterate over what it violates."""
        rule = self._rule
        if rule.scope == "turn" and record.trigger == "prompt_received":
            self._begun = None
        first = self._first.look(record) is not None
        then = self._then.look(record) is not None
        if rule.kind == "never" and first:
            yield self._violation("it happened", record)
        elif rule.kind == "before":
            if then and self._begun is None and not first:
                yield self._violation("nothing of the kind had happened before", record)
            self._begun = record if first else self._begun
        else:
            yield from self._follow(record, first, then)
        if rule.scope == "turn" and record.dest is State.IDLE and record.source is not State.IDLE:
            yield from self.end("the turn ended first", record)

    def _follow(self, record: TransitionRecord, first: bool, then: bool) -> Iterator[Violation]:
        late = [begun for begun in self._open if self._is_late(begun, record)]
        for begun in late:
            yield self._violation("it did not follow in time", begun, record)
        if late:
            self._open = [begun for begun in self._open if begun not in late]
        if then:
            self._open.clear()
        if first:
            self._open.append(record)

    def end(self, reason: str = "the history ended first", last: TransitionRecord | None = None) -> Iterator[Violation]:
        """Iterate over what is still waited for, at the end of a history."""
        if self._rule.kind == "leads_to":
            for begun in self._open:
                yield self._violation(reason, begun, last or begun)
        self._open.clear()

    def _is_late(self, begun: TransitionRecord, record: TransitionRecord) -> bool:
        rule = self._rule
        if rule.records is not None and record.seq - begun.seq > rule.records:
            return True
        if rule.seconds is None:
            return False
        took = datetime.fromisoformat(record.at) - datetime.fromisoformat(begun.at)
        return took.total_seconds() > rule.seconds

    def _violation(self, reason: str, *records: TransitionRecord) -> Violation:
        seqs = tuple(dict.fromkeys(record.seq for record in records))
        return Violation(self._rule.name, records[0].session, seqs, reason)


def check(rules: Sequence[Rule], records: Sequence[TransitionRecord]) -> list[Violation]:
    """Return every violation in one history, in the order in which it shows."""
    watches = [Watch(rule) for rule in rules]
    found = [one for record in records for watch in watches for one in watch.see(record)]
    return found + [one for watch in watches for one in watch.end()]


@dataclass(slots=True)
class Standing:
    """How a rule stands over a journal: how often it is violated, and the violation that is seen in fewest records."""

    rule: Rule
    violations: int = 0
    shortest: Violation | None = None

    def take(self, violation: Violation) -> None:
        """Count a violation."""
        self.violations += 1
        if self.shortest is None or violation.length < self.shortest.length:
            self.shortest = violation


async def check_journal(
    rules: Sequence[Rule], journal: Journal, sessions: Sequence[str] | None = None
) -> tuple[Standing, ...]:
    """Check rules over histories where they are stored, a page at a time.

    Args:
        rules: what to check.
        journal: where to read.
        sessions: ids of the sessions; all of them if not given.

    Returns:
        One standing a rule, in their order.

    Raises:
        UnknownSession, JournalError: a history cannot be read, or is damaged.
    """
    standings = tuple(Standing(rule) for rule in rules)
    names = [info.id for info in await journal.sessions()] if sessions is None else sessions
    for name in names:
        watches = [(Watch(standing.rule), standing) for standing in standings]
        async for record in read_history(journal, name):
            for watch, standing in watches:
                for violation in watch.see(record):
                    standing.take(violation)
        for watch, standing in watches:
            for violation in watch.end():
                standing.take(violation)
    return standings


@dataclass(slots=True)
class LiveRules:
    """Rules over an engine that runs: an observer, `Engine(observers=[LiveRules(rules, report)])`.

    A session that is opened again is watched from there on. The newest 10,000 sessions are watched.

    Attributes:
        rules: what to check.
        report: called in line with each violation as it happens.
    """

    rules: Sequence[Rule]
    report: Callable[[Violation], None]
    _sessions: OrderedDict[str, list[Watch]] = field(default_factory=OrderedDict[str, list[Watch]])

    def on_record(self, record: TransitionRecord) -> None:
        """See a record that has just become durable."""
        watches = self._sessions.get(record.session)
        if watches is None:
            watches = self._sessions[record.session] = [Watch(rule) for rule in self.rules]
            if len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(record.session)
        for watch in watches:
            for violation in watch.see(record):
                self.report(violation)

    def on_notice(self, session: str, notice: Notice) -> None:
        """Pass over a notice: rules are about what is recorded."""


CONSTRUCTORS: Mapping[str, Callable[..., Rule]] = {
    "never": never, "before": before, "within": within, "leads_to": leads_to,
}  # fmt: skip
"""The words of a file of rules."""
