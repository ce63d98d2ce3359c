"""Values as canonical JSON: ASCII, keys sorted at every depth, no white space, no NaN, no field at its default.

One value has one text, which is what makes its hash mean something. May import core and errors. Must never do I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any, get_args

from pydantic import BaseModel

from ..core.jsontext import writer
from ..errors import EncodingError


def canonical(value: object) -> str:
    """Return the canonical JSON of a value made of JSON types and `Value`s.

    Raises:
        EncodingError: it holds something JSON cannot.
    """
    try:
        return _WRITERS[type(value)](value)
    except (ValueError, TypeError, RecursionError) as error:
        raise EncodingError("$", str(error) or type(error).__name__) from error


class _Writers(dict[type, Callable[[Any], str]]):
    """Type → function that writes its values. Writers of models are made when their class is first met."""

    def __missing__(self, kind: type) -> Callable[[Any], str]:
        writer: Callable[[Any], str] = _encode
        if issubclass(kind, BaseModel):
            writer = _model_writer(kind)
        elif issubclass(kind, Enum):
            writer = {member: _encode(member.value) for member in kind}.__getitem__
        self[kind] = writer
        return writer


# One pass in C for everything that is plain JSON; what it must not meet is refused by name.
_encode = writer(ensure_ascii=True, sort_keys=True)
_NO_DEFAULT = object()


def _model_writer(kind: type[BaseModel]) -> Callable[[BaseModel], str]:
    """Return a writer of one model class: fields in alphabetical order, tags always, defaults never."""
    spec: list[tuple[str, str, object]] = []
    for name in sorted(kind.model_fields):
        field = kind.model_fields[name]
        if name == "kind" and len(get_args(field.annotation)) == 1:
            # A tag is the same for all of them: the text of the member is all there is to it.
            spec.append(("", f',"kind":{_encode(field.default)}', None))
            continue
        always = name == "kind" or field.is_required()
        default = _NO_DEFAULT if always else field.get_default(call_default_factory=True)
        spec.append((name, f',"{name}":', default))

    # A loop that adds to a text: a comprehension costs a call more, and there are forty of these in a turn.
    def write(value: BaseModel) -> str:
        held = value.__dict__
        text = ""
        for name, key, default in spec:
            if not name:
                text += key
                continue
            item = held[name]
            if item is not default and item != default:
                text += key + _WRITERS[type(item)](item)
        return f"{{{text[1:]}}}"

    return write


def _write_items(items: Sequence[object]) -> str:
    text = ""
    for item in items:
        text += "," + _WRITERS[type(item)](item)
    return f"[{text[1:]}]"


def _write_object(value: Mapping[str, object]) -> str:
    """Write a flat object, as arguments mostly are, at half of what the encoder takes to begin."""
    parts: list[str] = []
    for key in sorted(value):
        item = value[key]
        writer = _SCALARS.get(type(item))
        if writer is None:
            return _encode(value)
        parts.append(f"{encode_basestring_ascii(key)}:{writer(item)}")
    return "{" + ",".join(parts) + "}"


def _write_float(value: float) -> str:
    if not isfinite(value):
        raise ValueError(f"{value} has no JSON form")
    return repr(value)


_SCALARS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: int.__repr__,
    float: _write_float,
    bool: {False: "false", True: "true"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
}
_WRITERS = _Writers({**_SCALARS, tuple: _write_items, dict: _write_object})
