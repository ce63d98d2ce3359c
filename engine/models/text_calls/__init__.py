"""Tool calls that a model writes into its text, because its server does not read them out of it.

`read_calls` reads a whole text, `CallReader` one that grows, `reply_with_calls` a reply; the adapters take the formats
as a setting. Which formats there are, and what is forgiven, is in `docs/models.md`.
"""

from .forms import TEXT_CALL_FORMATS, FoundCall, TextCallFormat
from .reader import CallReader, ReadText, read_calls
from .replies import reply_with_calls

__all__ = [
    "TEXT_CALL_FORMATS",
    "CallReader",
    "FoundCall",
    "ReadText",
    "TextCallFormat",
    "read_calls",
    "reply_with_calls",
]
