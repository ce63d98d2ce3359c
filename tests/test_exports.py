"""The public names are frozen, and importing them costs the host nothing: no output, no extra, no changed logger.

A change of the public surface is a decision: `REFRESH_GOLDEN=1 pytest tests/test_exports.py` rewrites
`tests/golden/exports.txt`, and the change is reviewed as its diff.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import engine

GOLDEN = Path(__file__).parent / "golden" / "exports.txt"
MODULES = ("engine", "engine.journal", "engine.models", "engine.predict", "engine.replay", "engine.testing")
EXTRAS = (
    "httpx2", "xllamacpp", "rich", "matplotlib", "openai", "anthropic", "mcp", "dbos", "psycopg", "opentelemetry",
    "starlette", "uvicorn", "watchfiles",
)  # fmt: skip
NOT_FOR_PRODUCTION = ("pytest", "hypothesis", "trio")


def names_of(module: str) -> list[str]:
    return list(importlib.import_module(module).__all__)


def run_python(source: str) -> str:
    """Return what a fresh interpreter, with warnings as errors, prints when it runs `source`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(engine.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_public_names_are_the_frozen_ones() -> None:
    """Every public module offers exactly the names of the golden file."""
    text = "".join(f"[{module}]\n" + "".join(f"{name}\n" for name in sorted(names_of(module))) for module in MODULES)
    if os.environ.get("REFRESH_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_resolves(module: str) -> None:
    """What `__all__` promises exists, is public and is promised once."""
    names = names_of(module)
    loaded = importlib.import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []
    assert len(names) == len(set(names))


def test_importing_prints_nothing() -> None:
    """`import engine` writes neither to the standard output nor to the standard error, and warns of nothing."""
    assert run_python("import engine, engine.journal, engine.models, engine.replay") == ""


def test_importing_loads_no_extra() -> None:
    """No optional dependency, and nothing that only tests need, is loaded before its adapter is asked for.

    The dependencies are loaded first: what they pick up by themselves is theirs (structlog takes rich if it is there).
    """
    source = f"""
import json, sys
import anyio, psutil, pydantic, structlog, transitions
before = set(sys.modules)
import engine, engine.journal, engine.models, engine.replay
print(json.dumps([name for name in {EXTRAS + NOT_FOR_PRODUCTION!r} if name in set(sys.modules) - before]))
"""
    assert json.loads(run_python(source)) == []


def test_importing_leaves_the_hosts_logging_alone() -> None:
    """After `import engine` every logger that is not the engine's own is as it was before."""
    source = """
import json, logging
import anyio, psutil, pydantic, structlog, transitions
logging.getLogger("host").setLevel(logging.INFO)

def look():
    loggers = {"": logging.root, **logging.Logger.manager.loggerDict}
    return {
        name: [it.level, it.disabled, it.propagate, len(it.handlers), len(it.filters)]
        for name, it in loggers.items()
        if isinstance(it, logging.Logger) and name.partition(".")[0] != "engine"
    }

before = look(), logging.root.manager.disable, structlog.is_configured(), logging.getLoggerClass().__name__
import engine, engine.journal, engine.models, engine.replay
after = look(), logging.root.manager.disable, structlog.is_configured(), logging.getLoggerClass().__name__
changed = {name for name, seen in after[0].items() if name in before[0] and seen != before[0][name]}
new = {name: seen for name, seen in after[0].items() if name not in before[0]}
configured = {name for name, (level, off, up, _, filters) in new.items() if level or off or not up or filters}
print(json.dumps([sorted(changed), sorted(configured), before[1:] == after[1:]]))
"""
    assert json.loads(run_python(source)) == [[], [], True]
