"""The tools of an engine by name, and the decision about each call a model makes.

What is decided here (unknown tool, malformed arguments, policy) enters the core with the reply, so replay decides
nothing again. May import ports, core and errors. Must never run a tool.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from math import inf
from string import Formatter
from typing import NamedTuple

from ..core.arguments import arguments_complaint, json_text
from ..core.grants import Approved, Grant, Here, admitting, asked_where, binding, consumed, tool_version
from ..core.guards import has_malformed
from ..core.limits import Limits
from ..core.loops import Finding, LoopLimits, judge
from ..core.session import CallState
from ..core.values import PlannedCall, ToolCall, ToolSpec, ToolStatus
from ..errors import EncodingError, ToolDefinitionError
from ..ports import Policy, Tool, ToolOptions, Versioned
from .conflicts import kept_apart
from .encode import check_json, describe, shown
from .function import FunctionTool
from .isolation import Workers
from .spill import READER

_KEPT_CHARS = 10_000


class Case(NamedTuple):
    """What a decision about calls depends on beside the calls themselves, as the session stands."""

    here: Here
    grants: tuple[Grant, ...] = ()
    done: Sequence[CallState] = ()
    loops: LoopLimits | None = None
    expires_at: str | None = None


class Toolbox:
    """An immutable set of tools.

    Args:
        tools: tools, or plain annotated functions, which become tools with `effect="write"`.
        limits: how many worker processes there are, how strongly tools have to be bounded, and how often a call of a
            tool with `on_failure="retry"` is run again.
        reader: makes `read_result`, which models are told of only where there is something to read with it. A tool of
            the host's with that name takes its place.

    Raises:
        ToolDefinitionError: two tools have the same name, or something is no tool.
        LimitNotEnforceable: a tool cannot be bounded as is demanded.
    """

    def __init__(
        self,
        tools: Iterable[Tool | Callable[..., object]] = (),
        limits: Limits | None = None,
        *,
        reader: Callable[[], Tool] | None = None,
    ) -> None:
        limits = limits or Limits()
        self._workers = Workers(limits)
        self._retries = limits.max_tool_retries
        self._tools: dict[str, Tool] = {}
        for given in tools:
            tool = self._workers.serving(_as_tool(given))
            name = tool.spec.name
            if name in self._tools:
                raise ToolDefinitionError(f"two tools are called {name!r}; rename one: @tool(name=…)")
            self._tools[name] = tool
        self.caches = any(tool.options.cache_ttl_s is not None for tool in self._tools.values())
        self.specs: tuple[ToolSpec, ...] = tuple(tool.spec for tool in self._tools.values())
        # Made when it is needed: making a tool takes longer than everything else that an engine is made of.
        self._reader = None if reader is None or READER in self._tools else cache(reader)
        self._has_tasks = any(tool.options.external for tool in self._tools.values())
        self._polls = frozenset(name for name, tool in self._tools.items() if tool.options.polls)

    def __getitem__(self, name: str) -> Tool:
        tool = self.get(name)
        if tool is None:
            raise KeyError(name)
        return tool

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, if there is one."""
        tool = self._tools.get(name)
        return self._reader() if tool is None and name == READER and self._reader is not None else tool

    @property
    def reading_specs(self) -> tuple[ToolSpec, ...]:
        """The tools where there is something to read with `read_result`."""
        return self.specs if self._reader is None else (*self.specs, self._reader().spec)

    def prepare_worker(self, count: int = 1) -> None:
        """Have as many worker processes ready as calls will probably need at once."""
        self._workers.pool().prepare(count)

    async def aclose(self) -> None:
        """End every process that tools run in, with all it has started. Idempotent."""
        await self._workers.aclose()

    def admit(
        self, calls: Sequence[ToolCall], policy: Policy | None, case: Case | None = None
    ) -> tuple[Sequence[ToolCall], tuple[PlannedCall, ...]]:
        """Decide about each call: run it, ask first, or refuse it with the exact complaint.

        Returns:
            The calls as they can be recorded (arguments that JSON cannot hold become text) and one plan a call.
        """
        plans = tuple([self._plan(call, policy) for call in calls])
        if self._has_tasks:
            plans = tuple(kept_apart(plans))
        if case is not None:
            plans = tuple(self._weigh(calls, plans, policy, case))
        if has_malformed(plans):
            calls = tuple(_recordable(call) for call in calls)
        return calls, plans

    def binding(self, call: ToolCall, policy: Policy | None, here: Here) -> str:
        """Return what an approval of this call is bound to."""
        tool = self[call.name]
        version = policy.version if isinstance(policy, Versioned) else ""
        return binding(
            Approved(
                call.name,
                tool_version(tool.spec, tool.options.effect),
                json_text(call.arguments),
                here.session,
                call.id,
                here.principal,
                version,
            )
        )

    def objection(self, call: CallState, policy: Policy, case: Case) -> str | None:
        """Return why a call that was let through when it was recorded may not run now; None where it may."""
        verdict, reason = policy.decide(call.call, self[call.call.name].options)
        plan, here = call.plan, asked_where(call.key, case.here)
        if verdict == "deny":
            return f"denied: {reason or 'by policy'}"
        if plan.decision == "ask" and plan.binding != self.binding(call.call, policy, here):
            return "denied: what was approved is not what would run now; ask for the call again"
        if plan.grant is not None and all(grant.id != plan.grant for grant in case.grants):
            return "denied: the leave that was given for it has been taken back"
        if verdict == "ask" and plan.grant is None and not call.approved:
            return "denied: it needs an approval now; ask for the call again"
        return None

    def _weigh(
        self, calls: Sequence[ToolCall], plans: Sequence[PlannedCall], policy: Policy | None, case: Case
    ) -> Iterator[PlannedCall]:
        """Add what the turn so far and earlier grants say about the calls."""
        findings: Sequence[Finding | None] = (None,) * len(calls)
        if case.loops is not None and case.done:
            findings = judge(case.done, calls, case.loops, self._polls)
        grants = case.grants
        for call, plan, finding in zip(calls, plans, findings, strict=True):
            if finding is not None and not plan.malformed:
                plan = _minded(plan, finding)
            if plan.decision == "ask":
                grant = admitting(grants, call, case.here)
                if grant is None:
                    bound = self.binding(call, policy, case.here)
                    plan = plan.model_copy(update={"binding": bound, "expires_at": case.expires_at})
                else:
                    grants = consumed(grants, grant.id)
                    plan = plan.model_copy(update={"decision": "run", "refusal": None, "grant": grant.id})
            yield plan

    def _plan(self, call: ToolCall, policy: Policy | None) -> PlannedCall:
        tool = self.get(call.name)
        try:
            if (complaint := arguments_complaint(call)) is not None:
                return _refused(call, f"invalid arguments for {call.name}: {complaint}", malformed=True)
            check_json(call.arguments)
            if tool is None:
                known = ", ".join(spec.name for spec in self.specs) or "none"
                return _refused(call, f"unknown tool {call.name[:200]!r}; available: {known}")
            tool.bind(call.arguments)
            options = tool.options
            key = _conflict_key(call, options)
        except (ValueError, EncodingError) as error:
            return _refused(call, f"invalid arguments for {call.name}: {error}", malformed=True)
        except Exception as error:
            # A validator of the host's that stumbles says that the arguments do not fit, only less well.
            return _refused(call, f"invalid arguments for {call.name}: {describe(error)}", malformed=True)
        # The options of our own tools were checked when they were made; a foreign tool's are checked here.
        plan_of = PlannedCall.trusted if isinstance(tool, FunctionTool) else PlannedCall
        plan = plan_of(
            call_id=call.id,
            effect=options.effect,
            timeout_s=None if options.timeout_s == inf else options.timeout_s,
            conflict_key=key,
            retries=self._retries if options.on_failure == "retry" and options.effect != "write" else 0,
            stops=options.on_failure == "stop",
            external=options.external,
        )
        if policy is None:
            return plan
        decision = policy.decide(call, options)
        if decision.verdict not in ("allow", "ask", "deny"):
            raise ValueError(f"verdict {decision.verdict!r} is none of allow, ask, deny")
        if decision.verdict == "deny":
            return _refused(call, f"denied: {decision.reason or 'by policy'}", status=ToolStatus.DENIED)
        if decision.verdict == "ask":
            return PlannedCall.model_validate({**dict(plan), "decision": "ask", "refusal": decision.reason or None})
        return plan


def _as_tool(given: Tool | Callable[..., object]) -> Tool:
    if isinstance(given, Tool):
        return given
    if callable(given):
        return FunctionTool(given, {})
    raise ToolDefinitionError(f"{given!r} is no tool: decorate a function with @tool")


def _recordable(call: ToolCall) -> ToolCall:
    try:
        check_json(call.arguments)
    except EncodingError:
        return ToolCall(id=call.id, name=call.name, arguments_text=shown(call.arguments)[:_KEPT_CHARS])
    return call


def _refused(
    call: ToolCall, text: str, *, malformed: bool = False, status: ToolStatus = ToolStatus.FAILED
) -> PlannedCall:
    return PlannedCall.model_validate(
        {"call_id": call.id, "decision": "refuse", "refusal": text, "malformed": malformed, "status": status}
    )


def _minded(plan: PlannedCall, finding: Finding) -> PlannedCall:
    """Return the plan after what the guard against loops has found."""
    if finding.step == "note":
        return plan.model_copy(update={"note": finding.text})
    decision = "halt" if finding.step == "halt" else "refuse"
    return plan.model_copy(update={"decision": decision, "refusal": finding.text, "status": ToolStatus.DENIED})


def _conflict_key(call: ToolCall, options: ToolOptions) -> str | None:
    if options.conflict_key is not None:
        return options.conflict_key.format_map({**dict.fromkeys(_names(options.conflict_key), ""), **call.arguments})
    # Writes without a key of their own may touch the same thing for all anybody knows: one after the other. What the
    # host carries out it keeps in order itself.
    return "write" if options.effect == "write" and not options.external else None


def _names(template: str) -> Iterable[str]:
    return (name for _, name, _, _ in Formatter().parse(template) if name)
