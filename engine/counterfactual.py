"""What would have happened: a recorded turn and those after it run again with one fact changed.

The session is forked before the turn of that fact, so everything earlier is shared and nothing of it runs. From there a
live engine runs the same prompts; recorded replies, results and answers are reused wherever their input is unchanged.
May import api, replay, ports, core and errors. Must never change the history that it starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Required, Unpack, cast

from .api import Engine, Extras, Session
from .core.events import ContextPrepared, PromptReceived
from .core.limits import Limits
from .core.record import TransitionRecord
from .core.values import JsonObject, Outcome, Prompt, Request, ToolCall, ToolEffect
from .errors import ReplayError, UsageError
from .ports import Approver, Journal, Model, Tool
from .replay.comparison import Comparison, compare
from .replay.forking import fork
from .replay.reading import read_history
from .replay.reusing import Fact, Reuse, Use
from .runtime.clock import SystemClock
from .runtime.parts import TurnResult

READS: frozenset[ToolEffect] = frozenset({"read"})
"""What may really run unless more is allowed."""


class Setup(Extras, total=False):
    """What the re-run happens with: what an engine takes, and the effects of the tools that may really run."""

    model: Required[Model]
    tools: Sequence[Tool | Callable[..., object]]
    limits: Limits
    may_run: frozenset[ToolEffect]


_OWN = ("model", "tools", "limits", "may_run", "approver")
"""What of a setup is handed to the engine in another way, or not at all."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What came of a changed fact.

    Attributes:
        session: the new session, a fork; it can be opened, read and compared like any other.
        reused: recorded results that were given again, the changed one included; nothing ran for them.
        run_again: what was really asked of the model and of tools.
        invalidated: recorded results that had no place any more.
        withheld: calls that would have had to run and were not allowed to.
        pending: what the new session waits for, where it went on to a question that nobody had answered.
        comparison: the recorded history beside the new one.
    """

    session: str
    reused: tuple[Use, ...]
    run_again: tuple[Use, ...]
    invalidated: tuple[Use, ...]
    withheld: tuple[Use, ...]
    pending: tuple[Request, ...]
    comparison: Comparison

    def as_json(self) -> JsonObject:
        """Return the report as JSON."""
        uses = {"reused": self.reused, "run_again": self.run_again, "invalidated": self.invalidated}
        return {
            "session": self.session,
            **{name: [use._asdict() for use in found] for name, found in uses.items()},
            "withheld": [use._asdict() for use in self.withheld],
            "pending": [request.id for request in self.pending],
            "comparison": self.comparison.as_json(),
        }


async def counterfactual(
    journal: Journal, session: str, seq: int, fact: Fact | None, **setup: Unpack[Setup]
) -> Counterfactual:
    """Run a recorded session again from the turn of record `seq`, with another fact there.

    Args:
        journal: where the session is; the new one is forked there.
        session: the recorded session. It is not changed, and may be open.
        seq: the record whose fact is changed.
        fact: the event that happened instead: the recorded one with another result, answer or reply. None changes
            nothing but what `setup` changes, a limit for instance.
        setup: what the re-run happens with. Only reads really run, unless `may_run` says more. An approver is asked
            only what no recorded answer can stand for.

    Raises:
        UnknownSession, ReplayError: there is no such session, record, or turn around the record.
        UsageError: the fact is not about what record `seq` is about, or the journal cannot share histories.
    """
    records = [record async for record in read_history(journal, session)]
    first = records[0].seq  # greater than 1 where the beginning was pruned
    start = _turn_of(records, seq)
    if fact is not None:
        _check_fact(records[seq - first], fact)
    tools, approver = setup.get("tools", ()), setup.get("approver")
    extras = cast(Extras, {name: value for name, value in setup.items() if name not in _OWN})
    facts = {} if fact is None else {seq: fact}
    reuse = Reuse(records, start, facts, _effects(tools), setup.get("may_run", READS))
    extras["middleware"] = (reuse, *extras.get("middleware", ()))
    name = await fork(journal, session, start - 1, clock=extras.get("clock") or SystemClock())
    async with Engine(
        model=setup["model"], tools=tools, journal=journal, limits=setup.get("limits"), **extras
    ) as engine:
        again = await engine.open(name)
        pending: tuple[Request, ...] = ()
        for prompt in _prompts(records[start - first :], extras):
            result = await _answered(again, await again.ask(prompt), reuse, approver)
            pending = result.pending
            if result.outcome is Outcome.WAITING:
                break
    comparison = compare(records, [record async for record in read_history(journal, name)])
    return Counterfactual(
        name,
        tuple(reuse.reused),
        tuple(reuse.run_again),
        tuple(reuse.invalidated),
        tuple(reuse.withheld),
        pending,
        comparison,
    )


def setup_of(engine: Engine) -> Setup:
    """Return the setup of a re-run with what an engine is made of; it need not be open, and is not used itself.

    What watches and what learns stays out: a question about what would have happened is nothing that happened.
    """
    parts = engine.parts
    tools = [tool for spec in parts.toolbox.specs if (tool := parts.toolbox.get(spec.name)) is not None]
    setup = Setup(
        model=parts.model,
        tools=tools,
        limits=parts.limits,
        settings=parts.settings,
        clock=parts.clock,
        middleware=parts.middleware,
        providers=parts.providers,
    )
    if parts.policy is not None:
        setup["policy"] = parts.policy
    if parts.redactor is not None:
        setup["redactor"] = parts.redactor
    return setup


def _turn_of(records: Sequence[TransitionRecord], seq: int) -> int:
    """Return the record that opened the turn around record `seq`."""
    first, last = records[0].seq, records[-1].seq
    if not first <= seq <= last:
        raise ReplayError(f"there is no record {seq}: this history's count from {first} to {last}")
    for record in reversed(records[: seq - first + 1]):
        if record.trigger == "prompt_received":
            return record.seq
    raise ReplayError(f"record {seq} stands before the first turn: nothing follows from it that could run again")


def _check_fact(record: TransitionRecord, fact: Fact) -> None:
    event = record.event
    about = ("call_id", "request_id")
    same = type(event) is type(fact) and all(getattr(event, name, None) == getattr(fact, name, None) for name in about)
    if not same:
        raise UsageError(
            f"record {record.seq} is a {record.trigger}, and the fact is another kind or about something else: change "
            "a copy of its event, such as record.event.model_copy(update={'content': …})"
        )


def _effects(tools: Iterable[Tool | Callable[..., object]]) -> Mapping[str, ToolEffect]:
    return {tool.spec.name: tool.options.effect for tool in tools if isinstance(tool, Tool)}


def _prompts(records: Iterable[TransitionRecord], extras: Extras) -> list[Prompt]:
    """Return the prompts of a history, without what the engine adds by itself: a system prompt, context."""
    settings = extras.get("settings")
    adds_system = settings is not None and settings.system is not None
    asked: list[Prompt] = []
    for record in records:
        event = record.event
        if isinstance(event, PromptReceived):
            kept = tuple(said for said in event.messages if not (adds_system and said.role == "system"))
            calls = event.direct_calls
            asked.append(Prompt(messages=kept, calls=calls, priority=event.priority, metadata=event.metadata))
        elif isinstance(event, ContextPrepared) and asked and not extras.get("providers"):
            added = (*asked[-1].messages, *event.messages)
            asked[-1] = asked[-1].model_copy(update={"messages": added})
    return asked


async def _answered(session: Session, result: TurnResult, reuse: Reuse, approver: Approver | None) -> TurnResult:
    """Answer what is asked as it was answered, until the turn ends or asks something new."""
    open_requests = list(result.pending)
    while open_requests:
        request = open_requests.pop(0)
        call = _call_of(result, request)
        said = reuse.answer(request, call)
        if said is not None:
            result = await session.answer(
                request.id, approve=said.approve, text=said.text, by=said.by, arguments=said.arguments,
                result=said.result,
            )  # fmt: skip
        elif approver is not None and call is not None and request.kind == "approval":
            answer = await approver.answer(request, call)
            if answer is None:
                continue
            result = await session.answer(request.id, **answer._asdict())
        else:
            continue
        open_requests = list(result.pending)
    return result


def _call_of(result: TurnResult, request: Request) -> ToolCall | None:
    for call in reversed(result.tool_calls):
        if call.id == request.call_id:
            return ToolCall(id=call.id, name=call.name, arguments=call.arguments)
    return None


__all__ = ["READS", "Counterfactual", "Setup", "counterfactual", "setup_of"]
