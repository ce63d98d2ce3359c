"""What reaches a terminal: nothing that could act on it, colour only where it is wanted, and no crash on odd text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from engine.cli.terminal import Screen, clip, safe
from tests.cli.commands import LIMIT_S, Run, environment, start_of

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@given(st.text(st.characters(codec=None)))
def test_f19_safe_text_has_nothing_a_terminal_acts_on(text: str) -> None:
    """No control, format, surrogate or line separator character is left, and the text encodes."""
    shown = safe(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    shown.encode("utf-8")


@given(st.text(max_size=50), st.integers(2, 20))
def test_clipped_text_fits(text: str, width: int) -> None:
    """Clipped text is never wider than asked, and is whole where it fits."""
    shown = clip(text, width)
    assert len(shown) <= width
    assert shown == safe(text) or shown.endswith("…")


def test_f19_hostile_text_is_escaped_on_its_way_out(process: Run, command: Run) -> None:
    """Escape sequences, a direction override and a byte that is no UTF-8 in a prompt print as escapes, and verify."""
    hostile = "echo \x1b[2J\x1b]0;owned\x07 \u202e\r" + os.fsdecode(b"\xff")
    done = process("run", hostile, "--journal", "r.db", "--session", "s", "--model", "scripted", PYTHONUTF8="1")
    assert done.status == 0, done.err
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert "\\x1b[2J" in done.out
    assert command("replay", "--journal", "r.db").status == 0


def test_lone_surrogates_and_foreign_encodings_do_not_crash(process: Run) -> None:
    """On an ASCII terminal symbols are replaced and other characters escaped."""
    done = process("run", "echo ü → 日", "--journal", "r.db", "--model", "scripted", PYTHONIOENCODING="ascii")
    assert done.status == 0, done.err
    assert "\\xfc" in done.out
    assert "->" in done.out


def test_lines_of_other_programs_survive(capsys: pytest.CaptureFixture[str]) -> None:
    """Text with lone surrogates prints without an exception."""
    Screen().text("one\ntwo \ud800\x00")
    assert capsys.readouterr().out == "one\ntwo \\ud800\\x00\n"


def on_terminal(folder: Path, *arguments: str, **extra: str) -> str:
    """Return what a command prints to a pseudo-terminal."""
    import pty

    parent, child = pty.openpty()
    try:
        with subprocess.Popen(
            start_of(*arguments), stdin=child, stdout=child, stderr=child, cwd=folder,
            env=environment(TERM="xterm", PYTHONUTF8="1", **extra), close_fds=True,
        ) as running:  # fmt: skip
            os.close(child)
            child = -1
            pieces: list[bytes] = []
            while piece := _read(parent):
                pieces.append(piece)
            assert running.wait(LIMIT_S) == 0
    finally:
        os.close(parent)
        if child >= 0:
            os.close(child)
    return b"".join(pieces).decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # Linux: the other side was closed
        return b""


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_colour_on_a_terminal_only_and_not_with_no_color(journal: str, tmp_path: Path) -> None:
    """A terminal gets colour; with NO_COLOR, with TERM=dumb, or in a pipe there is none."""
    coloured = on_terminal(tmp_path, "replay", "--journal", journal, "a", "--show")
    plain = on_terminal(tmp_path, "replay", "--journal", journal, "a", "--show", NO_COLOR="1")
    assert ANSI.search(coloured)
    assert "\x1b" not in plain


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_progress_is_shown_on_a_terminal(tmp_path: Path) -> None:
    """Work of unknown length shows a bar while it runs."""
    (tmp_path / "chats.jsonl").write_text(
        '{"id": "x", "messages": [{"role": "user", "content": "hi"}]}\n', encoding="utf-8"
    )
    assert "import" in on_terminal(tmp_path, "import", "chats.jsonl", "--journal", "j.db").split("1 sessions")[0]


def test_no_colour_and_no_progress_in_a_pipe(process: Run, journal: str) -> None:
    """Neither output of a command that is no terminal holds an escape."""
    done = process("replay", "--journal", journal, "a", "--show")
    assert "\x1b" not in done.out
    assert done.err == ""
