"""Money as whole numbers: prices in decimal text, sums in 10^-12 of their unit.

A price is given for a million tokens with at most six decimals, so one token costs a whole number of 10^-12 units and
every sum is exact: no float is ever added, and no ambient decimal context can change a replay. May import `values`
only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, TypeAlias

from pydantic import Field

from .values import Usage, Value

Money: TypeAlias = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
"""An amount as decimal text, such as "2.50": at most six decimals, in whatever currency all the prices are in."""

_MILLIONTHS = 10**6
_PICO = 10**12


class Price(Value):
    """What a million tokens of a model cost: read, written, and read from the provider's cache (as read if absent)."""

    input: Money
    output: Money
    cached: Money | None = None

    def cost_pico(self, usage: Usage) -> int:
        """Return what this many tokens cost, in 10^-12 of the currency's unit."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        cached_price = self.input if self.cached is None else self.cached
        return (
            (usage.input_tokens - cached) * _millionths(self.input)
            + cached * _millionths(cached_price)
            + usage.output_tokens * _millionths(self.output)
        )


def pico(amount: Money) -> int:
    """Return an amount in 10^-12 of its unit."""
    return _millionths(amount) * _MILLIONTHS


def as_text(amount_pico: int) -> str:
    """Return an amount as decimal text without trailing zeros."""
    whole, rest = divmod(amount_pico, _PICO)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


@lru_cache(maxsize=256)
def _millionths(amount: Money) -> int:
    whole, _, rest = amount.partition(".")
    return int(whole) * _MILLIONTHS + int(rest.ljust(6, "0"))
