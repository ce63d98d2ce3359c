"""Divergences as data: what comes out otherwise than it was recorded, of which class, and why.

Here two decisions about a call, and two outcomes of a step, become classes and words; `diverging` finds them. May
import core. Must never decide anything itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias, TypeVar, cast

from ..core.effects import AskUser, KnownEffect, Recover, RunTool
from ..core.values import JsonObject, PlannedCall, SessionSettings, State, Surroundings, ToolCall, ToolStatus

Kind: TypeAlias = Literal[
    "order", "argument", "extra_tool", "missing_tool", "budget", "approval", "terminal_state", "prompt", "middleware"
]
"""What a divergence is about: what follows what; arguments of a call; a tool that runs only now, or no more; how much
may be used, of rounds, calls, tokens, money, time or tries; whether a call may run; whether the turn ends; what the
model is told; what wraps the calls of the model and of tools.
"""

_BOUNDS = ("budget", "round_limit", "malformed_arguments")
_CLOCK_TOLERANCE_S = 1.0
"""Moments are computed a little before the record's own time; recorded and repeated they differ by less than this."""

_FIELDS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("order", ("effect", "conflict_key", "external")),
    ("budget", ("timeout_s", "retries")),
    ("terminal_state", ("stops",)),
    ("approval", ("binding", "grant", "expires_at")),
    ("budget", ("due_at",)),
    ("prompt", ("note",)),
)
"""What else a decision holds beside the decision, and what it means when it differs."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """One thing that comes out otherwise.

    Attributes:
        seq: the record that would be another one.
        kind: its class.
        text: what differs, in words.
        recorded: what the history says.
        now: what this code and configuration say.
        until: the last record that could not be judged because of it; `seq` where it kept none from that.
    """

    seq: int
    kind: Kind
    text: str
    recorded: str
    now: str
    until: int

    def __str__(self) -> str:
        further = f" (records up to {self.until} could not be judged)" if self.until > self.seq else ""
        return f"{self.seq}: {self.kind}: {self.text}: recorded {self.recorded}, now {self.now}{further}"


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is another one now, whether or not any record shows it."""

    name: str
    recorded: str
    now: str


@dataclass(frozen=True, slots=True)
class DivergenceReport:
    """What a history says about this code and configuration.

    Attributes:
        session: whose history it is.
        records: how many records were looked at.
        divergences: everything that comes out otherwise, in the order of the records.
        changes: the settings that differ from those that the history was last opened with.
        unknown: how many records of kinds that this release does not know were passed over.
    """

    session: str
    records: int
    divergences: tuple[Divergence, ...] = ()
    changes: tuple[Change, ...] = ()
    unknown: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything comes out as it was recorded."""
        return not self.divergences

    @property
    def first(self) -> Divergence | None:
        """The first divergence; what follows it may be its consequence."""
        return self.divergences[0] if self.divergences else None

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        for change in self.changes:
            yield f"{self.session}: {change.name} was {change.recorded}, now {change.now}"
        for divergence in self.divergences:
            yield f"{self.session}:{divergence}"
        verdict = "all come out as recorded" if self.ok else f"{len(self.divergences)} divergences"
        yield f"{self.session}: {self.records:,} records, {verdict}"

    def as_json(self) -> JsonObject:
        """Return the report as JSON."""
        return {
            "session": self.session, "records": self.records, "diverged": not self.ok, "unknown": self.unknown,
            "divergences": [asdict(divergence) for divergence in self.divergences],
            "changes": [asdict(change) for change in self.changes],
        }  # fmt: skip


class Outcome(NamedTuple):
    """What a step gave: the state, the effects, and the fault of the turn where it has one."""

    state: State
    effects: tuple[KnownEffect, ...]
    fault_kind: str | None = None

    def __str__(self) -> str:
        asked = ", ".join(_shown_effect(effect) for effect in self.effects)
        return self.state.value + (f" with {asked}" if asked else "")


class Difference(NamedTuple):
    """A class, and what differs."""

    kind: Kind
    text: str
    recorded: str
    now: str


_Settings = TypeVar("_Settings", SessionSettings, Surroundings)


def setting_changes(recorded: _Settings, now: _Settings) -> tuple[Change, ...]:
    """Return the settings that differ."""
    before, after = dict(recorded), dict(now)
    return tuple(
        Change(name, _said(before[name]), _said(after[name])) for name in before if before[name] != after[name]
    )


def _said(value: object) -> str:
    return (", ".join(cast("tuple[str, ...]", value)) or "none") if isinstance(value, tuple) else str(value)


# --- decisions about calls --------------------------------------------------------------------------------------------


def plan_differences(call: ToolCall, recorded: PlannedCall, now: PlannedCall, at: str) -> list[Difference]:
    """Return what differs between two decisions about a call, one entry a class.

    Args:
        call: the call.
        recorded: what was decided.
        now: what is decided today.
        at: the time of the record, from which recorded moments are counted.
    """
    if recorded.decision != now.decision:
        kind = _kind_of_decision(recorded, now)
        return [Difference(kind, f"the call {call.name}", _shown_plan(recorded), _shown_plan(now))]
    if now.decision in ("refuse", "halt"):
        if recorded.refusal == now.refusal and recorded.status == now.status:
            return []
        told = f"the refusal of {call.name}"
        return [Difference(_kind_of_refusal(recorded, now), told, _shown_plan(recorded), _shown_plan(now))]
    found: dict[Kind, list[str]] = {}
    for kind, names in _FIELDS:
        for name in names:
            if not _same(name, getattr(recorded, name), getattr(now, name), at):
                found.setdefault(kind, []).append(name)
    return [
        Difference(kind, f"{', '.join(names)} of {call.name}", _shown(recorded, names), _shown(now, names))
        for kind, names in found.items()
    ]


def _same(name: str, recorded: object, now: object, at: str) -> bool:
    if name in ("expires_at", "due_at") and isinstance(recorded, str) and isinstance(now, str):
        apart = datetime.fromisoformat(recorded) - datetime.fromisoformat(now)
        return abs(apart.total_seconds()) < _CLOCK_TOLERANCE_S
    return recorded == now


def _kind_of_decision(recorded: PlannedCall, now: PlannedCall) -> Kind:
    if recorded.budget is not None or now.budget is not None:
        return "budget"
    if "halt" in (recorded.decision, now.decision):
        return "terminal_state"
    if recorded.malformed or now.malformed:
        return "argument"
    if "ask" in (recorded.decision, now.decision) or _denied(recorded) or _denied(now):
        return "approval"
    return "missing_tool" if now.decision == "refuse" else "extra_tool"


def _kind_of_refusal(recorded: PlannedCall, now: PlannedCall) -> Kind:
    if recorded.budget is not None or now.budget is not None:
        return "budget"
    if recorded.malformed or now.malformed:
        return "argument"
    return "approval" if _denied(recorded) or _denied(now) else "prompt"


def _denied(plan: PlannedCall) -> bool:
    return plan.decision == "refuse" and plan.status is ToolStatus.DENIED


def _shown_plan(plan: PlannedCall) -> str:
    return plan.decision + (f" ({plan.refusal})" if plan.refusal else "")


def _shown(plan: PlannedCall, names: Sequence[str]) -> str:
    return ", ".join(str(getattr(plan, name)) for name in names)


# --- outcomes of steps ------------------------------------------------------------------------------------------------


def outcome_difference(recorded: Outcome, now: Outcome) -> tuple[Kind, str] | None:
    """Return the class of what differs between two outcomes of one event, and words for it; None where nothing does."""
    if recorded.state is now.state and recorded.effects == now.effects:
        return None
    if recorded.fault_kind != now.fault_kind and (recorded.fault_kind in _BOUNDS or now.fault_kind in _BOUNDS):
        return "budget", "what the turn may use"
    if _ends(recorded) != _ends(now):
        return "terminal_state", "whether the turn ends"
    before, after = _runs(recorded), _runs(now)
    if after.keys() - before.keys():
        return "extra_tool", f"calls {', '.join(sorted(after.keys() - before.keys()))} run"
    if before.keys() - after.keys():
        return "missing_tool", f"calls {', '.join(sorted(before.keys() - after.keys()))} do not run"
    if _questions(recorded) != _questions(now):
        return "approval", "what a person is asked"
    if recorded.state is now.state and (before != after or _plans(recorded) != _plans(now)):
        return "budget", "the tries or the wait before the next"
    return "order", "what follows"


def _ends(outcome: Outcome) -> bool:
    return outcome.state is State.IDLE or any(
        isinstance(effect, Recover) and effect.plan.action == "give_up" for effect in outcome.effects
    )


def _runs(outcome: Outcome) -> dict[str, float]:
    return {effect.call_id: effect.delay_s for effect in outcome.effects if isinstance(effect, RunTool)}


def _questions(outcome: Outcome) -> list[object]:
    return [effect.request for effect in outcome.effects if isinstance(effect, AskUser)]


def _plans(outcome: Outcome) -> list[object]:
    return [effect.plan for effect in outcome.effects if isinstance(effect, Recover)]


def _shown_effect(effect: KnownEffect) -> str:
    match effect:
        case RunTool():
            return f"run_tool {effect.call_id}" + (f" after {effect.delay_s:g} s" if effect.delay_s else "")
        case AskUser():
            return f"ask_user ({effect.request.kind})"
        case Recover():
            plan = effect.plan
            return f"recover ({plan.action}, {plan.delay_s:g} s, {plan.attempts_left} left)"
        case _:
            return effect.kind
