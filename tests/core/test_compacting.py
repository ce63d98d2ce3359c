"""What the model is shown of a conversation, as a pure function: whole groups, pins, and no less than has to be."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from engine.core.events import ContextCompacted, ContextPrepared, PromptReceived, Recovered
from engine.core.session import Session
from engine.core.tokens import clipped, estimated_tokens, message_tokens
from engine.core.values import Message, ToolCall
from engine.core.view import Shown, View, cut_before, cuts_no_group
from engine.errors import InvalidEvent
from engine.testing.checks import check_messages, check_session, check_view
from engine.testing.drawn import texts
from engine.testing.recording import Recording
from engine.testing.strategies import recordings

from .scenarios import ASKED, CONTEXT, RUN, ended, fault, opened, prompt, reply, says


def talked(turns: int) -> Recording:
    """Return a session of so many turns, each with a call."""
    recording = Recording().play([opened()])
    for number in range(turns):
        recording.play([prompt(f"q{number}"), CONTEXT, reply(RUN), ended(1), CONTEXT, says(f"a{number}")])
    return recording


@given(recordings(max_events=25))
def test_l13_l14_any_prefix_shows_a_view_that_providers_accept(recording: Recording) -> None:
    """Whatever happened, compactions included: calls have their results, and no instruction, pin or prompt is gone."""
    check_session(recording.session)
    check_view(recording.session)
    assert list(recording.session.messages())[: len(recording.session.transcript)] == list(recording.session.transcript)


@given(st.integers(1, 6), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_l14_every_cut_is_between_closed_groups_or_refused(turns: int, keeps: list[int]) -> None:
    """A compaction is taken exactly where no group is cut and more is left out than before; the view gets shorter."""
    recording = talked(turns)
    for keep in keeps:
        before = recording.session
        through = len(before.transcript) - keep
        fits = through > before.shown.through and cuts_no_group(before.transcript, through)
        event = ContextCompacted(keeps=keep, text="short")
        if not fits:
            with pytest.raises(InvalidEvent):
                recording.add(event)
            continue
        recording.add(event)
        check_messages(recording.session.view())
        assert len(recording.session.view()) <= len(before.view())
        assert len(recording.session.messages()) == len(before.messages())


def test_l13_pins_survive_any_number_of_compactions() -> None:
    """A pinned message stays in its words, and each new text takes the place of the one before."""
    recording = Recording().play([opened()])
    pinned = Message(role="user", text="never pay", pinned=True)
    recording.play([PromptReceived(messages=(pinned,)), CONTEXT, says("a")])
    for number in range(5):
        recording.play([prompt("q"), CONTEXT, says("a"), ContextCompacted(keeps=1, text=f"text {number}")])
        shown = [message.text for message in recording.session.view()]
        assert shown == ["never pay", f"text {number}", "a"]


def test_l2_only_a_plan_to_compact_lets_a_compaction_into_an_error() -> None:
    """In ERROR a compaction needs the plan that asks for it, and that plan needs the compaction first."""
    recording = Recording().play([*ASKED, fault("host_failure")])
    with pytest.raises(InvalidEvent, match="does not say to compact"):
        recording.add(ContextCompacted(text="x"))
    recording = Recording().play([*ASKED, fault("context_full", retryable=True)])
    with pytest.raises(InvalidEvent, match="says to compact first"):
        recording.add(Recovered())


def test_m7_a_view_is_a_sequence() -> None:
    """It is read by place, by slice, from both ends and in order, like any other."""
    said = [Message(role="user", text=str(number)) for number in range(6)]
    view = View(said, Shown(through=4, kept=(0,), text="rest"))
    assert [message.text for message in view] == ["0", "rest", "4", "5"]
    assert [message.text for message in view[1:3]] == ["rest", "4"]
    assert (view[-1].text, view[0].text, len(view)) == ("5", "0", 4)
    with pytest.raises(IndexError):
        view[4]
    assert len(View(said, Shown(through=4, text="rest"), 5)) == 2
    assert repr(view) == "View(4 messages)"


def test_l14_cut_moves_back_to_the_call() -> None:
    """A place between a call and its results moves to before the call."""
    call = ToolCall(id="c1", name="look")
    said = [
        Message(role="user", text="q"),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", tool_call_id="c1", text="x"),
        Message(role="assistant", text="a"),
    ]
    assert [cut_before(said, place) for place in range(5)] == [0, 1, 1, 3, 4]
    assert message_tokens(said[1]) > message_tokens(said[0])


@given(texts(200), st.integers(0, 40))
def test_l15_a_clipped_text_is_as_long_as_it_may_be_at_most(text: str, tokens: int) -> None:
    """Whatever the text, what is left of it counts no more than was said, and a short one is left as it is."""
    assert estimated_tokens(clipped(text, tokens)) <= max(tokens, 0)
    if estimated_tokens(text) <= tokens:
        assert clipped(text, tokens) == text


def test_a8_preparing_goes_on_after_a_compaction() -> None:
    """In PROCESSING the context is asked for again, and the model is asked next."""
    recording = talked(2)
    recording.play([prompt("more")])
    effects = recording.add(ContextCompacted(keeps=2, text="short"))
    assert [effect.kind for effect in effects] == ["prepare_context"]
    assert [effect.kind for effect in recording.add(ContextPrepared())] == ["call_model"]
    assert isinstance(recording.session, Session)
