"""Finds tool calls in the text of a reply while it grows, and holds back whatever may be the beginning of one.

Text that is no call comes out to the letter, in order, as soon as that is certain; a call comes out when it is whole.
What stands between `<think>` and `</think>` is never a call. The work is linear in the text, however it is cut into
pieces: a text is looked at once, and once more for each of a bounded number of possible ends of a call. Never raises.
Pure. May import the core and its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

from ...core.values import ToolSpec
from .elements import How, Schemas
from .forms import BARE, FORMS, TEXT_CALL_FORMATS, Form, FoundCall, TextCallFormat
from .repair import Unfinished

Piece: TypeAlias = str | FoundCall

_Place: TypeAlias = tuple[int, int]
"""Where the inside of a form ends, and where the text goes on."""

_THINK, _THOUGHT = "<think>", "</think>"
_MAX_ENDS = 4
"""How many ends of a call are tried, where the ones before stand inside a string."""
_DECIDED_CHARS = 700
"""So much text shows whether a form begins."""
_FIRST = re.compile(r"\s*+([{\[])")


class ReadText(NamedTuple):
    """What a text holds: itself without the calls, and the calls."""

    text: str
    calls: tuple[FoundCall, ...]


def read_calls(
    text: str,
    formats: Sequence[TextCallFormat] = TEXT_CALL_FORMATS,
    tools: Iterable[ToolSpec] = (),
    *,
    cut: bool = False,
) -> ReadText:
    """Return the calls in a whole text, and what is left of it.

    Args:
        text: what a model wrote.
        formats: what is looked for.
        tools: what it was offered; see `CallReader`.
        cut: it did not end by itself: it ran into a limit, or was stopped.
    """
    reader = CallReader(formats, tools)
    pieces = [*reader.feed(text), *reader.close(cut=cut)]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return ReadText("".join(texts), tuple(piece for piece in pieces if isinstance(piece, FoundCall)))


class _Words:
    """Literal texts that are looked for."""

    def __init__(self, words: Iterable[str]) -> None:
        found = sorted(set(words), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, found)) or r"(?!)")
        self.overlap = max((len(word) for word in found), default=1) - 1
        self._begun = {word[:length] for word in found for length in range(1, len(word))}

    def kept(self, text: str, start: int) -> int:
        """Return how many characters at the end of a text may be the beginning of a word."""
        for length in range(min(self.overlap, len(text) - start), 0, -1):
            if text[len(text) - length :] in self._begun:
                return length
        return 0


class CallReader:
    """Reads one reply.

    Args:
        formats: what is looked for.
        tools: what was offered: forms without a mark of their own count only if they name one of these, and schemas
            say what the bare text of a parameter stands for.
    """

    def __init__(self, formats: Sequence[TextCallFormat] = TEXT_CALL_FORMATS, tools: Iterable[ToolSpec] = ()) -> None:
        self._schemas: Schemas = {spec.name: spec.parameters for spec in tools}
        self._forms = {form.opener: form for form in FORMS if form.format in formats}
        self._openers = _Words([*self._forms, _THINK])
        self._thought = _Words([_THOUGHT])
        self._ends = {form.opener: _Words(filter(None, (*form.closers, form.opener))) for form in (*FORMS, BARE)}
        self._bare = BARE.format in formats
        self._thinking = False
        # What is not done with: `text` from `at` on, and `later`, in which no end of the open form begins or is.
        self._text, self._at = "", 0
        self._later: list[str] = []
        self._tail = ""
        # The open form: its places, and the ends that were tried, count from `at`, where its opener stands.
        self._form: Form | None = None
        self._began = False
        self._body = self._sought = 0
        self._tried: list[_Place] = []
        # White space that the reply begins with: said when words follow, dropped where there are only calls.
        self._lead: list[str] = []
        self._said = self._called = False

    def feed(self, text: str) -> list[Piece]:
        """Take in the next piece of the reply; return what is certain by now."""
        if self._form is not None and self._began:
            words = self._ends[self._form.opener]
            window = self._tail + text
            if not words.pattern.search(window):
                self._later.append(text)
                self._tail = window[-words.overlap :] if words.overlap else ""
                return []
        self._gather(text)
        return self._advance(final=False, whole=False)

    def close(self, *, cut: bool = False) -> list[Piece]:
        """Take the end of the reply in; return all that is left.

        Args:
            cut: the model did not end by itself, so what is missing is not repaired.
        """
        self._gather("")
        out = self._advance(final=True, whole=not cut)
        if not self._called and self._lead:
            out.insert(0, "".join(self._lead))
        return out

    def _gather(self, text: str) -> None:
        self._text = "".join((self._text[self._at :], *self._later, text))
        self._at, self._later = 0, []

    def _advance(self, *, final: bool, whole: bool) -> list[Piece]:
        out: list[Piece] = []
        going = True
        while going:
            going = self._in_text(out, final) if self._form is None else self._in_form(out, final, whole)
        if self._form is not None:
            overlap = self._ends[self._form.opener].overlap
            self._tail = self._text[max(self._at, len(self._text) - overlap) :] if overlap else ""
        return _joined(out)

    # --- text ---------------------------------------------------------------------------------------------------------

    def _in_text(self, out: list[Piece], final: bool) -> bool:
        """Say text up to the next opener; return whether a form begins."""
        text, at = self._text, self._at
        if self._bare and not (self._said or self._called or self._thinking):
            begun = _FIRST.match(text, at)
            if begun is not None:
                self._say(out, begun.start(1))
                return self._open(BARE, begun.start(1))
        words = self._thought if self._thinking else self._openers
        found = words.pattern.search(text, at)
        if found is None:
            self._say(out, len(text) - (0 if final else words.kept(text, at)))
            return False
        if found.group() in (_THINK, _THOUGHT):
            self._thinking = not self._thinking
            self._say(out, found.end())
            return True
        self._say(out, found.start())
        return self._open(self._forms[found.group()], found.end())

    def _say(self, out: list[Piece], end: int) -> None:
        """Let the text up to `end` out."""
        text, self._at = self._text[self._at : end], end
        if not self._said and (not text or text.isspace()):
            self._lead.append(text)
            return
        self._said = True
        out += (*self._lead, text)
        self._lead.clear()

    # --- calls --------------------------------------------------------------------------------------------------------

    def _open(self, form: Form, body_at: int) -> bool:
        self._form, self._began = form, False
        self._body = self._sought = body_at - self._at
        self._tried = []
        return True

    def _in_form(self, out: list[Piece], final: bool, whole: bool) -> bool:
        """Look for the end of the open form; return whether there is more to be done."""
        form, text, start = self._form, self._text, self._at + self._body
        assert form is not None
        words = self._ends[form.opener]
        if not self._began:
            self._began = form.begins.match(text, start) is not None
        if not self._began:
            if not final and _may_begin(form, words, text, start):
                return False
            self._leave(out, form)
            return True
        for found in words.pattern.finditer(text, self._at + self._sought):
            after = found.start() if found.group() == form.opener else found.end()
            how = How(self._schemas, whole=True, first=not self._tried, last=False)
            if self._ends_at(out, form, (found.start() - self._at, after - self._at), how):
                return True
            self._sought = found.end() - self._at
        self._sought = max(self._sought, len(text) - self._at - words.overlap)
        if not final:
            return False
        end = len(text) - self._at
        how = How(self._schemas, whole, first=not self._tried, last=not self._tried)
        return self._ends_at(out, form, (end, end), how) or self._ends_at_first(out, form)

    def _ends_at(self, out: list[Piece], form: Form, end: _Place, how: How) -> bool:
        """Read the open form up to a place; return False where that may stand in a string."""
        try:
            self._read(out, form, end, how)
        except Unfinished:
            self._tried.append(end)
            return len(self._tried) == _MAX_ENDS and self._ends_at_first(out, form)
        except ValueError:
            # It goes on as no call does, so the first end was the right one.
            return self._ends_at_first(out, form)
        return True

    def _ends_at_first(self, out: list[Piece], form: Form) -> bool:
        self._read(out, form, self._tried[0], How(self._schemas, whole=True, first=True, last=True))
        return True

    def _read(self, out: list[Piece], form: Form, end: _Place, how: How) -> None:
        inside = form.read(self._text[self._at + self._body : self._at + end[0]], how)
        if inside is None:
            self._leave(out, form)
            return
        self._called = True
        self._form = None
        out += inside.calls
        self._at += end[1]
        if inside.rest.strip():
            self._said = True
            out.append(inside.rest)

    def _leave(self, out: list[Piece], form: Form) -> None:
        """Take the opener for the text that it is, and look on behind it."""
        self._form = None
        if form is BARE:
            # It has no opener, and its bracket may be the first of another form's.
            self._bare = False
        else:
            self._say(out, self._at + self._body)


def _may_begin(form: Form, words: _Words, text: str, start: int) -> bool:
    """Return whether what follows an opener may still become a call."""
    if len(text) - start >= _DECIDED_CHARS:
        return False
    if form.undecided is not None:
        return form.undecided.fullmatch(text, start) is not None
    return words.pattern.search(text, start) is None


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Return the pieces with neighbouring texts in one."""
    joined: list[Piece] = []
    for is_text, group in groupby(pieces, lambda piece: isinstance(piece, str)):
        neighbours = list(group)
        joined += ["".join(map(str, neighbours))] if is_text else neighbours
    return [piece for piece in joined if piece]
