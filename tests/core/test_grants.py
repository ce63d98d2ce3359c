"""Approvals bind, grants end, rulings say one thing."""

from __future__ import annotations

from hashlib import sha256
from typing import get_args

import pytest
from hypothesis import assume, given as draw, strategies as st
from pydantic import ValidationError

from engine.core.arguments import json_text
from engine.core.grants import (
    Approved,
    Grant,
    GrantTerms,
    Here,
    Ruling,
    admits,
    admitting,
    binding,
    consumed,
    given,
    is_over,
    revoked,
    tool_version,
)
from engine.core.patterns import exactly
from engine.core.values import JsonObject, ToolCall, ToolEffect, ToolSpec
from engine.runtime.clock import timestamp
from engine.testing.strategies import json_objects, texts

NOON = "2026-11-21T12:00:00.000000Z"
HERE = Here("s", 3, "ann", NOON)
PAY = ToolCall(id="c", name="pay", arguments={"amount": 5, "to": "me@example.com"})


def grant(pattern: str = "pay", **fields: object) -> Grant:
    """Return a grant that admits `PAY` at `HERE`, but for what `fields` say."""
    return Grant.model_validate(
        {"pattern": pattern, "id": "g", "session": "s", "turn": 3, "principal": "ann", "granted_by": "bob", **fields}
    )


# --- binding ----------------------------------------------------------------------------------------------------------

wide_texts = texts() | st.text(st.characters(), max_size=5) | st.from_regex(r"[0-9]{0,2}[-:][ab]?", fullmatch=True)
approvals = st.builds(
    Approved, wide_texts, wide_texts, json_objects().map(json_text), wide_texts, wide_texts,
    st.none() | wide_texts, wide_texts,
)  # fmt: skip


@draw(approvals, st.sampled_from(Approved._fields), wide_texts | st.none())
def test_f17_an_approval_with_any_field_changed_is_another(approved: Approved, field: str, value: str | None) -> None:
    """Whichever of the seven things is another when the call is to run, the hash is another: refused."""
    assume(field == "principal" or value is not None)
    assume(getattr(approved, field) != value)
    changed = Approved(**{**approved._asdict(), field: value})
    assert binding(changed) != binding(approved)


@draw(approvals, approvals)
def test_f17_the_binding_tells_approvals_apart(one: Approved, other: Approved) -> None:
    """Two approvals have the same hash exactly where they are the same."""
    assert (binding(one) == binding(other)) is (one == other)


@draw(st.lists(st.sampled_from(["", "a", "1:a", "-", "0:", "a0:"]), min_size=7, max_size=7), st.integers(0, 5))
def test_f17_no_text_can_move_from_one_field_into_the_next(parts: list[str], place: int) -> None:
    """The encoding keeps fields apart, also where a text looks like the mark between two of them."""
    moved = [*parts]
    moved[place], moved[place + 1] = parts[place] + parts[place + 1], ""
    assume(moved != parts)
    assert binding(Approved(*moved)) != binding(Approved(*parts))


def test_f17_nobody_is_another_principal_than_one_without_a_name() -> None:
    """No principal and an empty one are two."""
    approved = Approved("pay", "1", "{}", "s", "c", None, "p")
    assert binding(approved) != binding(approved._replace(principal=""))


def test_f17_the_binding_is_the_same_in_every_process() -> None:
    """The hash depends on nothing but the fields: an approval given before a restart holds after it."""
    approved = Approved("pay", "v1", '{"amount":5}', "s", "c1", "ann", "p1")
    assert binding(approved) == sha256(b'3:pay2:v112:{"amount":5}1:s2:c13:ann2:p1').hexdigest()


@draw(json_objects(), json_objects(), texts(), st.sampled_from(get_args(ToolEffect)))
def test_f17_a_tool_that_says_something_else_has_another_version(
    schema: JsonObject, other: JsonObject, description: str, effect: ToolEffect
) -> None:
    """Name, description, parameters and effect are all part of a tool's version."""
    spec = ToolSpec(name="pay", description=description, parameters=schema)
    same = json_text(schema) == json_text(other)
    assert (tool_version(spec, effect) == tool_version(spec.model_copy(update={"parameters": other}), effect)) is same
    assert tool_version(spec, effect) != tool_version(
        spec.model_copy(update={"description": description + "."}), effect
    )
    assert len({tool_version(spec, each) for each in get_args(ToolEffect)}) == 3


# --- grants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "admitted"),
    [
        ("pay", True),
        ("pay(*)", True),
        ("pay()", False),
        (exactly(PAY), True),
        ('pay({"amount": 5})', False),
        ('pay({"amount": 5.0, "to": "me@example.com"})', False),
        ("pay(to=*@example.com)", True),
        ("pay(to=*@example.org)", False),
        ("pay(iban=*)", False),
        ("p*(amount=5)", True),
        ("look", False),
    ],
)
def test_m17_a_grant_admits_the_calls_of_its_pattern(pattern: str, admitted: bool) -> None:
    """No arguments, exactly these, any, and those that match are told apart."""
    assert admits(grant(pattern), PAY, HERE) is admitted


def test_m17_what_cannot_be_looked_into_is_not_admitted() -> None:
    """A grant for one receiver admits no list of receivers."""
    assert not admits(grant("pay(to=*)"), ToolCall(id="c", name="pay", arguments={"to": ["x"]}), HERE)


@pytest.mark.parametrize(
    "here", [HERE._replace(session="fork"), HERE._replace(principal="eve"), HERE._replace(principal=None)]
)
@pytest.mark.parametrize("scope", ["once", "turn", "session"])
def test_f17_a_grant_holds_in_its_own_session_and_for_its_own_principal_only(scope: str, here: Here) -> None:
    """A fork, a copy under another id and another user have no authority from it."""
    assert admits(grant(scope=scope), PAY, HERE)
    assert not admits(grant(scope=scope), PAY, here)


@pytest.mark.parametrize(("scope", "later"), [("once", True), ("turn", False), ("session", True)])
def test_m17_the_scope_turn_ends_with_its_turn(scope: str, later: bool) -> None:
    """In a later turn of the session a grant of the scope "turn" admits nothing."""
    assert admits(grant(scope=scope), PAY, HERE._replace(turn=4)) is later


@draw(st.integers(0, 2**62), st.integers(0, 2**62))
def test_m17_a_grant_ends_when_its_time_has_come(now_ns: int, end_ns: int) -> None:
    """Before its end a grant admits, from then on it does not; texts of times compare as the times do."""
    end, now = timestamp(end_ns), timestamp(now_ns)
    alive = now_ns // 1000 < end_ns // 1000
    assert admits(grant(expires_at=end), PAY, HERE._replace(now=now)) is alive
    assert is_over(end, now) is not alive


def test_v20_without_a_limit_nothing_is_ever_over() -> None:
    """A request without a time limit waits for as long as it takes."""
    assert not is_over(None, "9999-12-31T23:59:59.999999Z")


@draw(st.integers(1, 5), st.integers(0, 8))
def test_m17_a_grant_admits_as_many_calls_as_it_has_uses(max_uses: int, attempts: int) -> None:
    """One use is consumed a call; when none is left the grant is still there and admits nothing."""
    grants: tuple[Grant, ...] = (grant(max_uses=max_uses),)
    admitted = 0
    for _ in range(attempts):
        found = admitting(grants, PAY, HERE)
        if found is not None:
            admitted += 1
            grants = consumed(grants, found.id)
    assert admitted == min(max_uses, attempts)
    assert [left.uses for left in grants] == [admitted]


def test_m17_once_is_one_call() -> None:
    """The scope "once" is used up by its first call."""
    (once, other) = grants = (grant(scope="once"), grant(id="other", max_uses=None))
    assert once.uses_left == 1
    assert other.uses_left is None
    assert [left.uses_left for left in consumed(grants, "g")] == [0, None]
    assert [left.uses for left in consumed(grants, "other")] == [0, 1]
    assert admitting(consumed(grants, "g"), PAY, HERE) is grants[1]


def test_m17_a_revoked_grant_admits_nothing() -> None:
    """Revoking one takes that one away and leaves the others."""
    grants = (grant(), grant(id="other", pattern="look"))
    assert admitting(grants, PAY, HERE) is grants[0]
    assert revoked(grants, "g") == (grants[1],)
    assert admitting(revoked(grants, "g"), PAY, HERE) is None


def test_m17_a_grant_is_given_for_here_on_the_terms_of_the_answer() -> None:
    """The engine adds where, on whose behalf and by whom; the request whose answer gave it names it."""
    terms = GrantTerms(pattern="pay", scope="turn", expires_at=NOON, max_uses=4)
    assert given(terms, "g", HERE, "bob") == grant(scope="turn", expires_at=NOON, max_uses=4)


def test_m17_a_grant_whose_uses_are_spent_admits_nothing() -> None:
    """Also where nobody took it away."""
    assert not admits(grant(max_uses=2, uses=2), PAY, HERE)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"pattern": "pay(a="}, "column 7"),
        ({"pattern": ""}, "name"),
        ({"max_uses": 0}, "greater than or equal to 1"),
        ({"scope": "once", "max_uses": 2}, "once"),
        ({"scope": "ever"}, "scope"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2026-11-21T12:00:00Z"}, "expires_at"),
        ({"expires_at": "2026-11-21T12:00:00.000000+02:00"}, "expires_at"),
        ({"expires_at": NOON + "\n"}, "expires_at"),
    ],
)
def test_m17_terms_that_cannot_be_meant_are_refused(fields: dict[str, object], word: str) -> None:
    """A grant is checked when it is made, pattern and times included."""
    with pytest.raises(ValidationError) as refused:
        GrantTerms.model_validate({"pattern": "pay", **fields})
    assert word in str(refused.value)


# --- rulings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ruling",
    [
        {"approve": True},
        {"approve": True, "arguments": {}},
        {"approve": True, "grant": {"pattern": "pay"}},
        {"approve": True, "arguments": {"amount": 1}, "grant": {"pattern": "pay"}, "by": "ann"},
        {"approve": False},
        {"approve": False, "text": "too much"},
        {"approve": False, "result": ""},
    ],
)
def test_v20_a_ruling_approves_edits_rejects_or_responds(ruling: dict[str, object]) -> None:
    """Each of the four decisions can be said, and comes back from its JSON as it was."""
    said = Ruling.model_validate(ruling)
    assert Ruling.model_validate_json(said.model_dump_json()) == said


@pytest.mark.parametrize(
    "ruling",
    [
        {},
        {"approve": "perhaps"},
        {"approve": False, "arguments": {}},
        {"approve": False, "grant": {"pattern": "pay"}},
        {"approve": True, "result": "done"},
        {"approve": True, "arguments": [1]},
    ],
)
def test_v20_a_ruling_that_says_two_things_is_refused(ruling: dict[str, object]) -> None:
    """A yes with a result, a no with arguments or a grant, and what is neither yes nor no cannot be recorded."""
    with pytest.raises(ValidationError):
        Ruling.model_validate(ruling)
