"""A real browser for the tests of the inspector: Chromium as the system has it, driven by playwright.

What is missing skips the tests that need it, and says what to install.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def chromium() -> Generator[Any]:
    """Start the system's Chromium; skip where it or playwright is missing."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


class Opened:
    """A page that is open, and everything that it did besides being looked at.

    Attributes:
        page: playwright's page.
        requests: every address that it asked for.
        complaints: errors of scripts, and whatever was written to the console.
    """

    def __init__(self, browser: Any, address: str, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")

    def run(self, script: str, argument: object = None) -> Any:
        """Return what a function gives in the page."""
        return self.page.evaluate(script, argument)

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        found: str = self.page.inner_text(selector)
        return found

    def filter(self, text: str) -> str:
        """Type into the filter and return what it says about how many records pass."""
        self.page.fill("#filter", text)
        return self.text("#matches")


def npm_package(name: str, folder: Path) -> Path:
    """Return the unpacked files of a package from npm; skip where it cannot be had.

    Args:
        name: name and version, as in `speedscope@1.25.0`.
        folder: where to put it.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm: apt-get install npm")
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"npm cannot fetch {name}: {done.stderr.strip()[-200:]}")
    with tarfile.open(folder / done.stdout.strip().splitlines()[-1]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"
