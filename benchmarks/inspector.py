"""inspector: how long a page of a long history takes to be made, until it can be used, and to be filtered.

The page is opened in Chromium, as a file; where Chromium or playwright is missing, the numbers of the browser are left
out and a note says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from engine.inspect import inspect_page

from . import places
from .histories import history
from .numbers import Effort, Laps, Number, Result, check, distribution, mark
from .workload import SMALL

_RECORDS = 100_000
"""What the goals are about."""

_WORDS = ("turn", "r0j0", "tool:lookup", "-turn:3 lookup", "is:problem", "state:idle", "nobody says this")

_FILTER = """(text) => {
    const field = document.getElementById("filter");
    field.value = text;
    const began = performance.now();
    field.dispatchEvent(new Event("input"));
    document.body.getBoundingClientRect();
    return [performance.now() - began, inspector.filter(text).length, document.getElementById("matches").textContent];
}"""


def measure(effort: Effort, disk: Path) -> Result:
    """Return seconds to make the page and to use it, and ms a filter."""
    # A small turn has 6 records, so 10,000 turns of other benchmarks are 100,000 records here.
    records = history("long", effort.history_turns * 5 // 3 + 1, SMALL)
    making = Laps()
    since = mark()
    page = inspect_page(records, "bench")
    making.add(since)
    found = [
        Number("inspector.records", "records", len(records)),
        Number("inspector.page_size", "MB", len(page) / 1e6),
        *making.numbers("inspector.make", "s"),
    ]
    with places.ram_disk(disk) as place:
        file = place.folder / "long.html"
        file.write_text(page, encoding="utf-8")
        seen, note = _in_browser(file, len(records), effort.runs)
    return Result((*found, *seen), (*places.notes(), *note))


def _in_browser(file: Path, records: int, runs: int) -> tuple[Sequence[Number], tuple[str, ...]]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        return (), ("without playwright and Chromium the inspector's page was made and not opened",)
    usable, usable_cpu, filters = [], [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(runs):
            tab = browser.new_page()
            began, spent = perf_counter(), _cpu_s()
            tab.goto(file.as_uri(), wait_until="commit")
            tab.wait_for_selector("html[data-ready]")
            usable.append(perf_counter() - began)
            usable_cpu.append(_cpu_s() - spent)
            # What the page prepares while nobody does anything; a hand needs longer to reach the filter.
            tab.evaluate("() => new Promise((done) => requestIdleCallback(() => requestIdleCallback(done)))")
            filters += [_filter_ms(tab, word, records) for word in _WORDS]
            tab.close()
        browser.close()
    found = {"usable.wall": ("s", usable), "usable.cpu": ("s", usable_cpu), "filter": ("ms", filters)}
    # The goals are about so many. What a browser takes does not grow in proportion, so fewer are not scaled up.
    names = ["inspector", "inspector.of_100000"] if records >= _RECORDS else ["inspector"]
    return [
        distribution(f"{name}.{what}", unit, samples) for name in names for what, (unit, samples) in found.items()
    ], ()


def _cpu_s() -> float:
    """Return the processor time that the browser has taken so far, all of its processes and threads together."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def _filter_ms(tab: Any, word: str, records: int) -> float:
    took, passed, says = tab.evaluate(_FILTER, word)
    check(str(says).startswith(f"{passed:,}"), f"the filter {word!r} leaves {passed} and says {says!r}")
    check(0 <= passed <= records, f"the filter {word!r} leaves {passed} of {records} records")
    return float(took)
