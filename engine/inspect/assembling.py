"""The inspector's page: one HTML file that holds everything it needs and asks nobody for anything.

The sources lie in `page/`: plain JavaScript, one stylesheet, one frame. Data goes in as JSON with `<` escaped, inside
elements that no browser runs; the page shows it as text. A Content-Security-Policy allows this script and this style by
their hashes, and nothing else, so what a tool wrote cannot run and cannot reach the network. May import core and the
version. Must never read a journal.
"""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files

from pydantic import JsonValue

from .._version import __version__
from ..core.values import JsonObject

SCRIPTS = ("dom", "store", "filter", "list", "detail", "timeline", "diagram", "summary", "main")
"""The page's scripts, in the order in which they are put together."""

LINES = ("events", "changes", "messages")
"""The members of a chunk that are lines of JSON text. No JSON text holds what parts them from one another."""

_BETWEEN = "\x1e"
_HALF = re.compile("[\ud800-\udfff]")

PACKED_FROM_CHARS = 2_000_000
"""A history of so much JSON is handed to the page compressed; a smaller one can be read in the file."""

_SLOT = re.compile(r"\{([a-z]+)\}")


def page(head: JsonObject, chunks: Sequence[JsonObject], *, live: bool = False) -> str:
    """Return the page of a history.

    Args:
        head: what `encoding.head` gives.
        chunks: what the encoder gave, in order.
        live: whether more records come from the server that hands the page out, as server-sent events.
    """
    script, style = _script(), _source("style.css")
    connect = "'self'" if live else "'none'"
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    session = escape(str(head["session"]))
    slots = {
        "policy": policy, "title": f"{session}, agent-engine", "style": style, "source": escape(str(head["source"])),
        "session": session, "version": __version__, "head": _inert({**head, "live": live}),
        "records": _packed(chunks), "script": script,
    }  # fmt: skip
    # In one pass: what fills one slot is never looked at for another.
    return _SLOT.sub(lambda match: slots[match[1]], _source("page.html"))


def _inert(value: JsonValue) -> str:
    """Return JSON that ends no element and opens no comment: every `<` is escaped, and half letters, which no file can
    hold.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _packed(chunks: Sequence[JsonObject]) -> str:
    """Return chunks as JSON, or, of a large history, within JSON that holds them compressed.

    A browser reads that several times faster. The lines of a chunk then stand beside its JSON and not in it.
    """
    text = _inert([*chunks])
    if len(text) < PACKED_FROM_CHARS:
        return text
    parts: list[str] = []
    for chunk in chunks:
        parts.append(_inert({name: value for name, value in chunk.items() if name not in LINES}))
        parts += [str(chunk[name]) for name in LINES]
    packed = gzip.compress(_BETWEEN.join(parts).encode(), 6, mtime=0)
    return json.dumps({"gzip": b64encode(packed).decode("ascii")})


@cache
def _script() -> str:
    parts = "\n".join(_source(f"{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(async () => {{\n{parts}}})();\n'


@cache
def _source(name: str) -> str:
    return (files(__package__ or "") / "page" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


__all__ = ["SCRIPTS", "page"]
