"""How calls end that were cut off. Pure. May import core."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..core.events import KnownEvent, ToolFinished
from ..core.session import CallState
from ..core.values import ToolStatus


def endings(
    calls: Sequence[CallState], finished: Sequence[KnownEvent], reason: str, left_behind: Collection[str]
) -> list[KnownEvent]:
    """Return an end for every call that runs: the known ones, then a cancellation for the others.

    Args:
        calls: the open batch.
        finished: the ends that are known.
        reason: why the others end.
        left_behind: ids of calls that did not end when they were cancelled. If one is a write that has started, nobody
            knows what it may still do.
    """
    ends = list(finished)
    have_end = {event.call_id for event in finished if isinstance(event, ToolFinished)}
    for call in calls:
        if call.runs and call.call.id not in have_end:
            doubt = "; it had started and may have taken effect" if call.started else ""
            runs_on = call.started and call.call.id in left_behind
            ends.append(
                ToolFinished(
                    call_id=call.call.id,
                    status=ToolStatus.UNKNOWN if runs_on else ToolStatus.CANCELLED,
                    content=f"cancelled: {reason}{doubt}",
                    error="cancelled",
                )
            )
    return ends
