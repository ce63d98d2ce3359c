"""Keeps secrets out of everything that is kept: a pure function from data to the same data without them.

Two kinds of secrets are found. Known *values*, wherever they stand in a text and however they were wrapped on the way:
plain, escaped for JSON (once or twice), in a `repr`, percent-encoded, or inside base64 at any alignment. And values of
secret-*named* fields: in objects, and in texts that are JSON, query strings, headers or environment listings. Each is
replaced by `[redacted:NAME]`.

What gives a history its structure stays as it is: ids of calls, requests and sessions, tags, enum members. What holds
no secret comes back as the very object that went in. A kB of text without a secret costs about 10 µs for the names and
1 µs a known value. May import the other core modules' types and errors. Must never log, and never show a secret in an
error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from functools import cache
from operator import is_, itemgetter
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar, cast, get_args, get_origin

from ..errors import SecretRefused
from .known_values import KnownValues
from .notices import Notice, ReasoningDelta, TextDelta, ToolInputDelta, ToolProgress
from .secret_names import CUT, SECRET_FIELDS, FieldNames, is_mark, mark
from .values import Value

T = TypeVar("T")

_Delta: TypeAlias = TextDelta | ReasoningDelta | ToolInputDelta

MIN_SECRET_CHARS = 6
"""Shorter values occur by chance: replacing them would damage texts and tell where they stood."""

_MOST_ITEMS = 10_000
"""What holds more than that, or itself, is not looked at all at once."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_IDENTITY = frozenset({"id", "call_id", "request_id", "tool_call_id", "grant_id", "key", "external_id", "parent"})
"""Fields of engine values that are references: what they name would be lost if they were changed."""


class Redactor:
    """Finds and replaces secrets.

    Args:
        secrets: name → value. The name is what stands in place of the value; it matches `[A-Za-z0-9_.-]{1,64}`.
        field_names: names of fields whose values are secret, in any case and with any separators; `db_password` and
            `X-Api-Key` count as `password` and `api_key`.

    Raises:
        SecretRefused: a name does not match, a value has fewer than 6 characters, or a name gives a value away.
    """

    def __init__(
        self, secrets: Mapping[str, str] = MappingProxyType({}), field_names: Iterable[str] = SECRET_FIELDS
    ) -> None:
        for name, secret in secrets.items():
            _check(name, secret)
        self._known = KnownValues(secrets)
        self._numbers = {int(value): name for name, value in secrets.items() if value.isdecimal() and value.isascii()}
        self._fields = FieldNames(field_names)
        self._size = len(secrets)
        for shown in map(mark, (*secrets, *self._fields)):
            if self._known.clean(shown) != shown:
                raise SecretRefused(
                    f"{shown} would show the value of a secret: choose another name for it, or another value"
                )

    def __repr__(self) -> str:
        return f"<redactor of {self._size} secrets>"

    def clean(self, value: T) -> T:
        """Return a value without secrets: JSON data, a text, an engine value, or tuples, lists and dicts of them.

        Whatever else it is comes back as it is. Nothing is changed in place.
        """
        return value if self._is_clean(value) else cast(T, self._clean(value))

    def text(self, text: str) -> str:
        """Return a text without secrets, and where it ends with `CUT`, without the half of one before that."""
        known = self._known.clean(text)
        if known.endswith(CUT):
            known = self._known.without_half(known.removesuffix(CUT)) + CUT
        return self._fields.clean_text(known, self._hidden)

    def stream(self) -> RedactingStream:
        """Return what cleans one text that comes in pieces."""
        return RedactingStream(self._known)

    def _is_clean(self, value: object) -> bool:
        """Whether `_clean` would certainly change nothing: one look at all texts of a value at once.

        Nearly every value is clean, and looking through many short texts one by one costs several times as much.
        """
        texts = self._texts(value)
        if not texts:
            return texts is not None
        # No text can begin in one and end in the next: where one seems to, `_clean` finds that it does not.
        text = "\n".join(texts)
        return CUT not in text and not self._known.stand_in(text) and not self._fields.may_stand_in(text)

    def _texts(self, value: object) -> list[str] | None:
        """Return every text in a value; None where there is a secret that is no text, or more than can be told."""
        texts: list[str] = []
        items: list[object] = [value]
        for item in items:
            kind: type = type(item)
            if isinstance(item, str):
                if kind is str or not isinstance(item, Enum):
                    texts.append(item)
            elif kind in _READERS:
                items += filter(None, _READERS[kind](item.__dict__))
            elif kind is dict:
                members = cast(dict[object, object], item)
                keys = [key for key in members if isinstance(key, str)]
                if any(map(self._fields.find, keys)):
                    return None
                texts += keys
                items += members.values()
            elif isinstance(item, list | tuple):
                items += cast(Iterable[object], item)
            elif kind is int:
                if item in self._numbers:
                    return None
            elif isinstance(item, Value):
                _READERS[kind] = _reader(kind)
                items.append(item)
            if len(items) > _MOST_ITEMS:
                return None
        return texts

    def _clean(self, value: object) -> object:
        kind = type(value)
        if kind is str:
            return self.text(cast(str, value))
        if kind is dict:
            return self._object(cast(dict[object, object], value))
        if isinstance(value, list | tuple):
            return self._items(cast(list[object] | tuple[object, ...], value))
        if isinstance(value, Value):
            return self._value(value)
        if isinstance(value, int) and kind is int and value in self._numbers:
            return mark(self._numbers[value])
        return self.text(value) if isinstance(value, str) and not isinstance(value, Enum) else value

    def _object(self, value: dict[object, object]) -> dict[object, object]:
        cleaned: dict[object, object] = {}
        changed = False
        for key, item in value.items():
            field = self._fields.find(key) if isinstance(key, str) else None
            new_key = self._clean(key) if isinstance(key, str) else key
            while new_key in cleaned:
                new_key = f"{new_key}+"
            new = self._clean(item) if field is None else self._hidden(item, field)
            changed = changed or new is not item or new_key is not key
            cleaned[new_key] = new
        return cleaned if changed else value

    def _items(self, value: list[object] | tuple[object, ...]) -> object:
        cleaned = list(map(self._clean, value))
        if all(map(is_, cleaned, value)):
            return value
        if isinstance(value, list):
            return cleaned
        # A named tuple has a constructor of its own for that.
        make = getattr(type(value), "_make", type(value))
        return make(cleaned)

    def _value(self, value: Value) -> Value:
        held = value.__dict__
        changes: dict[str, object] = {}
        for name, longest in _text_fields(type(value)):
            old = held[name]
            new = self._clean(old)
            if new is not old:
                changes[name] = new[:longest] if isinstance(new, str) else new
        return type(value).trusted(**held | changes) if changes else value

    def _hidden(self, value: object, field: str) -> object:
        """Return what stands for the value of a secret-named field: every text and number in it is replaced."""
        if isinstance(value, str):
            if not value or is_mark(value):
                return value
            known = self._known.clean(value)
            return known if is_mark(known) else mark(field)
        if isinstance(value, dict):
            members = cast(dict[object, object], value).items()
            return {self._clean(key): self._hidden(item, field) for key, item in members}
        if isinstance(value, list | tuple):
            return [self._hidden(item, field) for item in cast(Iterable[object], value)]
        return value if value is None or isinstance(value, bool) else mark(field)


class RedactingStream:
    """Cleans a text that comes in pieces: what may be the beginning of a known value is held back until it is clear.

    Known values only, for a field's name may be a thousand pieces before its value. At most one character less than the
    longest form of a secret is held.
    """

    def __init__(self, known: KnownValues) -> None:
        self._known = known
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece; return what may be shown now."""
        held = self._held + text
        shown: list[str] = []
        start, safe = 0, self._known.unsettled(held, 0)
        for match in self._known.pattern.finditer(held):
            if match.start() >= safe:
                break
            shown += held[start : match.start()], self._known.mark(match)
            start = match.end()
            if start > safe:
                safe = self._known.unsettled(held, start)
        shown.append(held[start:safe])
        self._held = held[safe:]
        return "".join(shown)

    def end(self) -> str:
        """Return the rest. The stream can be used for another text then."""
        held, self._held = self._held, ""
        return self._known.clean(held)


class NoticeRedactor:
    """Cleans the notices of one reply or one tool; pieces of one text are cleaned as that text."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._streams: dict[tuple[type, int], tuple[RedactingStream, _Delta]] = {}

    def see(self, notice: Notice) -> Notice | None:
        """Return what of a notice may be shown now, or None while nothing of it may."""
        if isinstance(notice, ToolProgress):
            return ToolProgress(notice.call_id, self._redactor.text(notice.text))
        if not isinstance(notice, _Delta):
            return notice
        place = type(notice), notice.index if isinstance(notice, ToolInputDelta) else 0
        stream = self._streams[place][0] if place in self._streams else self._redactor.stream()
        self._streams[place] = stream, notice
        text = stream.push(notice.text)
        return replace(notice, text=text) if text else None

    def end(self) -> list[Notice]:
        """Return what was held back, after a reply has come to its own end. Of one that broke off, drop it."""
        rests = [(stream.end(), notice) for stream, notice in self._streams.values()]
        self._streams.clear()
        return [replace(notice, text=text) for text, notice in rests if text]


def _check(name: str, secret: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise SecretRefused(
            f"the name {ascii(name)[:80]} of a secret does not match {_NAME.pattern}; choose one that does"
        )
    if len(secret) < MIN_SECRET_CHARS:
        raise SecretRefused(
            f"the secret {name} has {len(secret)} characters: one of fewer than {MIN_SECRET_CHARS} occurs by chance, "
            "and marking it would show where; choose a longer secret, or name its field in field_names"
        )


@cache
def _text_fields(kind: type[Value]) -> tuple[tuple[str, int | None], ...]:
    """Return the fields of a class that may hold a text from outside, each with the most characters it may have."""
    return tuple(
        (name, next((limit.max_length for limit in field.metadata if hasattr(limit, "max_length")), None))
        for name, field in kind.model_fields.items()
        if name not in _IDENTITY and _may_hold_text(field.annotation)
    )


def _reader(kind: type[Value]) -> Callable[[dict[str, object]], tuple[object, ...]]:
    """Return what takes the fields that may hold a text out of those of a value of this class."""
    names = [name for name, _ in _text_fields(kind)]
    if len(names) > 1:
        return itemgetter(*names)
    return lambda held: tuple([held[name] for name in names])


_READERS: dict[type, Callable[[dict[str, object]], tuple[object, ...]]] = {}
"""Classes of values that were met. To ask whether something is a `Value` costs more than to look into it."""


def _may_hold_text(annotation: object) -> bool:
    if get_origin(annotation) is Literal or annotation is type(None):
        return False
    if isinstance(annotation, type) and issubclass(annotation, Enum | int | float):
        return False
    inner = get_args(annotation)
    return not inner or any(map(_may_hold_text, inner))


__all__ = ["MIN_SECRET_CHARS", "NoticeRedactor", "RedactingStream", "Redactor"]
