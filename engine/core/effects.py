"""The requests to the outside that a step asks for: verb first, immutable, never executed here.

An effect names what it is about and holds as little as possible: the call behind a `RunTool` is in the session, its
arguments in the event that brought it. The id of an effect is derived: (session, sequence of its record, index in it).
May import `values` only.
"""

from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from .values import NotNegative, RecoveryPlan, Request, Value


class PrepareContext(Value):
    """Prepare what the model will see."""

    kind: Literal["prepare_context"] = "prepare_context"


class CallModel(Value):
    """Ask the model for the reply of this round."""

    kind: Literal["call_model"] = "call_model"
    round: int


class RunTool(Value):
    """Run one call of the open batch, `delay_s` seconds from now. `key`, the idempotency key, stays the same however
    often it is run.
    """

    kind: Literal["run_tool"] = "run_tool"
    call_id: str
    key: str
    delay_s: NotNegative = 0.0


class AskUser(Value):
    """Put a question to a person."""

    kind: Literal["ask_user"] = "ask_user"
    request: Request


class CancelWork(Value):
    """Stop what is in flight."""

    kind: Literal["cancel_work"] = "cancel_work"


class Recover(Value):
    """Carry out a recovery plan."""

    kind: Literal["recover"] = "recover"
    plan: RecoveryPlan


class Close(Value):
    """Release the session."""

    kind: Literal["close"] = "close"


KnownEffect: TypeAlias = PrepareContext | CallModel | RunTool | AskUser | CancelWork | Recover | Close
Effect: TypeAlias = Annotated[KnownEffect, Field(discriminator="kind")]


PREPARE_CONTEXT = PrepareContext.trusted()
CANCEL_WORK = CancelWork.trusted()
CLOSE = Close.trusted()


@lru_cache(maxsize=128)
def model_call(number: int) -> CallModel:
    """Return the request for the reply of a round, one object a round."""
    return CallModel(round=number)


def effect_id(session: str, seq: int, index: int) -> str:
    """Return the id of the `index`-th effect of record `seq`, the same in every process."""
    return f"{session}:{seq}:{index}"
