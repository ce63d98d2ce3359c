"""How an engine prepares ahead, as settings. May import core's values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..core.values import Value

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class WarmSettings(Value):
    """How an engine with a predictor prepares ahead.

    Attributes:
        mode: "auto" notes what it would prepare until that has shown a net saving over 20 turns, prepares from then on,
            and stops when it no longer pays; "shadow" only notes; "on" prepares from the beginning; "off" does neither.
        waste: the share of preparations that may be wasted.
        per_turn: how many may be begun in one turn of one session.
        seconds_per_turn: how many seconds of work, as declared, they may take together.
        at_once: how many may run at a time in the engine.
        timeout_s: when a hook is given up.
    """

    mode: Literal["off", "shadow", "auto", "on"] = "auto"
    waste: Annotated[float, Field(ge=0, le=1)] = 0.10
    per_turn: Annotated[int, Field(ge=0)] = 3
    seconds_per_turn: _Seconds = 10.0
    at_once: Annotated[int, Field(ge=1)] = 2
    timeout_s: _Seconds = 30.0
