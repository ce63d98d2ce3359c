"""The benchmarks, as small as they get: each runs, checks its own work, and returns named numbers with units.

Nothing here looks at how fast anything is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest

from benchmarks.__main__ import BENCHMARKS, main, run
from benchmarks.floors import Floor, SqliteSteps, gather, stored_steps
from benchmarks.goals import GOALS, Goal, standings
from benchmarks.histories import history
from benchmarks.numbers import NORMAL, QUICK, SMOKE, Laps, Mark, Number, Result, WrongResult, check, distribution
from benchmarks.report import Run, as_json, as_text
from benchmarks.workload import SMALL, STANDARD, Shape, answer, check_turn, new_engine, prompt
from engine import TransitionRecord
from engine.core.events import ToolFinished

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def results(disk: Path) -> dict[str, Result]:
    """Run every benchmark once."""
    return {name: measure(SMOKE, disk) for name, measure in BENCHMARKS.items()}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_returns_named_numbers_with_units(name: str, results: dict[str, Result]) -> None:
    """A benchmark gives numbers whose names begin with its own, each with a unit."""
    numbers = results[name].numbers
    assert numbers
    assert len({number.name for number in numbers}) == len(numbers)
    for number in numbers:
        assert number.name.startswith(f"{name}.")
        assert number.unit
        assert number.samples >= 1


def test_benchmarks_leave_nothing_behind(disk: Path, results: dict[str, Result]) -> None:
    """The folder on the disk is as empty as it was."""
    assert results
    assert list(disk.iterdir()) == []


def test_every_goal_has_its_number(results: dict[str, Result]) -> None:
    """Every number that a goal is about is measured by some benchmark, in its ordinary size or a larger one."""
    names = {number.name for result in results.values() for number in result.numbers}
    named_by_length = {f"growth.turn_{length}.cpu_ratio" for length in (*NORMAL.lengths, *QUICK.lengths, 10_000)}
    only_in_full = {f"inspector.of_100000.{what}" for what in ("usable.wall", "filter")}
    assert {goal.number for goal in GOALS} <= names | named_by_length | only_in_full


async def live(turns: int, shape: Shape) -> list[TransitionRecord]:
    async with new_engine(shape) as engine:
        session = await engine.open("bench")
        for turn in range(turns):
            check_turn(await session.ask(prompt(turn)), turn, shape)
        return [record async for record in session.history()]


@pytest.mark.parametrize("shape", [SMALL, STANDARD])
def test_made_history_is_what_a_live_run_records(shape: Shape) -> None:
    """The histories made for `open` and `replay` are a live run's but for times and the order of two ends."""

    def essence(records: list[TransitionRecord]) -> list[object]:
        # Which of two parallel calls ends first is the scheduler's affair, and so is how long they took.
        told: list[tuple[str, object]] = []
        for record in records:
            event = record.event
            if isinstance(event, ToolFinished):
                told.append((event.call_id, event.model_copy(update={"duration_s": 0.0, "started_at": None})))
            else:
                told.append(("", (record.source, record.dest, event, record.effects)))
        ends = sorted(str(item) for item in told if item[0])
        return [*(item for item in told if not item[0]), *ends]

    assert essence(history("bench", 3, shape)) == essence(anyio.run(live, 3, shape))


def test_floor_answers_only_with_every_result() -> None:
    """The floor's answer counts the results that were carried back to it."""
    floor = Floor(STANDARD, gather)
    assert anyio.run(floor.turn, 7) == answer(7, STANDARD)
    assert sum(item["role"] == "tool" for item in floor.items) == STANDARD.results


def test_durable_floor_keeps_every_step(tmp_path: Path) -> None:
    """Opened again, the durable floor's store holds one row a step."""
    steps = SqliteSteps(tmp_path / "floor.db")
    anyio.run(Floor(STANDARD, gather, steps.store).turn, 0)
    steps.close()
    assert stored_steps(tmp_path / "floor.db") == STANDARD.steps


def test_wrong_result_is_reported_and_stops_no_other(tmp_path: Path) -> None:
    """A benchmark whose work came out wrong is named in the run; those after it still run."""

    def wrong(effort: object, disk: Path) -> Result:
        check(False, "turn 3 ended with nothing")
        raise AssertionError("unreachable")

    def right(effort: object, disk: Path) -> Result:
        return Result((Number("right.one", "µs", 1.0),))

    found = run({"wrong": wrong, "right": right}, SMOKE, tmp_path)
    assert found.wrong == ["wrong: turn 3 ended with nothing"]
    assert list(found.numbers) == ["right.one"]
    assert "WRONG: wrong: turn 3 ended with nothing" in as_text(found)


def test_wrong_turn_is_an_error() -> None:
    """A turn that did not carry every result back is refused."""

    async def ask_small_check_standard() -> None:
        async with new_engine(SMALL) as engine:
            check_turn(await (await engine.open()).ask(prompt(0)), 0, STANDARD)

    with pytest.raises(WrongResult, match="turn 0 ended with 'turn 0: 1 results'"):
        anyio.run(ask_small_check_standard)


def test_command_writes_json_and_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--only` chooses, `--json` writes numbers and versions, and the exit status says nothing about speed."""
    target = tmp_path / "numbers.json"
    assert main(["--quick", "--only", "step", "--json", str(target), "--disk", str(tmp_path)]) == 0
    written = json.loads(target.read_text(encoding="utf-8"))
    assert {"engine", "python", "anyio", "pydantic", "transitions"} <= written["versions"].keys()
    assert written["numbers"]["step.index.cpu"]["unit"] == "µs"
    assert written["wrong"] == []
    assert "step.index.cpu" in capsys.readouterr().out


def test_goals_are_judged_on_both_sides() -> None:
    """At most and at least: a number on the right side is ok, on the other above or below, without a bound neither."""
    most, least = Goal("a", "", 2, None), Goal("b", "", None, 2, at_least=True)
    assert [most.verdict(value, most.required) for value in (1, 2, 3)] == ["ok", "ok", "above"]
    assert [least.verdict(value, least.goal) for value in (1, 2, 3)] == ["below", "ok", "ok"]
    assert most.verdict(1, most.goal) is None


def test_standings_leave_out_what_was_not_measured() -> None:
    """A goal without a number in this run is not judged."""
    number = Number("turn.durable.ram.commits", "commits a turn", 8)
    assert [place.goal.number for place in standings({number.name: number})] == ["turn.durable.ram.commits"]


def test_distribution_is_by_nearest_rank() -> None:
    """Median, 10th and 99th percentile of known samples."""
    assert distribution("x", "µs", list(range(101))) == Number("x", "µs", 50, 10, 99, 101)


def test_ratio_is_of_medians() -> None:
    """A single outlier changes no ratio."""
    floor, ours = Laps(), Laps()
    floor.wall_ns, floor.cpu_ns = [10.0, 10.0, 10.0], [5.0, 5.0, 5.0]
    ours.wall_ns, ours.cpu_ns = [30.0, 30.0, 9_000.0], [10.0, 10.0, 9_000.0]
    assert [number.median for number in ours.ratios("x", floor)] == [3.0, 3.0, 2.0]


def test_lap_is_an_item_s_share() -> None:
    """A lap over many items counts what one of them took."""
    laps = Laps()
    laps.add(Mark(0, 0), items=1_000)
    many, one = laps.wall_ns[0], Laps()
    one.add(Mark(0, 0))
    assert one.wall_ns[0] >= many * 1_000


def test_report_names_no_path_of_this_machine(tmp_path: Path) -> None:
    """Neither the text nor the JSON of a run holds a path or the name of the machine."""
    found = run({"step": BENCHMARKS["step"]}, SMOKE, tmp_path)
    text = as_text(found) + json.dumps(as_json(found))
    assert str(ROOT) not in text
    assert str(tmp_path) not in text
    assert re.search(r"(?<![\w.])/\w+/", text) is None


def test_table_shows_how_a_run_stands(tmp_path: Path) -> None:
    """The text holds each number and, for those with a goal, the verdict."""
    found = Run("smoke", {"engine": "0"})
    found.add([Number("turn.memory.asyncio.cpu_ratio", "×", 7.0)], ["a note"])
    text = as_text(found)
    assert re.search(r"standard turn in memory, asyncio, × floor *\| 7 *\| ≤ 12 *\| ok *\| ≤ 5 *\| above", text)
    assert "note: a note" in text
