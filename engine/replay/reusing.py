"""Reuse: a recorded history as a middleware that gives recorded results wherever the input is what it was.

A model's reply is reused where the conversation before it is the recorded one, a tool's result where the call has the
name and arguments of a recorded one that nobody has taken yet. One fact may be another one than was recorded. What a
tool with effects on the world does when it really runs again, recorded reads have not seen: they are not reused after
it. May import core and ports. Must never call anything itself: it hands on what is not reused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from ..core.arguments import json_text
from ..core.cursor import Cursor
from ..core.events import ContextCompacted, ModelReplied, ToolFinished, UserAnswered
from ..core.record import TransitionRecord
from ..core.session import CallState, Session
from ..core.step import reproduce
from ..core.values import Message, ModelReply, Request, ToolCall, ToolEffect, ToolStatus
from ..core.view import View
from ..models.recorded import recorded_summary
from ..ports import ModelRequest, ToolContext, ToolOutput

Fact: TypeAlias = ModelReplied | ToolFinished | UserAnswered
"""What can be another one than was recorded: the model's reply, a tool's result, a person's answer."""

_Key: TypeAlias = tuple[str, str]


class Use(NamedTuple):
    """One result of a history, or of its re-run. `seq` is its record in the history, None where it has none there."""

    kind: Literal["model", "tool"]
    name: str
    turn: int
    round: int
    seq: int | None = None


class _Reply(NamedTuple):
    use: Use
    reply: ModelReply
    seen: View


class _Result(NamedTuple):
    use: Use
    output: ToolOutput


class _Answer(NamedTuple):
    event: UserAnswered
    changed: bool


class Reuse:
    """Gives recorded results; see the module. A middleware for one re-run.

    Args:
        records: the whole history of one session.
        start: the first record whose results may be reused.
        facts: sequence → what happened there instead.
        effects: name of a tool → what running it twice does; a tool that is not named writes.
        may_run: the effects of the tools that may really run.

    Attributes:
        recorded_as: None: what it gives is recorded, and the history need not say by whom.
        reused: recorded results that were given.
        run_again: what was asked of the model and the tools themselves.
        withheld: calls that would have had to run and must not.

    Raises:
        ReplayError: the history does not reproduce.
    """

    recorded_as: str | None = None

    def __init__(
        self,
        records: Iterable[TransitionRecord],
        start: int,
        facts: Mapping[int, Fact],
        effects: Mapping[str, ToolEffect],
        may_run: frozenset[ToolEffect],
    ) -> None:
        self.reused: list[Use] = []
        self.run_again: list[Use] = []
        self.withheld: list[Use] = []
        self._effects = effects
        self._may_run = may_run
        self._replies: dict[tuple[int, int], _Reply] = {}
        self._summaries: dict[tuple[int, int], deque[ContextCompacted]] = {}
        self._results: dict[_Key, deque[_Result]] = {}
        self._answers: dict[tuple[str, *_Key], deque[_Answer]] = {}
        self._stale = False
        self._read(records, start, facts)

    @property
    def invalidated(self) -> list[Use]:
        """Recorded results that nobody has asked for, or not with the input that they had."""
        replies = [reply.use for reply in self._replies.values()]
        results = [result.use for waiting in self._results.values() for result in waiting]
        taken = set(self.reused)
        return sorted((use for use in (*replies, *results) if use not in taken), key=lambda use: use.seq or 0)

    async def around_model(
        self, request: ModelRequest, call: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        """Return the recorded reply where the conversation is the recorded one; else ask the model."""
        if request.purpose == "summary":
            left = self._summaries.get((request.turn, request.round))
            return recorded_summary(left, f"turn {request.turn}") if left else await call(request)
        recorded = self._replies.get((request.turn, request.round))
        if recorded is not None and _same(request.messages, recorded.seen):
            self.reused.append(recorded.use)
            return recorded.reply
        self.run_again.append(Use("model", "", request.turn, request.round))
        return await call(request)

    async def around_tool(
        self, context: ToolContext, call: Callable[[ToolContext], Awaitable[ToolOutput]]
    ) -> ToolOutput:
        """Return the recorded result of such a call; else run the tool, where that is allowed."""
        effect = self._effects.get(context.name, "write")
        key = (context.name, json_text(dict(context.arguments)))
        waiting = self._results.get(key)
        if waiting and not (self._stale and effect == "read"):
            result = waiting.popleft()
            self.reused.append(result.use)
            return result.output
        use = Use("tool", context.name, context.turn, context.round)
        if effect not in self._may_run:
            self.withheld.append(use)
            text = f"not run: no such call was recorded, and a tool with the effect {effect!r} may not run again here"
            return ToolOutput(text, ToolStatus.FAILED, "not_run")
        self.run_again.append(use)
        self._stale = self._stale or effect != "read"
        return await call(context)

    def answer(self, request: Request, call: ToolCall | None) -> UserAnswered | None:
        """Return what was said to such a request, None where nobody may be taken to say so again.

        A yes to a call is repeated only where its recorded result is reused, so that it lets nothing happen; or where
        it is the fact that is changed. A grant is never repeated.
        """
        key = _key(call)
        said = self._answers.get((request.kind, *key))
        if not said:
            known = request.kind == "approval" and self._results.get(key)
            return UserAnswered(request_id=request.id, approve=True, by="recorded") if known else None
        answer, changed = said[0]
        if request.kind == "approval" and answer.approve and not changed:
            edited = key if answer.arguments is None else (key[0], json_text(answer.arguments))
            if not self._results.get(edited):
                return None
        return said.popleft().event

    # --- reading the history ------------------------------------------------------------------------------------------

    def _read(self, records: Iterable[TransitionRecord], start: int, facts: Mapping[int, Fact]) -> None:
        cursor: Cursor | None = None
        ends: dict[str, tuple[int, ToolFinished]] = {}
        for record in records:
            cursor = cursor or Cursor(Session(record.session))
            event = facts.get(record.seq, record.event)
            if record.seq >= start and cursor.turn is not None:
                if isinstance(event, ModelReplied):
                    use = Use("model", "", cursor.turn.number, cursor.turn.round, record.seq)
                    seen = View(cursor.transcript, cursor.shown)
                    self._replies[use.turn, use.round] = _Reply(use, event.reply, seen)
                elif isinstance(event, ContextCompacted) and event.keeps:
                    self._summaries.setdefault((cursor.turn.number, cursor.turn.round), deque()).append(event)
                elif isinstance(event, UserAnswered):
                    self._keep_answer(cursor, event, changed=record.seq in facts)
                elif isinstance(event, ToolFinished):
                    ends[_open_call(cursor, event.call_id).key] = (record.seq, event)
            before = cursor.turn
            number, place = (before.number, before.round) if before is not None else (0, 0)
            reproduce(cursor, record)
            if ends and (cursor.turn is None or cursor.turn.batch is None):
                turn = cursor.turn or cursor.last_turn
                self._keep_results(turn.done if turn is not None else (), ends, number, place)
                ends = {}

    def _keep_results(
        self, calls: Iterable[CallState], ends: Mapping[str, tuple[int, ToolFinished]], turn: int, number: int
    ) -> None:
        """Keep the results of a batch in the order of its calls."""
        for call in calls:
            if call.key in ends:
                seq, end = ends[call.key]
                output = ToolOutput(end.content, end.status, end.error, end.patch, end.resources)
                result = _Result(Use("tool", call.call.name, turn, number, seq), output)
                self._results.setdefault(_key(call.call), deque()).append(result)

    def _keep_answer(self, cursor: Cursor, event: UserAnswered, *, changed: bool) -> None:
        asked = next(request for request in cursor.open_turn.requests if request.id == event.request_id)
        call = next((call.call for call in cursor.calls if call.call.id == asked.call_id), None)
        said = event.model_copy(update={"grant": None, "plan": None})
        self._answers.setdefault((asked.kind, *_key(call)), deque()).append(_Answer(said, changed))


def _same(messages: Sequence[Message], seen: Sequence[Message]) -> bool:
    """Whether a conversation is the one that was recorded up to a reply."""
    return len(messages) == len(seen) and all(
        _spoken(message) == _spoken(other) for message, other in zip(messages, seen, strict=True)
    )


def _open_call(cursor: Cursor, call_id: str) -> CallState:
    return next(call for call in cursor.calls if call.call.id == call_id)


def _key(call: ToolCall | None) -> _Key:
    return ("", "") if call is None else (call.name, json_text(call.arguments))


def _spoken(message: Message) -> tuple[object, ...]:
    return message.role, message.text, tuple(message.tool_calls), message.tool_call_id


__all__ = ["Fact", "Reuse", "Use"]
