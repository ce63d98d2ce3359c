"""The demonstration: what it claims it has counted, with the real model and with the script."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import cast, get_args

import anyio
import pytest

from engine.cli.fault_scenes import scenes
from engine.cli.faults import tell_faults
from engine.cli.terminal import Screen
from engine.core.values import FaultKind, JsonObject
from tests.cli.commands import Run, environment

LINES = ("conversation", "kill -9", "goes on from there", "Replay", "What to try next")


def check_story(done_out: str) -> None:
    places = [done_out.index(line) for line in LINES]
    assert places == sorted(places)
    assert "✗" not in done_out


def test_f2_demo_with_the_script(process: Run, command: Run, tmp_path: Path) -> None:
    """Two runs are killed and resumed: the finished tool ran once, the read twice, the note exists once.

    What it then says to try can be typed as it stands.
    """
    done = process("demo", "--model", "scripted", PYTHONUTF8="1")
    assert done.status == 0, done.err
    check_story(done.out)
    with sqlite3.connect(tmp_path / "agent-engine-demo" / "notes.db") as notes:
        assert notes.execute("SELECT COUNT(*) FROM notes WHERE text = 'raincoat for oslo'").fetchone() == (1,)
        runs = dict(notes.execute("SELECT argument, COUNT(*) FROM runs WHERE session = 'crash-1' GROUP BY argument"))
    notes.close()
    assert runs == {"Oslo": 1, "Kampala": 2, "raincoat for oslo": 1}
    to_try = done.out.split("What to try next")[1].splitlines()[1:]
    assert len(to_try) == 7
    for line in to_try:
        told = command(*line.split("agent-engine ", 1)[1].split())
        assert told.status == 0, line


def test_demo_json_and_a_second_run(command: Run) -> None:
    """`--json` is one object; a second demonstration in the same folder adds sessions and holds as well."""
    arguments = ("demo", "--model", "scripted", "--output", "here", "--journal", "j.jsonl", "--json")
    first, second = command(*arguments), command(*arguments)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert first.out.count("\n") == 1
    assert (first.json["ok"], first.json["diverged"], first.json["sessions"]) == (True, 0, 2)
    assert second.json["sessions"] == 4
    assert [kill["ran"] for kill in second.json["kills"]] == [{"Oslo": 1, "Kampala": 2}, {"raincoat for oslo": 1}]


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs the extra local")
def test_demo_on_the_local_model(process: Run) -> None:
    """The packaged model holds the whole conversation, in this process and in those that are killed."""
    done = process("demo", "--json")
    assert done.status == 0, done.err
    assert done.json["model"] == "local"
    assert [turn["text"] for turn in done.json["turns"]] == [
        "Hello! How can I help?", "It is 7 degrees in Oslo and 24 degrees in Kampala.", "The sum is 42.",
        "The note is saved.",
    ]  # fmt: skip


def test_demo_falls_back_to_the_script(process: Run, tmp_path: Path) -> None:
    """Where xllamacpp cannot be imported it says how to get it, and goes on with the script."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "xllamacpp.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    path = os.pathsep.join([str(hidden), environment()["PYTHONPATH"]])
    done = process("demo", PYTHONPATH=path, PYTHONUTF8="1")
    assert done.status == 0, done.err
    assert "pip install 'agent-engine[local]'" in done.out
    check_story(done.out)


def test_demo_in_a_place_that_cannot_be_written(command: Run, tmp_path: Path) -> None:
    """A file where the folder should be: status 2 and a clear line."""
    (tmp_path / "agent-engine-demo").write_text("in the way", encoding="utf-8")
    done = command("demo", "--model", "scripted")
    assert done.status == 2
    assert done.err.startswith("agent-engine: ")
    assert done.err.count("\n") == 1


def test_every_fault_is_shown_with_what_is_done_about_it(command: Run) -> None:
    """`demo --faults` plays each scene on the real engine: its claim holds, the session is usable afterwards, and every
    kind of fault that there is strikes.
    """
    done = command("demo", "--faults", "--json")
    assert done.status == 0, done.out + done.err
    assert done.json["ok"] is True
    assert [scene["scene"] for scene in done.json["scenes"] if not scene["holds"]] == []
    assert {kind for scene in done.json["scenes"] for kind in scene["faults"]} == set(get_args(FaultKind))


def test_a_claim_that_does_not_hold_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A scene whose claim is false fails the demonstration, and its line says so."""
    scene = next(scene for scene in scenes() if "wrong is never sent" in scene.title)
    false = replace(scene, claim=lambda told: False)
    holds, report = anyio.run(tell_faults, Screen(), (scene, false))
    assert not holds
    assert [told["holds"] for told in cast(list[JsonObject], report)] == [True, False]
    shown = capsys.readouterr().out
    assert shown.index("✓ the turn failed at once") < shown.index("✗ does not hold: the turn failed at once")
    assert "generating_response → error                faulted             model_failure: 401: who are you?" in shown
