"""Models: adapters to language models. Each satisfies `engine.ports.Model`.

The adapters that need an optional dependency import it when they are first used, not here.
"""

from .function import FunctionModel
from .recorded import RecordedModel
from .scripted import ScriptedModel

__all__ = ["FunctionModel", "RecordedModel", "ScriptedModel"]
