"""The engine's log: structlog over the standard library's logger `engine`, silent unless the host listens.

Nothing is printed and no global configuration is touched: records go to `logging.getLogger("engine")` as one line of
ASCII JSON, which escapes line breaks, control characters and marks of writing direction, so nothing a tool says can
forge a line. What cannot be written as JSON is written as its `repr`. Secrets that an open engine knows are replaced
in every line. May import structlog, logging and core. Must never raise: it is called where errors are handled.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from .core.record import TransitionRecord
from .core.redaction import Redactor

_standard = logging.getLogger("engine")
_standard.addHandler(logging.NullHandler())

_redactors: list[Redactor] = []


def hide_in_log(redactor: Redactor) -> Callable[[], None]:
    """Replace what `redactor` finds in every line from now on, until the returned function is called.

    The log is the process's own, so the secrets of every open engine are kept out of it.
    """
    _redactors.append(redactor)
    return lambda: _redactors.remove(redactor)


def _hide(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for redactor in _redactors:
        event = redactor.clean(event)
    return event


def _shown(value: object) -> str:
    """Return the `repr` of a value, whatever its own `__repr__` does, without secrets."""
    try:
        text = repr(value)
    except Exception as broken:
        text = f"a {type(value).__name__} whose text cannot be shown ({type(broken).__name__})"
    for redactor in _redactors:
        text = redactor.text(text)
    return text


def _render(_: WrappedLogger, __: str, event: EventDict) -> tuple[tuple[str], dict[str, object]]:
    """Return the line, and that nothing is to be added to it: the library would put the raw traceback below."""
    try:
        line = json.dumps(event, ensure_ascii=True, default=_shown)
    except (TypeError, ValueError, RecursionError):
        # A key that is no text, or a value that contains itself: such members in words.
        words = {key: member if isinstance(member, str) else _shown(member) for key, member in event.items()}
        line = json.dumps(words, ensure_ascii=True)
    return (line,), {"exc_info": False}


logger = cast(
    structlog.stdlib.BoundLogger,
    structlog.wrap_logger(
        _standard,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            _hide,
            _render,
        ],
        context_class=dict,
        cache_logger_on_first_use=True,
    ),
)
"""Bind and log as with any structlog logger."""


def log_steps(records: Iterable[TransitionRecord]) -> None:
    """Leave a line at debug level for each record that has become durable: what happened, and the move. No content."""
    # One look at the level for all of them: it is cached there, so a host that does not listen pays nothing more.
    if not _standard.isEnabledFor(logging.DEBUG):
        return
    for record in records:
        logger.debug(
            "step",
            session=record.session,
            seq=record.seq,
            trigger=record.trigger,
            source=record.source.value,
            dest=record.dest.value,
        )
