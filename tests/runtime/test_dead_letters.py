"""The list of calls that failed for good: bounded, the newest kept, what is dropped counted, no argument in clear."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given, strategies as st

from engine.core.session import CallState
from engine.core.values import PlannedCall, ToolCall, ToolStatus
from engine.runtime.dead_letters import DeadLetter, DeadLetters, dead_letter


def letter(number: int) -> DeadLetter:
    return DeadLetter("s", f"c{number}", "pay", "0" * 64, "timed_out", "timed out after 5 s", 3, number)


def failed(content: str, error: str | None) -> CallState:
    call = ToolCall(id="c1", name="pay", arguments={"to": "ann", "card": "4111-1111", "euro": 5})
    return CallState(call, PlannedCall(call_id="c1"), "s:3:0", ToolStatus.TIMED_OUT, content=content, error=error)


@given(added=st.integers(0, 50), most=st.integers(1, 20))
def test_a14_newest_are_kept_and_the_others_counted(added: int, most: int) -> None:
    """Whatever is added: the newest are there in their order, and kept and dropped ones together are all."""
    letters = DeadLetters(most)
    for number in range(added):
        letters.add(letter(number))
    assert [kept.at_ns for kept in letters] == list(range(added))[-most:]
    assert len(letters) + letters.dropped == added


def test_iteration_sees_one_moment() -> None:
    """Adding while somebody iterates disturbs nobody."""
    letters = DeadLetters(2)
    letters.add(letter(1))
    seen = []
    for kept in letters:
        letters.add(letter(kept.at_ns + 1))
        seen.append(kept.at_ns)
    assert seen == [1]


def test_a14_letter_says_what_failed_where_and_how_often() -> None:
    """Session, call, tool, kind of error, text, attempts and time are there, the arguments as a digest of their
    canonical JSON only.
    """
    found = dead_letter("s", failed("timed out after 5 s", "timed_out"), attempts=4, at_ns=123)
    digest = sha256(b'{"card":"4111-1111","euro":5,"to":"ann"}').hexdigest()
    assert found == DeadLetter("s", "c1", "pay", digest, "timed_out", "timed out after 5 s", 4, 123)
    assert "4111" not in repr(found)


def test_text_is_bounded_and_an_error_without_kind_is_named_by_its_status() -> None:
    """A long text is cut; where no kind of error was recorded, the status stands for it."""
    found = dead_letter("s", failed("x" * 10_000, None), attempts=1, at_ns=0)
    assert (found.error, len(found.message)) == ("timed_out", 500)
