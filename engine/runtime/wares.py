"""What can be prepared in an engine: what its tools declare, and what the engine has itself.

The engine's own are worker processes for isolated tools, the results of reads that opted in, and the model: connections
to its server, or the beginning of a conversation in a local model's cache. May import tools, ports, predict, core and
its neighbours. Must never prepare anything by itself, and never offer to run anything but a read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import NamedTuple, Protocol, runtime_checkable

import anyio

from ..core.arguments import json_text
from ..core.session import Session
from ..core.values import Message, ToolCall
from ..ports import ModelRequest, ToolContext
from ..predict import Declared, Predictor, Situation
from ..tools.cache import key_of
from ..tools.isolation import is_isolated
from ..tools.registry import Toolbox
from ..tools.warm import Warm, Warmable, WarmContext
from .hints import side_by_side
from .parts import Parts
from .stock import Key, Stock

GUESSES = 8
"""Tools that are looked at when something is chosen."""

MODEL = "<model>"
"""Stands for the model where the name of a tool would stand; no tool can be called so."""

MODEL_S = 0.05
"""What getting the model ready is taken to save until it has been measured."""

SOON_S = 10.0
"""What is prepared for that long needs no look."""

WORKER_S = 0.5
"""What starting a worker process is taken to save until calls have shown it."""


@runtime_checkable
class WarmableModel(Protocol):
    """A model that can get ready for a request."""

    async def warm(self, request: ModelRequest) -> object:
        """Get ready for a request that begins like this one. Gives way to every real request."""
        ...


class Offer(NamedTuple):
    """Something that could be prepared for a call of `tool`, and how.

    `probability` is that of its use, `start_s` what it is taken to save until that is known, `lifetime_s` how long it
    is of use.
    """

    tool: str
    key: Key
    probability: float
    declared: Declared
    start_s: float
    lifetime_s: float
    run: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Wares:
    """What an engine can prepare.

    Attributes:
        parts: what the engine is made of.
        hooks: the warm-ups of tools, by their names.
        ahead: the reads whose calls may run ahead.
        model: the model, where it can get ready.
    """

    parts: Parts
    hooks: Mapping[str, Warm]
    ahead: frozenset[str]
    model: WarmableModel | None

    def any_open(self, session: str, now_s: float, *stocks: Stock) -> bool:
        """Whether there is anything for tools that is not prepared already, for all that is known without asking."""
        if self.ahead:
            return True
        return any(
            not any(stock.holds(_key_of(warm, session), now_s + SOON_S) for stock in stocks)
            for warm in self.hooks.values()
        )

    def key(self, call: ToolCall, session: str) -> Key | None:
        """Return what a call would use."""
        warm = self.hooks.get(call.name)
        if warm is not None:
            return _key_of(warm, session)
        return Key((call.name, json_text(call.arguments)), session) if call.name in self.ahead else None

    def offers(self, session: Session, predictor: Predictor, situation: Situation | None) -> list[Offer]:
        """Return what could be prepared for the next calls of a session, the most probable first."""
        found = [*self._hooks(session, predictor)]
        if self.ahead:
            found += self._calls(session, predictor, situation)
        return sorted(found, key=lambda offer: -offer.probability)

    def model_offer(self, session: Session, probability: float) -> Offer | None:
        """Return what could be prepared for the next request to the model."""
        if self.model is None:
            return None
        run = partial(self.model.warm, next_request(self.parts, session))
        return Offer(MODEL, Key(MODEL, session.id), probability, Declared(has_hook=True), MODEL_S, inf, run)

    def _hooks(self, session: Session, predictor: Predictor) -> Iterator[Offer]:
        opened = session.opened
        for tool, probability in predictor.within(session.id, k=GUESSES):
            warm = self.hooks.get(tool)
            if warm is not None:
                context = WarmContext(tool, session.id, opened.user, opened.workspace, probability)
                declared = Declared(self.parts.toolbox[tool].options.effect, has_hook=True, cost_s=warm.cost_s)
                key, run = _key_of(warm, session.id), partial(self._run_hook, warm, context, predictor)
                yield Offer(tool, key, probability, declared, warm.cost_s, warm.lifetime_s, run)

    async def _run_hook(self, warm: Warm, context: WarmContext, predictor: Predictor) -> None:
        """Run a hook; only now is it looked at how many calls would use what it prepares at once."""
        sequence = [tool for tool, _ in predictor.sequence(context.session)]
        first = next(iter(side_by_side(sequence, self.parts.toolbox)), ())
        calls = sum(self.hooks.get(tool) is warm for tool in first)
        await warm.hook(context._replace(calls=max(1, calls)))

    def _calls(self, session: Session, predictor: Predictor, situation: Situation | None) -> Iterator[Offer]:
        for tool, probability in predictor.predict(session.id, GUESSES, situation=situation):
            for guess in predictor.arguments(session.id, tool)[:1] if tool in self.ahead else ():
                call = ToolCall.model_validate({"id": "ahead", "name": tool, "arguments": guess.arguments})
                key = self.key(call, session.id)
                options = self.parts.toolbox[tool].options
                if key is None or options.cache_ttl_s is None or not self._allowed(call):
                    continue
                yield Offer(
                    tool,
                    key,
                    probability * guess.rate,
                    Declared(options.effect, may_run_ahead=True),
                    predictor.pattern(tool).mean_s or 0.0,
                    options.cache_ttl_s,
                    partial(run_ahead, self.parts, session, call),
                )

    def _allowed(self, call: ToolCall) -> bool:
        """Whether nobody has anything against a call: one that would be asked about, or refused, never runs ahead."""
        policy = self.parts.policy
        return policy is None or policy.decide(call, self.parts.toolbox[call.name].options).verdict == "allow"


def wares_of(parts: Parts) -> Wares:
    """Return what an engine can prepare.

    A call runs ahead only of a read that opted in, and only where nobody stands between a call and its tool: middleware
    would see calls that nobody made, and what a redactor has hidden cannot be guessed.
    """
    hooks: dict[str, Warm] = {}
    ahead: set[str] = set()
    worker = Warm(_Worker(parts.toolbox).start, WORKER_S, inf)
    for name in (spec.name for spec in parts.toolbox.specs):
        tool = parts.toolbox[name]
        warmth = tool.warm if isinstance(tool, Warmable) else None
        if isinstance(warmth, Warm):
            hooks[name] = warmth
        elif is_isolated(tool):
            hooks[name] = worker
        elif warmth == "result" and tool.options.effect == "read" and not parts.middleware and parts.redactor is None:
            ahead.add(name)
    return Wares(parts, hooks, frozenset(ahead), parts.model if isinstance(parts.model, WarmableModel) else None)


class _Worker:
    """The worker processes that isolated tools share."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    async def start(self, context: WarmContext) -> None:
        """Have as many processes idle as calls will need."""
        self._toolbox.prepare_worker(context.calls)


async def run_ahead(parts: Parts, session: Session, call: ToolCall) -> None:
    """Run a read before it is asked for; the cache keeps what it gives, for exactly this call of this user.

    Raises:
        ValueError: the arguments do not fit.
    """
    tool, opened, cache = parts.toolbox[call.name], session.opened, parts.pipeline.cache
    options = tool.options
    # Said once more, where it happens: whatever was predicted, declared or changed meanwhile, nothing but a read.
    assert options.effect == "read"
    assert options.cache_ttl_s is not None
    assert cache is not None
    context = ToolContext(
        call_id=call.id,
        name=call.name,
        arguments=call.arguments,
        idempotency_key="",
        timeout_s=options.timeout_s,
        session=session.id,
        turn=0 if session.turn is None else session.turn.number,
        metadata=opened.metadata,
        external_id=opened.external_id,
        user=opened.user,
        workspace=opened.workspace,
        parent=opened.parent,
    )
    run = partial(tool.run, tool.bind(call.arguments), context)
    key = key_of(context, options.version)
    await cache.run(key, run, ttl_s=options.cache_ttl_s, now_s=anyio.current_time())


def next_request(parts: Parts, session: Session) -> ModelRequest:
    """Return what the next request of a session will begin like: the conversation so far, open calls without results.

    A prompt that nobody has written yet is empty: what comes before it is what can be prepared.
    """
    messages = list(session.view())
    system = parts.settings.system
    if not messages and system is not None:
        messages.append(Message(role="system", text=system))
    turn = session.turn
    if turn is None or turn.outcome is not None:
        messages.append(Message(role="user", text=""))
    specs = parts.toolbox.reading_specs if session.spilled else parts.toolbox.specs
    number, round_ = (0, 0) if turn is None else (turn.number, turn.round)
    return ModelRequest(messages, specs, parts.parameters, session.id, number, round_)


def _key_of(warm: Warm, session: str) -> Key:
    return Key(warm, session if warm.per == "session" else "")


__all__ = ["MODEL", "Offer", "Wares", "WarmableModel", "next_request", "wares_of"]
