"""Secrets by the name of their field: which names are secret, and where fields stand in a text.

A name is compared word by word, whatever its case and separators: `dbPassword`, `DB_PASSWORD` and `db-password` all end
in `password`. In a text a field is a member of JSON (also of JSON inside a JSON text, and of a Python `repr`), a
parameter of a query string or form, a line of an environment listing, a header, or the password in a URL. Program
source such as `token = token_of(user)` is none of these and stays readable. Pure. May import nothing of the engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias

SECRET_FIELDS = (
    "password", "passwd", "passphrase", "pwd", "secret", "token", "api_key", "access_key", "secret_key", "private_key",
    "authorization", "cookie", "cookies", "credential", "credentials",
)  # fmt: skip
"""Names that are secret unless the host says otherwise."""

HARMLESS = frozenset({"pagetoken", "nexttoken", "continuationtoken", "paginationtoken", "synctoken", "stoptoken"})
"""Tokens that a model needs to read on, and that open nothing."""

Hide: TypeAlias = Callable[[object, str], object]
"""Returns what stands for a value, given the name of its field."""

_LONGEST_NAME = 80
_LONGEST_VALUE = 8192
"""Characters of a member's value that are read as JSON: a complaint of the decoder costs a look at all of them."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_MARK = re.compile(r"\[redacted:[A-Za-z0-9_.-]{1,64}\]")
_CONSTANTS = frozenset({"", "null", "true", "false", "None", "True", "False"})
_decoder = json.JSONDecoder()

_PLACES = re.compile(
    r"""
      (?P<quote>\\{0,15}["']) (?P<member>[\w.\ -]{1,80}) (?P=quote) \s*:\s*
    | (?:^|[?&]) (?:export\ )? (?P<parameter>[\w.-]{1,80}) =
    | ^ (?:[<>]\ )? (?P<header>[\w-]{1,80}) : [ \t]+ (?=\S)
    | \b (?P<scheme>[Aa]uthorization) ["'\\\s]{0,3} [:=] ["'\\\s]{0,3} (?=\w)
    | \b [Bb]earer \s+ (?P<bearer>) (?=[\w.~+/=-]{16})
    | :// [^/\s:@"']{0,256} : (?P<userinfo>) (?=[^/\s@"']{1,256}@)
    """,
    re.VERBOSE | re.MULTILINE,
)
_VALUES = {
    "parameter": re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|[^&\s\"'<>#]*"),
    "header": re.compile(r"[^\r\n]*"),
    "scheme": re.compile(r"(?:(?:Basic|Bearer|Digest|Token)\s+)?[^\s\"',;}\\]+"),
    "bearer": re.compile(r"[\w.~+/=-]+"),
    "userinfo": re.compile(r"[^/\s@\"']+"),
}
_NAMELESS = {"scheme": "authorization", "bearer": "authorization", "userinfo": "password"}
_OPENING = re.compile(r"\\{0,15}[\"']")
_BARE = re.compile(r"[^\s,}\]\"'\\{\[]*")


CUT = " [cut here]"
"""What a text ends with that was cut to a length before it was cleaned: a secret may have been cut in two."""


def mark(name: str) -> str:
    """Return what stands in place of a secret."""
    return f"[redacted:{name}]"


def is_mark(text: str) -> bool:
    """Whether a text is such a mark and nothing else."""
    return _MARK.fullmatch(text) is not None


class FieldNames:
    """The names of secret fields. Iterating gives them as they were given."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"".join(_words(name)): name for name in names}
        starts = {next(iter(_words(name)), name.lower()) for name in self._names.values()}
        if "authorization" in self._names:
            starts.add("bearer")
        self._starts = tuple(
            start for start in sorted(starts) if not any(part != start and part in start for part in starts)
        )
        self._find = lru_cache(maxsize=1024)(self._look_up)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names.values())

    def find(self, key: str) -> str | None:
        """Return the secret name that a field's name ends with, or None."""
        return self._find(key[-_LONGEST_NAME:])

    def may_stand_in(self, text: str) -> bool:
        """Whether a text is worth a search for secret fields: a word that one begins with, or a URL, is in it."""
        if not self._names:
            return False
        if "://" in text:
            return True
        lowered = text.lower()
        for start in self._starts:  # noqa: SIM110 (a generator costs more than the looks)
            if start in lowered:
                return True
        return False

    def clean_text(self, text: str, hide: Hide) -> str:
        """Return a text with the values of its secret fields hidden."""
        if not self.may_stand_in(text):
            return text
        pieces: list[str] = []
        start = at = unread = 0
        while (place := _PLACES.search(text, at)) is not None:
            at = place.end()
            group = place.lastgroup or ""
            field = self.find(_NAMELESS.get(group) or place[group])
            if field is None:
                continue
            member = _json_value(text, at) if place["quote"] == '"' and at >= unread else None
            if member is not None:
                value, end = member
                shown = hide(value, field)
                hidden = text[at:end] if shown == value else json.dumps(shown)
            else:
                # What is broken here is not read again from further inside.
                unread = max(unread, at + _LONGEST_VALUE if at >= unread else 0)
                end, hidden = _hidden_value(text, place, hide, field)
            pieces += text[start:at], hidden
            start = at = end
        pieces.append(text[start:])
        cleaned = "".join(pieces)
        return text if cleaned == text else cleaned

    def _look_up(self, key: str) -> str | None:
        words = _words(key)
        if "".join(words[-2:]) in HARMLESS:
            return None
        return next(filter(None, (self._names.get("".join(words[at:])) for at in range(len(words)))), None)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _json_value(text: str, at: int) -> tuple[object, int] | None:
    """Return the JSON value at a place and where it ends; None if it is cut short, too long, or no JSON after all."""
    try:
        value, length = _decoder.raw_decode(text[at : at + _LONGEST_VALUE])
    except (ValueError, RecursionError):
        return None
    return value, at + length


def _hidden_value(text: str, place: re.Match[str], hide: Hide, field: str) -> tuple[int, str]:
    """Return where the value of the field at `place` ends, and what stands for it."""
    if place["quote"] is not None:
        return _hidden_loosely(text, place.end(), place["quote"], lambda value: str(hide(value, field)))
    match = _VALUES[place.lastgroup or ""].match(text, place.end())
    assert match is not None
    return match.end(), str(hide(match.group(), field))


def _hidden_loosely(text: str, at: int, quote: str, hide: Callable[[str], str]) -> tuple[int, str]:
    opening = _OPENING.match(text, at)
    if opening is None:
        bare = _BARE.match(text, at)
        assert bare is not None
        value = bare.group()
        return bare.end(), value if value in _CONSTANTS else quote + hide(value) + quote
    closing = re.compile(r"(?<!\\)" + re.escape(opening.group())).search(text, opening.end())
    end = len(text) if closing is None else closing.start()
    return end, opening.group() + hide(text[opening.end() : end])
