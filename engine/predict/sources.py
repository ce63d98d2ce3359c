"""Holds what arguments may have been taken from: the earlier arguments and results of one session, in memory only.

Values are kept as canonical JSON, because that is how two of them are compared, and only while the session is open.
Nothing of it is ever saved. May import the standard library. Must never grow with the length of a session or the size
of a result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias, cast

MAX_VALUE = 256
"""Characters of a value, as JSON; longer ones are not remembered."""

MAX_PLACES = 128
"""Places (arguments of tools, paths in results) that one session remembers; the oldest are forgotten."""

MAX_PER_PLACE = 32
"""Values at one place, such as the ids in a list."""

MAX_DEPTH = 6
"""Levels of a result that are looked into."""

MAX_NODES = 1000
"""Values of one result that are looked at."""

Origin: TypeAlias = Literal["argument", "first", "last", "each", "constant"]
"""The argument of an earlier call; the first, the last, or the next unused value at a path of a result; always this."""

Target: TypeAlias = tuple[str, str]
"""A tool and the name of one of its arguments."""

_TOO_DEEP = object()
"""Stands for what lies below MAX_DEPTH. It is no JSON, so it is not remembered."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z_-]{0,63}")


class Rule(NamedTuple):
    """Where a value comes from.

    `tool` was called earlier; `path` is the name of its argument or the path in its result (`orders[].id`, `*` for a
    key that looks like data). For a constant `tool` is empty and `path` is the salted digest.
    """

    origin: Origin
    tool: str
    path: str

    def __str__(self) -> str:
        if self.origin == "constant":
            return "always the same value"
        if self.origin == "argument":
            return f"the argument {self.path} of {self.tool}"
        return f"the {'next' if self.origin == 'each' else self.origin} value at {self.path or '$'} of {self.tool}"


def canonical(value: object) -> str | None:
    """Return a value as canonical JSON, or None if it is too long or none."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return text if len(text) <= MAX_VALUE else None


class Sources:
    """The values of one session that later arguments may repeat."""

    __slots__ = ("_places", "_taken")

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, str], list[str]] = {}
        self._taken: dict[Target, list[str]] = {}

    def note_arguments(self, tool: str, texts: Mapping[str, str]) -> None:
        """Remember the arguments of a call, which are also the values its tool has already been given."""
        for name, text in texts.items():
            self._put(("argument", tool, name), [text])
            taken = self._taken.setdefault((tool, name), [])
            if text not in taken:
                taken.append(text)
            del taken[:-MAX_PER_PLACE]
        while len(self._taken) > MAX_PLACES:
            del self._taken[next(iter(self._taken))]

    def note_result(self, tool: str, result: object) -> None:
        """Remember the values in a result, by their paths."""
        found: dict[str, list[str]] = {}
        for visited, (path, leaf) in enumerate(_leaves(result, "", MAX_DEPTH)):
            text = canonical(leaf)
            values = found.setdefault(path, [])
            if text is not None and text not in values and len(values) < MAX_PER_PLACE:
                values.append(text)
            if visited >= MAX_NODES or len(found) >= MAX_PLACES // 2:
                break
        for path, values in found.items():
            if values:
                self._put(("result", tool, path), values)

    def values(self, rule: Rule, target: Target) -> list[str]:
        """Return what a rule yields for an argument here; more than one value where it fans out."""
        place = "argument" if rule.origin == "argument" else "result"
        values = self._places.get((place, rule.tool, rule.path), [])
        if rule.origin == "each":
            taken = self._taken.get(target, ())
            return [value for value in values if value not in taken]
        return values[-1:] if rule.origin == "last" else values[:1]

    def rules_for(self, text: str, target: Target) -> Iterator[Rule]:
        """Yield every rule that would have given this value to this argument."""
        for (place, tool, path), values in self._places.items():
            if text not in values:
                continue
            if place == "argument":
                yield Rule("argument", tool, path)
                continue
            origins: tuple[Origin, ...] = ("first", "last", "each")
            for origin in origins:
                rule = Rule(origin, tool, path)
                if self.values(rule, target)[:1] == [text]:
                    yield rule

    def _put(self, place: tuple[str, str, str], values: list[str]) -> None:
        self._places.pop(place, None)
        self._places[place] = values
        if len(self._places) > MAX_PLACES:
            del self._places[next(iter(self._places))]


def _leaves(value: object, path: str, depth: int) -> Iterator[tuple[str, object]]:
    """Yield the values in a JSON value that are no containers, with their paths, in order."""
    if depth and isinstance(value, dict):
        for key, member in cast("dict[object, object]", value).items():
            name = key if isinstance(key, str) and _NAME.fullmatch(key) else "*"
            yield from _leaves(member, f"{path}.{name}" if path else name, depth - 1)
    elif depth and isinstance(value, list):
        for member in cast("list[object]", value):
            yield from _leaves(member, f"{path}[]", depth - 1)
    else:
        yield path, _TOO_DEEP if isinstance(value, dict | list) else value
