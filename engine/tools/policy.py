"""A policy made of rules: which calls run, which are asked about, which are refused.

A rule is a verdict and a pattern, such as `allow read(*)`, `ask send_mail(to=*@example.com)` or `deny delete_*`; see
`core.patterns` for what a pattern says. Their order is nothing: deny wins over ask, ask wins over allow. A call that no
rule names is decided by its tool's effect, and one of an unknown tool is denied. Where a pattern cannot tell, because
an argument has no text, deny and ask apply and allow does not. Rules see the arguments as the model wrote them, before
a tool converts them: what must not happen is best said by allowing the rest. May import ports, core and errors. Must
never read a clock or remember a call: it is asked again before an approved call runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from ..core.arguments import json_text
from ..core.patterns import Pattern, parse_pattern
from ..core.values import ToolCall, ToolEffect
from ..errors import UsageError
from ..ports import Decision, ToolOptions

Verdict: TypeAlias = Literal["allow", "ask", "deny"]

ASK_FOR_CHANGES: Final[Mapping[ToolEffect, Verdict]] = MappingProxyType(
    {"read": "allow", "idempotent": "ask", "write": "ask"}
)
"""Reads run, everything else is asked about: where an approver, or a host that calls `session.answer`, is there."""

DENY_CHANGES: Final[Mapping[ToolEffect, Verdict]] = MappingProxyType(
    {"read": "allow", "idempotent": "deny", "write": "deny"}
)
"""Reads run, everything else is denied: where nobody can be asked."""

_ALLOWED: Final = Decision("allow")
_STRICTEST_FIRST: Final[tuple[Verdict, ...]] = ("deny", "ask", "allow")


class Rule(NamedTuple):
    """One rule, and its text as it was given."""

    verdict: Verdict
    pattern: Pattern
    text: str

    def applies(self, call: ToolCall) -> bool:
        """Return whether the rule is about this call."""
        return self.pattern.matches(call, in_doubt=self.verdict != "allow")


class Explanation(NamedTuple):
    """What a policy says about a call, and which rule says so; None where no rule names the call."""

    verdict: Verdict
    rule: str | None
    reason: str


class RulePolicy:
    """Decides about calls by rules; satisfies `ports.Policy`.

    Args:
        rules: texts such as `deny delete_*`, in any order.
        version: what approvals are bound to; changes with the rules if not given.
        default: the verdict for a call that no rule names, by the effect of its tool.

    Raises:
        UsageError: a rule cannot be read; the error says which, and where in it.
    """

    def __init__(
        self,
        rules: Iterable[str],
        *,
        version: str | None = None,
        default: Mapping[ToolEffect, Verdict] = ASK_FOR_CHANGES,
    ) -> None:
        if wrong := {"read", "idempotent", "write"} ^ set(default) or set(default.values()) - set(_STRICTEST_FIRST):
            raise UsageError(f"default must give read, idempotent and write each a verdict; wrong: {sorted(wrong)}")
        parsed = [_parse_rule(number, text) for number, text in enumerate(rules, 1)]
        self._rules = tuple(sorted(parsed, key=lambda rule: _STRICTEST_FIRST.index(rule.verdict)))
        self._default = dict(default)
        self._about = lru_cache(maxsize=1024)(self._look_up)
        self._version = version or _digest(self._rules, self._default)

    @property
    def version(self) -> str:
        """What approvals are bound to: another one when the rules or the defaults are others."""
        return self._version

    def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
        """Return the decision. The reason of a denial is for the model, that of a question for who is asked."""
        verdict, _, reason = self.explain(call, options)
        if verdict == "allow":
            return _ALLOWED
        return Decision(verdict, reason if verdict == "deny" else f"May {call.name} run? ({reason})")

    def explain(self, call: ToolCall, options: ToolOptions | None) -> Explanation:
        """Return what is decided about a call and why.

        Args:
            call: the call.
            options: how its tool may be run; None for a tool that nobody knows.
        """
        if options is None:
            return Explanation("deny", None, f"no tool is called {call.name}")
        for rule in self._about(call.name):
            if rule.applies(call):
                return Explanation(rule.verdict, rule.text, f"by the rule {rule.text!r}")
        verdict = self._default[options.effect]
        return Explanation(verdict, None, f"no rule names it, and the default for a {options.effect} is {verdict}")

    def _look_up(self, name: str) -> tuple[Rule, ...]:
        """Return the rules that may be about a tool of this name, in the order in which they are asked."""
        return tuple(rule for rule in self._rules if rule.pattern.name.matches(name))


def _parse_rule(number: int, text: str) -> Rule:
    word, *rest = text.split(None, 1)[:2] or [""]
    for verdict in _STRICTEST_FIRST:
        if word == verdict:
            try:
                return Rule(verdict, parse_pattern("".join(rest).rstrip()), text.strip())
            except UsageError as error:
                raise UsageError(f"rule {number}: {error}") from None
    raise UsageError(f"rule {number}: {ascii(text)[:200]} must begin with allow, ask or deny, then a pattern")


def _digest(rules: Iterable[Rule], default: Mapping[ToolEffect, Verdict]) -> str:
    said = json_text([sorted({(rule.verdict, rule.pattern.text) for rule in rules}), sorted(default.items())])
    return sha256(said.encode("ascii")).hexdigest()[:16]
