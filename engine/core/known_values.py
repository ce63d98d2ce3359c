"""Secrets by value: every form in which a program may have written one into a text, and one search for all of them.

A form is the value itself, escaped for JSON once or twice, as a `repr` shows it, percent-encoded for a URL or a form,
or those characters of its base64 that do not depend on what stands around it. Pure. May import nothing of the engine
but the mark.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter

from .secret_names import mark


class KnownValues:
    """Finds secrets in texts, in any of their forms.

    Args:
        secrets: name → value.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names = {form: name for name, secret in secrets.items() for form in _forms(secret)}
        self._forms = sorted(self._names)
        self._longest = max(map(len, self._forms), default=1)
        self._firsts = frozenset(form[0] for form in self._forms)
        self.pattern = re.compile(_pattern(self._forms) or r"(?!)")

    def clean(self, text: str) -> str:
        """Return a text without known values; the text itself if there are none in it."""
        return self.pattern.sub(self.mark, text) if self.stand_in(text) else text

    def stand_in(self, text: str) -> bool:
        """Whether there is a known value in a text."""
        # A look for each form, or a step for each character: whichever are fewer.
        if len(self._forms) >= len(text):
            return self.pattern.search(text) is not None
        for form in self._forms:  # noqa: SIM110 (a generator costs more than the looks)
            if form in text:
                return True
        return False

    def without_half(self, text: str) -> str:
        """Return a text that was cut at its end without the half of a secret, or more of one, that it may end in.

        Of less than half nothing is said: a word that a secret happens to begin with would tell that it does.
        """
        at = self.unsettled(text, 0)
        tail = text[at:]
        form = self._forms[bisect_right(self._forms, tail)] if tail else ""
        return text[:at] + mark(self._names[form]) if tail and 2 * len(tail) >= len(form) else text

    def mark(self, match: re.Match[str]) -> str:
        """Return what stands for a form that was found."""
        return mark(self._names[match.group()])

    def unsettled(self, held: str, start: int) -> int:
        """Return where the first tail of `held` begins that more text could make a secret."""
        for at in range(max(start, len(held) - self._longest + 1), len(held)):
            if held[at] in self._firsts:
                tail = held[at:]
                after = bisect_right(self._forms, tail)
                if after < len(self._forms) and self._forms[after].startswith(tail):
                    return at
        return len(held)


_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _pattern(forms: list[str]) -> str:
    """Return a pattern of these texts, sorted ones, that prefers the longest; what they share stands in it once."""
    branches: list[str] = []
    for _, group in groupby(forms, key=itemgetter(0)):
        same = list(group)
        shared = _shared(same[0], same[-1])
        rests = [form[len(shared) :] for form in same if len(form) > len(shared)]
        end = "?" if len(rests) < len(same) else ""
        branches.append(re.escape(shared) + (f"(?:{_pattern(rests)}){end}" if rests else ""))
    return "|".join(branches)


def _shared(first: str, last: str) -> str:
    """Return the beginning that two texts share, and every text between them in order does."""
    return next((first[:at] for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), first)


def _forms(secret: str) -> set[str]:
    """Return a secret in every form in which it is looked for."""
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    escaped |= {text.replace("/", "\\/") for text in escaped} | {text.translate(_HTML_SAFE) for text in escaped}
    forms = {secret, repr(secret)[1:-1], ascii(secret)[1:-1]} | escaped
    forms |= {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in escaped for ascii_only in (True, False)}
    for text in (secret, *escaped):
        data = text.encode("utf-8", "surrogatepass")
        forms |= _percent_encoded(data) | _base64_forms(data)
    return forms


_HTML_SAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}
"""What JSON writers escape that expect their text inside a page."""

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


def _percent_encoded(data: bytes) -> set[str]:
    """Return the ways in which a URL or a form may hold the bytes."""
    forms: set[str] = set()
    for kept in (b"", b"/", b"!'()*"):
        plain = _UNRESERVED + kept
        upper = "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in data)
        lower = "".join(chr(byte) if byte in plain else f"%{byte:02x}" for byte in data)
        forms |= {upper, lower, upper.replace("%20", "+"), lower.replace("%20", "+")}
    return forms


def _base64_forms(data: bytes) -> set[str]:
    """Return the base64 characters that the bytes alone decide, for each of the three places they can begin at."""
    forms: set[str] = set()
    for before in range(3):
        number, bits = int.from_bytes(data, "big"), 8 * (before + len(data))
        last = bits // 6
        first = -(-8 * before // 6)
        text = "".join(_BASE64[number >> (bits - 6 * (at + 1)) & 63] for at in range(first, last))
        forms |= {text, text.replace("+", "-").replace("/", "_")}
    return forms
