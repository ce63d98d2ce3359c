"""Results of tools as text for the model, and errors as one line.

A result is encoded before its call counts as done, so nothing that a journal could not hold ever enters one. Strings
stay as they are; everything else becomes JSON. May import core and errors, pydantic for the types that hosts return.
Must never call code of the value beyond its own conversion to JSON.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TypeGuard
from uuid import UUID

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from ..core.jsontext import writer
from ..core.secret_names import CUT
from ..errors import EncodingError

MAX_DEPTH = 200
"""Levels of nesting that a value may have: far beyond any real result, far below what a decoder can take."""

_MAX_ERROR_CHARS = 2000
_MAX_INT_BITS = 14_000
"""Just below what Python prints as digits (4,300 of them)."""

_SHOWN_CHARS = 120
_MAX_CLAUSES = 20
_SAFE = frozenset({str, bool, type(None)})
_SMALL = 2**62
_CONVERTED = (BaseModel, datetime, date, time, timedelta, Decimal, UUID, PurePath)


def encode_result(value: object) -> str:
    """Return the text that stands for a tool's result.

    Args:
        value: a string, a JSON value, a pydantic model, a dataclass, a date, a time, a decimal, a UUID, a path, an enum
            member, or lists, tuples and dicts of them.

    Raises:
        EncodingError: it holds something else; `path` says where.
    """
    if isinstance(value, str):
        return value
    try:
        return _dumps(value)
    except Exception:
        # The encoder does not say where it stumbled: walk the value to find out, converting what may be converted.
        return _dumps(_plain(value, "$", ()))


def _refuse(value: object) -> object:
    raise TypeError(type(value).__name__)


_dumps = writer(ensure_ascii=False, default=_refuse)


def _plain(value: object, path: str, parents: tuple[int, ...]) -> object:
    """Return `value` as JSON types, or say where it is not."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, path, parents)
    if isinstance(value, int | float):
        return _number(value, path)
    if isinstance(value, _CONVERTED):
        return _converted(value, path)
    if id(value) in parents:
        raise EncodingError(path, "the value contains itself")
    if len(parents) >= MAX_DEPTH:
        raise EncodingError(path, f"nested deeper than {MAX_DEPTH} levels")
    inside = (*parents, id(value))
    if _is_dict(value):
        return {_key(key, path): _plain(item, f"{path}.{_shown(key)}", inside) for key, item in value.items()}
    if _is_sequence(value):
        return [_plain(item, f"{path}[{index}]", inside) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = _fields(value)
        return {name: _plain(item, f"{path}.{name}", inside) for name, item in fields}
    raise EncodingError(path, f"a value of type {type(value).__name__} has no JSON form; return a str, dict or list")


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


def _is_sequence(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def _number(value: float, path: str) -> float:
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise EncodingError(
                path, f"an integer of {value.bit_length()} bits is no JSON number; use a string instead"
            )
    elif not math.isfinite(value):
        raise EncodingError(path, f"{value} has no JSON form; use None or a string instead")
    return value


def _fields(value: object) -> Iterable[tuple[str, object]]:
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]  # type: ignore[arg-type]


def _converted(value: object, path: str) -> object:
    if isinstance(value, PurePath):
        return str(value)
    try:
        return to_jsonable_python(value, inf_nan_mode="null")
    except Exception as error:
        raise EncodingError(path, describe(error)) from error


def _key(key: object, path: str) -> str:
    if isinstance(key, str):
        return key
    raise EncodingError(path, f"the key {_shown(key)} is no string")


def _shown(key: object) -> str:
    return key[:60] if isinstance(key, str) else type(key).__name__


def check_json(value: object) -> None:
    """Refuse a value that is not made of JSON types alone.

    Raises:
        EncodingError: `path` says where it is not.
    """
    if _is_dict(value):
        for item in value.values():
            if not (type(item) in _SAFE or (type(item) is int and -_SMALL < item < _SMALL)):
                break
        else:
            return
    try:
        _dumps(value)
    except Exception:
        _plain(value, "$", ())


def complaint(error: ValidationError) -> str:
    """Return what pydantic found, one clause a place, at most 20: its name, what is wrong, what stood there."""
    clauses: list[str] = []
    details = error.errors(include_url=False, include_context=False)
    for detail in details[:_MAX_CLAUSES]:
        place = ".".join(str(part) for part in detail["loc"]) or "arguments"
        clause = f"{place}: {detail['msg']}"
        if detail["type"] != "missing":
            clause += f" (got {shown(detail['input'])[:_SHOWN_CHARS]})"
        clauses.append(clause)
    if len(details) > _MAX_CLAUSES:
        clauses.append(f"and {len(details) - _MAX_CLAUSES} more")
    return "; ".join(clauses)


def shown(value: object) -> str:
    """Return a value as ASCII text, whatever its own text does."""
    try:
        return ascii(value)
    except Exception as broken:
        return f"a {type(value).__name__} whose text cannot be shown ({type(broken).__name__})"


def describe(error: BaseException) -> str:
    """Return an exception as text for the model, bounded, whatever its own `__str__` does."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its text cannot be shown: {type(broken).__name__})"
    name = type(error).__name__
    described = f"{name}: {text}" if text else name
    return described if len(described) <= _MAX_ERROR_CHARS else described[: _MAX_ERROR_CHARS - len(CUT)] + CUT
