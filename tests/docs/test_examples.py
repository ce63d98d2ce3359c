"""The documentation is executed: every example in README.md and docs/, page by page, in a folder of its own.

The ```python blocks of a page share one namespace and run in order. In a ```console block each line `$ agent-engine …`
is run and has to exit with status 0. A block that cannot run here has `<!-- not executed: reason -->` before it.
"""

from __future__ import annotations

import linecache
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w-]*)(?P<rest>.*)$")
SKIP = re.compile(r"^\s*<!-- not executed: \S.* -->\s*$")
COMMAND_TIMEOUT_S = 120


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page on which the text starts, from 1."""

    language: str
    text: str
    line: int


def executable_blocks(text: str) -> list[Block]:
    """Return the python and console blocks of a page, without those marked as not executed."""
    found = []
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        opening = FENCE.match(lines[position])
        if opening is None:
            position += 1
            continue
        start = position + 1
        end = start
        while end < len(lines) and lines[end].strip() != opening["ticks"]:
            end += 1
        skipped = any(SKIP.match(line) for line in lines[max(0, position - 2) : position] if line.strip())
        if opening["language"] in ("python", "console") and not skipped:
            indent = len(opening["indent"])
            body = "".join(line[indent:] + "\n" for line in lines[start:end])
            found.append(Block(opening["language"], body, start + 1))
        position = end + 1
    return found


def check_python(block: Block, page: str, namespace: dict[str, Any]) -> None:
    # Padding puts the block on its own lines, so a traceback points into the page and inspect finds the source.
    source = "\n" * (block.line - 1) + block.text
    name = f"<{page}:{block.line}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec", dont_inherit=True), namespace)  # noqa: S102 - the project's own pages


def check_console(block: Block, page: str) -> None:
    commands = re.sub(r"\\\n", "", block.text).splitlines()
    for line in commands:
        if not line.startswith("$ "):
            continue
        program, *arguments = shlex.split(line[2:], comments=True)
        assert program == "agent-engine", f"{page}:{block.line}: only agent-engine is run; mark the block"
        done = subprocess.run(
            [sys.executable, "-m", "engine", *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{page}:{block.line}: {line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of the page runs as it is printed, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    shown = str(page.relative_to(ROOT))
    module = ModuleType("__main__")
    # Annotations of functions defined in a page are resolved through the module they claim to be in.
    monkeypatch.setitem(sys.modules, "__main__", module)
    for block in executable_blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            check_python(block, shown, vars(module))
        else:
            check_console(block, shown)


def test_blocks_are_found_and_skipped_as_documented() -> None:
    """A plain block is found with its line, a marked one and other languages are not."""
    text = (
        "# Page\n\n```python\nx = 1\n```\n\n<!-- not executed: needs a key -->\n```python\ny = 1\n```\n"
        "\n```json\n{}\n```\n\n````text\n```python\nz = 1\n```\n````\n"
        "\n- item\n\n  ```console\n  $ agent-engine doctor\n  ```\n"
    )
    assert executable_blocks(text) == [Block("python", "x = 1\n", 4), Block("console", "$ agent-engine doctor\n", 25)]


def test_failing_example_is_reported() -> None:
    """An exception in a block is raised, with the line of the page in its traceback."""
    with pytest.raises(ZeroDivisionError) as caught:
        check_python(Block("python", "1 / 0\n", 12), "page.md", {})
    assert caught.traceback[-1].lineno == 11


def test_failing_command_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does not exit with status 0 fails the page."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=r"page\.md:3: \$ agent-engine no-such-command"):
        check_console(Block("console", "$ agent-engine no-such-command\n", 3), "page.md")
