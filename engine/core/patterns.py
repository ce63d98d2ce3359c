"""Patterns that say which tool calls are meant: `read(*)`, `send_mail(to=*@example.com)`, `delete_*`, `pay()`.

A pattern is a tool's name, in which `*` stands for any text, and what may follow it in parentheses:

    pay, pay(*)                     any arguments
    pay()                           no arguments at all
    pay({"amount": 5, "to": "x"})   exactly these, compared as canonical JSON: 5 is not 5.0, key order is nothing
    pay(to=*@x.org, by.card="a,b")  each named argument is given and its text matches; others are free

An argument is named by its key, a nested one by keys with dots between them; a key with other characters is written as
a JSON string. A value is compared by its text: a string as it is, a number, a boolean or null as JSON writes it. In a
value `*` stands for any text, also none; a part in double quotes is a JSON string and means exactly itself. Bare and
quoted parts may follow each other: `*"@x.org"`. Space around a name, a key or a value is no part of it.

An argument that is not given matches nothing, not even `*`. One that is an object or an array (or lies in an array) has
no text: whoever asks says whether a pattern applies to it in doubt. Everything is linear in pattern and value: no
regular expression, nothing is tried twice. Pure; may import `values` and `arguments`.
"""

from collections.abc import Mapping
from functools import lru_cache
from json import JSONDecoder
from typing import Final, NamedTuple

from ..errors import UsageError
from .arguments import is_list, is_mapping, json_text, parse_arguments
from .values import ToolCall

_SPACE: Final = " \t\r\n"
_NOT_IN_NAMES: Final = _SPACE + '()",='
_NOT_IN_KEYS: Final = _SPACE + '()",=.*{}[]'
_SHOWN_CHARS: Final = 200
_json = JSONDecoder()


class Glob(NamedTuple):
    """A text in which parts are left open: the literal parts in order, with any text between two of them."""

    literals: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """Return whether the text is one of those that are meant."""
        first, last = self.literals[0], self.literals[-1]
        if len(self.literals) == 1:
            return text == first
        place, end = len(first), len(text) - len(last)
        if place > end or not text.startswith(first) or not text.endswith(last):
            return False
        for literal in self.literals[1:-1]:
            # The leftmost place leaves the most room for the rest, so no other place need ever be tried.
            place = text.find(literal, place, end)
            if place < 0:
                return False
            place += len(literal)
        return True


class Constraint(NamedTuple):
    """What a pattern says about one argument: where it is, and what its text must be."""

    path: tuple[str, ...]
    glob: Glob

    def matches(self, arguments: Mapping[str, object], *, in_doubt: bool) -> bool:
        """Return whether the argument is given and matches; `in_doubt` where it has no text."""
        value: object = arguments
        for key in self.path:
            if is_list(value):
                return in_doubt
            if not is_mapping(value) or key not in value:
                return False
            value = value[key]
        if is_list(value) or is_mapping(value):
            return in_doubt
        return self.glob.matches(value if isinstance(value, str) else json_text(value))


class Pattern(NamedTuple):
    """A parsed pattern. `exact` is the canonical JSON of the only arguments meant, None where `constraints` say it."""

    text: str
    name: Glob
    exact: str | None = None
    constraints: tuple[Constraint, ...] = ()

    def matches(self, call: ToolCall, *, in_doubt: bool = False) -> bool:
        """Return whether the call is meant.

        Args:
            call: the call, its arguments made of JSON types.
            in_doubt: what to say of an argument that has no text. False suits what gives leave, True what forbids.
        """
        if not self.name.matches(call.name):
            return False
        if self.exact is not None:
            return json_text(call.arguments) == self.exact
        return all(constraint.matches(call.arguments, in_doubt=in_doubt) for constraint in self.constraints)


@lru_cache(maxsize=512)
def parse_pattern(text: str) -> Pattern:
    """Return the pattern that a text says; the same text is parsed once.

    Raises:
        UsageError: it says none; the error shows the column, counted from 1, and what was expected there.
    """
    return _Reader(text).pattern()


def exactly(call: ToolCall) -> str:
    """Return the text of the pattern that means this tool with exactly these arguments and nothing else.

    Raises:
        UsageError: the tool's name cannot stand in a pattern as itself.
    """
    if not call.name or any(char in _NOT_IN_NAMES + "*" for char in call.name):
        raise UsageError(f"the name {ascii(call.name)[:_SHOWN_CHARS]} cannot stand in a pattern; rename the tool")
    return f"{call.name}({json_text(call.arguments)})"


class _Reader:
    """Reads one pattern from left to right; `place` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def pattern(self) -> Pattern:
        name = self._name()
        if self._at_end():
            return Pattern(self.text, name)
        self._expect("(", "the end of the pattern or (")
        exact, constraints = self._inside()
        self._expect(")", "a comma or )")
        if not self._at_end():
            raise self._mistake("nothing may follow the closing )")
        return Pattern(self.text, name, exact, constraints)

    def _name(self) -> Glob:
        self._skip_space()
        literals = _split_at_stars(self._run(_NOT_IN_NAMES))
        if literals == [""]:
            raise self._mistake("a tool's name is expected, such as read, send_* or *")
        return _glob(literals)

    def _inside(self) -> tuple[str | None, tuple[Constraint, ...]]:
        self._skip_space()
        if self._next() == ")":
            return "{}", ()
        if self._next() == "{":
            return self._exact(), ()
        before = self.place
        if self._next() == "*":
            self.place += 1
            self._skip_space()
            if self._next() == ")":
                return None, ()
            self.place = before
        constraints = [self._constraint()]
        while self._next() == ",":
            self.place += 1
            constraints.append(self._constraint())
        return None, tuple(constraints)

    def _exact(self) -> str:
        end = self.text.rstrip(_SPACE).rfind(")")
        if end < self.place:
            raise self._mistake("the ) after the arguments is missing")
        try:
            exact = json_text(parse_arguments(self.text[self.place : end]))
        except ValueError as error:
            raise self._mistake(str(error)) from None
        self.place = end
        return exact

    def _constraint(self) -> Constraint:
        path = [self._key()]
        while self._next() == ".":
            self.place += 1
            path.append(self._key())
        self._expect("=", "= and what the argument must be")
        return Constraint(tuple(path), self._value())

    def _key(self) -> str:
        self._skip_space()
        key = self._quoted() if self._next() == '"' else self._run(_NOT_IN_KEYS)
        if not key:
            raise self._mistake("the name of an argument is expected, such as to=*@example.com; quote unusual names")
        self._skip_space()
        return key

    def _value(self) -> Glob:
        self._skip_space()
        began = self.place
        literals: list[list[str]] = [[]]
        bare = False
        while (char := self._next()) not in ("", ",", ")"):
            if char == "(":
                raise self._mistake('a ( in a value must be quoted: "("')
            bare = char != '"'
            first, *others = _split_at_stars(self._run('(),"')) if bare else [self._quoted()]
            literals[-1].append(first)
            literals += [[other] for other in others]
        if self.place == began:
            raise self._mistake('what the argument must be is expected: a text, * or, for an empty text, ""')
        if bare:
            # Space at the end belongs to the value only where it is quoted.
            literals[-1][-1] = literals[-1][-1].rstrip(_SPACE)
        return _glob(["".join(parts) for parts in literals])

    def _quoted(self) -> str:
        try:
            text, self.place = _json.raw_decode(self.text, self.place)
        except ValueError as error:
            self.place = getattr(error, "pos", self.place)
            raise self._mistake("the quoted text is no JSON string") from None
        return str(text)

    def _run(self, stops: str) -> str:
        """Take characters up to the next of `stops`."""
        began = self.place
        while self.place < len(self.text) and self.text[self.place] not in stops:
            self.place += 1
        return self.text[began : self.place]

    def _next(self) -> str:
        return self.text[self.place : self.place + 1]

    def _skip_space(self) -> None:
        while self._next() and self._next() in _SPACE:
            self.place += 1

    def _at_end(self) -> bool:
        self._skip_space()
        return self.place >= len(self.text)

    def _expect(self, char: str, wanted: str) -> None:
        self._skip_space()
        if self._next() != char:
            raise self._mistake(f"{wanted} is expected")
        self.place += 1

    def _mistake(self, reason: str) -> UsageError:
        shown = ascii(self.text[:_SHOWN_CHARS])
        found = ascii(self._next()) if self._next() else "the end"
        return UsageError(f"pattern {shown}, column {self.place + 1}: {reason} (found {found})")


def _split_at_stars(text: str) -> list[str]:
    return text.split("*")


def _glob(literals: list[str]) -> Glob:
    """Return the glob of these parts; an empty one in the middle comes of two stars side by side and says nothing."""
    return Glob((literals[0], *filter(None, literals[1:-1]), *literals[1:][-1:]))
