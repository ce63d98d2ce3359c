"""`predict`: learns from journals and chat logs, says what comes next and why, and measures itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

from engine import Engine, ModelReply, ModelRequest
from engine.journal import SqliteJournal
from engine.models import FunctionModel
from engine.predict import END
from engine.runtime.shelf import Owner, file_of, load
from tests.cli.commands import Run

SESSIONS = 40


def write_chats(path: Path, tools: tuple[str, ...] = ("find", "get"), sessions: int = SESSIONS) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "go"}]
    for place, name in enumerate(tools):
        function = {"name": name, "arguments": "{}"}
        asked = [{"id": f"c{place}", "type": "function", "function": function}]
        messages.append({"role": "assistant", "content": None, "tool_calls": asked})
        messages.append({"role": "tool", "tool_call_id": f"c{place}", "content": "ok"})
    messages.append({"role": "assistant", "content": "done"})
    lines = [json.dumps({"id": f"s{number}", "messages": messages}) for number in range(sessions)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def chats(command: Run, tmp_path: Path) -> str:
    """A chat log of equal conversations, and the journal `chats.db` of them; `open` ends after its first call."""
    write_chats(tmp_path / "chats.jsonl")
    lines = (tmp_path / "chats.jsonl").read_text().splitlines()
    begun = json.loads(lines[0])
    begun = {"id": "open", "messages": [*begun["messages"], *begun["messages"][:3]]}
    (tmp_path / "more.jsonl").write_text("\n".join([*lines, json.dumps(begun)]))
    assert command("import", "more.jsonl", "--journal", "chats.db").status == 0
    return "chats.jsonl"


@pytest.mark.parametrize("source", ["chats.jsonl", "chats.db"])
def test_learn_writes_a_predictor_and_adds_to_it(command: Run, chats: str, source: str, tmp_path: Path) -> None:
    """A journal and a chat log are learned alike; learning again adds."""
    decisions = SESSIONS * 3 + (5 if source == "chats.db" else 0)
    for times in (1, 2):
        done = command("predict", "learn", source, "--to", "p.json", "--json")
        assert done.status == 0, done.err
        assert done.json["decisions"] == decisions
        assert load(tmp_path / "p.json").observations == decisions * times


@pytest.fixture
def owned(tmp_path: Path) -> str:
    """A journal with a session of one turn for each of two users."""

    async def talk() -> None:
        model = FunctionModel(_answer)
        async with Engine(model=model, journal=SqliteJournal(tmp_path / "owned.db")) as engine:
            for user in ("a", "b"):
                await (await engine.open(user, user=user)).ask("hi")

    anyio.run(talk)
    return "owned.db"


async def _answer(request: ModelRequest) -> ModelReply:
    return ModelReply(text="hello")


def test_learn_takes_a_folder_for_many_owners(command: Run, owned: str, tmp_path: Path) -> None:
    """A single file is refused for several owners; a folder holds what a running engine would find there."""
    done = command("predict", "learn", owned, "--to", "p.json")
    assert done.status == 2
    assert "2 users or workspaces" in done.err
    assert not (tmp_path / "p.json").exists()
    done = command("predict", "learn", "--journal", owned, "--to", "owned.db.predict/")
    assert done.status == 0, done.err
    folder = tmp_path / "owned.db.predict"
    assert [load(file_of(folder, Owner(user))).observations for user in ("a", "b")] == [1, 1]


def test_next_learns_from_the_same_owner_only(command: Run, owned: str) -> None:
    """What other users did is not looked at."""
    assert command("predict", "next", owned, "a", "--json").json["learned"] == 1


@pytest.mark.parametrize("content", ["{}", '{"format": "agent-engine predictor", "version": 99}', "\xff"])
def test_learn_leaves_a_foreign_file_alone(command: Run, chats: str, content: str, tmp_path: Path) -> None:
    """What is no predictor of this release is refused with status 1 and stays as it was."""
    (tmp_path / "p.json").write_text(content, encoding="latin-1")
    done = command("predict", "learn", chats, "--to", "p.json")
    assert done.status == 1
    assert "it was not touched" in done.err
    assert (tmp_path / "p.json").read_text(encoding="latin-1") == content


def test_next_says_what_follows(command: Run, chats: str) -> None:
    """In a new turn of a session, what the others began theirs with is not forgotten; the probabilities are told."""
    done = command("predict", "next", "chats.db", "s1", "--json")
    assert done.status == 0, done.err
    assert done.json["learned"] == SESSIONS * 3 + 5
    assert {"find", END} <= {guess["tool"] for guess in done.json["next"]}
    assert sum(guess["probability"] for guess in done.json["next"]) <= 1
    assert {guess["tool"] for guess in done.json["within"]["tools"]} == {"find", "get"}
    shown = command("predict", "next", "--journal", "chats.db", "s1")
    assert "(no more tool)" in shown.out


def test_explain_sums_up_to_the_probability(command: Run, chats: str) -> None:
    """The reasons, weight times probability, are the probability but for what is spread over all symbols."""
    for tool in (["find"], []):
        done = command("predict", "explain", "chats.db", "s1", *tool, "--json")
        assert done.status == 0, done.err
        total = sum(reason["weight"] * reason["probability"] for reason in done.json["reasons"])
        assert total == pytest.approx(done.json["probability"], abs=0.012)
    assert "seen" in command("predict", "explain", "chats.db", "s1").out


def test_v30_report_shows_patterns(command: Run, journal: str) -> None:
    """`report` has frequency, success and durations of each pair of tools."""
    assert command("predict", "learn", journal, "--to", "p.json").status == 0
    done = command("predict", "report", "p.json", "--json")
    assert done.status == 0, done.err
    assert {(pattern["before"], pattern["tool"], pattern["calls"]) for pattern in done.json["patterns"]} == {
        ("<start>", "get_weather", 1), ("get_weather", "get_weather", 1), ("<start>", "write_note", 1),
    }  # fmt: skip
    assert all(pattern["success_rate"] == 1 and pattern["mean_s"] > 0 for pattern in done.json["patterns"])
    assert "write_note" in command("predict", "report", "p.json").out


def test_v31_evaluate_measures_on_what_was_not_seen_before(command: Run, chats: str) -> None:
    """The first session is a surprise, the later ones are foreseen; accuracy, bits, calibration and cost are told."""
    done = command("predict", "evaluate", chats, "--json")
    assert done.status == 0, done.err
    found = done.json
    first, *_, last = found["curve"]
    assert (found["sessions"], found["decisions"]) == (SESSIONS, SESSIONS * 3)
    assert (first["top_1"], last["top_1"], last["last_session"]) == (0, 1, SESSIONS)
    assert last["bits"] < 0.1 < 5 < first["bits"]
    assert found["top_3"] >= found["top_1"] > 0.9
    assert 0 <= found["calibration_error"] < 0.1
    assert sum(one["guesses"] for one in found["calibration"]) == pytest.approx(SESSIONS * 3, abs=1)
    assert min(found["predict_us"], found["update_us"]) > 0
    assert "µs a prediction" in command("predict", "evaluate", "chats.db").out


def test_evaluate_needs_something_to_predict(command: Run, tmp_path: Path) -> None:
    """A chat log without a conversation is wrong usage."""
    (tmp_path / "empty.jsonl").write_text("")
    assert command("predict", "evaluate", "empty.jsonl").status == 2


def test_broken_chat_log_names_its_line(command: Run, tmp_path: Path) -> None:
    """A line that is no conversation ends the evaluation with its number."""
    write_chats(tmp_path / "chats.jsonl", sessions=1)
    with (tmp_path / "chats.jsonl").open("a") as file:
        file.write("{}\n")
    done = command("predict", "evaluate", "chats.jsonl")
    assert done.status == 1
    assert "line 2" in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("next", "chats.db"), "1 names were given"),
        (("next", "chats.db", "nobody"), "no session 'nobody'"),
        (("evaluate", "nothing.db"), "there is no journal"),
        (("learn", "chats.db", "--to", "no/where/p.json"), "create it first"),
        (("report", "nothing.json"), "No such file"),
    ],
)
def test_wrong_usage_is_told(command: Run, chats: str, arguments: tuple[str, ...], complaint: str) -> None:
    """Each mistake ends with status 2 and one line that says what to do."""
    done = command("predict", *arguments)
    assert done.status == 2
    assert complaint in done.err


def test_plot_without_its_extra_is_refused(command: Run, chats: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib is not installed, `--plot` says how to get it, before any work."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = command("predict", "evaluate", chats, "--plot", "p.png")
    assert done.status == 2
    assert "agent-engine[plot]" in done.err
    assert done.out == ""


def test_plot_is_drawn(command: Run, chats: str, tmp_path: Path) -> None:
    """`--plot` writes a PNG file, and no other kind."""
    pytest.importorskip("matplotlib")
    assert command("predict", "evaluate", chats, "--plot", "p.png").status == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert command("predict", "evaluate", chats, "--plot", "p.pdf").status == 2
