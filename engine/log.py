"""The engine's log: structlog over the standard library's logger `engine`, silent unless the host listens.

Nothing is printed and no global configuration is touched: records go to `logging.getLogger("engine")` as one line of
ASCII JSON, which escapes line breaks and control characters, so nothing a tool says can forge a line. May import
structlog and logging.
"""

from __future__ import annotations

import json
import logging
from typing import cast

import structlog

_standard = logging.getLogger("engine")
_standard.addHandler(logging.NullHandler())


def _dumps(value: object, **_: object) -> str:
    return json.dumps(value, ensure_ascii=True, default=repr)


logger = cast(
    structlog.stdlib.BoundLogger,
    structlog.wrap_logger(
        _standard,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        context_class=dict,
        cache_logger_on_first_use=True,
    ),
)
"""Bind and log as with any structlog logger."""
