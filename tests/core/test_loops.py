"""The guard against loops: what repeats in vain is told, refused, and ended, step by step; progress never is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st
from pydantic import JsonValue

from engine.core.arguments import json_text
from engine.core.loops import Finding, LoopLimits, judge
from engine.core.session import CallState
from engine.core.values import JsonObject, PlannedCall, ToolCall, ToolEffect, ToolStatus
from engine.testing.strategies import json_objects

LIMITS = LoopLimits()


def call(name: str, **arguments: JsonValue) -> ToolCall:
    return ToolCall(id="c", name=name, arguments=arguments)


class Turn:
    """A turn of tool calls, each reply judged before its calls are finished, as the engine does it."""

    def __init__(self, limits: LoopLimits = LIMITS, polls: frozenset[str] = frozenset()) -> None:
        self.done: list[CallState] = []
        self.limits = limits
        self.polls = polls
        self.seq = 0

    def reply(
        self,
        *calls: ToolCall,
        result: str = "same",
        effect: ToolEffect = "read",
        status: ToolStatus = ToolStatus.COMPLETED,
    ) -> list[str | None]:
        """Ask for calls; return the step taken about each, and keep the calls as finished."""
        findings = judge(self.done, calls, self.limits, self.polls)
        self.seq += 1
        for index, (asked, finding) in enumerate(zip(calls, findings, strict=True)):
            refused = finding is not None and finding.step == "refuse"
            plan = PlannedCall(call_id=asked.id, effect=effect, decision="refuse" if refused else "run")
            ended = ToolStatus.FAILED if refused else status
            content = finding.text if refused and finding else result
            self.done.append(CallState(asked, plan, f"s:{self.seq}:{index}", ended, content=content))
        return [finding and finding.step for finding in findings]

    def steps(self, *names: str, result: str = "same") -> list[str | None]:
        """Ask for one call a reply; return the steps."""
        return [self.reply(call(name), result=result)[0] for name in names]


def test_a7_identical_calls_climb_the_ladder() -> None:
    """The third identical call is noted, the fourth refused, the fifth ends the turn."""
    assert Turn().steps("look", "look", "look", "look", "look") == [None, None, "note", "refuse", "halt"]


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a7_every_call_of_a_cycle_climbs_the_ladder(period: int) -> None:
    """A cycle of two, three or four calls is found like a repetition: noted from its third time round."""
    names = [f"tool{index}" for index in range(period)]
    steps = Turn().steps(*(names * 5))
    assert steps == [None] * 2 * period + ["note"] * period + ["refuse"] * period + ["halt"] * period


def test_a7_a_reply_that_asks_for_the_same_six_calls_is_found() -> None:
    """The same reply over and over is a cycle, however many calls it asks for."""
    turn = Turn()
    calls = [call("look", page=page) for page in range(6)]
    assert [turn.reply(*calls) for _ in range(5)] == [[step] * 6 for step in (None, None, "note", "refuse", "halt")]


def test_a7_calls_are_found_at_their_place_in_the_cycle() -> None:
    """A reply that goes on with a cycle is found call by call, and what leaves the cycle runs."""
    turn = Turn()
    turn.steps("a", "b", "c", "a", "b", "c")
    assert turn.reply(call("a"), call("b"), call("c")) == ["note"] * 3
    turn = Turn()
    turn.steps("a", "b", "c", "a", "b", "c")
    assert turn.reply(call("a"), call("c"), call("c")) == ["note", None, "note"]


def test_a7_replies_count_not_calls() -> None:
    """Five identical calls in one reply are one time: the ladder is not climbed faster than the model can hear."""
    turn = Turn()
    steps = [turn.reply(*[call("look")] * 5) for _ in range(5)]
    assert steps == [[step] * 5 for step in (None, None, "note", "refuse", "halt")]


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_a7_no_harsher_step_comes_before_the_milder_one(width: int) -> None:
    """Whatever number of calls the earlier replies asked for, a note comes before a refusal and that before the end."""
    turn = Turn()
    steps = [turn.reply(*[call("look")] * count)[0] for count in (width, 2, 1, width, 1)]
    assert [step for step in steps if step] == ["note", "refuse", "halt"]


def test_a7_another_result_is_progress() -> None:
    """The same call with another result each time is never a loop."""
    turn = Turn()
    assert [turn.reply(call("next"), result=f"page {page}")[0] for page in range(20)] == [None] * 20


def test_a7_a_result_that_changes_after_a_note_starts_the_count_again() -> None:
    """A noted call that brings something new after all is not refused the next time."""
    turn = Turn()
    assert turn.steps("look", "look", "look", result="nothing") == [None, None, "note"]
    assert turn.steps("look", result="something") == ["refuse"]
    turn = Turn()
    turn.steps("look", "look", result="nothing")
    assert turn.steps("look", "look", "look", result="something") == ["note", None, "note"]


def test_a7_a_failure_with_the_text_of_a_success_is_another_result() -> None:
    """The status of a result counts as well as its text."""
    turn = Turn()
    ends = [ToolStatus.FAILED, ToolStatus.COMPLETED] * 5
    assert [turn.reply(call("look"), status=status)[0] for status in ends[:4]] == [None] * 4
    assert turn.reply(call("look"), status=ToolStatus.FAILED) == ["note"]


def test_a7_other_arguments_with_the_same_result_are_progress() -> None:
    """Attaching one file after the other, each with the result true, is work."""
    turn = Turn()
    files = [call("attach_file", email="1", filename=f"{index}.txt") for index in range(20)]
    assert [turn.reply(file, result="true", effect="write")[0] for file in files] == [None] * 20


def test_a7_a_completed_write_between_two_reads_resets() -> None:
    """Reading again after each completed write is no loop, even where neither brings anything new."""
    turn = Turn()
    steps: list[str | None] = []
    for _ in range(10):
        steps += turn.reply(call("read"), effect="read")
        steps += turn.reply(call("write"), effect="write")
    assert steps == [None] * 20


def test_a7_a_failing_write_between_two_reads_resets_nothing() -> None:
    """A write that fails the same way changes nothing: reading and failing in turn is a loop."""
    turn = Turn()
    steps: list[str | None] = []
    for _ in range(5):
        steps += turn.reply(call("read"), effect="read")
        steps += turn.reply(call("write"), effect="write", status=ToolStatus.FAILED)
    assert steps == [None] * 4 + ["note"] * 2 + ["refuse"] * 2 + ["halt"] * 2


def test_a7_writes_that_undo_each_other_are_a_loop() -> None:
    """Two writes in turn are the classical ping-pong."""
    turn = Turn()
    steps = [turn.reply(call("edit", to=index % 2), effect="write")[0] for index in range(10)]
    assert steps[-6:] == ["note", "note", "refuse", "refuse", "halt", "halt"]


def test_a7_a_tool_that_polls_is_never_part_of_a_loop() -> None:
    """Neither a poller nor the calls that it alternates with are counted."""
    turn = Turn(polls=frozenset({"job_done"}))
    assert turn.steps(*["job_done"] * 20, *["look", "job_done"] * 10) == [None] * 40


def test_a7_the_same_error_whatever_the_arguments_climbs_the_ladder() -> None:
    """The sixth call of a tool that has failed five times with one error is noted, then refused, then ends the turn."""
    turn = Turn()
    steps = [turn.reply(call("fetch", page=page), result="no route", status=ToolStatus.FAILED)[0] for page in range(8)]
    assert steps == [None] * 5 + ["note", "refuse", "halt"]


@pytest.mark.parametrize(
    ("name", "result", "status"),
    [
        ("fetch", "another error", ToolStatus.FAILED),
        ("fetch", "no route", ToolStatus.TIMED_OUT),
        ("fetch", "found", ToolStatus.COMPLETED),
        ("other", "no route", ToolStatus.FAILED),
    ],
)
def test_a7_another_error_a_success_or_another_tool_ends_the_row_of_errors(
    name: str, result: str, status: ToolStatus
) -> None:
    """Five errors are no row where something else lies among them."""
    turn = Turn()
    for page in range(4):
        turn.reply(call("fetch", page=page), result="no route", status=ToolStatus.FAILED)
    turn.reply(call(name, page="x"), result=result, status=status)
    assert turn.reply(call("fetch", page=9), result="no route", status=ToolStatus.FAILED) == [None]


def test_a7_the_row_of_errors_is_one_tools() -> None:
    """Errors of other tools before it do not count against a tool, even where their text is the same."""
    turn = Turn()
    for page in range(4):
        turn.reply(call("fetch", page=page), result="no route", status=ToolStatus.FAILED)
    turn.reply(call("other", page="x"), result="no route", status=ToolStatus.FAILED)
    assert turn.reply(call("other", page="y")) == [None]


def test_a7_only_the_failing_tool_is_told() -> None:
    """Another tool asked for beside one that keeps failing runs as ever; a poller may fail as it likes."""
    turn = Turn()
    for page in range(5):
        turn.reply(call("fetch", page=page), result="no route", status=ToolStatus.FAILED)
    assert turn.reply(call("fetch", page=9), call("look")) == ["note", None]
    turn = Turn(polls=frozenset({"fetch"}))
    for page in range(9):
        assert turn.reply(call("fetch", page=page), result="no route", status=ToolStatus.FAILED) == [None]


def test_a7_a_loop_that_is_left_is_forgotten() -> None:
    """Something else after a note starts the count again."""
    assert Turn().steps("look", "look", "look", "think", "look", "look") == [None, None, "note", None, None, None]


def test_a7_malformed_calls_are_left_to_their_own_limit() -> None:
    """Calls whose arguments were no JSON are not counted: the engine ends those by another rule."""
    plan = PlannedCall(call_id="c", decision="refuse", malformed=True)
    done = [CallState(call("look"), plan, f"s:{seq}:0", ToolStatus.FAILED, content="no JSON") for seq in range(9)]
    assert judge(done, [call("look")], LIMITS) == (None,)


def test_a7_a_call_refused_for_another_reason_counts() -> None:
    """Asking for an unknown tool, or one that a policy denies, over and over is a loop as well."""
    plan = PlannedCall(call_id="c", decision="refuse")
    done = [CallState(call("nope"), plan, f"s:{seq}:0", ToolStatus.FAILED, content="unknown tool") for seq in range(9)]
    steps = [judge(done[:count], [call("nope")], LIMITS)[0] for count in range(6)]
    assert [finding and finding.step for finding in steps] == [None, None, "note", "refuse", "halt", "halt"]


def test_a7_thresholds_can_be_set() -> None:
    """Both thresholds are the host's choice, from three on."""
    assert Turn(LoopLimits(repeats=5)).steps(*["look"] * 7) == [None] * 4 + ["note", "refuse", "halt"]
    turn = Turn(LoopLimits(errors=3))
    steps = [turn.reply(call("fetch", n=n), status=ToolStatus.FAILED)[0] for n in range(5)]
    assert steps == [None, None, "note", "refuse", "halt"]


def test_a7_texts_say_what_to_do() -> None:
    """The model learns from each step which tool is meant and what to do instead; the last one is for people."""
    turn = Turn()
    findings: list[Finding] = []
    for _ in range(5):
        findings += filter(None, judge(turn.done, [call("look")], LIMITS))
        turn.reply(call("look"))
    assert [finding.text.split(" look ")[0] for finding in findings[:2]] == ["Note:", "not run:"]
    assert "2 replies" in findings[0].text
    assert "ends the turn" in findings[1].text
    assert "look" in findings[2].text


@given(json_objects(), json_objects())
def test_a7_arguments_are_compared_as_canonical_json(one: JsonObject, other: JsonObject) -> None:
    """Two calls are the same exactly where the canonical JSON of their arguments is."""
    assert repeats(one, other) is (json_text(one) == json_text(other))
    assert repeats(one, dict(reversed(one.items())))


NUMBERS: Sequence[JsonValue] = (1, 1.0, True, "1", [1], [1.0], {"b": 1}, {"b": True}, 0, False, 0.0, -0.0, None, "", [])


@given(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS))
def test_a7_one_and_true_and_one_point_nought_are_three(one: JsonValue, other: JsonValue) -> None:
    """What Python takes for equal is compared as the JSON that it is, at any depth."""
    assert repeats({"a": one}, {"a": other}) is (json_text(one) == json_text(other))


def repeats(one: JsonObject, other: JsonObject) -> bool:
    """Return whether the guard takes `other` for a repetition of `one`."""
    turn = Turn()
    for _ in range(2):
        turn.reply(call("look", **one))
    return turn.reply(call("look", **other)) == ["note"]


class Counted(str):
    """A tool's name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize(("pages", "compared"), [(range(10), 5), (range(1000), 5), ([0] * 10, 80), ([0] * 1000, 80)])
def test_a7_the_cost_of_a_reply_does_not_grow_with_the_turn(pages: Sequence[int], compared: int) -> None:
    """A reply costs a handful of comparisons after ten calls and after a thousand; in a loop some more."""
    plan = PlannedCall(call_id="c", effect="read")
    done = [
        CallState(
            ToolCall.trusted(id="c", name=Counted("look"), arguments={"page": page}),
            plan,
            f"s:{seq}:0",
            ToolStatus.COMPLETED,
        )
        for seq, page in enumerate(pages)
    ]
    Counted.compared = 0
    judge(done, [call("look", page=-1)], LIMITS)
    assert Counted.compared <= compared
