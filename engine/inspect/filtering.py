"""Which records a filter leaves: the language of the page's search field, for the command line and for tests.

    refund tool:find_order -state:idle is:problem "not found"

Words are looked for, in any case, in a record's event and effects as they are stored, in the name of the tool it is
about and in the state it leads to. `tool:`, `state:`, `trigger:`, `status:`, `turn:`, `call:` and `is:` (plain, done,
problem, waits, cut) ask for one thing. All terms must hold; a "-" before one turns it round; quotes keep words
together. `page/filter.js` says the same in the browser. May import core and its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..core.record import TransitionRecord
from .encoding import stored_text
from .wording import Reader, Told

KEYS = frozenset({"tool", "state", "trigger", "status", "turn", "call", "is"})

_TERM = re.compile(r'(-?)(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))')


class Term(NamedTuple):
    """One thing that is asked for; `key` is None for a word anywhere, `negated` asks for its absence."""

    key: str | None
    value: str
    negated: bool


def parse_filter(text: str) -> tuple[Term, ...]:
    """Return the terms of a filter; every text is one."""
    terms: list[Term] = []
    for minus, key, quoted, plain in _TERM.findall(text):
        value = quoted or plain
        if value:
            known = not key or key in KEYS
            terms.append(Term(key if key and known else None, value if known else f"{key}:{value}", bool(minus)))
    return tuple(terms)


def filtered(records: Iterable[TransitionRecord], text: str) -> Iterator[tuple[TransitionRecord, Told]]:
    """Iterate over the records of a whole history that a filter leaves, with what each tells."""
    terms = parse_filter(text)
    reader = Reader()
    for record in records:
        told = reader.tell(record)
        if all(_holds(term, record, told, reader) is not term.negated for term in terms):
            yield record, told


def _holds(term: Term, record: TransitionRecord, told: Told, reader: Reader) -> bool:
    call = reader.calls[told.call] if told.call >= 0 else None
    wanted = term.value.lower()
    match term.key:
        case None:
            stored = json.dumps(term.value, ensure_ascii=False)[1:-1].lower()
            tool = "" if call is None else call.tool.lower()
            return stored in stored_text(record).lower() or wanted in record.dest.value or wanted in tool
        case "tool":
            return call is not None and call.tool.lower() == wanted
        case "state":
            return record.dest.value == wanted
        case "trigger":
            return record.trigger.lower() == wanted
        case "status":
            return told.status is not None and told.status.value == wanted
        case "turn":
            return str(told.turn) == wanted
        case "call":
            return call is not None and call.id.lower() == wanted
        case _:
            return told.mark.value == wanted


__all__ = ["KEYS", "Term", "filtered", "parse_filter"]
