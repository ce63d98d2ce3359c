"""Results that are too long for the model: kept whole in a store of large values, shown as a preview.

The preview holds the shape, the head and the tail of the text, and how to read the rest with the tool `read_result`,
which takes a handle of the same session only: a stored result begins with the name of its session, and the handle is
the hash of both. Previews are a function of the text alone, never longer than the limit, and no piece ever ends inside
a character or a surrogate pair. May import anyio, core, errors, ports and its neighbours. Must never lose a result
because its rest could not be kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, cast

import anyio
from pydantic import Field

from ..errors import EngineError, UsageError
from ..log import logger
from ..ports import Blobs, Tool, ToolContext
from .function import tool

READER = "read_result"
"""Name of the tool that reads what was too long."""

_HEAD_SHARE = 0.7
_MARGIN = 6
"""Bytes of a surrogate pair, the longest thing that is never cut."""

_HEADER_BYTES = 150
_CAPTION_BYTES = 160
_SHAPE_CHARS = 320
_PARSED_CHARS = 2**20
"""Longer texts are not parsed for their shape: it would hold the event loop up for more than some ten milliseconds."""

_MAX_KEYS = 12
_KEY_CHARS = 40
_KINDS: dict[type[object], str] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


class Spilled(NamedTuple):
    """What the model gets of a text that was too long, and what the whole is kept under, None where it is not kept."""

    text: str
    handle: str | None


def fits(text: str, max_bytes: int) -> bool:
    """Return whether a text has at most `max_bytes` bytes. Costs next to nothing where it is far below."""
    return len(text) * 4 <= max_bytes or (len(text) <= max_bytes and len(_encoded(text)) <= max_bytes)


async def spilled(text: str, blobs: Blobs, session: str, max_bytes: int) -> Spilled:
    """Keep a text that does not fit and return what the model gets instead.

    The call that gave the text has ended: a cancellation waits until the text is kept.

    Args:
        text: the result of a tool, longer than `max_bytes`.
        blobs: where it is kept.
        session: whose it is.
        max_bytes: what the model may get, in bytes of UTF-8; at least `MIN_OUTPUT_BYTES`.

    Returns:
        A preview, at most `max_bytes` long, and its handle; where the text could not be kept, the preview says so.
    """
    data = _encoded(text)
    handle = None
    try:
        with anyio.CancelScope(shield=True):
            handle = await blobs.put(kept_form(session, text))
    except Exception:
        logger.exception("a long result could not be kept", session=session, bytes=len(data))
    return Spilled(preview(text, data, handle, max_bytes), handle)


def preview(text: str, data: bytes, handle: str | None, max_bytes: int) -> str:
    """Return the shape, the head and the tail of a text, and how to read the rest: at most `max_bytes` bytes.

    Args:
        text: a text longer than `max_bytes`.
        data: the same, encoded.
        handle: what it can be read by, None if it could not be kept.
        max_bytes: at least `MIN_OUTPUT_BYTES`.
    """
    size = len(data)
    first = f"[This result is too long: {size} bytes, {shape(text)}. It begins:]\n"
    gap = "\n[Bytes {} to {} are left out{}. It ends:]\n"
    way = ", and could not be kept" if handle is None else f'; read_result(handle="{handle}", offset={{}}) reads on'
    frame = len(first) + len(gap) + len(way) + 3 * len(str(size))
    room = max_bytes - frame - _MARGIN
    head = _cut(data, int(room * _HEAD_SHARE))
    tail = _cut(data, size - (room - head))
    return first + _decoded(data[:head]) + gap.format(head, tail, way.format(head)) + _decoded(data[tail:])


def preview_of(text: str, handle: str, max_bytes: int) -> str:
    """Return what the model gets of a text that is kept under a handle; the text itself where it fits."""
    return text if fits(text, max_bytes) else preview(text, _encoded(text), handle, max_bytes)


def kept_form(session: str, text: str) -> bytes:
    """Return what is kept of a session's text."""
    data = _encoded(text)
    return _header(session, len(data)) + data


def kept_text(session: str, kept: bytes) -> str | None:
    """Return the text that is kept for a session, None where it is another one's, or no text."""
    try:
        _size(kept[:_HEADER_BYTES], session)
    except (UsageError, ValueError):
        return None
    return _decoded(kept[_HEADER_BYTES:])


def read_tool(blobs: Blobs, max_bytes: int) -> Tool:
    """Return the tool `read_result`, which reads spilled results piece by piece.

    Args:
        blobs: where they are kept.
        max_bytes: what one piece may have at most, what is said about it included; at least `MIN_OUTPUT_BYTES`. Who
            asks for more gets that much.
    """
    largest = max_bytes - _CAPTION_BYTES

    @tool(name=READER, effect="read", description="Read on, in bytes, in a result that was too long to be shown whole.")
    async def read_result(
        context: ToolContext,
        handle: Annotated[str, Field(pattern="^[0-9a-f]{64}$")],
        offset: Annotated[int, Field(ge=0, le=2**53)] = 0,
        length: Annotated[int, Field(ge=16, le=2**53)] = 4000,
    ) -> str:
        start = max(0, offset - _MARGIN)
        length = min(length, largest)
        try:
            header = await blobs.read(handle, 0, _HEADER_BYTES)
            size = _size(header, context.session)
            window = await blobs.read(handle, _HEADER_BYTES + start, offset - start + length + _MARGIN)
        except EngineError as error:
            # Said alike whatever is behind it: nobody learns what other sessions have, or where it lies.
            logger.warning("a stored result cannot be read", session=context.session, handle=handle, error=str(error))
            raise UsageError(
                f"this session has no result {handle} any more; take the handle from a result that was too long"
            ) from error
        if offset >= size:
            raise UsageError(f"the result has {size} bytes: offset must be less than that")
        begin, end = _cut(window, offset - start), _cut(window, offset - start + length)
        rest = f"; offset={start + end} reads on" if start + end < size else ", its end"
        return f"[Bytes {start + begin} to {start + end} of {size}{rest}]\n{_decoded(window[begin:end])}"

    return read_result


def _header(session: str, size: int) -> bytes:
    """Return what a stored result begins with, always of the same length: whose it is, and how long."""
    return f"{session} {size}".ljust(_HEADER_BYTES - 1).encode("ascii") + b"\n"


def _size(header: bytes, session: str) -> int:
    """Return the size of a stored result.

    Raises:
        UsageError: it is another session's, or no result.
    """
    owner, _, size = header.decode("ascii", "replace").partition(" ")
    if owner != session or len(header) < _HEADER_BYTES:
        raise UsageError(f"it belongs to {owner[:128]!r}")
    return int(size)


# --- pieces of text ---------------------------------------------------------------------------------------------------


def _encoded(text: str) -> bytes:
    """Return UTF-8, lone surrogates included: models and servers do emit them."""
    return text.encode("utf-8", "surrogatepass")


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _cut(data: bytes, position: int) -> int:
    """Return the last place at or before `position` where a text may be cut."""
    position = max(0, min(position, len(data)))
    while 0 < position < len(data) and data[position] & 0xC0 == 0x80:
        position -= 1
    return position - 3 if _is_low(data, position) and _is_high(data, position - 3) else position


def _is_high(data: bytes, position: int) -> bool:
    """Whether the first half of a surrogate pair stands there (D800 to DBFF, in three bytes)."""
    return position >= 0 and data[position] == 0xED and 0xA0 <= data[position + 1] < 0xB0


def _is_low(data: bytes, position: int) -> bool:
    """Whether the second half of one stands there (DC00 to DFFF)."""
    return position + 1 < len(data) and data[position] == 0xED and data[position + 1] >= 0xB0


# --- shapes -----------------------------------------------------------------------------------------------------------


def shape(text: str) -> str:
    """Return what a text is, in at most 320 characters of ASCII: JSON with its kinds, keys and lengths, or lines."""
    lines = text.count("\n") + 1
    plain = f"text of {lines} line{'s' if lines > 1 else ''}"
    if len(text) > _PARSED_CHARS or text.lstrip()[:1] not in ("{", "["):
        return plain
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return plain
    found = f"JSON: {_described(value, 2)}"
    return found if len(found) <= _SHAPE_CHARS else found[: _SHAPE_CHARS - 3] + "..."


def _described(value: object, depth: int) -> str:
    if isinstance(value, Mapping):
        return _object(cast(Mapping[str, Any], value), depth)
    if isinstance(value, list):
        return _array(cast(Sequence[object], value), depth)
    if isinstance(value, str):
        return f"string of {len(value)}"
    return _KINDS[type(value)]


def _object(value: Mapping[str, object], depth: int) -> str:
    if not depth:
        return f"object of {len(value)}"
    members = [
        f"{json.dumps(key[:_KEY_CHARS])}: {_described(value[key], depth - 1)}" for key in list(value)[:_MAX_KEYS]
    ]
    if len(value) > _MAX_KEYS:
        members.append(f"{len(value) - _MAX_KEYS} more")
    return f"object of {len(value)} {{{', '.join(members)}}}"


def _array(value: Sequence[object], depth: int) -> str:
    kinds = sorted({_KINDS[type(item)] for item in value})
    if depth and kinds == ["object"]:
        return f"array of {len(value)}, the first an {_described(value[0], depth - 1)}"
    return f"array of {len(value)}" + (f" ({', '.join(kinds)})" if kinds else "")
