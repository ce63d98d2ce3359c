"""`demo --faults`: one turn through every fault, each with what the engine does about it.

Plays the scenes of `fault_scenes` on the real engine; what is printed are its own records. Each scene ends with a claim
that is checked, and with one more turn: whatever happened, the session is usable and its history verifies. May import
the public surface and its neighbours. Must never need a network or sleep longer than a person watches.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from pydantic import JsonValue

from ..api import Engine, Extras
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import advance
from ..core.values import JsonObject
from ..models.scripted import ScriptedModel
from ..replay.verification import verify_journal
from ..tools.workers import strength
from .fault_scenes import Scene, Told, scenes
from .fault_stage import LogLines, Seen, SmallDisk, Stage
from .terminal import Screen, safe

STILL_HERE = "Still here."
"""What the model says in the turn after each scene."""


class _MeteredScript(ScriptedModel):
    """A script whose requests count against a quota, as those of a provider do."""

    quota_key = "a provider"


async def tell_faults(screen: Screen, chosen: Sequence[Scene] | None = None) -> tuple[bool, list[JsonValue]]:
    """Play scenes.

    Args:
        screen: where they are shown.
        chosen: which; all of them if not given.

    Returns:
        Whether every claim held, and one object a scene: its title, whether its claim holds, and the faults on record.
    """
    report: list[JsonValue] = []
    all_held = True
    group = ""
    with _log_shown(screen):
        for number, scene in enumerate(chosen or scenes(), 1):
            if scene.group != group:
                group = scene.group
                screen.heading(screen.paint(f"── {group} ──", "cyan"))
            screen.heading(f"{number:>2}  {scene.title}")
            screen.line()
            told = await _tell(scene, screen)
            report.append(told)
            all_held &= told["holds"] is not False
    screen.line()
    held = sum(isinstance(told, dict) and told["holds"] is True for told in report)
    screen.line(f"{held} of {len(report)} claims hold; after each scene the same session answered the next prompt.")
    return all_held, report


async def _tell(scene: Scene, screen: Screen) -> JsonObject:
    if scene.in_workers and strength().memory == "advisory":
        screen.line("  not shown: this system forks no worker processes")
        return {"scene": scene.title, "holds": None, "faults": []}
    held, faults = await _play(scene, screen)
    mark = screen.paint("✓", "green") if held else screen.paint("✗ does not hold:", "red")
    screen.line(f"  {mark} {safe(scene.said)}; the next turn was answered; the history verifies")
    return {"scene": scene.title, "holds": held, "faults": list[JsonValue](faults)}


async def _play(scene: Scene, screen: Screen) -> tuple[bool, list[str]]:
    seen, disk = Seen(screen), SmallDisk(full=scene.full_disk)
    extras: Extras = {"observers": [seen], "settings": scene.settings}
    if scene.policy is not None:
        extras["policy"] = scene.policy
    model = (_MeteredScript if scene.metered else ScriptedModel)([*scene.script, STILL_HERE])
    async with Engine(model=model, tools=scene.tools, journal=disk, limits=scene.limits, **extras) as engine:
        stage = Stage(engine, await engine.open("faults"), seen, screen, disk)
        result = await scene.host(stage)
        told = Told(result, tuple(seen.records), tuple(seen.processes), engine.stats())
        seen.telling = False
        again = await stage.session.ask("and now?")
        scene.afterwards()
    (verification,) = await verify_journal(disk)
    held = scene.claim(told) and again.text == STILL_HERE and verification.ok
    return held, faults_of(told.records)


def faults_of(records: Sequence[TransitionRecord]) -> list[str]:
    """Return the kinds of the faults that a session went through, in the order in which they struck first."""
    session, kinds = Session(records[0].session), dict[str, None]()
    for record in records:
        session = advance(session, record)
        if session.turn is not None and session.turn.fault is not None:
            kinds[session.turn.fault.kind] = None
    return list(kinds)


@contextmanager
def _log_shown(screen: Screen) -> Generator[None]:
    """Show the engine's log among the records, and nowhere else."""
    handler = LogLines(screen)
    engine_log = logging.getLogger("engine")
    engine_log.addHandler(handler)
    try:
        yield
    finally:
        engine_log.removeHandler(handler)
