"""JSON as models really write it: the usual slips read as what they stand for, everything else refused.

A value that is strict JSON is read as such. Otherwise one pass, in linear time, forgives what has one reading only:

* a comma before a closing bracket;
* strings in single or typographic quotes, and keys without quotes;
* line breaks and other control characters inside a string, and an apostrophe behind a backslash;
* Python's `True`, `False`, `None`;
* closing brackets that are missing at the end, after a complete member, where the caller says that the text was not cut
  off; and ones too many at the end;
* a code fence around it.

Nothing is invented: a string that does not end, a member without a value, a comma with nothing behind it are refused,
and so is a key that stands twice. Pure. May import the core only.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import JsonValue

from ...core.arguments import MAX_DEPTH, check_json_value, decode_value

Repair: TypeAlias = Literal[
    "trailing_comma", "single_quotes", "smart_quotes", "unquoted_key", "control_characters", "escaped_apostrophe",
    "python_literal", "missing_brackets", "surplus_brackets", "code_fence",
]  # fmt: skip
"""What was forgiven."""


class Unfinished(ValueError):
    """The text ends inside a string: what was taken for its end may have been a part of it."""


class Read(NamedTuple):
    """A value, where it ends, and what was forgiven, each once, in alphabetical order."""

    value: JsonValue
    end: int
    repairs: tuple[Repair, ...] = ()


def read_value(text: str, start: int = 0, *, whole: bool = True, strict: bool = True) -> Read:
    """Return the value that begins at `start`, after white space.

    Args:
        text: what a model wrote.
        start: where to begin.
        whole: the model ended where the text ends, so that brackets which are missing there were forgotten. False: it
            was cut off, and nobody knows what would have followed.
        strict: try strict JSON first. Where the value before it was none, that is time lost.

    Raises:
        Unfinished: the text ends inside a string.
        ValueError: it is damaged beyond what can be repaired.
    """
    start = _space(text, start)
    if strict:
        with suppress(ValueError):
            value, end = decode_value(text, start)
            check_json_value(value, "$")
            return Read(value, end)
    reader = _Reader(text, start, whole)
    value = reader.value(1)
    return Read(value, reader.at, tuple(sorted(reader.repairs)))


def read_only_value(text: str, *, whole: bool = True) -> Read:
    """Return the one value that a text is, without the code fence around it and closing brackets too many behind it.

    Raises:
        Unfinished, ValueError: as `read_value`, or something else follows.
    """
    inner, fenced = unfenced(text)
    read = read_value(inner, whole=whole)
    rest = inner[read.end :].strip()
    if rest.strip("]}"):
        raise ValueError("something follows the value")
    more: list[Repair] = []
    if rest:
        more.append("surplus_brackets")
    if fenced:
        more.append("code_fence")
    return read._replace(repairs=tuple(sorted({*read.repairs, *more})))


def read_keywords(text: str, start: int) -> Read:
    """Return the arguments that stand as in a call of Python's, from behind its opening bracket to the closing one.

    Raises:
        Unfinished, ValueError: as `read_value`, or one of them is no literal.
    """
    reader = _Reader(text, start, whole=False)
    value = reader.keywords()
    return Read(value, reader.at, tuple(sorted(reader.repairs)))


def unfenced(text: str) -> tuple[str, bool]:
    """Return what stands inside the code fence that a text begins with, and whether there was one."""
    begun = _FENCE.match(text)
    if begun is None:
        return text, False
    inner = text[begun.end() :].rstrip()
    return inner.removesuffix("```"), True


# --- the forgiving reader ---------------------------------------------------------------------------------------------

_FENCE = re.compile(r"\s*```[a-z_]*[ \t]*\n?", re.ASCII)
_SPACE = re.compile(r"\s*")
# Possessive, so that a string without an end costs one look at it and no more.
_DOUBLE = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_SMART = re.compile(r"[“”„]((?:[^“”„\\]++|\\.)*+)[“”]", re.DOTALL)
# An apostrophe inside is one that nothing follows that could stand behind a string.
_SINGLE = re.compile(r"'((?:[^'\\]++|\\.|'(?!\s*(?:[,:}\]]|\Z)))*+)'", re.DOTALL)
_SMART_SINGLE = re.compile(r"[‘’]((?:[^‘’\\]++|\\.|[‘’](?!\s*(?:[,:}\]]|\Z)))*+)[‘’]", re.DOTALL)
_QUOTED: dict[str, tuple[re.Pattern[str], Repair | None]] = {
    '"': (_DOUBLE, None), "'": (_SINGLE, "single_quotes"),
    "“": (_SMART, "smart_quotes"), "”": (_SMART, "smart_quotes"), "„": (_SMART, "smart_quotes"),
    "‘": (_SMART_SINGLE, "smart_quotes"), "’": (_SMART_SINGLE, "smart_quotes"),
}  # fmt: skip
_BARE_KEY = re.compile(r"[A-Za-z_$][\w$-]*+", re.ASCII)
_ATOM = re.compile(r"[\w.+-]++")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?", re.ASCII)
_WORDS: dict[str, bool | None] = {
    "true": True, "false": False, "null": None, "True": True, "False": False, "None": None,
}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f]")
_TO_ESCAPE = re.compile(r"(\\.)|\"", re.DOTALL)
_loose = json.JSONDecoder(strict=False)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


class _Reader:
    """Reads one value, and remembers where it is and what it forgave."""

    def __init__(self, text: str, at: int, whole: bool) -> None:
        self.text = text
        self.at = at
        self.repairs: set[Repair] = set()
        self._whole = whole

    def value(self, depth: int) -> JsonValue:
        if depth > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        char = self._next()
        if char == "{":
            return self._object(depth)
        if char == "[":
            return self._array(depth)
        return self._string(char) if char in _QUOTED else self._atom()

    def keywords(self) -> JsonValue:
        found: dict[str, JsonValue] = {}
        while (char := self._next()) != ")":
            if found and char != ",":
                raise ValueError("a comma is missing")
            self.at += bool(found)
            self._next()
            name = _BARE_KEY.match(self.text, self.at)
            if name is None or name.group() in found or self.text[name.end() : name.end() + 1] != "=":
                raise ValueError("an argument has no name, or that of another one")
            self.at = name.end() + 1
            found[name.group()] = self.value(1)
        self.at += 1
        return found

    def _object(self, depth: int) -> JsonValue:
        found: dict[str, JsonValue] = {}
        while self._more("}", empty=not found):
            key = self._key()
            if self._next() != ":":
                raise ValueError("a key without a value")
            self.at += 1
            if key in found:
                raise ValueError("a key stands twice")
            found[key] = self.value(depth + 1)
        return found

    def _array(self, depth: int) -> JsonValue:
        found: list[JsonValue] = []
        while self._more("]", empty=not found):
            found.append(self.value(depth + 1))
        return found

    def _more(self, closer: str, *, empty: bool) -> bool:
        """Go on to the next member, if there is one, over the bracket or comma that stands before it."""
        if empty:
            self.at += 1
        char = self._next()
        if char == closer:
            self.at += 1
            return False
        if empty:
            return True
        if not char and self._whole:
            self.repairs.add("missing_brackets")
            return False
        if char != ",":
            raise ValueError("a comma is missing, or a bracket does not fit")
        self.at += 1
        if self._next() == closer:
            self.repairs.add("trailing_comma")
            self.at += 1
            return False
        return True

    def _next(self) -> str:
        self.at = _space(self.text, self.at)
        return self.text[self.at : self.at + 1]

    def _key(self) -> str:
        char = self._next()
        if char in _QUOTED:
            return self._string(char)
        bare = _BARE_KEY.match(self.text, self.at)
        if bare is None:
            raise ValueError("a key is missing")
        self.repairs.add("unquoted_key")
        self.at = bare.end()
        return bare.group()

    def _string(self, quote: str) -> str:
        pattern, repair = _QUOTED[quote]
        found = pattern.match(self.text, self.at)
        if found is None:
            raise Unfinished("a string does not end")
        self.at = found.end()
        if repair is not None:
            self.repairs.add(repair)
        inner = found.group(1)
        if _CONTROL.search(inner):
            self.repairs.add("control_characters")
        text: Any = _loose.decode(f'"{_TO_ESCAPE.sub(self._escaped, inner)}"')
        return str(text)

    def _escaped(self, found: re.Match[str]) -> str:
        escape = found.group(1)
        if escape is None:
            return '\\"'
        if escape != "\\'":
            return escape
        self.repairs.add("escaped_apostrophe")
        return "'"

    def _atom(self) -> JsonValue:
        found = _ATOM.match(self.text, self.at)
        word = found.group() if found else ""
        if word in _WORDS:
            if word[0].isupper():
                self.repairs.add("python_literal")
            self.at += len(word)
            return _WORDS[word]
        number = _NUMBER.fullmatch(word)
        if number is None:
            raise ValueError("a value is missing, or is none of JSON's")
        self.at += len(word)
        if number.group(1) is None and number.group(2) is None:
            return int(word)
        broken = float(word)
        if not math.isfinite(broken):
            raise ValueError("a number is too large")
        return broken
