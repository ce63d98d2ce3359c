"""Functions by name: which of them another process can find, and how it finds them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from engine.errors import ToolDefinitionError
from engine.tools.workers import Target, target_of
from engine.tools.workers.target import find
from tests.tools.workers import functions

ROOT = Path(__file__).resolve().parents[3]


def test_function_of_a_module_is_found_again() -> None:
    """What a target names is the function that it was made of."""
    target = target_of(functions.add)
    assert target == Target("tests.tools.workers.functions", "add")
    assert find(target) is functions.add


def nested() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize("function", [lambda: None, nested(), partial(functions.add, 1)])
def test_function_without_a_name_of_its_own_is_refused(function: Callable[..., object]) -> None:
    """A lambda, a function inside a function and a partial one are refused where the tool is defined."""
    with pytest.raises(ToolDefinitionError, match="at the top of a module"):
        target_of(function)


SCRIPT = """
import anyio
from engine.tools.workers import WorkerCall, WorkerPool, target_of
from tests.tools.workers.talking import call_of

def where() -> str:
    return __name__

async def main() -> None:
    async with WorkerPool(size=1, idle=0) as pool:
        for _ in range(2):
            print((await pool.run(call_of(where))).content)

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_function_of_a_script_is_found_without_running_the_script_again(tmp_path: Path, as_module: bool) -> None:
    """A script's function runs in a worker, under another name than `__main__`, started by path or with -m."""
    (tmp_path / "host_script.py").write_text(SCRIPT, "utf-8")
    source = ["-m", "host_script"] if as_module else [str(tmp_path / "host_script.py")]
    done = subprocess.run(
        [sys.executable, *source],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["host_script" if as_module else "__worker_main__"] * 2


def test_function_typed_into_a_console_is_refused() -> None:
    """What stands in no file cannot be imported, and that is said where the tool is defined."""
    source = "from engine.tools.workers import target_of\ndef f(): ...\ntarget_of(f)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "ToolDefinitionError" in done.stderr
    assert "notebook" in done.stderr


def test_script_is_loaded_once(tmp_path: Path) -> None:
    """Two functions of one script share one module; another script takes its place."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("def f(): ...\ndef g(): ...\n", "utf-8")
    first = find(Target("__worker_main__", "f", str(tmp_path / "one.py")))
    assert find(Target("__worker_main__", "g", str(tmp_path / "one.py"))).__globals__ is first.__globals__
    assert find(Target("__worker_main__", "f", str(tmp_path / "two.py"))).__globals__ is not first.__globals__
    sys.modules.pop("__worker_main__")


def test_script_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    """A script that raises while it is loaded is not taken for loaded by the next call."""
    (tmp_path / "bad.py").write_text("raise OSError('no')", "utf-8")
    target = Target("__worker_main__", "f", str(tmp_path / "bad.py"))
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            find(target)
    with pytest.raises(ImportError, match="no Python file"):
        find(Target("__worker_main__", "f", str(tmp_path / "no_suffix")))
