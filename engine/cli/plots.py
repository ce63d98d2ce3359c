"""Draws how well a predictor is calibrated and how fast it learns: the only module that imports matplotlib.

May import matplotlib (extra `plot`), predict and errors. Must never open a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingExtra, UsageError
from ..predict.scoring import Bin


def check_plot(name: str) -> None:
    """Make sure that a plot can be drawn, before the work that it will show.

    Raises:
        MissingExtra: matplotlib is not installed.
        UsageError: the file cannot be a picture.
    """
    _figure()
    if not name.endswith(".png") or not Path(name).parent.is_dir():
        raise UsageError(f"--plot {name!r} must name a file that ends in .png, in a folder that exists")


def plot(path: Path, bins: Sequence[Bin], blocks: Sequence[tuple[float, float]]) -> None:
    """Draw calibration and learning curve side by side.

    Args:
        path: the PNG file to write.
        bins: the classes of probability.
        blocks: accuracy and bits of the 1st session, the 2nd and 3rd, the 4th to 7th, and so on.
    """
    figure = _figure()
    left, right = figure.subplots(1, 2)
    most = max((one.guesses for one in bins), default=1)
    left.plot([0, 1], [0, 1], linestyle=":", color="grey")
    left.scatter(
        [one.probability for one in bins],
        [one.right for one in bins],
        s=[20 + 180 * one.guesses / most for one in bins],
    )
    left.set(title="calibration", xlabel="probability of the first guess", ylabel="share that was right")
    sessions = [2**place for place in range(len(blocks))]
    right.semilogx(sessions, [top_1 for top_1, _ in blocks], base=2, marker="o", label="first guess right")
    right.set(title="learning curve", xlabel="sessions before", ylabel="first guess right", ylim=(0, 1))
    bits = right.twinx()
    bits.semilogx(sessions, [bits for _, bits in blocks], base=2, marker="s", color="tab:orange")
    bits.set(ylabel="bits a decision", ylim=(0, None))
    figure.savefig(path)


def _figure() -> Any:
    try:
        # Without pyplot: no window, no state of the process.
        import matplotlib.figure as library  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("--plot", "plot") from error
    loaded: Any = library
    return loaded.Figure(figsize=(10, 4), layout="constrained")
