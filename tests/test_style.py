"""What a reader may rely on in every file: nothing left over, no private places, tests that can fail, two commands."""

from __future__ import annotations

import ast
import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TOP_LEVEL = {
    "CHANGELOG.md", "LICENSE", "README.md", "benchmarks", "docs", "engine", "examples", "setup.cfg", "setup.py",
    "tests", "tox.ini",
}  # fmt: skip
NOT_OURS = {"build", "dist", "htmlcov", "agent_engine.egg-info", "__pycache__"}
"""What tools leave behind; .gitignore names the same."""

TEXT = {".py", ".md", ".cfg", ".ini", ".sh", ".html", ".js", ".json", ".jinja", ".toml", ".txt", ""}

# Composed, so that this file does not contain what it looks for.
WORDS = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "for " + "now", "place" + "holder", "in a real " + "implementation")
LEFTOVERS = re.compile(r"\b(" + "|".join(WORDS) + r")\b", re.IGNORECASE)
PLACES = re.compile(r"(?<![\w.])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"]) + r")/")
REGISTRIES = re.compile("|".join([r"pypi\." + "org", r"pythonhosted\." + "org", r"registry\." + r"npmjs\.org"]))

CHECKING_CALLS = ("assert", "check", "raises", "run_state_machine", "fail", "warns")
"""A call whose name starts so counts as an assertion."""


def files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            hidden = any(part.startswith((".", "_build", "__pycache__")) for part in path.relative_to(ROOT).parts)
            if path.is_file() and not hidden:
                yield path


def texts() -> Iterator[tuple[str, str]]:
    """Yield the relative name and the text of every text file of the project."""
    named = [ROOT / name for name in sorted(TOP_LEVEL) if (ROOT / name).is_file()]
    hidden = [ROOT / ".ci" / "run", ROOT / ".ruff.toml", ROOT / ".pyright.json", ROOT / ".gitignore"]
    for path in [*named, *hidden, *files("engine", "tests", "benchmarks", "docs", "examples")]:
        if path.suffix in TEXT:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def lines_matching(pattern: re.Pattern[str], inside: str = "") -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        if name.startswith(inside)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_engine_has_no_leftovers() -> None:
    """What is in the engine is finished: no note to come back."""
    assert lines_matching(LEFTOVERS, "engine/") == []


def test_no_file_names_a_place_of_one_machine() -> None:
    """No absolute path of somebody's machine stands in any file."""
    assert lines_matching(PLACES) == []


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the reader's own configuration."""
    assert lines_matching(REGISTRIES) == []


def test_every_text_ends_with_one_newline() -> None:
    """Every text file that is not empty ends with exactly one newline."""
    wrong = [name for name, text in texts() if text and (not text.endswith("\n") or text.endswith("\n\n"))]
    assert wrong == []


def test_top_level_holds_what_was_agreed() -> None:
    """Beside hidden files nothing else stands in the top folder: no reports, no diaries, no second configuration."""
    shown = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - NOT_OURS
    assert shown == TOP_LEVEL


def project_tests() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}", node)
        for path in files("tests")
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def asserts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    called = (getattr(n.func, "id", getattr(n.func, "attr", "")) for n in ast.walk(function) if isinstance(n, ast.Call))
    return any(name.startswith(CHECKING_CALLS) for name in called)


def test_every_test_states_its_property() -> None:
    """Every test has a docstring that says what holds."""
    assert [name for name, function in project_tests() if not ast.get_docstring(function)] == []


def test_every_test_asserts() -> None:
    """Every test holds an assertion, or calls something named for being one."""
    assert [name for name, function in project_tests() if not asserts(function)] == []


def test_no_test_sleeps() -> None:
    """Tests wait for events, never for time to pass."""
    sleeping = [
        name
        for name, function in project_tests()
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and ast.unparse(node.value) == "time"
    ]
    assert sleeping == []


def two_commands() -> list[str]:
    """Return the fenced blocks of the README's section `## Two commands`, each with its language in front."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Two commands\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_readme_has_two_commands() -> None:
    """The section holds exactly two `sh` blocks: the first runs the demonstration, the second the checks."""
    blocks = two_commands()
    assert [block.split("\n", 1)[0] for block in blocks] == ["sh", "sh"]
    assert "agent-engine demo" in blocks[0]
    assert "tox run" in blocks[1]


def test_second_command_runs_every_environment() -> None:
    """Plain `tox run` covers tests, types, lint, docs and bench."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    declared = {name.removeprefix("testenv:") for name in tox.sections() if name.startswith("testenv:")}
    listed = {name.strip() for name in tox["tox"]["env_list"].split(",")}
    assert listed == declared == {"tests", "types", "lint", "docs", "bench"}


@pytest.mark.skipif(os.name == "nt", reason="no executable bit on this system")
def test_ci_script_is_executable() -> None:
    """`.ci/run` can be started as it is."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_extra_all_is_the_sum_of_the_adapters_extras() -> None:
    """The extra `all` brings what every adapter needs, and no tool of development."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {name: set(text.split("\n")[1:]) for name, text in setup["options.extras_require"].items()}
    everything = extras.pop("all")
    assert everything == set().union(*(needs for name, needs in extras.items() if name not in ("test", "docs")))
