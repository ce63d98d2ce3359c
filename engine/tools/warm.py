"""What a tool says about warming: a hook that prepares what its calls will need, without calling it.

A hook opens a connection, loads an index, starts a process. It runs beside the model's thinking, when the predictor
says that it pays, and may be cancelled at any await. A tool and its hook have to agree by themselves on what happens
when a call comes while the hook still runs: a lock, or a value that is made once. May import ports and errors. Must
never run anything.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ..errors import ToolDefinitionError
from ..ports import ToolOptions


class WarmContext(NamedTuple):
    """Whom a warm-up is for: the tool that will probably be called, in which session, and how probably.

    So many `calls` that share the warm-up will probably run side by side.
    """

    tool: str
    session: str
    user: str | None = None
    workspace: str | None = None
    probability: float = 0.0
    calls: int = 1


WarmHook: TypeAlias = Callable[[WarmContext], Awaitable[object]]
"""Prepares what a tool needs. It must change nothing in the world; what it returns is dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class Warm:
    """A warm-up. Tools that are given the same one share what it prepares.

    Attributes:
        hook: what prepares.
        cost_s: seconds of work that one preparation takes, and until calls have shown it, what it saves.
        lifetime_s: how long what is prepared stays of use, in seconds.
        per: whose it is: of all sessions of the engine, or of the session it was prepared for.

    Raises:
        ToolDefinitionError: the hook is no coroutine function, or a number is out of its range.
    """

    hook: WarmHook
    cost_s: float = 1.0
    lifetime_s: float = 300.0
    per: Literal["engine", "session"] = "engine"

    def __post_init__(self) -> None:
        if not iscoroutinefunction(self.hook):
            raise ToolDefinitionError(f"a warm hook is a coroutine function of one argument, not {self.hook!r}")
        if not (0 < self.cost_s < math.inf and self.lifetime_s > 0):
            raise ToolDefinitionError(
                f"a warm-up that costs {self.cost_s!r} s and lasts {self.lifetime_s!r} s: give positive seconds"
            )
        if self.per not in ("engine", "session"):
            raise ToolDefinitionError(f"a warm-up is per engine or per session, not per {self.per!r}")


Warmth: TypeAlias = Warm | Literal["result"] | None
"""How a tool is warmed: by a hook; by running the probable call itself; not at all."""


@runtime_checkable
class Warmable(Protocol):
    """A tool that can be warmed."""

    @property
    def warm(self) -> Warmth:
        """What prepares for a call."""
        ...


def warm_of(given: Warmth | WarmHook, options: ToolOptions, name: str) -> Warmth:
    """Return how a tool is warmed that was given `warm=`.

    Raises:
        ToolDefinitionError: it is no way to warm, or the tool may not be run ahead.
    """
    if given is None or isinstance(given, Warm):
        return given
    if given == "result":
        if options.effect != "read" or options.cache_ttl_s is None:
            raise ToolDefinitionError(
                f'tool {name!r}: warm="result" runs calls before they are asked for and keeps what they give: it needs '
                'effect="read" and a cache_ttl_s'
            )
        return "result"
    if not callable(given):
        raise ToolDefinitionError(f'tool {name!r}: warm={given!r} is no Warm, no coroutine function, and not "result"')
    return Warm(given)


__all__ = ["Warm", "WarmContext", "WarmHook", "Warmable", "Warmth", "warm_of"]
