"""Writes what was learned as JSON, and reads it back strictly.

One object: `format`, `version`, `digest` (of the canonical JSON of the rest) and `learned`. Reading gives the very same
predictor or a reason why not; nothing is guessed or repaired. The salt is not written, only a digest that tells whether
another one is used. May import this package's parts and errors. Must never touch a file.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from math import isfinite
from typing import Any, TypeVar

from ..errors import PredictorRefused
from .arguments import Habit, Score
from .books import Books, Tally, numbers_of
from .contexts import Kind
from .counts import CELLS, Table
from .decision import Benefit, Sums
from .horizon import Ahead
from .learned import Learned, PredictorSettings
from .patterns import Pattern
from .sources import Rule

FORMAT = "agent-engine predictor"
VERSION = 1

T = TypeVar("T")


def encode(learned: Learned) -> str:
    """Return everything that was learned, as one line of JSON. Equal predictors give equal text."""
    body = _describe(learned)
    return _dumps({"format": FORMAT, "version": VERSION, "digest": _digest(body), "learned": body})


def decode(text: str, settings: PredictorSettings, where: str) -> Learned:
    """Return what `encode` wrote.

    Args:
        text: what was written.
        settings: whose it is and what may be held; a larger predictor is trimmed.
        where: what to call the text in an error.

    Raises:
        PredictorRefused: the text is damaged, of another format, of a newer version, or of another salt or horizon.
    """
    body = check(text, where)
    learned = Learned(settings)
    try:
        if body["salt"] != learned.words.check:
            raise PredictorRefused(where, "it was learned with another salt")
        if body["horizon"] != settings.horizon:
            raise PredictorRefused(where, f"its horizon is {body['horizon']} calls, not {settings.horizon}")
        _restore(body, learned)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise PredictorRefused(where, f"a part is malformed ({type(error).__name__}: {error})") from error
    learned.keep_within_bounds()
    return learned


def check(text: str, where: str) -> dict[str, Any]:
    """Return the `learned` member of a text whose format, version and digest are right.

    Raises:
        PredictorRefused: one of them is not.
    """
    try:
        whole: dict[str, Any] | None = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PredictorRefused(where, f"it is damaged ({error})") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise PredictorRefused(where, "it belongs to something else")
    if whole.get("version") != VERSION:
        raise PredictorRefused(where, f"it has version {whole.get('version')!r}, this release reads {VERSION}")
    body: dict[str, Any] | None = whole.get("learned")
    if not isinstance(body, dict) or whole.get("digest") != _digest(body):
        raise PredictorRefused(where, "it is damaged (its digest does not fit)")
    return body


def _describe(learned: Learned) -> dict[str, object]:
    names: dict[str, int] = {}

    def counted(counts: dict[str, float]) -> list[float]:
        return [number for name, count in counts.items() for number in (names.setdefault(name, len(names)), count)]

    return {
        "salt": learned.words.check,
        "horizon": learned.settings.horizon,
        "observations": learned.observations,
        "weights": learned.mixture.weights,
        "tables": [[f"{key:x}", table.unit, table.total, *counted(table.counts)] for key, table in learned.tables],
        "ahead": [[f"{key:x}", ahead.seen, *counted(ahead.counts)] for key, ahead in learned.horizon.by_key.items()],
        "distances": [[tool, *distances] for tool, distances in learned.horizon.distances.items()],
        "favourites": [[f"{mark:x}", count] for mark, count in learned.favourites.counts.items()],
        "rules": [
            [*target, score.calls, [[*rule, hits] for rule, hits in score.hits.items()]]
            for target, score in learned.rules.scores.items()
        ],
        "habits": [
            [tool, habit.right, habit.tried, [[*shape, count] for shape, count in habit.shapes.items()]]
            for tool, habit in learned.rules.habits.items()
        ],
        "patterns": [[*pair, *_numbers(pattern)] for pair, pattern in learned.patterns.by_pair.items()],
        "books": numbers_of(learned.books),
        "names": list(names),
    }


def _restore(body: dict[str, Any], learned: Learned) -> None:
    names: list[str] = [_text(name) for name in body["names"]]

    def counts(row: list[Any]) -> dict[str, float]:
        return {names[index]: _positive(count) for index, count in zip(row[::2], row[1::2], strict=True)}

    learned.observations = int(_number(body["observations"]))
    learned.mixture.weights = [_row([_positive(weight) for weight in row], CELLS) for row in body["weights"]]
    _row(learned.mixture.weights, len(Kind))
    learned.tables.fill(
        (int(row[0], 16), Table(counts(row[3:]), _positive(row[1]), _positive(row[2]))) for row in body["tables"]
    )
    learned.horizon.fill((int(row[0], 16), Ahead(_positive(row[1]), counts(row[2:]))) for row in body["ahead"])
    learned.horizon.distances = {
        _text(tool): _row([int(_number(count)) for count in distances], learned.settings.horizon)
        for tool, *distances in body["distances"]
    }
    learned.favourites.counts = {int(mark, 16): int(_number(count)) for mark, count in body["favourites"]}
    for tool, name, calls, hits in body["rules"]:
        rules = {Rule(origin, _text(source), _text(path)): _number(hit) for origin, source, path, hit in hits}
        learned.rules.scores[_text(tool), _text(name)] = Score(_positive(calls), rules)
    for tool, right, tried, shapes in body["habits"]:
        known = {tuple(_text(name) for name in shape[:-1]): _positive(shape[-1]) for shape in shapes}
        if not known:
            raise ValueError(f"a habit of {tool!r} that is none")
        learned.rules.habits[_text(tool)] = Habit(_number(right), _positive(tried), known)
    for before, tool, *numbers in body["patterns"]:
        learned.patterns.by_pair[_text(before), _text(tool)] = _pattern(numbers)
    learned.books = _books(body["books"])


def _numbers(pattern: Pattern) -> list[float]:
    classes = [number for pair in sorted(pattern.classes.items()) for number in pair]
    return [pattern.calls, pattern.failures, pattern.timed, pattern.seconds, pattern.memory_bytes, *classes]


def _pattern(numbers: list[Any]) -> Pattern:
    pattern = Pattern()
    calls, failures, timed, seconds, memory_bytes, *classes = numbers
    pattern.calls, pattern.failures, pattern.timed = int(calls), int(failures), int(timed)
    pattern.seconds, pattern.memory_bytes = _number(seconds), int(memory_bytes)
    pattern.classes = {int(place): int(count) for place, count in zip(classes[::2], classes[1::2], strict=True)}
    return pattern


def _books(row: list[Any]) -> Books:
    books = Books()
    price, noted, done, acting, runs, recent_s, benefit = row
    books.rule.price, books.acting, books.runs = _positive(price), bool(acting), int(_number(runs))
    books.noted, books.done = _tally(noted), _tally(done)
    books.recent_s = float(recent_s) if recent_s < 0 else _number(recent_s)
    books.benefit = Benefit.of({_text(name): _sums(row) for name, row in benefit.items()})
    return books


def _sums(row: list[Any]) -> Sums:
    sums = Sums(*map(_number, row))
    _positive(sums.weight + sums.heft)
    return sums


def _tally(row: list[Any]) -> Tally:
    prepared, used, wasted, failed, *seconds = row
    return Tally(*(int(_number(count)) for count in (prepared, used, wasted, failed)), *map(_number, seconds))


def _number(value: object) -> float:
    """Return a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _positive(value: object) -> float:
    number = _number(value)
    if number == 0:
        raise ValueError("0 where something was counted")
    return number


def _row(row: list[T], length: int) -> list[T]:
    if len(row) != length:
        raise ValueError(f"{len(row)} values instead of {length}")
    return row


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _digest(body: dict[str, Any] | dict[str, object]) -> str:
    return blake2b(_dumps(body).encode(), digest_size=16).hexdigest()


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
