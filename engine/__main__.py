"""`python -m engine`: the command line. May import `cli` only. Must never do anything when it is merely imported."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
