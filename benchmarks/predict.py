"""predict: the predictor on recorded tool sequences, beside the prototype that it has to match; and what warming saves.

    python -m benchmarks.predict FOLDER [--only NAME] [--json FILE]

FOLDER holds `evaluate.py`, `horizon.py`, `prototype/` and sets of recorded sessions in `dev/*.jsonl`. The folder's own
programs do the measuring, each in a process of its own; the predictor and the prototype take turns set by set, so that
other work on the machine meets both. May import what lies beside it and the engine's predictor. Must never look at the
names of tools.
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from zlib import compress

from engine.predict import END, Predictor

from . import warming
from .numbers import Number, check
from .report import Run, as_json, as_text, load, versions

MODELS = {"ours": "engine.predict:Predictor", "prototype": "mix2:M4"}
AHEAD = {"ours": "engine.predict:Predictor", "prototype": "horizon:HMix"}

UNITS = {
    "top1": "share", "top3": "share", "bits": "bits", "tool_top1": "share", "tool_top3": "share", "end_f1": "share",
    "ece": "share", "us_predict": "µs", "us_update": "µs", "kbytes": "kB",
}  # fmt: skip
"""What `evaluate.py` says of a set, and in which units. kbytes is the pickled size with everything it holds."""

_HIDDEN = re.compile(
    r"budget (?P<budget>\S+) \{\}: cold latency hidden (?P<hidden>\S+)%.* mean/pooled \d+/(?P<waste>\d+)%"
)


def measure(folder: Path, only: str = "") -> Run:
    """Return the numbers of both models on the sets in `folder` whose name contains `only`."""
    found = Run("recorded sequences", versions())
    found.notes.append(f"load at the beginning: {load()}")
    sets = [path for path in sorted((folder / "dev").glob("*.jsonl")) if only in path.name]
    check(bool(sets), f"no recorded sessions in {folder / 'dev'} whose name contains {only!r}")
    rows: dict[str, list[dict[str, float]]] = {model: [] for model in MODELS}
    for path in sets:
        for model, name in MODELS.items():
            rows[model].append(_evaluated(folder, name, path.stem))
            print(f"{path.stem} {model}", file=sys.stderr, flush=True)
    for model, values in rows.items():
        macro = [
            Number(f"predict.{model}.{key}", unit, mean(row[key] for row in values)) for key, unit in UNITS.items()
        ]
        found.add(macro, ())
    if not only:
        for model, name in AHEAD.items():
            found.add(list(_hidden(folder, model, name)), ())
    found.add(_sizes(sets), ())
    saved = warming.saved(folder, only)
    found.add(saved.numbers, saved.notes)
    if find_spec("xllamacpp"):
        prefix = warming.prefix()
        found.add(prefix.numbers, prefix.notes)
    found.notes += [f"the mean over {len(sets)} sets, each begun with an empty model", f"load at the end: {load()}"]
    return found


def _evaluated(folder: Path, predictor: str, name: str) -> dict[str, float]:
    """Return what `evaluate.py` finds for one set."""
    output = _run(folder, "evaluate.py", predictor, "--set", "dev", "--only", name)
    (line,) = [line for line in output.splitlines() if line.startswith("MACRO ")]
    row: dict[str, float] = ast.literal_eval(line.removeprefix("MACRO "))
    return row


def _hidden(folder: Path, model: str, predictor: str) -> Iterator[Number]:
    """Yield how much cold latency `horizon.py` hides at each waste budget, and the waste that it came to."""
    for found in _HIDDEN.finditer(_run(folder, "horizon.py", predictor, "--set", "dev")):
        budget = found["budget"].removeprefix("0.")
        yield Number(f"predict.{model}.hidden_at_{budget}", "%", float(found["hidden"]))
        yield Number(f"predict.{model}.waste_at_{budget}", "%", float(found["waste"]))


def _run(folder: Path, program: str, *arguments: str) -> str:
    places = [str(Path(__file__).parent.parent), str(folder), str(folder / "prototype")]
    done = subprocess.run(
        [sys.executable, "-B", str(folder / program), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
    )
    check(done.returncode == 0, f"{program} {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _sizes(sets: Sequence[Path]) -> list[Number]:
    """Return what one tenant takes up that has seen every set, and so has as many contexts as it may have."""
    tracemalloc.start()
    predictor = Predictor()
    for path in sets:
        _learn(predictor, path)
    gc.collect()
    in_memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        predictor.save(Path(place) / "model.json")
        saved = (Path(place) / "model.json").stat().st_size
    return [
        Number("predict.tenant.saved", "kB", saved / 1024),
        Number("predict.tenant.pickled", "kB", len(pickle.dumps(predictor)) / 1024),
        Number("predict.tenant.in_memory", "kB", in_memory / 1024),
        Number("predict.tenant.at_rest", "kB", len(compress(predictor.pack(), 1)) / 1024),
    ]


def _learn(predictor: Predictor, path: Path) -> None:
    """Tell a predictor a set of recorded sessions."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            session = json.loads(line)
            key = f"{path.stem} {number}"
            calls = iter(session["calls"])
            done = 0
            for end in session["turn_ends"]:
                for _ in range(end - done):
                    call = next(calls)
                    predictor.update(key, call["tool"], call["ok"], call.get("args"))
                predictor.update(key, END)
                done = end
            predictor.end(key)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description="The predictor on recorded data.")
    parser.add_argument("folder", type=Path, help="the evaluation: evaluate.py, horizon.py, prototype/ and dev/")
    parser.add_argument("--only", default="", metavar="NAME", help="sets whose name contains this, without the horizon")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    given = parser.parse_args(arguments)
    if not (given.folder / "evaluate.py").is_file():
        parser.error(f"{given.folder}: there is no evaluate.py")
    found = measure(given.folder.resolve(), given.only)
    print(as_text(found))
    if given.json is not None:
        given.json.write_text(json.dumps(as_json(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
