"""How the tests of the command line start it, and what they get back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine

SOURCE = str(Path(engine.__file__).resolve().parent.parent)
LIMIT_S = 120


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of the output."""
        value: dict[str, Any] = json.loads(self.out.rstrip("\n").split("\n")[-1])
        return value


Run = Callable[..., Done]


def environment(**extra: str) -> Mapping[str, str]:
    path = os.pathsep.join([SOURCE, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **extra}


def start_of(*arguments: str) -> list[str]:
    """Return the command line of the real command, warnings as errors."""
    return [sys.executable, "-W", "error", "-m", "engine", *arguments]
