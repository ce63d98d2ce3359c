"""Saving, loading and merging what was learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from engine.errors import PredictorRefused, UsageError
from engine.predict import Execution, Predictor, PredictorSettings
from engine.predict.files import MAX_BYTES
from engine.predict.learned import Learned
from engine.predict.persistence import FORMAT, VERSION, _digest, decode, encode
from tests.predict.streams import SMALL, Told, chain, learned, said, streams, tell

FULL = PredictorSettings(salt=b"tenant", max_contexts=200, horizon=3, arguments=True)


def reloaded(predictor: Predictor) -> Predictor:
    """Return the predictor after a trip through text."""
    copy = Predictor(predictor._learned.settings)
    copy._adopt(decode(learned(predictor), predictor._learned.settings, "text"))
    return copy


def trained() -> Predictor:
    """Return a predictor that has something of everything."""
    predictor = Predictor(FULL)
    for number in range(30):
        predictor.update(number, "list", True, {"kind": "open"})
        predictor.record(number, "list", Execution(True, 0.2, 1000, {"ids": [number, number + 1]}))
        predictor.update(number, "get", number % 5 > 0, {"id": number})
        predictor.record(number, "get", Execution(number % 5 > 0, 0.1))
        predictor.end(number)
    return predictor


@given(streams, streams)
@settings(max_examples=50)
def test_a_loaded_predictor_says_the_same(first: list[Told], then: list[Told]) -> None:
    """After a save and a load the same calls bring the same predictions, and the same text when saved again."""
    predictor = tell(Predictor(SMALL), [*first, *(Told(key, None) for key in "abcdef")])
    copy = reloaded(predictor)
    assert learned(copy) == learned(predictor)
    for one in then:
        tell(predictor, [one])
        tell(copy, [one])
        assert said(copy, one.key) == said(predictor, one.key)
    assert learned(copy) == learned(predictor)


def test_v30_everything_learned_survives_a_file(tmp_path: Path) -> None:
    """Tables, weights, horizon, argument rules and patterns come back from a file; no open session does."""
    predictor = trained()
    predictor.update("open", "list", True)
    predictor.save(tmp_path / "model.json")
    loaded = Predictor.load(str(tmp_path / "model.json"), FULL)
    assert learned(loaded) == learned(predictor)
    assert said(loaded, "open") == said(predictor, "never seen")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_no_argument_is_saved_in_the_clear(tmp_path: Path) -> None:
    """Neither values of arguments nor keys of results that look like data are in the file."""
    predictor = Predictor(FULL)
    for number in range(10):
        predictor.update(number, "login", True, {"password": "hunter22"})
        predictor.record(number, "login", Execution(True, result={"#W4711": {"mail": "ada@example.org"}}))
        predictor.update(number, "send", True, {"to": "ada@example.org"})
    predictor.save(tmp_path / "model.json")
    text = (tmp_path / "model.json").read_text()
    assert not any(secret in text for secret in ("hunter22", "W4711", "ada@", "tenant"))
    assert '"password"' in text


def test_digests_hang_on_the_salt() -> None:
    """Two tenants that see the same share no key, but for the one that stands for no context at all."""
    one, other = (tell(Predictor(PredictorSettings(salt=salt)), chain("a", "b")) for salt in (b"1", b"2"))
    assert one._learned.tables.by_key.keys() & other._learned.tables.by_key.keys() == {one._always}


def change(**fields: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **fields})


def body(member: str, value: object) -> Callable[[str], str]:
    """Change a member of what was learned and mend the digest, as only somebody who means it can."""

    def changed(text: str) -> str:
        whole = json.loads(text)
        whole["learned"][member] = value
        return json.dumps(whole | {"digest": _digest(whole["learned"])})

    return changed


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "a digit changed": lambda text: text.replace('"observations":9', '"observations":8'),
    "deep": lambda text: "[" * 100_000,
    "not ascii": lambda text: text + "ä",
    "a list": lambda text: "[]",
    "something else": change(format="a recipe"),
    "newer": change(version=VERSION + 1),
    "no version": change(version=None),
    "no learned": change(learned=None),
    "not a number": lambda text: text.replace('"observations":9', '"observations":NaN'),
    "another salt": body("salt", "00"),
    "another horizon": body("horizon", 5),
    "no weights": body("weights", []),
    "short weights": body("weights", [[1.0]] * 19),
    "zero weights": body("weights", [[0.0] * 28] * 19),
    "an empty table": body("tables", [["1", 1, 1]]),
    "a table of nothing": body("tables", [["1", 1, 1, 0, 0]]),
    "an unknown name": body("tables", [["1", 1, 1, 9999, 1]]),
    "a key that is none": body("tables", [["key", 1, 1, 0, 1]]),
    "a negative count": body("favourites", [["1", -1]]),
    "a huge count": body("ahead", [["1", 10**400, 0, 1]]),
    "a name that is none": body("names", [1]),
    "a member gone": body("names", None),
    "a habit of no shape": body("habits", [["tool", 1, 1, []]]),
    "a truth": body("observations", True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_right_is_refused_and_kept(damage: str, tmp_path: Path) -> None:
    """It is a typed error that says what to do, and neither loading nor saving touches the file."""
    path = tmp_path / "model.json"
    settings_ = PredictorSettings(horizon=3)
    tell(Predictor(settings_), chain("a", "b", sessions=3)).save(path)
    changed = DAMAGES[damage](path.read_text()).encode()
    path.write_bytes(changed)
    with pytest.raises(PredictorRefused, match="not touched"):
        Predictor.load(path, settings_)
    if damage not in BEYOND_THE_DIGEST:
        with pytest.raises(PredictorRefused, match="not touched"):
            Predictor(settings_).save(path)
    assert path.read_bytes() == changed
    assert len(list(tmp_path.iterdir())) == 1


BEYOND_THE_DIGEST = {name for name, damage in DAMAGES.items() if damage.__qualname__.startswith("body")}
"""Files with a right digest are this release's own: saving looks no further."""


def test_another_predictors_salt_protects_its_file(tmp_path: Path) -> None:
    """Loading with the wrong salt is refused."""
    Predictor(PredictorSettings(salt=b"1")).save(tmp_path / "model.json")
    with pytest.raises(PredictorRefused, match="another salt"):
        Predictor.load(tmp_path / "model.json", PredictorSettings(salt=b"2"))


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    """What is larger than any predictor is refused before it is parsed."""
    with (tmp_path / "model.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(PredictorRefused, match="larger than"):
        Predictor.load(tmp_path / "model.json")


def test_a_missing_file_is_the_hosts_to_handle(tmp_path: Path) -> None:
    """No file is an ordinary FileNotFoundError, not a damaged predictor."""
    with pytest.raises(FileNotFoundError):
        Predictor.load(tmp_path / "model.json")


def test_a_save_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    """Where the new file cannot take its place the error is raised and no temporary file stays."""
    (tmp_path / "gone").mkdir()
    with pytest.raises(OSError):
        Predictor().save(tmp_path / "gone")
    with pytest.raises(OSError):
        Predictor().save(tmp_path / "nowhere" / "model.json")
    assert [path.name for path in tmp_path.iterdir()] == ["gone"]


def test_the_format_is_one_versioned_json_object(tmp_path: Path) -> None:
    """A file says what it is and in which version."""
    Predictor().save(tmp_path / "model.json")
    whole = json.loads((tmp_path / "model.json").read_text())
    assert (whole["format"], whole["version"]) == (FORMAT, VERSION)


def test_a_larger_predictor_is_trimmed_when_loaded() -> None:
    """A file of many contexts is loaded within smaller bounds."""
    predictor = tell(Predictor(), [Told("s", f"t{number}") for number in range(200)])
    copy = Predictor(PredictorSettings(max_contexts=100))
    copy._adopt(decode(learned(predictor), copy._learned.settings, "text"))
    assert len(copy._learned.tables.by_key) <= 100
    assert len(copy._learned.horizon.by_key) <= 100


@given(streams, streams)
@settings(max_examples=50)
def test_merge_is_commutative(first: list[Told], second: list[Told]) -> None:
    """a.merge(b) and b.merge(a) are the same to the last bit, and neither a nor b has changed."""
    one, other = tell(Predictor(SMALL), first), tell(Predictor(SMALL), second)
    before = learned(one), learned(other)
    assert learned(one.merge(other)) == learned(other.merge(one))
    assert (learned(one), learned(other)) == before


def test_merge_of_everything_is_commutative_and_independent() -> None:
    """Argument rules, patterns and the horizon are merged too, and later learning does not reach back."""
    one, other = trained(), tell(Predictor(FULL), chain("list", "list", "get", sessions=9))
    other.record("x", "get", Execution(False, 7.0))
    both = one.merge(other)
    assert learned(both) == learned(other.merge(one))
    assert both.pattern("get").calls == 31
    before = learned(one), learned(other)
    tell(both, chain("list", "get", "list", sessions=20))
    assert (learned(one), learned(other)) == before


def test_merge_knows_what_each_knew() -> None:
    """Two halves of the experience give the first guesses of the whole."""
    one, other = tell(Predictor(), chain("a", "b", sessions=20)), tell(Predictor(), chain("c", "d", sessions=20))
    both = one.merge(other)
    for before, after in (("a", "b"), ("c", "d")):
        both.update(before, before, True)
        assert both.predict(before, 1)[0][0] == after


def test_merge_stays_within_bounds() -> None:
    """Two full predictors give one that is as large as one may be."""
    one, other = (
        tell(Predictor(SMALL), [Told("s", f"{name}{number}") for number in range(700)]) for name in ("a", "b")
    )
    assert len(one.merge(other)._learned.tables.by_key) <= 64


def test_merge_of_long_experience_keeps_totals_bounded() -> None:
    """Tables that are nearly full are halved when they are added up."""
    one, other = (tell(Predictor(), chain("a", "b", sessions=600)) for _ in range(2))
    assert max(table.total for _, table in one.merge(other)._learned.tables) <= 1500


def test_merge_of_two_tenants_is_refused() -> None:
    """Different salts or bounds cannot be added up."""
    with pytest.raises(UsageError, match="same"):
        Predictor(PredictorSettings(salt=b"1")).merge(Predictor(PredictorSettings(salt=b"2")))


def test_nothing_learned_is_a_predictor_too() -> None:
    """An empty predictor can be written, read and merged."""
    empty = Learned(PredictorSettings())
    assert encode(decode(encode(empty), PredictorSettings(), "text")) == encode(empty)
    assert learned(Predictor().merge(Predictor())) == encode(empty)


def books_of(past: list[tuple[bool, bool, float]], acting: bool) -> Predictor:
    """Return a predictor whose books have seen preparations: (really done, wasted, seconds)."""
    predictor = Predictor(SMALL)
    books = predictor.books
    books.acting = acting
    for really, wasted, seconds in past:
        books.tally(really).prepared += 1
        books.settle(-seconds if wasted else seconds, wasted=wasted)
        books.benefit.called("read", seconds, cold=wasted)
        books.benefit.thought(seconds)
        books.end_run()
    return predictor


PASTS = st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 9)), max_size=60)


@given(PASTS, PASTS, st.booleans())
def test_v9_books_survive_a_file_and_merge_in_any_order(
    first: list[tuple[bool, bool, float]], second: list[tuple[bool, bool, float]], acting: bool
) -> None:
    """What preparing has cost and saved is kept as it is, and two accounts are one in either order."""
    one, two = books_of(first, acting), books_of(second, not acting)
    assert encode(decode(learned(one), SMALL, "text")) == learned(one)
    assert learned(one.merge(two)) == learned(two.merge(one))


def test_v9_books_act_after_twenty_runs_that_paid_and_stop_after_twenty_that_did_not() -> None:
    """Not after nineteen; and a saving long ago does not outweigh a loss now."""
    books = Predictor().books
    for run in range(19):
        books.settle(1.0, wasted=False)
        books.end_run()
        assert not books.acting, run
    books.end_run()
    assert books.acting
    for _ in range(40):
        books.settle(-1.0, wasted=True)
        books.end_run()
    assert not books.acting
