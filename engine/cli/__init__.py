"""The command line: `agent-engine` and `python -m engine`.

Each command is a module of its own; this one knows their names, and which exit status an outcome has: 0 fine, 1 the
thing checked does not hold, 2 wrong usage, 130 and 143 ended by a signal. May import everything but testing. Must
never show a traceback for something the caller can mend.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .._version import __version__
from ..errors import EngineError, JournalTooNew, NotAJournal, UsageError
from . import (
    check,
    counterfactuals,
    demo,
    differences,
    doctor,
    exchange,
    forks,
    graph,
    histories,
    inspecting,
    keeping,
    predict,
    search,
    stats,
    talk,
)  # fmt: skip
from .terminal import Screen, complain


class _Command(NamedTuple):
    name: str
    summary: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Screen], int]


_COMMANDS = (
    _Command(
        "demo", "a conversation on a local model, killed twice, resumed and verified", demo.add_demo_options, demo.demo
    ),
    _Command("run", "one prompt through a model, into a journal", talk.add_run_options, talk.run),
    _Command("chat", "talk with a model, into a journal", talk.add_talk_options, talk.chat),
    _Command(
        "replay", "verify histories, or show the state at any record", histories.add_replay_options, histories.replay
    ),
    _Command(
        "diff",
        "histories against the code of today, or two against each other",
        differences.add_diff_options,
        differences.diff,
    ),
    _Command("fork", "a session that begins with the records of another", forks.add_fork_options, forks.fork),
    _Command(
        "counterfactual",
        "a recorded session again with one fact changed",
        counterfactuals.add_counterfactual_options,
        counterfactuals.run_counterfactual,
    ),
    _Command(
        "inspect", "look at a history: a page, a trace, a diagram", inspecting.add_inspect_options, inspecting.inspect
    ),
    _Command("check", "rules about the order of events, over a journal", check.add_check_options, check.check),
    _Command("search", "the records that are about something", search.add_search_options, search.find),
    _Command("stats", "what histories add up to", stats.add_stats_options, stats.stats),
    _Command("redact", "take a value out of histories", keeping.add_redact_options, keeping.redact_value),
    _Command("prune", "drop old records of histories", keeping.add_prune_options, keeping.prune_histories),
    _Command("predict", "learn which tools follow which, and say so", predict.add_predict_options, predict.predict),
    _Command("import", "chat logs into a journal", exchange.add_import_options, exchange.import_log),
    _Command(
        "export", "a journal as a chat log, or into another journal", exchange.add_export_options, exchange.export
    ),
    _Command("graph", "draw the state machine", graph.add_graph_options, graph.graph),
    _Command(
        "doctor", "what is installed, and what this machine can enforce", doctor.add_doctor_options, doctor.doctor
    ),
)


def build_parser() -> ArgumentParser:
    """Return the parser of the whole command line; every command takes `--json`."""
    parser = ArgumentParser(
        prog="agent-engine", description="Run language-model agents as a state machine with a journal."
    )
    parser.add_argument("--version", action="version", version=f"agent-engine {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        one = commands.add_parser(command.name, help=command.summary, description=command.summary)
        command.add_options(one)
        one.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        one.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; those of the process if not given.

    Returns:
        The exit status.
    """
    try:
        options = build_parser().parse_args(argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    screen = Screen(json_only=options.json)
    try:
        status: int = options.run(options, screen)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return 141
    except KeyboardInterrupt:
        return 130
    except (EngineError, OSError) as error:
        complain(_worded(error))
        screen.result({"error": _worded(error)})
        return 2 if isinstance(error, UsageError | NotAJournal | JournalTooNew | OSError) else 1
    return status


def _worded(error: EngineError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename!r}" if error.filename else str(error)
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def _forget_output() -> None:
    """Let Python's last flush at exit go nowhere: whoever read the output has left, as `| head` does."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


__all__ = ["build_parser", "main"]
