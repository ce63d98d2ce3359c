"""JSON text in one pass in C, without what `json.JSONEncoder.encode` sets up anew for every value.

That set-up takes longer than writing the small objects that arguments and results mostly are. Nothing looks for cycles
on the way: a value that contains itself is a `RecursionError`, as one that nests too deeply is. Pure.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Sequence
from typing import Any


def writer(
    *, ensure_ascii: bool, sort_keys: bool = False, default: Callable[[object], object] | None = None
) -> Callable[[object], str]:
    """Return a function that writes a value as JSON without white space.

    It raises ValueError for NaN and infinity, TypeError for what JSON cannot hold unless `default` turns it into
    something else, and RecursionError for what nests too deeply or contains itself.

    Args:
        ensure_ascii: whether characters beyond ASCII are escaped.
        sort_keys: whether members are written in the order of their names.
        default: replaces a value that JSON cannot hold.
    """
    plain = json.JSONEncoder(
        ensure_ascii=ensure_ascii, sort_keys=sort_keys, allow_nan=False, separators=(",", ":"), default=default
    )
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    quote = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring
    # Only CPython has the encoder in C.
    return (
        plain.encode
        if make is None
        else _in_one_pass(make(None, plain.default, quote, None, ":", ",", sort_keys, False, False))
    )


def _in_one_pass(chunks: Callable[[object, int], Sequence[str]]) -> Callable[[object], str]:
    def write(value: object) -> str:
        return "".join(chunks(value, 0))

    return write
