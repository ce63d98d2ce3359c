"""Golden stories: what the machine does, as text that a reviewer reads.

Each story is one file in `transcripts/`: a line a step (event, state → state, effects), then how the turn ended, then
the conversation as a model sees it. A change of behaviour shows as the diff of a story.
`REFRESH_GOLDEN=1 pytest tests/core/test_stories.py` rewrites the files.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.core.effects import AskUser, CallModel, KnownEffect, Recover, RunTool
from engine.core.events import (
    Faulted,
    KnownEvent,
    ModelReplied,
    PromptReceived,
    Recovered,
    RecoveryFailed,
    RecoveryNeedsUser,
    RecoveryPlanned,
    Resumed,
    ToolFinished,
    ToolStarted,
    TurnCancelled,
    UserAnswered,
)
from engine.core.session import Session
from engine.core.step import step
from engine.core.values import Message, RecoveryPlan, ToolStatus
from engine.testing.checks import check_history
from engine.testing.recording import Recording

from .scenarios import (
    ASK,
    ASKED,
    BACK,
    CONTEXT,
    GATE_CLOSED,
    MALFORMED,
    READ,
    REFUSE,
    RUN,
    STOP,
    direct,
    ended,
    fault,
    opened,
    probed,
    prompt,
    reply,
    says,
    started,
)

FOLDER = Path(__file__).resolve().parent / "transcripts"


def answer(request_id: str, approve: bool, text: str | None = None) -> UserAnswered:
    return UserAnswered(request_id=request_id, approve=approve, text=text)


RATE_LIMIT = fault("rate_limit", retryable=True, retry_after_s=2)
STORIES: dict[str, list[KnownEvent]] = {
    "a turn put aside until its gate opens": [
        *ASKED, GATE_CLOSED, RecoveryNeedsUser(), STOP, BACK, answer("s:5:0:parked", approve=True), says("42"),
    ],
    "a handler that decides otherwise": [
        *ASKED, RATE_LIMIT, RecoveryPlanned(plan=RecoveryPlan(action="give_up")), RecoveryFailed(),
    ],
    "a question answered": [*ASKED, says("42")],
    "two rounds of tools": [
        *ASKED, reply(READ, READ, text="let me look"), ended(2), ended(1), CONTEXT, reply(RUN), started(1), ended(1),
        CONTEXT, says(),
    ],
    "calls that the host asked for": [opened(), direct(READ, REFUSE), CONTEXT, ended(1), CONTEXT, says()],
    "an approval given and one refused": [
        *ASKED, reply(READ, ASK, ASK), answer("s:4:1:approval", approve=False, text="too dear"), ended(1),
        answer("s:4:2:approval", approve=True), started(3), ended(3), CONTEXT, says(),
    ],
    "malformed arguments until the turn fails": [
        opened(max_parse_retries=1), prompt(), CONTEXT, reply(MALFORMED), CONTEXT, reply(MALFORMED), RecoveryFailed(),
    ],
    "all tool rounds used": [
        opened(max_tool_rounds=1), prompt(), CONTEXT, reply(READ), ended(1), CONTEXT, reply(READ), RecoveryFailed(),
    ],
    "a reply continued": [*ASKED, says("The beginning, ", "length"), CONTEXT, says("the end.")],
    "a rate limit waited out": [*ASKED, RATE_LIMIT, Recovered(waited_s=2), says()],
    "retries exhausted": [
        opened(max_model_retries=1), prompt(), CONTEXT, RATE_LIMIT, Recovered(waited_s=2), RATE_LIMIT, RecoveryFailed(),
    ],
    "one tool times out": [
        *ASKED, reply(READ, READ), ended(1, ToolStatus.TIMED_OUT), ended(2), Recovered(), CONTEXT, says("half"),
    ],
    "cancelled while tools run": [
        *ASKED, reply(RUN, READ, ASK), started(1), ended(2), TurnCancelled(reason="the user left"), prompt("again"),
        CONTEXT, says(),
    ],
    "killed between a write and its end": [
        *ASKED, reply(RUN, RUN, READ), started(1), started(2), ended(3), BACK, RecoveryNeedsUser(),
        answer("OUTCOME 1", approve=True), answer("OUTCOME 2", approve=False), started(2), ended(2), CONTEXT, says(),
    ],
    "killed, and a probe knows": [
        *ASKED, reply(RUN, RUN), started(1), started(2), Resumed(probes=(probed(1, True), probed(2, False))),
        started(2), ended(2), CONTEXT, says(),
    ],
    "shut down while waiting, and back": [
        *ASKED, reply(ASK), STOP, BACK, answer("s:4:0:approval", approve=False), CONTEXT, says(),
    ],
    "the deadline strikes while tools run": [
        *ASKED, reply(RUN, ASK), started(1), fault("execution_limit"), RecoveryFailed(),
    ],
}  # fmt: skip


def addressed(event: KnownEvent, now: Session) -> KnownEvent:
    """Return the event with "OUTCOME n" replaced by the id of the request about call n."""
    if isinstance(event, UserAnswered) and event.request_id.startswith("OUTCOME "):
        call_id = f"c{event.request_id.removeprefix('OUTCOME ')}"
        request = next(request for request in now.pending if request.call_id == call_id)
        return event.model_copy(update={"request_id": request.id})
    return event


def shown(event: KnownEvent) -> str:
    """Return an event in a few words."""
    match event:
        case PromptReceived():
            return f"prompt_received {[message.text for message in event.messages]} {len(event.direct_calls)} calls"
        case ModelReplied():
            calls = ", ".join(f"{plan.call_id} {plan.decision}" for plan in event.plans)
            return f"model_replied {event.reply.text!r} [{calls}] {event.reply.finish}"
        case ToolStarted():
            return f"tool_started {event.call_id}"
        case ToolFinished():
            return f"tool_finished {event.call_id} {event.status}"
        case UserAnswered():
            return f"user_answered {event.request_id} {'yes' if event.approve else 'no'}"
        case Faulted():
            return f"faulted {event.fault.kind}"
        case Resumed():
            return " ".join(
                ["resumed", *(f"{p.call_id}:{'happened' if p.happened else 'absent'}" for p in event.probes)]
            )
        case _:
            return event.kind


def asked_for(effect: KnownEffect) -> str:
    """Return an effect in a few words."""
    match effect:
        case CallModel():
            return f"call_model({effect.round})"
        case RunTool():
            return f"run_tool({effect.call_id} {effect.key})"
        case AskUser():
            return f"ask_user({effect.request.id})"
        case Recover():
            plan = effect.plan
            resume = f" {plan.resume} after {plan.delay_s:g} s, {plan.attempts_left} left" if plan.resume else ""
            return f"recover({plan.action}{resume})"
        case _:
            return effect.kind


def said(message: Message) -> str:
    calls = "".join(f" [{call.id} {call.name} {call.arguments}]" for call in message.tool_calls)
    about = f" {message.tool_call_id}" if message.tool_call_id else ""
    return f"{message.role}{about}: {message.text or ''}{calls}"


def told(title: str) -> tuple[str, Recording]:
    """Return a story as text, and its recording."""
    recording = Recording()
    lines = [title, ""]
    for unaddressed in STORIES[title]:
        before = recording.session
        event = addressed(unaddressed, before)
        effects = recording.add(event)
        wanted = ", ".join(map(asked_for, effects)) or "-"
        lines.append(f"{recording.session.seq:3} {shown(event)}")
        lines.append(f"      {before.state} -> {recording.session.state}: {wanted}")
    last = recording.session.last_turn
    ending = "the turn is open" if last is None else f"{last.outcome}: {last.text!r} {last.reason}".rstrip()
    lines += ["", ending, "", *map(said, recording.session.messages())]
    return "\n".join(lines) + "\n", recording


@pytest.mark.parametrize("title", STORIES)
def test_story_is_as_it_was(title: str) -> None:
    """The story reads as the file says, and its history holds."""
    text, recording = told(title)
    path = FOLDER / f"{title.replace(' ', '-').replace(',', '')}.txt"
    if os.environ.get("REFRESH_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert check_history("s", recording.lines) == recording.session
    assert path.read_text(encoding="utf-8") == text


def test_every_file_has_its_story() -> None:
    """No transcript is left over from a story that is not told any more."""
    names = {f"{title.replace(' ', '-').replace(',', '')}.txt" for title in STORIES}
    assert {path.name for path in FOLDER.iterdir()} == names


@pytest.mark.parametrize("title", STORIES)
def test_v3_step_is_a_function(title: str) -> None:
    """The same session and event give the same step, however often and in whatever order they are taken."""
    _, recording = told(title)
    now = Session("s")
    for record in recording.records:
        first, second = step(now, record.event), step(now, record.event)  # type: ignore[arg-type]
        assert first == second
        now = first.session
    assert now == recording.session
