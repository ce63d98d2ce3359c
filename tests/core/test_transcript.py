"""The conversation as a sequence that never changes and grows cheaply, held against plain tuples."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from engine.core.transcript import StoredMessages, Transcript
from engine.core.values import Message


def numbered(*numbers: int) -> tuple[Message, ...]:
    return tuple(Message(role="user", text=str(number)) for number in numbers)


PIECES = st.lists(st.tuples(st.integers(0, 50), st.lists(st.integers(0, 9), max_size=4)), max_size=25)


@given(PIECES)
def test_snapshots_equal_tuples(pieces: list[tuple[int, list[int]]]) -> None:
    """However old and new snapshots are extended in turn, each stays what the tuple beside it is."""
    snapshots: list[tuple[Transcript, tuple[Message, ...]]] = [(Transcript(), ())]
    for pick, numbers in pieces:
        old, plain = snapshots[pick % len(snapshots)]
        added = numbered(*numbers)
        snapshots.append((old.extended(added), plain + added))
    for grown, plain in snapshots:
        assert (len(grown), tuple(grown), tuple(reversed(grown))) == (len(plain), plain, plain[::-1])


@given(st.lists(st.integers(0, 9), max_size=8), st.slices(8), st.integers(-9, 9))
def test_reads_as_a_tuple_does(numbers: list[int], part: slice, place: int) -> None:
    """Slices, positive and negative places and membership give what a tuple gives, also beside a longer snapshot."""
    plain = numbered(*numbers)
    held = Transcript(plain)
    held.extended(numbered(99))
    assert held[part] == plain[part]
    assert numbered(99)[0] not in held
    if -len(plain) <= place < len(plain):
        assert held[place] == plain[place]
    else:
        with pytest.raises(IndexError):
            held[place]


def test_iteration_ignores_what_is_added_meanwhile() -> None:
    """An iterator over a snapshot ends where the snapshot ends."""
    held = Transcript(numbered(1, 2))
    reading = iter(held)
    next(reading)
    held.extended(numbered(3))
    assert [message.text for message in reading] == ["2"]


def test_equality_is_by_content() -> None:
    """Equal messages make equal conversations; nothing else equals one."""
    assert Transcript(numbered(1)) == Transcript().extended(numbered(1))
    assert Transcript(numbered(1)) != Transcript(numbered(2))
    assert Transcript(numbered(1)) != Transcript(numbered(1, 2))
    assert Transcript() != ()


def test_says_how_long_it_is() -> None:
    """The representation does not print a whole conversation."""
    assert repr(Transcript(numbered(1, 2))) == "Transcript(2 messages)"


def test_growing_copies_nothing() -> None:
    """Extending the newest snapshot shares the storage: a long conversation grows in constant time."""
    newest = Transcript(numbered(1))
    grown = newest.extended(numbered(2))
    assert grown._items is newest._items


def test_failed_extension_leaves_every_snapshot_whole() -> None:
    """An iterable that breaks half-way changes no snapshot."""

    def broken() -> object:
        yield numbered(2)[0]
        raise RuntimeError("half-way")

    held = Transcript(numbered(1))
    with pytest.raises(RuntimeError):
        held.extended(broken())  # type: ignore[arg-type]
    assert tuple(held.extended(numbered(3))) == numbered(1, 3)


def test_stored_messages_are_sliced_like_a_tuple() -> None:
    """Messages that are still text are read where a slice asks for them, and only there."""
    lines = [f'{{"role":"user","text":"{number}"}}' for number in range(4)]
    stored = StoredMessages(lines)
    assert stored[1:3] == numbered(1, 2)
    assert stored[-1] == numbered(3)[0]
    assert len(stored) == 4
