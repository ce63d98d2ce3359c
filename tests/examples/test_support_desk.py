"""The recorded history that the project ships: the script gives it again, it holds, and its page is the current one."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from engine.inspect import inspect_page
from engine.journal.codec import decode
from engine.replay import verify
from engine.testing.scheduling import virtual_time
from examples.support_desk import PLACE, record

HISTORY = PLACE / "support_desk.jsonl"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_example_records_the_same_history_again(backend: str) -> None:
    """On either event loop a new recording is the shipped one, byte for byte."""
    name, options = virtual_time("asyncio" if backend == "asyncio" else "trio")
    records = anyio.run(record, backend=name, backend_options=options)
    assert "".join(f"{found.line}\n" for found in records) == HISTORY.read_text(encoding="ascii")


def test_shipped_history_holds_and_shows_what_it_promises() -> None:
    """It verifies, and has tools side by side, an approval, a fault and a recovery in it."""
    records = [decode(line) for line in HISTORY.read_text(encoding="ascii").splitlines()]
    assert verify(records).ok
    triggers = [found.trigger for found in records]
    assert {"user_answered", "recovered"} <= set(triggers)
    assert max(len(found.effects) for found in records) == 3


def test_shipped_page_is_the_page_of_the_history() -> None:
    """The page beside the history is what the inspector makes of it; `python examples/support_desk.py` mends it."""
    records = [decode(line) for line in HISTORY.read_text(encoding="ascii").splitlines()]
    page = Path(PLACE / "support_desk.html").read_text(encoding="utf-8")
    assert page == inspect_page(records, HISTORY.name)
