"""What a history teaches: calls in the order they were asked for, ends of turns, and nothing that never ran."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engine import TransitionRecord
from engine.predict import END, Predictor, PredictorSettings, Situation
from engine.predict.persistence import encode
from engine.replay import read_chats
from engine.replay.lessons import Follower, Lesson, learn, teach
from engine.runtime.clock import SystemClock


def asking(*names: str, text: str | None = None) -> dict[str, Any]:
    calls = [
        {"id": f"c{place}", "type": "function", "function": {"name": name, "arguments": '{"q": 1}'}}
        for place, name in enumerate(names)
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def result(place: int, content: str = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"c{place}", "content": content}


USER = {"role": "user", "content": "go"}
DONE = {"role": "assistant", "content": "done"}


def history(*messages: dict[str, Any]) -> list[TransitionRecord]:
    [records] = read_chats([json.dumps({"id": "s", "messages": messages})], SystemClock())
    return records


def lessons(records: Sequence[TransitionRecord]) -> list[Lesson]:
    follower = Follower()
    return [lesson for record in records for lesson in follower.take(record)]


def test_v31_history_teaches_its_calls_and_the_ends_of_its_turns() -> None:
    """Every call that ran is a lesson with its arguments, and so is the end of each turn."""
    found = lessons(history(USER, asking("find"), result(0), DONE, USER, asking("get"), result(0), DONE))
    assert [lesson.tool for lesson in found] == ["find", END, "get", END]
    assert (found[0].ok, found[0].arguments, found[0].content) == (True, {"q": 1}, "ok")


def test_call_without_a_result_is_not_known_to_have_worked() -> None:
    """A call that was cut off teaches that it was asked for, and neither success nor failure."""
    found = lessons(history(USER, asking("find")))
    assert [(lesson.tool, lesson.ok) for lesson in found] == [("find", None), (END, None)]


def test_situation_says_what_was_known_before_the_call() -> None:
    """A lesson's situation is that of the call before it, so nothing of the reply that made the call leaks into it."""
    found = lessons(history(USER, asking("a", "b", text="well"), result(0), result(1), asking("c"), result(0), DONE))
    begun, after_first, after_second = (
        Situation("processing", round_, text) for round_, text in ((0, None), (1, True), (2, False))
    )
    assert [lesson.situation for lesson in found] == [begun, after_first, after_first, after_second]


def test_tool_named_like_an_end_ends_no_turn() -> None:
    """Tools called `<end>` or `<start>` are passed over; the turn goes on."""
    found = lessons(history(USER, asking("<end>", "<start>", "find"), result(0), result(1), result(2), DONE))
    assert [lesson.tool for lesson in found] == ["find", END]


def test_learning_equals_teaching_lesson_by_lesson() -> None:
    """`learn` gives the predictor that its lessons, told one by one, give; and it forgets the session."""
    records = history(USER, asking("find"), result(0, "[1]"), asking("get"), result(0, "no json"), DONE)
    one, other = (Predictor(PredictorSettings(arguments=True)) for _ in range(2))
    assert learn(one, "s", records) == 3
    for lesson in lessons(records):
        teach(other, "s", lesson)
    assert one.predict("s") == one.predict("never seen") != other.predict("s")
    other.forget("s")
    assert encode(one._learned) == encode(other._learned)
