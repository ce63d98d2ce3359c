"""An agent engine as an explicit finite-state machine: recorded transitions, exact resumption, enforced limits."""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .api import Engine, Session
from .core.limits import Limits
from .core.record import TransitionRecord
from .core.redaction import Redactor
from .core.values import (
    Message,
    ModelReply,
    Outcome,
    Priority,
    Prompt,
    State,
    ToolCall,
    ToolSpec,
    ToolStatus,
    Usage,
)
from .errors import EngineError
from .ports import ModelRequest, ToolContext, ToolOutput
from .runtime.lanes import LaneLimits
from .runtime.parts import EngineSettings, TurnResult
from .runtime.stats import EngineStats
from .runtime.warm_settings import WarmSettings
from .tools.function import tool
from .tools.warm import Warm, WarmContext

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: most engines do not learn.
    if name == "Learner":
        from .runtime.learning import Learner

        return Learner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
