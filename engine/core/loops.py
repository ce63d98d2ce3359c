"""The guard against loops: does a call that the model asks for repeat what the turn has already seen to be in vain?

A call repeats an earlier one when name, arguments (compared as JSON: key order is nothing, 1, 1.0 and true are three)
and *result* are the same; the same call with another result is progress. A loop is such a repetition back to back, or
round a cycle of up to `MAX_PERIOD` calls (or as many as the reply asks for); or one tool failing with the same error
whatever its arguments. What counts is how many *replies* asked for it, not how many calls: a reply that asks for one
thing five times is told once before it is refused. A call that was refused had no result and repeats whatever it
repeats. A cycle of reads with a completed write among them is work on something that changes, never a loop; a tool that
polls is never part of one.

The ladder: a note to the model beside the result, then a refusal, then the end of the turn.

Pure: it looks at finished calls and decides once; what it decided is recorded with the reply. It costs `MAX_PERIOD` + 1
comparisons of two calls for a reply that repeats nothing, however long the turn is, and as many more as a loop is long;
a comparison ends at the first difference, mostly the name or the arguments. May import `session` and `values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field

from .arguments import is_list, is_object
from .session import CallState
from .values import ToolCall, ToolStatus, Value

MAX_PERIOD: Final = 4
"""How many calls the longest cycle may have that is looked for in any case."""


class LoopLimits(Value):
    """When the model is told: at the `repeats`-th reply that asks for the same call after equal results, and at the
    `errors`-th that calls a tool after equal errors with whatever arguments. The next such reply is refused its call,
    the one after that ends the turn.
    """

    repeats: Annotated[int, Field(ge=3)] = 3
    errors: Annotated[int, Field(ge=3)] = 6


class Finding(NamedTuple):
    """What the guard says about a call: run it and add `text` to its result; refuse it with `text`; end the turn."""

    step: Literal["note", "refuse", "halt"]
    text: str


def judge(
    done: Sequence[CallState], asked: Sequence[ToolCall], limits: LoopLimits, polls: frozenset[str] = frozenset()
) -> tuple[Finding | None, ...]:
    """Judge the calls of a reply, each by what was finished before the reply.

    Args:
        done: the finished calls of the turn, in their order.
        asked: the calls of the reply.
        limits: when to speak.
        polls: names of tools that are meant to be called over and over.

    Returns:
        One finding a call; None where there is nothing to say.
    """
    if len(done) < min(limits.repeats, limits.errors) - 1:
        return (None,) * len(asked)
    cycles = _cycles(done, len(asked), limits.repeats, polls)
    failing = _failing(done, limits.errors)
    if not cycles and failing < limits.errors - 1:
        return (None,) * len(asked)
    findings: list[Finding | None] = []
    for place, call in enumerate(asked):
        seen = [times for period, times in cycles if _same_call(call, done[place % period - period].call)]
        if call.name in polls:
            findings.append(None)
        elif seen:
            findings.append(_climb(_REPEATING, call.name, max(seen), limits.repeats))
        elif failing >= limits.errors - 1 and call.name == done[-1].call.name:
            findings.append(_climb(_FAILING, call.name, failing, limits.errors))
        else:
            findings.append(None)
    return tuple(findings)


def _cycles(done: Sequence[CallState], width: int, repeats: int, polls: frozenset[str]) -> list[tuple[int, int]]:
    """Return the periods in which the finished calls go round, each with how many replies have asked for it."""
    found: list[tuple[int, int]] = []
    for period in (*range(1, MAX_PERIOD + 1), *([width] if width > MAX_PERIOD else ())):
        times = _times_round(done, period, repeats, polls)
        if times >= repeats - 1 and not _is_work(done[-period:]):
            found.append((period, times))
    return found


def _times_round(done: Sequence[CallState], period: int, repeats: int, polls: frozenset[str]) -> int:
    """Return how many replies in a row, up to `repeats` + 1, the last `period` calls have been the same."""
    newest = place = len(done) - 1
    if newest < period or not _repeats(done[newest], done[newest - period], polls):
        return 1
    replies = {_reply_of(done[newest])}
    while len(replies) <= repeats and place >= period and _repeats(done[place], done[place - period], polls):
        place -= 1
        if (newest - place) % period == 0:
            replies.add(_reply_of(done[place]))
    return len(replies)


def _failing(done: Sequence[CallState], errors: int) -> int:
    """Return how many replies in a row, up to `errors` + 1, called the newest call's tool and got one same error."""
    if done[-1].status is ToolStatus.COMPLETED:
        return 0
    name = done[-1].call.name
    error: tuple[ToolStatus, str] | None = None
    replies: set[str] = set()
    for call in reversed(done):
        failed = call.status is not ToolStatus.COMPLETED and not _malformed(call)
        if call.call.name != name or not failed or len(replies) > errors:
            break
        if call.plan.decision != "refuse":
            if error is not None and error != (call.status, call.content):
                break
            error = (call.status, call.content)
        replies.add(_reply_of(call))
    return len(replies)


def _is_work(calls: Sequence[CallState]) -> bool:
    """Whether reads go along with a completed change of something."""
    changes = any(call.plan.effect != "read" and call.status is ToolStatus.COMPLETED for call in calls)
    return changes and any(call.plan.effect == "read" for call in calls)


def _repeats(now: CallState, before: CallState, polls: frozenset[str]) -> bool:
    """Whether a finished call is an earlier one over again, with nothing new come of it."""
    if not _same_call(now.call, before.call) or now.call.name in polls or _malformed(now) or _malformed(before):
        return False
    if "refuse" in (now.plan.decision, before.plan.decision):
        return True
    return now.status is before.status and now.content == before.content


def _malformed(call: CallState) -> bool:
    """Whether the arguments were refused: `max_parse_retries` counts those. In a re-run only the error says so."""
    return call.plan.malformed or call.error == "malformed_arguments"


def _same_call(one: ToolCall, other: ToolCall) -> bool:
    return one.name == other.name and one.arguments == other.arguments and _same_json(one.arguments, other.arguments)


def _same_json(one: object, other: object) -> bool:
    """Whether two values that Python takes for equal are also the same JSON."""
    if type(one) is not type(other):
        return False
    if is_object(one) and is_object(other):
        return all(_same_json(value, other[key]) for key, value in one.items())
    if is_list(one) and is_list(other):
        return all(map(_same_json, one, other))
    return not isinstance(one, float) or repr(one) == repr(other)


def _reply_of(call: CallState) -> str:
    """Return what the calls of one reply have in common: session and sequence, as their keys begin."""
    return call.key.rpartition(":")[0]


class _Words(NamedTuple):
    """What the model is told on the first two steps of the ladder."""

    note: str
    refusal: str


_REPEATING: Final = _Words(
    "Note: {name} was already asked for with the same arguments in {seen} replies before this one, and the results "
    "were the same. Once more will not help: use what you have, or try something else.",
    "not run: {name} with these arguments has given the same result again and again. Do something else, or answer with "
    "what you have; asking for it once more ends the turn.",
)
_FAILING: Final = _Words(
    "Note: the calls of {name} in the {seen} replies before this one all failed with the same error, whatever their "
    "arguments. Try something else, or answer without it.",
    "not run: {name} fails with the same error whatever its arguments. Do something else, or answer without it; asking "
    "for it once more ends the turn.",
)


def _climb(words: _Words, name: str, seen: int, bound: int) -> Finding:
    """Return the step of the ladder for a tool that `seen` replies have asked for in vain."""
    if seen < bound:
        return Finding("note", words.note.format(name=name, seen=seen))
    if seen == bound:
        return Finding("refuse", words.refusal.format(name=name))
    return Finding("halt", f"the model goes round in circles: it asked for {name} again after that had been refused")
