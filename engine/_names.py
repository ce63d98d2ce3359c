"""What `engine` offers, loaded as a whole when the first of its names is asked for: its `__getattr__` looks here."""

from . import errors as errors, journal as journal, models as models, ports as ports, replay as replay
from .api import Engine as Engine, Session as Session
from .core.limits import Limits as Limits
from .core.record import TransitionRecord as TransitionRecord
from .core.redaction import Redactor as Redactor
from .core.values import (
    Message as Message,
    ModelReply as ModelReply,
    Outcome as Outcome,
    Priority as Priority,
    Prompt as Prompt,
    State as State,
    ToolCall as ToolCall,
    ToolSpec as ToolSpec,
    ToolStatus as ToolStatus,
    Usage as Usage,
)
from .errors import EngineError as EngineError
from .ports import ModelRequest as ModelRequest, ToolContext as ToolContext, ToolOutput as ToolOutput
from .runtime.lanes import LaneLimits as LaneLimits
from .runtime.parts import EngineSettings as EngineSettings, TurnResult as TurnResult
from .runtime.stats import EngineStats as EngineStats
from .runtime.warm_settings import WarmSettings as WarmSettings
from .tools.function import tool as tool
from .tools.warm import Warm as Warm, WarmContext as WarmContext
