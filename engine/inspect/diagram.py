"""The state machine drawn from the very rows that run it: Mermaid, Graphviz's dot, a Markdown table, and the page of
all.

`transitions` draws the Mermaid diagram itself; its drawing machine is given a dummy model and never fires. May import
core and transitions. Must never hold a row of its own: what is not in `core.table.ROWS` is not in the picture.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from transitions.extensions import GraphMachine

from ..core.table import IN_TURN, ROWS, Row
from ..core.values import State


class _Dummy:
    """What the drawing machine needs to hang its diagram on."""

    get_graph: Any


def mermaid() -> str:
    """Return the state diagram in Mermaid's language, front matter included."""
    dummy = _Dummy()
    machine = GraphMachine(
        model=dummy, states=[state.value for state in State], initial=State.IDLE.value, auto_transitions=False,
        graph_engine="mermaid", show_conditions=True, title="title: The states of a session",
    )  # fmt: skip
    for row in ROWS:
        machine.add_transition(
            row.trigger,
            [source.value for source in row.sources],
            None if row.dest is None else row.dest.value,
            conditions=[] if row.guard is None else [row.guard.__name__],
        )
    drawn = str(dummy.get_graph().draw(None))
    # Its colours mark a machine that runs, and clash with dark pages.
    lines = (line.rstrip() for line in drawn.rstrip().split("\n") if not line.lstrip().startswith(("class", "Class")))
    # One label a line: side by side they make the picture several screens wide.
    return "\n".join(line.replace(" | ", "<br/>") for line in lines if line) + "\n"


def dot() -> str:
    """Return the state diagram in Graphviz's language."""
    labels: defaultdict[tuple[State, State], list[str]] = defaultdict(list)
    for row in ROWS:
        for source in row.sources:
            labels[source, row.dest or source].append(_label(row))
    lines: list[str] = []
    for (source, dest), texts in labels.items():
        label = "\\n".join(texts)
        lines.append(f'  {source.value} -> {dest.value} [label="{label}"];')
    nodes = [f"  {state.value};" for state in State]
    return (
        "\n".join(["digraph session {", "  rankdir=LR;", "  node [shape=box, style=rounded];", *nodes, *lines, "}"])
        + "\n"
    )


def table() -> str:
    """Return every row as a Markdown table, in the order in which rows are tried."""
    lines = ["| event | in | if | then | action |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.trigger} | {_sources(row)} | {_guard(row)} | {_dest(row)} | {row.action.__name__} |" for row in ROWS
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page `docs/state-machine.md`, whole."""
    states = "\n".join(f"| `{state.value}` | {_MEANINGS[state]} |" for state in State)
    return _PAGE.format(states=states, diagram=mermaid(), table=table())


def _label(row: Row) -> str:
    return row.trigger if row.guard is None else f"{row.trigger} [{row.guard.__name__}]"


def _guard(row: Row) -> str:
    if row.guard is not None:
        return row.guard.__name__
    alone = all(
        other is row or other.trigger != row.trigger or not set(other.sources) & set(row.sources) for other in ROWS
    )
    return "" if alone else "else"


def _dest(row: Row) -> str:
    return row.dest.value if row.dest else "(stays)"


def _sources(row: Row) -> str:
    if row.sources == IN_TURN:
        return "every state inside a turn"
    if row.sources == (State.IDLE, *IN_TURN):
        return "every state but shutdown"
    return ", ".join(source.value for source in row.sources)


_MEANINGS = {
    State.IDLE: "no turn is open",
    State.PROCESSING: "the prompt or the tools' results are being prepared for the model",
    State.GENERATING_RESPONSE: "the model is generating",
    State.EXECUTING_TOOLS: "tool calls are running; some of their siblings may wait for an approval",
    State.WAITING_FOR_USER: "inside a turn, nothing runs, a person has to answer",
    State.ERROR: "a fault was recorded and its recovery plan is being carried out",
    State.SHUTDOWN: "let go of in order; it goes back to the state it left when it is opened again",
}

_PAGE = """# State machine

<!-- Written by `agent-engine graph --output docs/state-machine.md` from the rows of `engine/core/table.py`.
     A test fails when it is stale. -->

A session is always in exactly one of seven states:

| state | what is going on |
|---|---|
{states}

The cycle of a turn: `idle` → `processing` → `generating_response` → (`executing_tools` → `processing` →
`generating_response`)* → `idle`.

## Diagram

```mermaid
{diagram}```

## Rows

Rows of one event and state are tried from top to bottom; the last of them has no guard. So an event is either legal in
a state, and then has exactly one outcome, or it is refused with `IllegalTransition`, which names what is legal there.

{table}"""
