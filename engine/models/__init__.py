"""Models: adapters to language models. Each satisfies `engine.ports.Model`.

The adapters of optional dependencies are loaded when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from .function import FunctionModel
from .recorded import RecordedModel
from .scripted import ScriptedModel
from .text_calls import TEXT_CALL_FORMATS, TextCallFormat

if TYPE_CHECKING:
    from .http import HttpModel, HttpSettings
    from .llama_cpp import LlamaCppModel, LlamaSettings

__all__ = [
    "TEXT_CALL_FORMATS",
    "FunctionModel",
    "HttpModel",
    "HttpSettings",
    "LlamaCppModel",
    "LlamaSettings",
    "RecordedModel",
    "ScriptedModel",
    "TextCallFormat",
]


def __getattr__(name: str) -> Any:
    if name in ("HttpModel", "HttpSettings"):
        from . import http

        return getattr(http, name)
    if name in ("LlamaCppModel", "LlamaSettings"):
        from . import llama_cpp

        return getattr(llama_cpp, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
