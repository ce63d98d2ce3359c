"""The calls in a reply's text as the calls of the reply.

May import core, ports, the log and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...core.arguments import call_from_text
from ...core.values import FinishReason, ModelReply
from ...log import logger
from ...ports import ModelRequest
from .forms import FoundCall, TextCallFormat
from .reader import read_calls


def reply_with_calls(reply: ModelReply, request: ModelRequest, formats: Sequence[TextCallFormat]) -> ModelReply:
    """Return the reply with the calls that its text holds; the text is what is left.

    Their ids are `call_{turn}_{round}_{index}`, unless the model gave others.

    Args:
        reply: what a model said.
        request: what it was asked: which tools it was offered, and where in the conversation.
        formats: what is looked for.
    """
    found = read_calls(reply.text or "", formats, request.tools, cut=was_cut(reply.finish))
    if not found.calls:
        return reply
    calls = list(reply.tool_calls)
    taken = {call.id for call in calls}
    for call in found.calls:
        note_repairs(call)
        call_id = call.id if call.id and call.id not in taken else f"call_{request.turn}_{request.round}_{len(calls)}"
        taken.add(call_id)
        calls.append(call_from_text(call_id, call.name, call.arguments_text))
    finish: FinishReason = "tool_calls" if reply.finish == "stop" else reply.finish
    return reply.model_copy(update={"text": found.text or None, "tool_calls": tuple(calls), "finish": finish})


def was_cut(finish: str | None) -> bool:
    """Return whether a reply that ended so may lack something at its end. A stop sequence may be the end of a call."""
    return finish not in ("stop", "tool_calls", "stop_sequence")


def note_repairs(call: FoundCall) -> None:
    """Leave a word in the log, at debug level, about what was forgiven."""
    if call.repairs:
        logger.debug("tool_call_repaired", tool=call.name, repairs=call.repairs)
