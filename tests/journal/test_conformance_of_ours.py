"""Our journals pass the suite that foreign ones have to pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.testing import forking
from engine.testing.conformance import CHECKS, Check

from .stores import KINDS, factory_of


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_journal_conforms(check: Check, kind: str, tmp_path: Path) -> None:
    """Every journal of ours has every property of the conformance suite, and holds nothing after it."""
    factory = factory_of(kind, tmp_path)
    await check(factory)
    journal = factory()
    claimed = [(await journal.claim(info.id)).tail.seq == info.records for info in await journal.sessions()]
    await journal.aclose()
    assert all(claimed)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", forking.CHECKS, ids=lambda check: check.__name__)
async def test_journal_shares_histories(check: Check, kind: str, tmp_path: Path) -> None:
    """Every journal of ours has every property of the suite about forks."""
    await check(factory_of(kind, tmp_path))
