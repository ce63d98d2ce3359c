"""What every test shares: both event loops, and hypothesis profiles that give the same examples on every run."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

from engine.testing.scheduling import virtual_time

settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("thorough", parent=settings.get_profile("ci"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Run every asynchronous test once on asyncio and once on trio; where it is marked so, in virtual time."""
    marked = request.node.get_closest_marker("virtual_time")  # pyright: ignore[reportUnknownMemberType]
    return request.param if marked is None else virtual_time(request.param)
