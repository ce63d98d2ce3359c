"""The policy of rules: verdicts, their order, the defaults, what it explains, and the whole engine under it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import pytest
from hypothesis import given, strategies as st
from pydantic import JsonValue

from engine import Engine, Outcome, ToolCall, tool
from engine.core.values import ToolEffect
from engine.errors import UsageError
from engine.models import ScriptedModel
from engine.ports import Policy, ToolOptions
from engine.tools.policy import ASK_FOR_CHANGES, DENY_CHANGES, RulePolicy, Verdict
from tests.runtime.scenes import calls


def call(name: str, **arguments: JsonValue) -> ToolCall:
    return ToolCall(id="c", name=name, arguments=arguments)


def verdict(policy: RulePolicy, name: str, effect: ToolEffect = "write", **arguments: JsonValue) -> str:
    return policy.decide(call(name, **arguments), ToolOptions(effect=effect)).verdict


RULES = ("allow send_mail", "ask send_mail(to=*@example.com)", "deny send_*(to=boss@*)")


@pytest.mark.parametrize("rules", list(permutations(RULES)))
def test_a11_deny_wins_over_ask_and_ask_over_allow(rules: tuple[str, ...]) -> None:
    """The strictest rule that applies decides, in whatever order the rules stand."""
    policy = RulePolicy(rules)
    said = [verdict(policy, "send_mail", to=to) for to in ("me@x.org", "me@example.com", "boss@example.com")]
    assert said == ["allow", "ask", "deny"]


@given(st.lists(st.sampled_from(["allow *", "ask p*", "deny pay(n=1)", "deny x", "ask pay(n=2)", "allow pay"])))
def test_a11_a_rule_more_never_makes_a_policy_of_rules_more_lenient_than_its_strictest(rules: list[str]) -> None:
    """A call that some deny rule names is denied, one that some ask rule names is never simply allowed."""
    policy = RulePolicy(rules)
    for number in (1, 2, 3):
        said = verdict(policy, "pay", n=number)
        if number == 1 and "deny pay(n=1)" in rules:
            assert said == "deny"
        elif "ask p*" in rules or (number == 2 and "ask pay(n=2)" in rules):
            assert said == "ask"
        else:
            assert said == ("allow" if {"allow *", "allow pay"} & set(rules) else "ask")


@pytest.mark.parametrize(
    ("default", "expected"), [(ASK_FOR_CHANGES, ["allow", "ask", "ask"]), (DENY_CHANGES, ["allow", "deny", "deny"])]
)
def test_a11_without_a_rule_the_effect_decides(default: Mapping[ToolEffect, Verdict], expected: list[str]) -> None:
    """Reads run; what changes something is asked about, or denied where nobody can be asked."""
    policy = RulePolicy((), default=default)
    effects: tuple[ToolEffect, ...] = ("read", "idempotent", "write")
    assert [verdict(policy, "look", effect) for effect in effects] == expected


def test_a11_an_unknown_tool_is_denied() -> None:
    """No rule allows a tool that nobody knows."""
    explained = RulePolicy(["allow *"]).explain(call("nope"), None)
    assert (explained.verdict, explained.rule) == ("deny", None)
    assert "nope" in explained.reason


@pytest.mark.parametrize("given_", [["boss@x.org"], {"name": "boss@x.org"}, []])
def test_a11_doubt_counts_for_deny_and_ask_and_against_allow(given_: JsonValue) -> None:
    """A list of receivers is not looked into: what forbids applies to it, what gives leave does not."""
    policies = [RulePolicy([f"{word} send(to=*)"], default=DENY_CHANGES) for word in ("allow", "ask", "deny")]
    assert [verdict(policy, "send", to=given_) for policy in policies] == ["deny", "ask", "deny"]
    assert [verdict(policy, "send", to="x") for policy in policies] == ["allow", "ask", "deny"]


def test_a11_explain_says_which_rule_decided() -> None:
    """The explanation names the rule as it was given, or the default."""
    policy = RulePolicy(["  allow   read(*) ", "deny read(path=*.key)"])
    denied = policy.explain(call("read", path="a.key"), ToolOptions(effect="read"))
    assert (denied.verdict, denied.rule) == ("deny", "deny read(path=*.key)")
    assert policy.explain(call("read", path="a"), ToolOptions()).rule == "allow   read(*)"
    unnamed = policy.explain(call("pay"), ToolOptions(effect="write"))
    assert (unnamed.verdict, unnamed.rule) == ("ask", None)
    assert "default" in unnamed.reason


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("permit read", ["rule 2", "allow, ask or deny"]),
        ("", ["rule 2", "allow, ask or deny"]),
        ("deny", ["rule 2", "column 1", "name"]),
        ("deny read(path=)", ["rule 2", "column 11", "what the argument must be"]),
    ],
)
def test_a11_a_rule_that_cannot_be_read_is_refused_with_its_place(rule: str, words: list[str]) -> None:
    """The error says which rule, where in it, and what was expected."""
    with pytest.raises(UsageError) as refused:
        RulePolicy(["allow look", rule])
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    "default", [{"read": "allow"}, dict(ASK_FOR_CHANGES) | {"write": "never"}, dict(ASK_FOR_CHANGES) | {"exec": "deny"}]
)
def test_a11_a_default_must_decide_every_effect(default: dict[ToolEffect, Verdict]) -> None:
    """A default with an effect missing, one too many, or a word that is no verdict is refused."""
    with pytest.raises(UsageError, match="default"):
        RulePolicy((), default=default)


def test_f17_another_policy_has_another_version() -> None:
    """The version changes with any rule and with the defaults, not with the order; a host may set its own."""
    rules = ("allow a", "deny b")
    versions = {
        RulePolicy(rules).version,
        RulePolicy(("deny a", "allow b")).version,
        RulePolicy(("allow a",)).version,
        RulePolicy(rules, default=DENY_CHANGES).version,
        RulePolicy(rules, version="7").version,
    }
    assert len(versions) == 5
    assert RulePolicy(reversed(rules)).version == RulePolicy(rules).version


@pytest.mark.anyio
async def test_a11_an_engine_under_rules_runs_asks_and_denies() -> None:
    """A read runs at once, a write is asked about, a forbidden call tells the model why."""

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    @tool
    async def pay() -> str:
        return "paid"

    @tool
    async def erase() -> str:
        return "never"

    policy: Policy = RulePolicy(["deny erase"])
    model = ScriptedModel([calls("look", "pay", "erase"), "done"])
    async with Engine(model=model, tools=[look, pay, erase], policy=policy) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        assert request.text.startswith("May pay run?")
        result = await session.answer(request.id, approve=True)
    assert result.outcome is Outcome.COMPLETED
    assert [made.content for made in result.tool_calls] == ["seen", "paid", "denied: by the rule 'deny erase'"]


@pytest.mark.anyio
async def test_a11_an_engine_without_a_policy_runs_everything() -> None:
    """Where no policy is given nothing is asked or denied."""

    @tool
    async def pay() -> str:
        return "paid"

    async with Engine(model=ScriptedModel([calls("pay"), "done"]), tools=[pay]) as engine:
        result = await (await engine.open("s")).ask("go")
    assert [made.content for made in result.tool_calls] == ["paid"]
