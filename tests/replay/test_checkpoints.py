"""A checkpoint gives back the very session it was written from, or nothing."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from hypothesis import given, settings

from engine.core.session import Session
from engine.core.snapshot import Snapshot
from engine.core.transcript import StoredMessages
from engine.core.values import Message
from engine.errors import ReplayError
from engine.journal.canonical import canonical
from engine.replay.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from engine.replay.turns import TurnLog
from engine.testing.recording import Recording
from engine.testing.strategies import recordings
from tests.core.scenarios import SESSIONS


def text_of(recording: Recording) -> str:
    return write_checkpoint(Checkpoint(recording.session, recording.records[-1].hash))


def resealed(text: str, old: str, new: str) -> str:
    """Return another text, its digest right again."""
    body = text.split("\n", 1)[1]
    assert old in body
    body = body.replace(old, new, 1)
    return f"{sha256(body.encode('ascii')).hexdigest()}\n{body}"


@pytest.mark.parametrize("name", [name for name, events in SESSIONS.items() if events])
def test_m5_session_of_every_state_comes_back(name: str) -> None:
    """What was folded and what was read from the checkpoint of it are equal, open turn and conversation included."""
    recording = Recording().play(SESSIONS[name])
    found = read_checkpoint(text_of(recording), "s")
    assert (found.session, found.hash) == (recording.session, recording.records[-1].hash)


@settings(max_examples=40)
@given(recordings())
def test_any_session_comes_back(recording: Recording) -> None:
    """The same for any history, whatever text its values hold: lone surrogates, control characters, deep JSON."""
    if recording.records:
        assert read_checkpoint(text_of(recording), recording.session.id).session == recording.session


def test_restored_session_is_written_as_it_was_read() -> None:
    """A checkpoint of a session that came from a checkpoint is the same text: nothing wears off."""
    text = text_of(Recording().play([*SESSIONS["idle after a turn"], *SESSIONS["idle after a turn"][1:]]))
    again = read_checkpoint(text, "s")
    assert write_checkpoint(again) == text


def test_every_field_of_a_session_is_kept() -> None:
    """A field that is added to the session is added to its snapshot: the conversation alone stands apart."""
    assert {*Snapshot._fields, "transcript"} == set(Session._fields)


def test_turns_come_back_as_they_were() -> None:
    """The newest ended turns are shown from a checkpoint as they are from the whole history."""
    recording = Recording().play([*SESSIONS["idle after a turn"], *SESSIONS["idle after a failure"][1:]])
    seen, begun = TurnLog(10), TurnLog(10)
    session = Recording()
    for record in recording.records:
        session.add(record.event)  # type: ignore[arg-type]
        seen.see((record,), session.session.last_turn)
    ended, opened_at = seen.kept()
    text = write_checkpoint(Checkpoint(recording.session, recording.records[-1].hash, tuple(ended), opened_at))
    found = read_checkpoint(text, "s")
    begun.begin(found.turns, found.session.last_turn, found.opened_at)
    assert len(begun) == 2
    assert list(begun) == list(seen)


def test_no_byte_can_be_another() -> None:
    """A checkpoint in which any one byte is another one is refused, and so is one that was cut anywhere."""
    text = text_of(Recording().play(SESSIONS["waiting for two approvals"]))
    for place, held in enumerate(text):
        other = "\xff" if place % 2 else chr(ord(held) ^ 1)
        with pytest.raises(ReplayError):
            read_checkpoint(text[:place] + other + text[place + 1 :], "s")
        with pytest.raises(ReplayError):
            read_checkpoint(text[:place], "s")


def test_checkpoint_of_another_session_is_refused() -> None:
    """A checkpoint names its session."""
    with pytest.raises(ReplayError, match="of session 's'"):
        read_checkpoint(text_of(Recording().play(SESSIONS["idle"])), "other")


def test_checkpoint_of_other_code_is_refused() -> None:
    """What another release or an edited core has folded is folded again."""
    text = text_of(Recording().play(SESSIONS["idle"]))
    code = json.loads(text.split("\n")[1])["code"]
    with pytest.raises(ReplayError, match="other code"):
        read_checkpoint(resealed(text, code, "0" * 64), "s")


@pytest.mark.parametrize(
    ("old", "new"), [('"messages":', '"messages":1'), ('"seq":', '"seq":"x'), ('"session":{', '"session":{"odd":1,')]
)
def test_checkpoint_that_was_made_up_is_refused(old: str, new: str) -> None:
    """A text with a right digest that no release wrote is an error of its own kind, whatever is wrong inside."""
    text = text_of(Recording().play(SESSIONS["idle"]))
    with pytest.raises(ReplayError):
        read_checkpoint(resealed(text, old, new), "s")


def test_messages_are_read_when_somebody_looks() -> None:
    """A conversation in a checkpoint is text until it is looked at, and then only where somebody looks."""
    stored = StoredMessages(["no message", canonical(Message(role="user", text="hi"))])
    assert (len(stored), stored[1].text) == (2, "hi")
    with pytest.raises(ValueError, match="Expecting value"):
        stored[0]


def test_newest_message_of_a_role_is_found_by_its_role() -> None:
    """Text that looks like the role is no such message; the newest that really has it is found."""
    decoy = Message(role="user", text="x", patch={"put": {"a": {"role": "system"}}})  # type: ignore[arg-type]
    wanted = Message(role="system", text="be brief")
    stored = StoredMessages([canonical(message) for message in (wanted, decoy)])
    assert stored.newest("system") == wanted
    assert stored.newest("tool") is None
