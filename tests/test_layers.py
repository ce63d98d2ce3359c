"""The architecture, proven by reading the source: who imports whom, and what no module of the engine may do.

Every rule is a function from a parsed module to the list of its violations. One test runs it over all modules, another
checks that it still finds a planted violation. An exception to a rule stands in a table here, with its reason.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parent.parent / "engine"

LAYERS = (
    {"errors", "_version"},
    {"core", "predict"},
    {"ports", "log"},
    {"journal", "models", "tools"},
    {"replay"},
    {"runtime"},
    {"session"},
    {"api"},
    {"inspect", "cluster", "cli", "blocking", "counterfactual"},
    {"_names"},
    {"__init__"},
    {"__main__"},
    {"testing"},
)
"""From left to right. A module imports from its own part and from parts further left, never from a neighbour."""

NEIGHBOURS = {
    ("cli", "inspect"): "the commands `graph` and `inspect` print what inspect draws",
    ("cli", "cluster"): "the command line starts dispatchers",
}

CORE_ALLOWED = {
    "__future__", "abc", "bisect", "collections", "copy", "dataclasses", "enum", "functools", "hashlib", "heapq",
    "itertools", "json", "math", "operator", "pydantic", "re", "string", "types", "typing", "zlib",
}  # fmt: skip
"""Everything a pure module may import; no clock, randomness, file, thread or logger is among it."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "httpx2": ("models.http",),
    "xllamacpp": ("models.llama_cpp",),
    "rich": ("cli",),
    "matplotlib": ("cli.plots",),
    "transitions": ("core.table", "inspect.diagram"),
    "structlog": ("log",),
    "psutil": ("journal", "runtime", "tools", "cli"),
    "starlette": ("inspect.live",),
    "uvicorn": ("inspect.live",),
    "watchfiles": ("cli.following",),
    "argparse": ("cli", "__main__"),
    # anyio has no word for two things: whether a task is really being cancelled, and waking a loop from any thread.
    "asyncio": ("testing", "tools.function", "tools.threads", "journal._thread", "runtime.bell"),
    "trio": ("testing", "tools.threads", "journal._thread", "runtime.bell"),
    "pytest": ("testing",),
    "hypothesis": ("testing",),
}
"""Package → the modules (or whole parts) that may import it. Extras stand in exactly one adapter."""

DEPENDENCIES = {"anyio", "pydantic", "transitions", "structlog", "psutil"}

WITH_PYDANTIC = {"pydantic_core", "typing_extensions"}
"""What pydantic itself requires and hands out types of."""

FORBIDDEN = {"pickle", "cPickle", "marshal", "shelve", "dill", "imp", "runpy", "yaml", "pkgutil"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "import_module", "breakpoint"}
IMPORTLIB_ALLOWED = {"importlib.resources", "importlib.metadata"}

FINDS_CODE = {
    "cli.differences": "it finds the engine of the host's that the command line names, never anything else",
    "tools.workers.target": "it finds the host's own decorated function again; the name comes from the decorator",
}
"""Modules that may import a module by its name, and why."""

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 5

WIDE = {
    "api.Engine.__init__": "the contract of the public surface: one keyword a port, the rest in a settings object",
    "journal.codec.seal": "keyword-only, one a member of the record format; called from the one place that appends",
}
"""Functions with more parameters than the rule allows, and why."""


@dataclass(frozen=True)
class Module:
    """One parsed source file. `name` is dotted and relative to the engine: `core.table`, `journal.__init__`."""

    name: str
    tree: ast.Module
    lines: int

    @property
    def part(self) -> str:
        """The first component of the name: what layers are made of."""
        return self.name.partition(".")[0]


BROAD = {
    "tools.encode.encode_result": "the handler does the work again, slowly, and that raises what is wrong and where",
    "tools.encode.check_json": "the same",
}
"""Functions whose broad handler neither raises nor uses what it caught, and why nothing is lost."""


Rule: TypeAlias = Callable[[Module], list[str]]
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def read(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(".".join(path.relative_to(ROOT).with_suffix("").parts), ast.parse(text), text.count("\n"))


MODULES = [read(path) for path in sorted(ROOT.rglob("*.py"))]


def planted(name: str, source: str) -> Module:
    return Module(name, ast.parse(source), source.count("\n"))


def inside(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith((f"{place}.", f"{place}_")) for place in places)


def relative_targets(module: Module, node: ast.ImportFrom) -> Iterator[str]:
    """Yield the dotted names, relative to the engine, that a relative import reaches."""
    package = module.name.split(".")[: -node.level]
    if node.level > len(module.name.split(".")):
        yield "<outside>"
    elif node.module:
        yield ".".join([*package, node.module])
    else:
        yield from (".".join([*package, alias.name]) for alias in node.names)


def absolute_imports(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == "importlib":
                yield from ((node.lineno, f"importlib.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Yield every function with its dotted name, nested ones and methods included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}.{child.name}", child
                yield from walk(child, f"{prefix}.{child.name}")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}.{child.name}")
            else:
                yield from walk(child, prefix)

    yield from walk(module.tree, module.name)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called_name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def rank(part: str) -> int | None:
    return next((index for index, parts in enumerate(LAYERS) if part in parts), None)


def imports_only_to_the_left(module: Module) -> list[str]:
    found = []
    own = rank(module.part)
    if own is None:
        return [f"{module.name}: {module.part!r} has no place in LAYERS; give it one"]
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        for target in relative_targets(module, node):
            part = target.partition(".")[0] or "__init__"
            if part == module.part or (module.part, part) in NEIGHBOURS or module.part == "testing":
                continue
            other = rank(part)
            if part == "testing" or other is None or other >= own:
                found.append(f"{module.name}:{node.lineno}: {module.part} must not import {target}")
    return found


def names_itself_only_relatively(module: Module) -> list[str]:
    return [
        f"{module.name}:{line}: import {name}: write it as a relative import, hosts may rename the package"
        for line, name in absolute_imports(module)
        if name.partition(".")[0] == "engine"
    ]


def imports_what_is_declared(module: Module) -> list[str]:
    found = []
    for line, name in absolute_imports(module):
        top = name.partition(".")[0]
        if top in ONLY_IN:
            if not inside(module.name, ONLY_IN[top]):
                found.append(f"{module.name}:{line}: {top} may be imported in {', '.join(ONLY_IN[top])} only")
        elif top not in DEPENDENCIES | WITH_PYDANTIC | sys.stdlib_module_names | {"engine"}:
            found.append(f"{module.name}:{line}: {top} is no declared dependency")
    return found


def keeps_pure_parts_pure(module: Module) -> list[str]:
    if module.part not in ("core", "predict"):
        return []
    return [
        f"{module.name}:{line}: a pure module must not import {name}"
        for line, name in absolute_imports(module)
        if name.partition(".")[0] not in CORE_ALLOWED
        and not (name.startswith("transitions") and module.name == "core.table")
        # Where a predictor is kept; nothing else of it touches a file.
        and not (name in ("os", "contextlib", "pathlib") and module.name == "predict.files")
    ]


def loads_no_code_by_name(module: Module) -> list[str]:
    found = []
    finds_code = module.name in FINDS_CODE
    for line, name in absolute_imports(module):
        if name.partition(".")[0] in FORBIDDEN:
            found.append(f"{module.name}:{line}: import {name}")
        allowed = finds_code or any(name.startswith(allowed) for allowed in IMPORTLIB_ALLOWED)
        if name.partition(".")[0] == "importlib" and not allowed:
            found.append(f"{module.name}:{line}: import {name}")
    for node in calls(module.tree):
        # `re.compile` and the like are attributes: only the builtins and `importlib.import_module` are meant.
        builtin = isinstance(node.func, ast.Name)
        if called_name(node) == "import_module" and finds_code:
            continue
        if called_name(node) in FORBIDDEN_CALLS and (builtin or called_name(node) == "import_module"):
            found.append(f"{module.name}:{node.lineno}: {called_name(node)}()")
    return found


def sleeps_in_no_loop(module: Module) -> list[str]:
    found = [
        f"{module.name}:{node.lineno}: sleep in a loop: wait for an event or a deadline instead"
        for loop in ast.walk(module.tree)
        if isinstance(loop, ast.For | ast.While | ast.AsyncFor)
        for node in calls(loop)
        if called_name(node) in ("sleep", "sleep_until")
    ]
    blocking = (
        f"{module.name}:{node.lineno}: time.sleep blocks the loop"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and ast.unparse(node.value) == "time"
    )
    return [*found, *blocking]


def caught(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {"BaseException"}
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind) for kind in kinds}


def raises(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for statement in handler.body for node in ast.walk(statement))


def uses(handler: ast.ExceptHandler) -> bool:
    """Whether the handler reads what it caught, or hands it to a log with its traceback."""
    nodes = [node for statement in handler.body for node in ast.walk(statement)]
    read = any(isinstance(node, ast.Name) and node.id == handler.name for node in nodes)
    return read or any(isinstance(node, ast.Call) and called_name(node) == "exception" for node in nodes)


def awaits(block: ast.Try | ast.TryStar) -> bool:
    waiting = (ast.Await, ast.AsyncWith, ast.AsyncFor, ast.Yield)
    return any(isinstance(node, waiting) for statement in block.body for node in ast.walk(statement))


def swallows_nothing(module: Module) -> list[str]:
    """A broad handler raises or uses what it caught; where cancellation can arrive, it is let through first."""
    found = []
    excused = {
        line
        for name, node in functions(module)
        if name in BROAD
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    for call in calls(module.tree):
        if called_name(call) == "suppress" and {ast.unparse(kind) for kind in call.args} & {
            "Exception",
            "BaseException",
        }:
            found.append(f"{module.name}:{call.lineno}: suppress() of a broad exception")
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Try | ast.TryStar):
            continue
        for index, handler in enumerate(node.handlers):
            broad = caught(handler) & {"Exception", "BaseException"}
            if not broad or raises(handler):
                continue
            used = uses(handler)
            if not used and handler.lineno in excused:
                continue
            if not used:
                found.append(f"{module.name}:{handler.lineno}: a broad except that swallows")
            elif (
                "BaseException" in broad
                and awaits(node)
                and not any(raises(earlier) for earlier in node.handlers[:index])
            ):
                found.append(
                    f"{module.name}:{handler.lineno}: except BaseException without re-raising cancellation first"
                )
    return found


def stays_small(module: Module) -> list[str]:
    found = []
    if module.lines > MAX_MODULE_LINES:
        found.append(f"{module.name}: {module.lines} lines, at most {MAX_MODULE_LINES}")
    for name, function in functions(module):
        size = (function.end_lineno or function.lineno) - function.lineno + 1
        if size > MAX_FUNCTION_LINES:
            found.append(f"{name}: {size} lines, at most {MAX_FUNCTION_LINES}")
    return found


def takes_few_parameters(module: Module) -> list[str]:
    found = []
    for name, function in functions(module):
        arguments = function.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len([given for given in names if given not in ("self", "cls")])
        if count > MAX_PARAMETERS and name not in WIDE:
            found.append(f"{name}: {count} parameters, at most {MAX_PARAMETERS}; group what belongs together")
    return found


def says_its_job(module: Module) -> list[str]:
    return [] if ast.get_docstring(module.tree) else [f"{module.name}: no docstring that says the module's job"]


def starts_no_loose_task(module: Module) -> list[str]:
    return [
        f"{module.name}:{node.lineno}: {called_name(node)}() starts a task outside every task group"
        for node in calls(module.tree)
        if called_name(node) in ("create_task", "ensure_future", "spawn_system_task", "run_coroutine_threadsafe")
    ]


PLANTED: dict[Rule, list[tuple[str, str]]] = {
    imports_only_to_the_left: [
        ("journal.jsonl", "from ..runtime.driver import Driver"),
        ("journal.jsonl", "from ..models import scripted"),
        ("journal.jsonl", "def late():\n    from ..api import Engine"),
        ("core.step", "from .. import ports"),
        ("core.step", "from .. import Engine"),
        ("api", "from .testing import simulation"),
        ("core.step", "from ....host import secrets"),
        ("novelty", "x = 1"),
    ],
    names_itself_only_relatively: [("api", "from engine.core import values"), ("api", "import engine")],
    imports_what_is_declared: [
        ("models.openai", "import httpx2"),
        ("api", "from rich.table import Table"),
        ("runtime.driver", "import asyncio"),
        ("api", "import requests"),
        ("core.step", "from transitions import Machine"),
    ],
    keeps_pure_parts_pure: [
        ("core.step", "import time"),
        ("core.values", "from datetime import datetime"),
        ("predict.mix", "import anyio"),
        ("predict.mix", "import os"),
        ("core.step", "import transitions"),
        ("core.step", "def late():\n    import random"),
    ],
    loads_no_code_by_name: [
        ("api", "import pickle"),
        ("api", "from importlib import import_module"),
        ("api", "import importlib"),
        ("api", "eval('1')"),
        ("api", "loader.import_module('x')"),
        ("tools.workers.child", "import importlib.util"),
        ("tools.workers.target_of", "importlib.import_module(name)"),
        ("tools.workers.target", "import pickle"),
        ("tools.workers.target", "eval(name)"),
    ],
    sleeps_in_no_loop: [
        ("runtime.clock", "async def f():\n    while True:\n        await anyio.sleep(1)"),
        ("runtime.clock", "import time\ntime.sleep(1)"),
    ],
    swallows_nothing: [
        ("api", "try:\n    f()\nexcept Exception:\n    pass"),
        ("api", "try:\n    f()\nexcept:\n    log('failed')"),
        (
            "api",
            "async def g():\n    try:\n        await f()\n    except (KeyError, BaseException) as e:\n        done(e)",
        ),
        ("api", "with suppress(Exception):\n    f()"),
    ],
    stays_small: [
        ("api", "x = 1\n" * (MAX_MODULE_LINES + 1)),
        ("api", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
    ],
    takes_few_parameters: [
        ("api", "def f(a, b, c, /, d, *, e, f): ..."),
        ("api", "class C:\n    def __init__(self, a, b, c, d, e, f): ..."),
    ],
    says_its_job: [("api", "x = 1")],
    starts_no_loose_task: [("runtime.driver", "loop.create_task(f())")],
}

RULES = list(PLANTED)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds_in_every_module(rule: Rule) -> None:
    """No module of the engine breaks the rule."""
    violations = [violation for module in MODULES for violation in rule(module)]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [(rule, name, source) for rule, cases in PLANTED.items() for name, source in cases],
    ids=[f"{rule.__name__}-{index}" for rule, cases in PLANTED.items() for index in range(len(cases))],
)
def test_rule_finds_a_planted_violation(rule: Rule, name: str, source: str) -> None:
    """The rule is able to fail: a module that breaks it is reported, once."""
    assert len(rule(planted(name, source))) == 1


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (imports_only_to_the_left, "cli.main", "from ..inspect.diagram import draw\nfrom .output import show"),
        (imports_only_to_the_left, "journal.__init__", "from .codec import seal\nfrom ..core.values import State"),
        (imports_only_to_the_left, "testing.conformance", "from ..api import Engine\nfrom .. import journal"),
        (imports_what_is_declared, "cli_output", "from rich.table import Table"),
        (loads_no_code_by_name, "cli", "from importlib import metadata, resources\nimport importlib.resources"),
        (loads_no_code_by_name, "core.values", "import re\nre.compile('x')"),
        (loads_no_code_by_name, "tools.workers.target", "import importlib\nimportlib.import_module(name)"),
        (swallows_nothing, "tools.threads", "try:\n    f()\nexcept BaseException as e:\n    h(e)"),
        (
            swallows_nothing,
            "tools.function",
            "async def g():\n    try:\n        await f()\n"
            "    except Cancelled:\n        raise\n    except BaseException as e:\n        h(e)",
        ),
        (swallows_nothing, "tools.function", "try:\n    f()\nexcept BaseException:\n    undo()\n    raise"),
    ],
)  # fmt: skip
def test_rule_accepts_what_is_meant(rule: Rule, name: str, source: str) -> None:
    """What the rules are not about is left alone."""
    assert rule(planted(name, source)) == []


def test_exceptions_name_what_exists() -> None:
    """An entry of WIDE, BROAD or FINDS_CODE whose function or module is gone has to go too."""
    known = {name for module in MODULES for name, _ in functions(module)}
    assert (WIDE.keys() | BROAD.keys()) - known == set()
    assert FINDS_CODE.keys() - {module.name for module in MODULES} == set()
