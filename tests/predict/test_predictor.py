"""The predictor as hosts see it: what it says, what it may never do, how large it may grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from engine.errors import UsageError
from engine.predict import END, Execution, Predictor, PredictorSettings, Situation
from engine.predict.counts import MAX_SYMBOLS
from engine.predict.patterns import MAX_PATTERNS
from engine.predict.predictor import MAX_PUT_OFF
from engine.predict.words import MAX_CACHED
from tests.predict.streams import SMALL, Told, chain, everything, learned, said, situations, streams, tell

ROOT = Path(__file__).resolve().parent.parent.parent


def test_v31_a_repeated_sequence_is_learned_within_ten_sessions() -> None:
    """After ten sessions of login, search, read each next tool is the first guess, and so is the end."""
    predictor = tell(Predictor(), chain("login", "search", "read", sessions=10))
    first = [predictor.predict("new", 1)[0][0]]
    for tool in ("login", "search", "read"):
        predictor.update("new", tool, True)
        first.append(predictor.predict("new", 1)[0][0])
    assert first == ["login", "search", "read", END]


def test_v31_probabilities_are_calibrated_where_chance_decides() -> None:
    """A tool that follows in three of four cases gets a probability near that."""
    chance = Random(1)  # noqa: S311 - a seed, not a secret
    predictor = Predictor()
    for number in range(600):
        tell(predictor, [Told(str(number), "a"), Told(str(number), "b" if chance.random() < 0.75 else "c")])
        predictor.end(str(number))
    predictor.update("new", "a")
    assert dict(predictor.predict("new"))["b"] == pytest.approx(0.75, abs=0.1)


def test_v29_every_update_is_learned_at_once() -> None:
    """The very next prediction knows what was just told, in another session too."""
    predictor = Predictor()
    assert predictor.predict("one") == []
    predictor.update("one", "search")
    assert [tool for tool, _ in predictor.predict("two")] == ["search"]


def test_v29_decay_in_idle_makes_room_and_then_rests() -> None:
    """Decay frees a fifth of the contexts once; a second call finds nothing to do."""
    predictor = Predictor(PredictorSettings(max_contexts=100))
    while (before := contexts(predictor)) <= 80:
        predictor.update("s", f"tool{before}")
    assert predictor.decay() == before - 80
    assert predictor.decay() == 0
    assert contexts(predictor) == 80


def contexts(predictor: Predictor) -> int:
    return len(predictor._learned.tables.by_key) + len(predictor._learned.horizon.by_key)


def test_v29_decay_forgets_what_was_seen_least() -> None:
    """What many sessions did survives the decay that a burst of novelties makes necessary."""
    predictor = tell(Predictor(PredictorSettings(max_contexts=300)), chain("login", "search", sessions=20))
    for number in range(100):
        predictor.update("burst", f"novelty{number}")
        predictor.decay()
    predictor.update("new", "login", True)
    assert predictor.predict("new", 1)[0][0] == "search"


def test_v30_a_pattern_is_kept_by_what_came_before() -> None:
    """Frequency, success rate, mean time and memory are told apart by the tool before, and added up over all."""
    predictor = Predictor()
    for before, duration_s, ok in (("login", 1.0, True), ("login", 3.0, False), ("list", 8.0, True)):
        predictor.update("s", before, True)
        predictor.update("s", "search", ok)
        predictor.record("s", "search", Execution(ok, duration_s, memory_bytes=int(duration_s * 100)))
    after_login, anyhow = predictor.pattern("search", "login"), predictor.pattern("search")
    assert (after_login.calls, after_login.success_rate, after_login.mean_s) == (2, 0.5, 2.0)
    assert (anyhow.calls, anyhow.mean_s, anyhow.memory_bytes) == (3, 4.0, 800)
    assert [pair for pair, _ in predictor.patterns(1)] == [("login", "search")]


def test_v30_patterns_survive_a_restart(tmp_path: Path) -> None:
    """A loaded predictor knows the same durations."""
    predictor = Predictor()
    predictor.update("s", "search")
    predictor.record("s", "search", Execution(True, 0.5))
    predictor.save(tmp_path / "p.json")
    loaded = Predictor.load(tmp_path / "p.json")
    assert loaded.pattern("search").quantile_s(0.5) == predictor.pattern("search").quantile_s(0.5)
    assert loaded.pattern("search", "<start>").mean_s == 0.5


@given(streams)
def test_probabilities_are_probabilities(stream: list[Told]) -> None:
    """Each lies in [0, 1], those of the next tool add up to at most 1, and guesses come best first."""
    predictor = tell(Predictor(SMALL), stream)
    for key in "abcdefg":
        following = [p for _, p in predictor.predict(key, 10_000)]
        ahead = [p for _, p in predictor.within(key, k=10_000)] + [p for _, p in predictor.within(key, 1, 10_000)]
        assert all(0 <= p <= 1 for p in following + ahead)
        assert sum(following) <= 1
        assert following == sorted(following, reverse=True)


@given(streams, situations)
def test_asking_changes_nothing(stream: list[Told], situation: Situation) -> None:
    """Whatever is asked, about open sessions and unknown ones, the whole inner state stays the same."""
    predictor = tell(Predictor(SMALL), stream)
    before = everything(predictor)
    for key in ("a", "unknown"):
        predictor.predict(key, 5, situation=situation)
        predictor.within(key)
        predictor.predict_within(key, 3, 2)
        predictor.arguments(key, "search")
        predictor.because(key, "search", situation=situation)
        predictor.pattern("search")
    assert everything(predictor) == before


@given(streams, st.none() | situations)
def test_because_adds_up_to_the_probability(stream: list[Told], situation: Situation | None) -> None:
    """The reasons for a guess sum up to its probability, but for the even share of 1.2 % over all symbols."""
    predictor = tell(Predictor(SMALL), stream)
    for tool, probability in predictor.predict("a", 50, situation=situation):
        reasons = predictor.because("a", tool, situation=situation)
        explained = sum(reason.weight * reason.probability for reason in reasons)
        assert 0 <= probability - explained <= 0.012 / 3 + 1e-12
        assert all(reason.context and reason.seen > 0 for reason in reasons)


def test_because_names_the_contexts() -> None:
    """A reason says in words which context speaks."""
    predictor = tell(Predictor(), chain("login", "search", "read", "write", "list", "login", "search", sessions=2))
    for tool in ("login", "search", "read", "write", "list", "login"):
        predictor.update("new", tool, ok=tool != "write", args={"kind": "book"})
    spoken = {reason.context for reason in predictor.because("new", "search")}
    assert "after login in a session that began with login" in spoken
    assert "after list, login" in spoken
    assert "at any time" in spoken


@given(streams)
def test_a_frozen_predictor_learns_nothing(stream: list[Told]) -> None:
    """With `frozen` set nothing that could be saved changes."""
    predictor = tell(Predictor(SMALL), chain("login", "search", sessions=2))
    before = learned(predictor)
    predictor.frozen = True
    tell(predictor, stream)
    predictor.record("a", "search", Execution(True, 1.0))
    assert learned(predictor) == before


def test_a_frozen_predictor_still_follows_the_session() -> None:
    """What it says depends on where the session has got to."""
    predictor = tell(Predictor(), chain("login", "search", "read", sessions=5))
    predictor.frozen = True
    predictor.update("new", "login", True)
    assert predictor.predict("new", 1)[0][0] == "search"


@given(st.lists(streams.filter(bool), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_sessions_do_not_disturb_each_other(parts: list[list[Told]], random: Random) -> None:
    """Frozen, a session that is interleaved with others gets the predictions that it gets alone."""
    base = tell(Predictor(), chain("login", "search", "read", sessions=3) + chain("search", "list", sessions=3))
    base.frozen = True
    queues = [[one._replace(key=str(number)) for one in part if one.tool] for number, part in enumerate(parts)]
    alone = [said(tell(base, queue), str(number)) for number, queue in enumerate(queues)]
    base_again = tell(Predictor(), chain("login", "search", "read", sessions=3) + chain("search", "list", sessions=3))
    base_again.frozen = True
    remaining = [list(queue) for queue in queues]
    while any(remaining):
        tell(base_again, [random.choice([queue for queue in remaining if queue]).pop(0)])
    assert [said(base_again, str(number)) for number in range(len(parts))] == alone


def test_the_situation_tells_apart_what_the_calls_do_not() -> None:
    """Where a reply began with text the turn ends, else a tool follows: known only through the situation."""
    predictor = Predictor()
    talking, silent = Situation(began_with_text=True), Situation(began_with_text=False)
    for number in range(30):
        predictor.update(number, "look")
        if number % 2:
            predictor.end_turn(number, situation=talking)
        else:
            predictor.update(number, "act", situation=silent)
        predictor.end(number)
    predictor.update("new", "look")
    assert predictor.predict("new", 1, situation=talking)[0][0] == END
    assert predictor.predict("new", 1, situation=silent)[0][0] == "act"


def test_a_failure_is_a_context_of_its_own() -> None:
    """After a failed call something else is expected than after a successful one."""
    predictor = Predictor()
    for number in range(20):
        predictor.update(number, "write", ok=bool(number % 2))
        predictor.update(number, "commit" if number % 2 else "undo", True)
        predictor.end(number)
    predictor.update("fine", "write", ok=True)
    predictor.update("broken", "write", ok=False)
    assert predictor.predict("fine", 1)[0][0] == "commit"
    assert predictor.predict("broken", 1)[0][0] == "undo"


def test_an_argument_that_recurs_is_a_context() -> None:
    """What follows may hang on an argument's value; it is learned through its digest."""
    predictor = Predictor(PredictorSettings(salt=b"secret"))
    for number in range(40):
        predictor.update(number, "open", True, {"mode": "edit" if number % 2 else "view"})
        predictor.update(number, "save" if number % 2 else "close", True)
        predictor.end(number)
    predictor.update("new", "open", True, {"mode": "edit"})
    assert predictor.predict("new", 1)[0][0] == "save"


PROGRAM = """
import json, sys
sys.path[:0] = ["tests/predict"]
from tests.predict.streams import chain, said, tell, Told
from engine.predict import Predictor, PredictorSettings
predictor = Predictor(PredictorSettings(salt=b"x", arguments=True))
for number in range(30):
    for tool in ("login", "search", f"t{number % 7}", f"u{number * 5 % 11}"):
        predictor.update(str(number), tool, number % 3 > 0, {"id": number % 4, "q": [tool, {"b": 1, "a": 2}]})
    if number % 4:
        predictor.end(str(number))
print(json.dumps([said(predictor, key) for key in ("0", "4", "new")]))
predictor.save(sys.argv[1])
"""


def test_same_input_gives_same_output_in_another_process(tmp_path: Path) -> None:
    """Predictions and the saved file do not depend on the process or on its hash seed."""
    outputs = []
    for seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / seed)],
            cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.append((json.loads(done.stdout), (tmp_path / seed).read_bytes()))
    assert outputs[0][0][0]
    assert outputs[1] == outputs[0]


def sizes(predictor: Predictor) -> dict[str, int]:
    """Count everything a predictor holds that could grow."""
    everything_learned = predictor._learned
    sessions = predictor._sessions.values()
    return {
        "contexts": len(everything_learned.tables.by_key),
        "ahead": len(everything_learned.horizon.by_key),
        "symbols": max([len(table.counts) for _, table in everything_learned.tables], default=0),
        "used": max([len(ahead.counts) for ahead in everything_learned.horizon.by_key.values()], default=0),
        "distances": len(everything_learned.horizon.distances),
        "favourites": len(everything_learned.favourites.counts),
        "rules": len(everything_learned.rules.scores) + len(everything_learned.rules.habits),
        "constants": len(everything_learned.rules._constants),
        "patterns": len(everything_learned.patterns.by_pair),
        "words": len(everything_learned.words._fine),
        "shared": len(everything_learned.tables._once),
        "sessions": len(sessions),
        "pending": max([len(session.pending) for session in sessions], default=0),
        "here": max([len(session.here) for session in sessions], default=0),
        "repeats": max([len(session.repeats) for session in sessions], default=0),
        "history": max([len(session.history) for session in sessions], default=0),
        "names": max([len(name) for _, table in everything_learned.tables for name in table.counts], default=0),
    }


LIMITS = {
    "contexts": 2000, "ahead": 500, "symbols": MAX_SYMBOLS, "used": MAX_SYMBOLS, "distances": MAX_SYMBOLS,
    "favourites": 4096, "rules": 1024, "constants": 512, "patterns": MAX_PATTERNS, "words": MAX_CACHED,
    "shared": MAX_SYMBOLS, "sessions": 8, "pending": 12, "here": 64, "repeats": 64, "history": 6, "names": 256,
}  # fmt: skip


def check_bounded(predictor: Predictor) -> None:
    """Everything is within its bound."""
    held = sizes(predictor)
    assert {what: size for what, size in held.items() if size > LIMITS[what]} == {}


BOUNDED = PredictorSettings(max_contexts=2000, max_sessions=8)


def test_twenty_thousand_tools_are_bounded() -> None:
    """Far more distinct tools than any bound, in a session that never ends: all is bounded, a habit is still known."""
    predictor = tell(Predictor(BOUNDED), chain("login", "search", sessions=300))
    for number in range(20_000):
        predictor.update("endless", f"tool {number}", number % 2 > 0)
    check_bounded(predictor)
    tell(predictor, chain("login", "search", sessions=3))
    predictor.update("new", "login", True)
    assert predictor.predict("new", 1)[0][0] == "search"


def test_hostile_arguments_and_results_are_bounded() -> None:
    """Thousands of distinct arguments, huge and deep values, and results full of keys stay within every bound."""
    predictor = Predictor(PredictorSettings(max_contexts=300, max_sessions=8, arguments=True))
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    for number in range(100):
        args: dict[str, object] = {f"a{number}{place}": [number, place] for place in range(6)}
        predictor.update("endless", f"t{number}", True, args | {"same": "x" * 500, "deep": deep, "no json": {1, 2}})
        predictor.record("endless", f"t{number}", Execution(result={f"k{i}": [i, deep] for i in range(300)}))
    for number in range(600):
        predictor.update("many tools", f"t{number}")
    predictor.update("wide", "t", True, {f"argument {number}": number for number in range(10_000)})
    check_bounded(predictor)
    assert len(predictor._sessions["endless"].sources._places) <= 128
    assert len(predictor._sessions["endless"].sources._taken) <= 128


def test_sessions_that_never_end_are_bounded() -> None:
    """Of ten thousand open sessions the eight heard of last are known; the others begin anew."""
    predictor = Predictor(BOUNDED)
    for number in range(10_000):
        predictor.update(number, f"t{number % 3}", args={"n": number})
    check_bounded(predictor)
    assert list(predictor._sessions) == list(range(9_992, 10_000))


@settings(max_examples=30)
@given(st.lists(st.text(max_size=2000), min_size=1, max_size=30))
def test_hostile_names_are_predicted_like_others_and_cut(names: list[str]) -> None:
    """Any text is a tool's name; what is kept of it is bounded, and long names stay apart."""
    predictor = tell(Predictor(BOUNDED), [Told("s", name) for name in names])
    check_bounded(predictor)
    predictor.update("t", "x" * 400 + "1")
    predictor.update("t", "x" * 400 + "2")
    assert len({tool for tool, _ in predictor.predict("new", 99) if tool.startswith("x" * 200)}) == 2


@given(streams)
def test_any_stream_stays_within_small_bounds(stream: list[Told]) -> None:
    """Whatever is told, contexts and sessions never exceed what the settings allow."""
    predictor = Predictor(SMALL)
    for one in [*stream, *(Told("s", f"novelty {number}") for number in range(9))]:
        held = sizes(tell(predictor, [one]))
        assert held["contexts"] + held["ahead"] <= 64
        assert held["ahead"] <= 16
        assert held["sessions"] <= 4
        assert held["pending"] < 4


@pytest.mark.parametrize(
    "mistaken",
    [
        lambda: PredictorSettings(max_contexts=31),
        lambda: PredictorSettings(max_sessions=0),
        lambda: PredictorSettings(horizon=0),
    ],
)
def test_a_bound_that_leaves_no_room_is_refused(mistaken: Callable[[], object]) -> None:
    """It is a mistake, and the error says what is the least."""
    with pytest.raises(UsageError, match="has to be"):
        mistaken()


def test_the_salt_is_not_shown() -> None:
    """Settings can be logged: their text does not hold the salt."""
    assert "secret" not in repr(PredictorSettings(salt=b"secret"))


@given(streams, st.integers(1, 9))
def test_what_is_put_off_is_told_before_anything_is_asked(stream: list[Told], every: int) -> None:
    """Putting off what is told changes nothing that anybody can see, and never more than a bound is put off."""
    at_once, later = Predictor(SMALL), Predictor(SMALL)
    for number, one in enumerate(stream):
        tell(at_once, [one])
        later.later(lambda one=one: [tell(later, [one])].clear())  # type: ignore[misc]
        if number % every == 0:
            assert said(later, one.key) == said(at_once, one.key)
    assert len(later._put_off) < MAX_PUT_OFF
    assert learned(later) == learned(at_once)


def test_freezing_learns_what_was_told_before() -> None:
    """What was put off before a predictor was frozen is learned; what comes after is not."""
    predictor = Predictor()
    predictor.later(partial(predictor.update, "s", "read"))
    predictor.frozen = True
    predictor.later(partial(predictor.update, "s", "write"))
    assert predictor.observations == 1
