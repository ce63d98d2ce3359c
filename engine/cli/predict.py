"""`predict`: what a predictor learns from histories, what it says about a session and why, and how good it is.

May import predict, replay's lessons, runtime's shelf and its neighbours. Must never write over a file that holds no
predictor, or call a tool.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path

from ..core.values import JsonObject
from ..errors import UnknownSession, UsageError
from ..predict import END, Pattern, Predictor, PredictorSettings
from ..replay.lessons import Follower, teach
from ..runtime.shelf import Owner, file_of, load, salt_of
from .evaluation import evaluate
from .lessons import Told, named, opened
from .signals import Interrupts, run_command
from .terminal import Screen, safe

_GUESSES = 5
_PAIRS = 30


def add_predict_options(parser: ArgumentParser) -> None:
    """Add the actions of `predict`, each with its options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, names: str) -> ArgumentParser:
        one = actions.add_parser(name, help=summary, description=summary)
        one.add_argument("names", metavar=names, nargs="*", help="J: a journal, here or by --journal")
        one.add_argument("--journal", metavar="J", help="a path ending in .db or .jsonl, or a folder")
        one.add_argument("--json", action="store_true", default=SUPPRESS, help="print one JSON object and nothing else")
        return one

    learn = action("learn", "learn from every session of a journal or chat log", "J")
    learn.add_argument(
        "--to", metavar="FILE", required=True,
        help="the predictor to write, or to add to; a folder (with a / at its end) takes one for each user and "
        "workspace, as a running engine keeps them",
    )  # fmt: skip
    action("next", "which tools come next in a session, by what the journal teaches", "J SESSION")
    action("explain", "why a tool comes next (default: the most probable)", "J SESSION TOOL")
    report = actions.add_parser("report", help="what a predictor holds", description="what a predictor holds")
    report.add_argument("file", metavar="FILE", help="a predictor, with its salt beside it")
    report.add_argument("--json", action="store_true", default=SUPPRESS, help="print one JSON object and nothing else")
    measured = action("evaluate", "how good the predictions would have been: each is made before it is learned", "J")
    measured.add_argument("--plot", metavar="FILE.png", help="draw calibration and learning curve (extra plot)")


def predict(options: Namespace, screen: Screen) -> int:
    """Carry out one action."""
    actions = {"learn": _learn, "next": _next, "explain": _explain, "report": _report, "evaluate": evaluate}

    async def work(interrupts: Interrupts) -> int:
        return await actions[options.action](options, screen)

    return run_command(work)


async def follow(predictor: Predictor, told: Told) -> tuple[Follower, int]:
    """Teach a predictor a history; return where it stands then, and how many lessons it held."""
    follower = Follower()
    count = 0
    async for record in told.records:
        for lesson in follower.take(record):
            teach(predictor, told.session, lesson)
            count += 1
    return follower, count


# --- learn ------------------------------------------------------------------------------------------------------------


async def _learn(options: Namespace, screen: Screen) -> int:
    [name] = named(options, 1, 1)
    target, is_folder = _target(options.to)
    books: dict[Owner, _Book] = {}
    async with opened(name, "learn") as source:
        if len(source.owners) > 1 and not is_folder:
            raise UsageError(
                f"{name!r} holds sessions of {len(source.owners)} users or workspaces, and each has a predictor of its "
                f"own: give a folder, --to {target.with_suffix('')}/"
            )
        async for told in source.histories():
            book = books.get(told.owner)
            if book is None:
                book = books[told.owner] = _Book(file_of(target, told.owner) if is_folder else target)
            _, count = await follow(book.predictor, told)
            book.predictor.forget(told.session)
            book.sessions += 1
            book.lessons += count
    for book in books.values():
        book.predictor.save(book.path)
    _show_books([*books.values()], screen)
    return 0


def _target(name: str) -> tuple[Path, bool]:
    """Return where to write, and whether that is a folder for many.

    Raises:
        UsageError: the folder of a file does not exist.
    """
    target = Path(name)
    if target.is_dir() or name.endswith("/"):
        return target, True
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {str(target.parent)!r} for {target.name!r}; create it first")
    return target, False


class _Book:
    """A predictor that learns, the file it belongs to, and what it has been told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.predictor = load(path)
        self.sessions = 0
        self.lessons = 0


def _show_books(books: list[_Book], screen: Screen) -> None:
    for book in books:
        screen.line(
            f"{book.lessons:,} decisions of {book.sessions:,} sessions learned into {safe(str(book.path))}: "
            f"{book.predictor.observations:,} decisions, {book.predictor.contexts:,} contexts"
        )
    screen.result(
        {
            "sessions": sum(book.sessions for book in books),
            "decisions": sum(book.lessons for book in books),
            "files": [
                {
                    "file": str(book.path), "sessions": book.sessions, "decisions": book.lessons,
                    "observations": book.predictor.observations, "contexts": book.predictor.contexts,
                }
                for book in books
            ],
        }
    )  # fmt: skip


# --- next, explain ----------------------------------------------------------------------------------------------------


async def _next(options: Namespace, screen: Screen) -> int:
    name, session = named(options, 2, 2)
    predictor, follower = await _at_end_of(name, session)
    guesses = predictor.predict(session, _GUESSES, situation=follower.situation)
    within = predictor.within(session, k=_GUESSES)
    calls = predictor.settings.horizon
    screen.line(screen.paint(f"{'next tool':<40} {'probability':>11}", "bold"))
    for tool, probability in guesses:
        screen.line(f"{_shown(tool):<40} {probability:>10.1%}")
    screen.heading(f"{f'used within {calls} calls':<40} {'probability':>11}")
    for tool, probability in within:
        screen.line(f"{_shown(tool):<40} {probability:>10.1%}")
    screen.result(
        {
            "session": session, "learned": predictor.observations, "next": [*_as_json(guesses)],
            "within": {"calls": calls, "tools": [*_as_json(within)]},
        }
    )  # fmt: skip
    return 0


async def _explain(options: Namespace, screen: Screen) -> int:
    name, session, *tools = named(options, 2, 3)
    predictor, follower = await _at_end_of(name, session)
    guesses = predictor.predict(session, 1, situation=follower.situation)
    tool = tools[0] if tools else guesses[0][0] if guesses else END
    reasons = predictor.because(session, tool, situation=follower.situation)
    known = dict(predictor.predict(session, 1_000, situation=follower.situation))
    screen.line(f"{_shown(tool)}: {known.get(tool, 0.0):.1%}")
    screen.heading(f"{'adds':>7} {'weight':>7} {'says':>7} {'seen':>8}  context")
    for reason in reasons:
        shares = f"{reason.weight * reason.probability:>7.1%} {reason.weight:>7.1%} {reason.probability:>7.1%}"
        screen.line(f"{shares} {reason.seen:>8,.1f}  {safe(reason.context)}")
    screen.result(
        {
            "session": session, "tool": tool, "probability": known.get(tool, 0.0),
            "reasons": [reason._asdict() for reason in reasons],
        }
    )  # fmt: skip
    return 0


async def _at_end_of(name: str, session: str) -> tuple[Predictor, Follower]:
    """Return a predictor that has learned from all sessions of the same owner, the one that is asked about last.

    Raises:
        UnknownSession: the journal has no such session.
    """
    predictor = Predictor(PredictorSettings())
    async with opened(name, "predict", chats=False) as source:
        owner = source.owner(session)
        if owner is None:
            raise UnknownSession(session)
        async for told in source.histories():
            if told.owner == owner and told.session != session:
                await follow(predictor, told)
                predictor.forget(told.session)
        follower, _ = await follow(predictor, Told(session, owner, source.history(session)))
    return predictor, follower


def _shown(tool: str) -> str:
    return "(no more tool)" if tool == END else safe(tool)


def _as_json(guesses: list[tuple[str, float]]) -> list[JsonObject]:
    return [{"tool": tool, "probability": probability} for tool, probability in guesses]


# --- report -----------------------------------------------------------------------------------------------------------


async def _report(options: Namespace, screen: Screen) -> int:
    path = Path(options.file)
    predictor = Predictor.load(path, PredictorSettings(salt=salt_of(path, create=False)))
    pairs = predictor.patterns(_PAIRS)
    screen.line(f"{predictor.observations:,} decisions learned, {predictor.contexts:,} contexts")
    screen.heading(
        f"{'after':<24} {'tool':<24} {'calls':>7} {'right':>7} {'mean':>10} {'median':>10} {'p95':>10} {'memory':>10}"
    )
    for (before, tool), pattern in pairs:
        times = " ".join(f"{'-' if time is None else f'{time:.3f} s':>10}" for time in _times(pattern))
        memory = f"{pattern.memory_bytes / 2**20:.1f} MiB" if pattern.memory_bytes else "-"
        counts = f"{pattern.calls:>7,} {pattern.success_rate:>7.1%}"
        screen.line(f"{safe(before):<24} {safe(tool):<24} {counts} {times} {memory:>10}")
    screen.result(
        {
            "observations": predictor.observations, "contexts": predictor.contexts,
            "patterns": [
                {"before": before, "tool": tool, **_pattern_as_json(pattern)} for (before, tool), pattern in pairs
            ],
        }
    )  # fmt: skip
    return 0


def _times(pattern: Pattern) -> tuple[float | None, float | None, float | None]:
    return pattern.mean_s, pattern.quantile_s(0.5), pattern.quantile_s(0.95)


def _pattern_as_json(pattern: Pattern) -> JsonObject:
    mean_s, median_s, p95_s = _times(pattern)
    return {
        "calls": pattern.calls, "success_rate": pattern.success_rate, "mean_s": mean_s, "median_s": median_s,
        "p95_s": p95_s, "memory_bytes": pattern.memory_bytes or None,
    }  # fmt: skip
