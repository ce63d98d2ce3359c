"""Which function a worker runs: named by module and qualified name, and found by them in the other process.

The one module of the engine that imports a module by its name. The name comes from a function that the host itself has
decorated, never from a journal, a model or a person. May import errors and the standard library.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ...errors import ToolDefinitionError

_SCRIPT = "__worker_main__"
"""What the host's script is called in a worker: not `__main__`, so that its guarded part does not run again."""


class Target(NamedTuple):
    """A function by name. `path` is the file of the host's script where the function stands in one."""

    module: str
    qualname: str
    path: str | None = None


def target_of(function: Callable[..., Any]) -> Target:
    """Return how another process finds this function.

    Raises:
        ToolDefinitionError: it cannot, because the function has no name at the top of a module or of a class.
    """
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or "<" in qualname:
        raise ToolDefinitionError(
            f"{qualname or function!r} cannot run in a worker process, which finds functions by name: define it with "
            "`def` at the top of a module, not inside a function and not as a lambda"
        )
    return _in_script(qualname) if module == "__main__" else Target(module, qualname)


def _in_script(qualname: str) -> Target:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return Target(spec.name, qualname)
    path = getattr(main, "__file__", None)
    if path is None:
        raise ToolDefinitionError(
            f"{qualname!r} cannot run in a worker process: it was typed into a console or a notebook, which no other "
            "process can import; put it into a module"
        )
    return Target(_SCRIPT, qualname, str(Path(path).resolve()))


def find(target: Target) -> Any:
    """Import the module of a target, unless it has been, and return what stands there under its name.

    Raises:
        Exception: whatever the module raises while it is imported; AttributeError where the name leads nowhere.
    """
    found: Any = importlib.import_module(target.module) if target.path is None else _script(target.path)
    for name in target.qualname.split("."):
        found = getattr(found, name)
    return found


def _script(path: str) -> ModuleType:
    known = sys.modules.get(_SCRIPT)
    if known is not None and known.__file__ == path:
        return known
    spec = importlib.util.spec_from_file_location(_SCRIPT, path)
    if spec is None or spec.loader is None:
        raise ImportError(
            f"the host's script {path} is no Python file that can be imported; put the tool into a module"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_SCRIPT] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_SCRIPT]
        raise
    return module
