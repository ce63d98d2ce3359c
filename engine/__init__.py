"""An agent engine as an explicit finite-state machine: recorded transitions, exact resumption, enforced limits.

Importing the package loads nothing but this page; the first name that is asked for loads the engine. So a program that
only mentions it, or needs one part of it such as `engine.replay`, does not wait for the rest.
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._names import (
        Engine,
        EngineError,
        EngineSettings,
        EngineStats,
        LaneLimits,
        Limits,
        Message,
        ModelReply,
        ModelRequest,
        Outcome,
        Priority,
        Prompt,
        Redactor,
        Session,
        State,
        ToolCall,
        ToolContext,
        ToolOutput,
        ToolSpec,
        ToolStatus,
        TransitionRecord,
        TurnResult,
        Usage,
        Warm,
        WarmContext,
        WarmSettings,
        tool,
    )
    from .runtime.learning import Learner

__all__ = [
    "Engine",
    "EngineError",
    "EngineSettings",
    "EngineStats",
    "LaneLimits",
    "Learner",
    "Limits",
    "Message",
    "ModelReply",
    "ModelRequest",
    "Outcome",
    "Priority",
    "Prompt",
    "Redactor",
    "Session",
    "State",
    "ToolCall",
    "ToolContext",
    "ToolOutput",
    "ToolSpec",
    "ToolStatus",
    "TransitionRecord",
    "TurnResult",
    "Usage",
    "Warm",
    "WarmContext",
    "WarmSettings",
    "__version__",
    "tool",
]


_PARTS = ("errors", "journal", "models", "ports", "replay")
"""What `import engine` is enough for, beside the names."""


def __getattr__(name: str) -> Any:
    if name in ("Learner", "predict"):
        # Most engines do not learn.
        from .runtime.learning import Learner

        return Learner if name == "Learner" else globals()["predict"]
    if name in __all__ or name in _PARTS:
        from . import _names

        found = globals()[name] = getattr(_names, name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS, "predict"})
