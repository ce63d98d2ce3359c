"""What a predictor has to say about a session, for those who plan by it.

The warmer prepares by the sequence and its candidates, starts as many worker processes as a group may need at once, and
a batch lets tools that take much memory wait until there is some. May import core, predict, ports, tools and its
neighbours. Must never do anything about what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..core.session import CallState, Session
from ..core.values import Request, ToolStatus
from ..tools.registry import Toolbox

if TYPE_CHECKING:
    from ..predict import Predictor

STEPS = 4
"""Calls that the predicted sequence is long at most."""

CANDIDATES = 8
"""Tools that might be warmed."""


class Hints(NamedTuple):
    """What is expected of a session.

    `sequence` are the next calls, each with the probability of being next if those before it came; `candidates` the
    tools with the probability of being used within the next calls; `groups` the sequence in the groups that may run
    side by side; `heavy` the tools that have taken much memory, with the bytes.
    """

    sequence: tuple[tuple[str, float], ...]
    candidates: tuple[tuple[str, float], ...]
    groups: tuple[tuple[str, ...], ...]
    heavy: Mapping[str, int]


class CallProgress(NamedTuple):
    """How far one call of the open batch is.

    `running_s` is None while it has not started; `usual_s` is what half of its tool's calls took at most, `long_s` what
    nine of ten did; both are None where nothing is known. All in seconds.
    """

    id: str
    name: str
    status: ToolStatus
    running_s: float | None
    usual_s: float | None = None
    long_s: float | None = None

    @property
    def left_s(self) -> float | None:
        """How much longer it will probably take: to the usual time, or, beyond that, to the long one."""
        if self.usual_s is None or self.long_s is None:
            return None
        so_far_s = self.running_s or 0.0
        return max(0.0, (self.usual_s if so_far_s <= self.usual_s else self.long_s) - so_far_s)


class Pending(Request):
    """A request with what is expected of its call: half of the calls of that tool took `usual_s` seconds at most."""

    usual_s: float | None = None


def hints_of(predictor: Predictor, session: str, toolbox: Toolbox) -> Hints:
    """Return what a predictor expects of a session. Takes some hundred microseconds."""
    sequence = predictor.sequence(session, STEPS)
    candidates = predictor.within(session, k=CANDIDATES)
    groups = side_by_side([tool for tool, _ in sequence], toolbox)
    return Hints(tuple(sequence), tuple(candidates), groups, predictor.heavy)


def side_by_side(names: Sequence[str], toolbox: Toolbox) -> tuple[tuple[str, ...], ...]:
    """Return calls in groups, in order, by what their tools declare: reads and calls with a conflict key of their own
    run beside what came before, a write without one waits for the others and is waited for.
    """
    groups: list[list[str]] = []
    alone = True
    for name in names:
        tool = toolbox.get(name)
        apart = tool is None or (tool.options.effect == "write" and tool.options.conflict_key is None)
        if apart or alone:
            groups.append([])
        groups[-1].append(name)
        alone = apart
    return tuple(map(tuple, groups))


def progress(
    calls: Sequence[CallState], began_ns: Mapping[str, int], now_ns: int, by: Predictor | None
) -> list[CallProgress]:
    """Return how far calls are.

    Args:
        calls: those of an open batch.
        began_ns: when those that run began.
        now_ns: the time, of the same clock.
        by: who knows how long their tools take.
    """
    found: list[CallProgress] = []
    for call in calls:
        began = None if call.status.terminal else began_ns.get(call.call.id)
        running_s = None if began is None else (now_ns - began) / 1e9
        status = call.status if began is None else ToolStatus.RUNNING
        usual_s, long_s = (None, None) if by is None else quantiles(by, call.call.name)
        found.append(CallProgress(call.call.id, call.call.name, status, running_s, usual_s, long_s))
    return found


def pending(session: Session, by: Predictor | None) -> tuple[Request, ...]:
    """Return what a session waits for, with what is known of the calls it is about."""
    turn = session.turn
    if by is None or turn is None or turn.batch is None:
        return session.pending
    names = {call.call.id: call.call.name for call in turn.batch.calls}
    return tuple(
        Pending(**dict(request), usual_s=quantiles(by, names[request.call_id])[0])
        if request.call_id in names
        else request
        for request in session.pending
    )


def quantiles(predictor: Predictor, tool: str) -> tuple[float | None, float | None]:
    """Return the seconds that half, and nine of ten, of a tool's calls took at most."""
    pattern = predictor.pattern(tool)
    return pattern.quantile_s(0.5), pattern.quantile_s(0.9)
