"""Compaction: a summary by the model, and facts from the record, in the place of what it can no longer be shown.

Makes the event and changes nothing: the core says what a compaction does. A summary is asked for as any reply is, and
is one request; that it failed, or gained nothing, is recorded and ends nothing. May import core, replay and its
neighbours. Must never raise but for cancellation, and never show the summary as if it were a reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import anyio

from ..core.compacting import kept_places
from ..core.events import ContextCompacted, KnownEvent, Recovered
from ..core.notices import Compacting, Notice
from ..core.recovery import compactions
from ..core.session import Session
from ..core.tokens import Window, clipped
from ..core.values import Fault, Message, ModelReply, RecoveryPlan
from ..core.view import Shown, View, stays
from ..ports import Emit, ModelRequest
from ..replay.facts import facts_of
from ..tools.function import really_cancelled
from .asking import Asking, fault_of, recover, way_to_model
from .gauge import Gauge
from .lanes import Lane
from .ledger import Ledger
from .performers import prepare_context
from .spending import cost_of, summary_parameters

Occasion: TypeAlias = Literal["threshold", "full", "host"]
"""Why the model is to be shown less: it would be shown too much, it was, or the host says so."""

_FACT_TOKENS = 512
_INTRODUCTION = "[The beginning of this conversation is left out. This note stands for it; it asks for nothing.]"


async def prepare(asking: Asking, ledger: Ledger, emit: Emit) -> KnownEvent:
    """Return the next event of a session whose context is to be prepared: a compaction, where one is due."""
    gauge = ledger.gauge
    if gauge is not None and gauge.due(ledger.session):
        return await compact(asking, ledger, emit, "threshold")
    return await prepare_context(asking.parts, ledger.session)


async def carry_out(asking: Asking, ledger: Ledger, emit: Emit, plan: RecoveryPlan) -> KnownEvent:
    """Carry out a recovery plan; one that shows the model less ends with that."""
    event = await recover(asking, ledger.session, plan)
    if plan.adjustment == "compact" and isinstance(event, Recovered):
        return await compact(asking, ledger, emit, "full")
    return event


async def compact(asking: Asking, ledger: Ledger, emit: Emit, occasion: Occasion) -> ContextCompacted:
    """Return what stands for the beginning of the conversation from now on, or why nothing does.

    Without a summary the facts stand alone only where the conversation does not fit any more; else it stays as it is.
    """
    session, gauge = ledger.session, ledger.gauge or Gauge(asking.parts)
    window, before = gauge.window, gauge.tokens(session)
    # A window that is full again after a compaction leaves no other choice than to keep less.
    again = occasion == "full" and session.turn is not None and compactions(session.turn) > 1
    through = gauge.cut(session, 1 if again else window.keep_messages)
    if through <= session.shown.through and occasion == "full":
        through = gauge.cut(session, 1)
    if through <= session.shown.through:
        return ContextCompacted(
            reason="everything that is shown has to stay", tokens_before=before, tokens_after=before
        )
    emit(Compacting(before, window.tokens))
    most = gauge.reserve(asking.parts.settings.compaction.max_tokens)
    said = await _summary(asking, session, _Wanted(window, through, most))
    ended = list(ledger.turns.turns())
    tail = (session.transcript[place] for place in range(through, len(session.transcript)))
    results = sum(message.role == "tool" for message in tail)
    turns = [*ended, session.turn] if session.turn else ended
    facts = facts_of(turns, results, gauge.reserve(_FACT_TOKENS), window.tokens_of)
    text = _stand_in(_brief(said, most, window) or session.shown.summary, facts)
    must = occasion == "full" or before >= window.tokens
    event = ContextCompacted(
        keeps=len(session.transcript) - through, text=text, reply=said.reply, fault=said.fault,
        cost_pico=said.cost_pico, tokens_before=before, tokens_after=before,
    )  # fmt: skip
    if said.fault is not None and not must:
        return event.model_copy(update={"text": "", "reason": f"there is no summary: {said.fault.message}"})
    then_shown = Shown(through, kept_places(session, through), text)
    shown, then = gauge.count(session.view()), gauge.count(View(session.transcript, then_shown))
    if then >= shown:
        reason = f"it would not get shorter: {shown} tokens before, {then} after"
        return event.model_copy(update={"text": "", "reason": reason})
    return event.model_copy(update={"tokens_after": before * then // max(1, shown)})


# --- the summary ------------------------------------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """A summary: of what ends at `through`, in at most `tokens`."""

    window: Window
    through: int
    tokens: int


class _Said(NamedTuple):
    """What the model said, or why it did not."""

    reply: ModelReply | None = None
    fault: Fault | None = None
    cost_pico: int | None = None


async def _summary(asking: Asking, session: Session, wanted: _Wanted) -> _Said:
    parts, turn = asking.parts, session.turn
    settings = parts.settings.compaction
    parameters = summary_parameters(parts.parameters, wanted.tokens, wanted.window.reply_limit)
    request = ModelRequest(
        (Message(role="system", text=settings.system), Message(role="user", text=_told(asking, session, wanted))),
        (), parameters, session.id, 0 if turn is None else turn.number, 0 if turn is None else turn.round, "summary",
    )  # fmt: skip
    priority = None if turn is None else turn.priority
    reply: ModelReply | None = None
    try:
        if parts.pipeline.lanes is None or priority is None:
            answer: object = await way_to_model(asking, _show_nothing)(request)
        else:
            async with parts.pipeline.place(Lane.GENERATE, priority):
                answer = await way_to_model(asking, _show_nothing)(request)
        if not isinstance(answer, ModelReply):
            return _Said(None, Fault(kind="bad_reply", message=f"the model returned {type(answer).__name__}"))
        reply = parts.clean(answer)
        counted = parts.limits.counts_output or session.opened.loan is not None
        cost_pico = cost_of(parts, reply, session.opened.loan) if counted else None
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()) and really_cancelled():
            raise
        # Nothing waits for it, so nothing is drawn for a wait.
        return _Said(reply, fault_of(asking, error).model_copy(update={"jitter": None}))
    if reply.tool_calls or not (reply.text or "").strip():
        what = "calls of tools" if reply.tool_calls else "nothing"
        return _Said(reply, Fault(kind="bad_reply", message=f"the model gave {what} for a summary"), cost_pico)
    return _Said(reply, None, cost_pico)


def _show_nothing(notice: Notice) -> None:
    """Show nothing of a summary while it grows: it is no reply."""


def _told(asking: Asking, session: Session, wanted: _Wanted) -> str:
    """Return the request for a summary: the conversation as a text, without its oldest part where it has no room."""
    settings, window = asking.parts.settings.compaction, wanted.window
    count = window.tokens_of
    head = f"summary so far: {session.shown.summary}" if session.shown.summary else ""
    spare = wanted.tokens + window.tokens // 20 + 16
    room = window.tokens - spare - count(settings.system) - count(settings.request) - count(head)
    longest = max(16, window.tokens // 8)
    messages = [session.transcript[place] for place in range(session.shown.through, wanted.through)]
    lines: list[str] = []
    for line in reversed([line for message in messages for line in _lines(message)]):
        line = clipped(line, longest, count)
        room -= count(line) + 1
        if room < 0 and lines:
            break
        lines.append(line)
    return "\n".join([settings.request, *([head] if head else []), *reversed(lines)])


def _lines(message: Message) -> Iterator[str]:
    if stays(message) and message.role != "user":
        return
    if message.text:
        yield f"{message.role}: {message.text}"
    for call in message.tool_calls:
        yield f"{message.role} calls {call.name}({json.dumps(call.arguments, ensure_ascii=False)})"


def _brief(said: _Said, tokens: int, window: Window) -> str:
    """Return the summary, no longer than it may be; nothing where there is none."""
    if said.fault is not None or said.reply is None:
        return ""
    return clipped((said.reply.text or "").strip(), tokens, window.tokens_of)


def _stand_in(summary: str, facts: str) -> str:
    parts = [_INTRODUCTION]
    if summary:
        parts.append(f"Summary:\n{summary}")
    if facts:
        parts.append(f"From the record:\n{facts}")
    return "\n\n".join(parts)
