"""The budgets of a turn where they meet the world: what a reply cost, what one may cost, which calls have room.

May import core, ports, tools and its neighbours. Must never do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.budgets import within_budget
from ..core.loans import Loan
from ..core.session import Session
from ..core.values import ModelReply, PlannedCall, ToolCall
from ..errors import ModelError, UsageError
from .answering import case_of
from .parts import Parts

_DECLARATIONS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""The names under which providers take the most tokens that a reply may have."""


def declared_tokens(parameters: Mapping[str, object]) -> int:
    """Return how many tokens one reply may have at most by the parameters of the model; 0 where they do not say."""
    declared = [value for name in _DECLARATIONS if isinstance(value := parameters.get(name), int)]
    return max(0, *declared) if declared else 0


_ABOUT_REPLIES = frozenset({"tool_choice", "parallel_tool_calls", "response_format", "json_schema", "grammar"})
"""What parameters say about the form of a reply; a summary has none, and no tools."""


def summary_parameters(parameters: Mapping[str, Any], tokens: int, name: str) -> Mapping[str, Any]:
    """Return the parameters of a request for a summary.

    Args:
        parameters: those of every request.
        tokens: the most tokens that the summary may have.
        name: under which the model takes that where the parameters do not say it; empty if it takes none.
    """
    kept = {key: value for key, value in parameters.items() if key not in _ABOUT_REPLIES}
    declared = [key for key in _DECLARATIONS if isinstance(kept.get(key), int)]
    for key in declared or ([name] if name else []):
        kept[key] = min(tokens, kept.get(key, tokens))
    return kept


def cost_of(parts: Parts, reply: ModelReply, loan: Loan | None = None) -> int | None:
    """Return what a reply cost, in 10^-12 of the unit of the prices; None where nothing is priced.

    Args:
        parts: what the engine is made of.
        reply: what the model answered.
        loan: what the session lives on, if it does.

    Raises:
        ModelError: a limit cannot be held, because the reply does not say what it used, or has no price.
    """
    limits = parts.limits
    by_tokens = limits.max_tokens is not None or (loan is not None and loan.tokens is not None)
    by_cost = limits.max_cost is not None or (loan is not None and loan.cost_pico is not None)
    if reply.usage is None:
        if not by_tokens and not by_cost:
            return None
        text = "the model does not say how many tokens it used, so max_tokens and max_cost cannot be held"
        raise ModelError(text, retryable=False)
    name = reply.model or str(parts.parameters.get("model", ""))
    price = limits.prices.get(name) or limits.prices.get("*")
    if price is not None:
        return price.cost_pico(reply.usage)
    if not by_cost:
        return None
    text = f'there is no price for the model {name!r}, so max_cost cannot be held; add it, or "*", to limits.prices'
    raise ModelError(text, retryable=False)


def admit(
    parts: Parts, session: Session, calls: Sequence[ToolCall]
) -> tuple[Sequence[ToolCall], tuple[PlannedCall, ...]]:
    """Decide about each call; see `Toolbox.admit`. The budgets have the last word."""
    calls, plans = parts.toolbox.admit(calls, parts.policy, case_of(parts, session))
    if parts.limits.counts_calls or session.opened.loan is not None:
        plans = within_budget(session, calls, plans, parts.limits.tools)
    return calls, plans


def check_names(parts: Parts) -> None:
    """Refuse limits of a tool that the engine does not have.

    Raises:
        UsageError: there is no such tool.
    """
    for name in parts.limits.tools:
        if parts.toolbox.get(name) is None:
            known = ", ".join(sorted(spec.name for spec in parts.toolbox.specs)) or "none"
            raise UsageError(f"limits.tools names {name!r}, which is no tool of this engine; there are: {known}")
