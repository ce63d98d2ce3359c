"""Compaction in the table: its guard, its check and its actions.

A compaction changes what the model is shown and nothing else. That what has to stay stays is decided here, not by
whoever proposes it. May import the other core modules. Must never raise for an event that `check` let pass.
"""

from __future__ import annotations

from ..errors import InvalidEvent
from .actions import call_model, plan_recovery, prepare
from .cursor import Cursor
from .events import ContextCompacted
from .session import Session
from .values import Fault, State
from .view import Measured, Shown, cuts_no_group, stays


def check(cursor: Cursor) -> None:
    """Refuse a compaction that would show a call without its result, or would show no less than before."""
    event: ContextCompacted = cursor.event
    if cursor.state is State.ERROR:
        plan = cursor.open_turn.plan
        if plan is None or plan.adjustment != "compact":
            raise InvalidEvent("context_compacted: the recovery plan does not say to compact")
    if not event.text:
        return
    through = len(cursor.transcript) - event.keeps
    if through <= cursor.shown.through:
        known = cursor.shown.through
        raise InvalidEvent(f"context_compacted: a text for {through} messages, and one stands for {known} already")
    if not cuts_no_group(cursor.transcript, through):
        raise InvalidEvent(f"context_compacted: it would cut before the result at place {through}")


def kept_places(at: Cursor | Session, through: int) -> tuple[int, ...]:
    """Return the places before `through` that stay whatever stands for them: instructions, pins, the open prompt."""
    transcript, known, turn = at.transcript, at.shown, at.turn
    stay = {place for place in (*known.kept, *range(known.through, through)) if stays(transcript[place])}
    if turn is not None:
        stay.update(range(turn.began, min(turn.began + len(turn.prompt), through)))
    return tuple(sorted(stay))


def gives_room(cursor: Cursor) -> bool:
    """Whether the model is shown less from now on."""
    return bool(cursor.event.text)


def compact(cursor: Cursor) -> None:
    """Show the model less, and book what the summary cost."""
    event: ContextCompacted = cursor.event
    _book(cursor, event)
    length = len(cursor.transcript)
    if not event.text:
        cursor.shown = cursor.shown._replace(tried=length)
        return
    through = length - event.keeps
    summary = cursor.shown.summary
    if event.fault is None and event.reply is not None:
        summary = event.reply.text or ""
    cursor.shown = Shown(through, kept_places(cursor, through), event.text, summary, length)
    cursor.measured = Measured(length, event.tokens_after)


def compact_and_prepare(cursor: Cursor) -> None:
    """Show the model less, and prepare its round."""
    compact(cursor)
    prepare(cursor)


def compact_and_ask(cursor: Cursor) -> None:
    """Show the model less, and ask it again in the same round."""
    compact(cursor)
    cursor.change_turn(plan=None, fault=None)
    call_model(cursor)


def compact_in_vain(cursor: Cursor) -> None:
    """Note that the model cannot be shown less, and give the turn up."""
    event: ContextCompacted = cursor.event
    compact(cursor)
    fault = cursor.open_turn.fault
    assert fault is not None
    # No more than one plan may come of it: this fault is not to be mended.
    message = f"{fault.message}; nothing could be left out: {event.reason}"
    plan_recovery(cursor, Fault(kind="context_full", message=message))


def _book(cursor: Cursor, event: ContextCompacted) -> None:
    usage = None if event.reply is None else event.reply.usage
    if usage is not None:
        cursor.usage = cursor.usage + usage
    turn = cursor.turn
    if turn is None:
        return
    if usage is not None:
        cursor.change_turn(usage=turn.usage + usage)
    if event.cost_pico is not None:
        cursor.change_turn(cost_pico=turn.cost_pico + event.cost_pico)


__all__ = [
    "check", "compact", "compact_and_ask", "compact_and_prepare", "compact_in_vain", "gives_room", "kept_places",
]  # fmt: skip
