"""What a tool may say about warming."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Warm, WarmContext, tool
from engine.errors import ToolDefinitionError


async def hook(context: WarmContext) -> None:
    """Prepare nothing."""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"hook": lambda context: None}, "a coroutine function of one argument"),
        ({"hook": hook, "cost_s": 0.0}, "give positive seconds"),
        ({"hook": hook, "lifetime_s": -1.0}, "give positive seconds"),
        ({"hook": hook, "per": "user"}, "per engine or per session"),
    ],
)
def test_warm_up_that_cannot_be_one_is_refused(options: dict[str, Any], complaint: str) -> None:
    """A warm-up whose hook cannot be awaited, or whose numbers make no sense, is refused where it is made."""
    with pytest.raises(ToolDefinitionError, match=complaint):
        Warm(**options)


@pytest.mark.parametrize("given", ["results", 3, lambda context: None])
def test_tool_is_warmed_by_a_warm_up_a_hook_or_its_result(given: Any) -> None:
    """Anything else than the three is refused, by its name."""
    with pytest.raises(ToolDefinitionError, match="coroutine function"):

        @tool(effect="read", warm=given)
        def read() -> str:
            """Read."""
            return ""


def test_hook_alone_is_a_warm_up_with_defaults() -> None:
    """`warm=hook` says the same as `warm=Warm(hook)`."""

    @tool(effect="read", warm=hook)
    def read() -> str:
        """Read."""
        return ""

    assert isinstance(read.warm, Warm)
    assert read.warm.hook is hook
    assert (read.warm.cost_s, read.warm.per) == (1.0, "engine")
