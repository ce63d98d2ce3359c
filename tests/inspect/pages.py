"""What the tests of the inspector share: histories to look at, and a plain reading of what the encoder wrote.

`Reading` does in Python what the page's store does in the browser, in the simplest way: it is the other side of the
encoding, so that a test can hold what comes back against the core.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import engine
from engine.core.events import ContextPrepared, KnownEvent, ModelReplied, PromptReceived, SessionOpened, ToolFinished
from engine.core.record import TransitionRecord
from engine.core.values import JsonObject, Message, ModelReply, PlannedCall, ToolCall
from engine.inspect.encoding import stored_text
from engine.inspect.viewing import APPEND, APPEND_COPY, COPY
from engine.journal.codec import decode
from engine.testing.recording import Recording

ROOT = Path(engine.__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "support_desk.jsonl"

NASTY = [
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.pwned = 1'>",
    "]]>&lt;b&gt; {title} ${1} `x` \u2028 \x00 \x7f ~12/reply ~~ \\u003c",
    "Grüße, 你好, 👋🏽",
    "~2/messages",
]
"""Texts that a page might take for something else than texts."""


def example() -> list[TransitionRecord]:
    """Return the recorded history that the project ships."""
    return [decode(line) for line in EXAMPLE.read_text(encoding="ascii").splitlines()]


def nasty() -> list[TransitionRecord]:
    """Return a history whose prompt, arguments, tool names and results are all texts of `NASTY`."""
    calls = [ToolCall(id=f"c{n}", name=f"tool {text[:20]}", arguments={text: text}) for n, text in enumerate(NASTY)]
    recording = Recording("nasty")
    events: list[KnownEvent] = [
        SessionOpened(),
        PromptReceived(messages=(Message(role="user", text=NASTY[0]),)),
        ContextPrepared(),
        ModelReplied(reply=ModelReply(tool_calls=calls, finish="tool_calls"), plans=planned(calls)),
        # Half a letter, as a cut text can end with: no validator lets it in, and the journal keeps what came.
        *(
            ToolFinished.trusted(call_id=one.id, content=f"{text}\ud83d")
            for one, text in zip(calls, NASTY, strict=True)
        ),
        ContextPrepared(),
        ModelReplied(reply=ModelReply(text=NASTY[2])),
    ]
    return recording.play(events).records


def planned(calls: list[ToolCall]) -> tuple[PlannedCall, ...]:
    return tuple(PlannedCall(call_id=call.id, effect="read") for call in calls)


class Reading:
    """Reads chunks back.

    Attributes:
        events: the event of every record, as JSON.
        messages: every message that joined the conversation.
        states: the state after each record.
        whole: the whole states that the chunks hold, by sequence.
    """

    def __init__(self, session: str, chunks: list[JsonObject]) -> None:
        self.events: list[Any] = []
        self.messages: list[Any] = []
        self.states: list[Any] = []
        self.whole: dict[int, Any] = {}
        self._paths: list[str] = []
        state: Any = {"id": session, "seq": 0, "state": "idle", "transcript": 0}
        for chunk in cast(list[dict[str, Any]], chunks):
            self._paths += chunk["paths"]
            self.events += [json.loads(line.split("\t")[0]) for line in chunk["events"].split("\n")]
            lines = chunk["changes"].split("\n") if chunk["changes"] else []
            for line in lines:
                state = self._changed(state, json.loads(line))
                self.states.append(state)
            self.whole |= {seq: self.resolved(json.loads(text)) for seq, text in chunk["keyframes"]}
            self.messages += [self.resolved(json.loads(line)) for line in chunk["messages"].split("\n") if line]

    def _changed(self, state: Any, changes: list[Any]) -> Any:
        state = json.loads(json.dumps(state)) | {"seq": len(self.states) + 1}
        for place, *rest in changes:
            *way, last = self._paths[place].split("/")
            inside = at(state, way)
            key: Any = int(last) if isinstance(inside, list) else last
            if not rest:
                del inside[key]
            elif rest[1:] == [APPEND]:
                inside[key] = [*inside.get(key, []), *self.resolved(rest[0])]
            elif rest[1:] == [APPEND_COPY]:
                inside[key] = [*inside.get(key, []), *at(state, rest[0].split("/"))]
            elif rest[1:] == [COPY]:
                inside[key] = at(state, rest[0].split("/"))
            else:
                inside[key] = self.resolved(rest[0])
            state = json.loads(json.dumps(state))
        return state

    def resolved(self, value: Any) -> Any:
        """Return JSON with what its references point at."""
        if isinstance(value, str) and value.startswith("~~"):
            return value[1:]
        if isinstance(value, str) and value.startswith("~"):
            seq, *way = value[1:].split("/")
            return at(self.events[int(seq) - 1], way)
        if isinstance(value, list):
            return [self.resolved(item) for item in value]
        if isinstance(value, dict):
            return {key: self.resolved(item) for key, item in value.items()}
        return value


def at(value: Any, way: list[str]) -> Any:
    for key in way:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def stored_json(record: TransitionRecord) -> list[Any]:
    """Return a record's event and effects, read from the text that the page gets."""
    return [json.loads(part) for part in stored_text(record).split("\t")]
