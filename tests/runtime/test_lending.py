"""Budgets that a turn lends to child sessions: set aside before, given back after, and the same after a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, Outcome, Prompt, Session, State, ToolStatus, Usage, tool
from engine.core.budgets import Budget
from engine.core.events import BudgetLent, BudgetSettled, SessionOpened
from engine.core.loans import Share
from engine.core.money import Price
from engine.errors import UsageError
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.ports import ToolContext
from engine.replay import verify_journal
from tests.runtime.scenes import call, check_closed, history

pytestmark = pytest.mark.anyio

TEN = Usage(input_tokens=7, output_tokens=3)

Delegate = Callable[[Engine, ToolContext], Awaitable[str]]


class Family:
    """An engine whose parent session has a tool that may open children; every reply of any session takes ten tokens.

    The parent calls `delegate` in each of its rounds but the last, children call `look` in each of theirs.
    """

    def __init__(self, delegate: Delegate, rounds: int = 1, child_rounds: int = 0, width: int = 1) -> None:
        self.engine: Engine | None = None
        self._delegate = delegate
        self._rounds = {"p": rounds}
        self._child_rounds = child_rounds
        self._width = width

    async def think(self, request: ModelRequest) -> ModelReply:
        """Call a tool until the rounds are over."""
        if request.round > self._rounds.get(request.session, self._child_rounds) or request.turn > 1:
            return ModelReply(text="done", usage=TEN, model="m")
        name = "delegate" if request.session == "p" else "look"
        asked = [call(name, f"{request.round}-{place}") for place in range(self._width)]
        return ModelReply(tool_calls=asked, usage=TEN, model="m")

    def opens(self, limits: Limits, journal: MemoryJournal | None = None) -> Engine:
        """Return the engine."""

        @tool(effect="read")
        async def delegate(context: ToolContext) -> str:
            assert self.engine is not None
            return await self._delegate(self.engine, context)

        @tool(effect="read")
        async def look() -> str:
            return "seen"

        model = FunctionModel(self.think)
        self.engine = Engine(model=model, tools=[delegate, look], limits=limits, journal=journal)
        return self.engine


async def run_child(engine: Engine, context: ToolContext, share: Share, name: str = "child") -> str:
    """Open a child on a share, run a turn of it, and say how that ended."""
    async with await engine.open(name, parent=context.session, share=share) as child:
        result = await child.ask("go")
        return f"{result.outcome.value}: {result.reason or result.text}"


async def lendings(engine: Engine, session: str = "p") -> list[BudgetLent | BudgetSettled]:
    """Return what a history says about loans."""
    events = [record.event async for record in engine.history(session)]
    return [event for event in events if isinstance(event, BudgetLent | BudgetSettled)]


async def test_a17_a_child_uses_its_parent_s_budget_and_gives_back_the_rest() -> None:
    """A share is set aside while the child runs; what it used is booked when it ends, and both histories say so."""
    seen: list[Budget] = []

    async def delegate(engine: Engine, context: ToolContext) -> str:
        async with await engine.open("child", parent=context.session, share=Share(tokens=60)) as child:
            parent = await engine.open(context.session)
            seen.append(parent.budgets["tokens"])
            assert (await child.ask("go")).text == "done"
            seen.append(child.budgets["tokens"])
        return "delegated"

    async with Family(delegate).opens(Limits(max_tokens=100)) as engine:
        session = await engine.open("p")
        assert (await session.ask("go")).outcome is Outcome.COMPLETED
        # Ten by its own first reply; sixty for the child; ten of them used, and ten by the last reply.
        assert [*seen, session.budgets["tokens"]] == [Budget(10, 60, 100), Budget(10, 0, 60), Budget(30, 0, 100)]
        lent, settled = await lendings(engine)
        assert isinstance(lent, BudgetLent)
        assert isinstance(settled, BudgetSettled)
        assert (lent.child, lent.loan.tokens, settled.spent.tokens) == ("child", 60, 10)
        (own,) = await lendings(engine, "child")
        assert own == settled
        assert all(found.ok for found in await verify_journal(engine.journal))
        check_closed(await history(engine.journal, "p"))
        check_closed(await history(engine.journal, "child"))


async def test_a17_all_that_is_left_is_inherited() -> None:
    """A share that says nothing takes all but room for one reply of the parent, tool calls and money too."""
    opened: list[SessionOpened] = []

    async def delegate(engine: Engine, context: ToolContext) -> str:
        said = await run_child(engine, context, Share())
        opened.extend(
            [record.event async for record in engine.history("child") if isinstance(record.event, SessionOpened)]
        )
        return said

    prices = {"*": Price(input="1", output="1")}
    limits = Limits(max_tokens=100, max_tool_calls=5, max_cost="0.001", prices=prices)
    async with Family(delegate).opens(limits) as engine:
        session = await engine.open("p")
        assert (await session.ask("go")).outcome is Outcome.COMPLETED
        loan = opened[0].loan
        assert loan is not None
        assert (loan.tokens, loan.tool_calls, loan.cost_pico) == (89, 4, 10**9 - 10**7 - 1)
        assert session.budgets["cost"] == Budget(3 * 10**7, 0, 10**9)
        assert session.budgets["tool_calls"] == Budget(1, 0, 5)


async def test_a17_v16_a_breach_fails_the_child_s_turn_alone() -> None:
    """A child that uses up its loan fails, whatever `on_budget` says; the parent answers from what is left."""

    async def delegate(engine: Engine, context: ToolContext) -> str:
        return await run_child(engine, context, Share(tokens=25))

    limits = Limits(max_tokens=100, on_budget="ask")
    async with Family(delegate, child_rounds=9).opens(limits) as engine:
        session = await engine.open("p")
        result = await session.ask("go")
        assert (result.outcome, result.tool_calls[0].content) == (
            Outcome.COMPLETED, "failed: the turn used 30 tokens of its budget of 25 tokens",
        )  # fmt: skip
        # What it really used is booked, one reply beyond the loan included.
        assert session.budgets["tokens"] == Budget(50, 0, 100)
        assert (await session.ask("again")).outcome is Outcome.COMPLETED


async def test_a17_a_loan_is_for_all_turns_of_a_child() -> None:
    """A second turn of the child has what the first one left."""
    outcomes: list[Outcome] = []

    async def delegate(engine: Engine, context: ToolContext) -> str:
        share, looks = Share(tool_calls=1, tokens=40), Prompt(text="go", calls=[call("look")])
        async with await engine.open("child", parent=context.session, share=share) as child:
            for prompt in (looks, looks, "go", "go"):
                result = await child.ask(prompt)
                outcomes.append(result.outcome)
                statuses.extend(made.status for made in result.tool_calls)
        return "delegated"

    statuses: list[ToolStatus] = []
    async with Family(delegate).opens(Limits(max_tokens=100)) as engine:
        session = await engine.open("p")
        assert (await session.ask("go")).outcome is Outcome.COMPLETED
        assert statuses == [ToolStatus.COMPLETED, ToolStatus.DENIED]
        assert outcomes == [Outcome.COMPLETED] * 4
        assert session.budgets["tokens"] == Budget(60, 0, 100)


async def test_a17_children_side_by_side_share_what_there_is() -> None:
    """Three calls of one reply want 30 of the 90 tokens that are left each: two get them, the third is told why not."""

    async def delegate(engine: Engine, context: ToolContext) -> str:
        try:
            child = await engine.open(f"child-{context.call_id}", parent="p", share=Share(tokens=30))
        except UsageError as error:
            begun.append(str(error))
            said = "refused"
        else:
            begun.append("lent")
            said = "lent"
        if len(begun) == 3:
            met.set()
        await met.wait()
        if said == "lent":
            await child.ask("go")
            await child.close()
        return said

    begun: list[str] = []
    met = anyio.Event()
    async with Family(delegate, width=3).opens(Limits(max_tokens=100)) as engine:
        session = await engine.open("p")
        result = await session.ask("go")
        assert (result.outcome, sorted(made.content for made in result.tool_calls)) == (
            Outcome.COMPLETED, ["lent", "lent", "refused"],
        )  # fmt: skip
        (refusal,) = [said for said in begun if said != "lent"]
        assert "not so much of its budget of tokens left; ask for a smaller share" in refusal
        assert session.budgets["tokens"] == Budget(40, 0, 100)


async def test_a3_a17_places_for_children_are_lent_too() -> None:
    """A child has the places that it was lent, and they are taken from its parent's."""
    refused: list[str] = []

    async def refuse(opening: Awaitable[Session]) -> None:
        with pytest.raises(UsageError, match="max_parallel_tasks") as found:
            await opening
        refused.append(str(found.value))

    async def delegate(engine: Engine, context: ToolContext) -> str:
        async with await engine.open("a", parent="p", share=Share(parallel_tasks=1)):
            await engine.open("a-1", parent="a")
            await refuse(engine.open("a-2", parent="a"))
            await refuse(engine.open("b", parent="p", share=Share(parallel_tasks=1)))
            async with await engine.open("c", parent="p", share=Share()):
                await refuse(engine.open("c-1", parent="c"))
        return "delegated"

    async with Family(delegate).opens(Limits(max_parallel_tasks=3)) as engine:
        result = await (await engine.open("p")).ask("go")
        assert result.tool_calls[0].content == "delegated", result.tool_calls
        assert len(refused) == 3
        # What was set aside for a child that could not be opened is given back.
        events = await lendings(engine)
        lent = [event.child for event in events if isinstance(event, BudgetLent)]
        assert (lent, len(events)) == (["a", "b", "c"], 6)


async def test_a17_a_restart_finds_the_loan_where_it_was() -> None:
    """Killed while the child works, parent and child go on with the same loan, and it is settled once."""
    journal = MemoryJournal()
    hang = True

    async def delegate(engine: Engine, context: ToolContext) -> str:
        child = await engine.open("child", parent=context.session, share=Share(tokens=60))
        first = await child.ask("go") if child.seq < 4 else await child.result()
        if hang:
            reached.set()
            await anyio.sleep_forever()
        await child.close()
        return first.text or ""

    family, reached = Family(delegate), anyio.Event()
    async with family.opens(Limits(max_tokens=100), journal) as engine:
        session = await engine.open("p")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await reached.wait()
            assert session.budgets["tokens"] == Budget(10, 60, 100)
            await engine.shutdown()
    hang = False
    async with family.opens(Limits(max_tokens=100), journal) as engine:
        session = await engine.open("p")
        assert session.budgets["tokens"] == Budget(10, 60, 100)
        assert (await session.result()).outcome is Outcome.COMPLETED
        assert session.budgets["tokens"] == Budget(30, 0, 100)
        assert [event.kind for event in await lendings(engine)] == ["budget_lent", "budget_settled"]
        assert all(found.ok for found in await verify_journal(journal))


async def test_a17_what_was_given_back_is_not_used_again() -> None:
    """A child that is opened again without its parent has nothing left; on a new share it goes on."""
    outcomes: list[Outcome] = []

    async def delegate(engine: Engine, context: ToolContext) -> str:
        await run_child(engine, context, Share(tokens=30))
        async with await engine.open("child") as alone:
            outcomes.append((await alone.ask("go")).outcome)
        await run_child(engine, context, Share(tokens=30))
        return "delegated"

    async with Family(delegate).opens(Limits(max_tokens=100)) as engine:
        session = await engine.open("p")
        assert (await session.ask("go")).outcome is Outcome.COMPLETED
        assert outcomes == [Outcome.FAILED]
        assert session.budgets["tokens"] == Budget(40, 0, 100)
        check_closed(await history(engine.journal, "child"))


async def test_a17_m11_cancelling_the_parent_does_not_wait_for_its_child_s_loan() -> None:
    """The child is closed while its parent's turn is called off: both end at once, and both go on afterwards."""
    begun = anyio.Event()

    async def delegate(engine: Engine, context: ToolContext) -> str:
        async with await engine.open("child", parent=context.session, share=Share(tokens=60)):
            begun.set()
            await anyio.sleep_forever()
        return ""

    async with Family(delegate).opens(Limits(max_tokens=100, cancel_grace_s=60)) as engine:
        session = await engine.open("p")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(session.ask, "go")
                await begun.wait()
                await session.cancel()
        assert (await session.result()).outcome is Outcome.CANCELLED
        assert (await session.ask("again")).outcome is Outcome.COMPLETED
        check_closed(await history(engine.journal, "p"))


async def test_a17_a_share_needs_an_open_turn_of_a_parent_here() -> None:
    """Who has no turn has no budgets to lend: refused with what to do, and nothing is recorded of the child."""
    cases: list[tuple[dict[str, Any], Share, str]] = [
        ({}, Share(), "a share needs a parent"),
        ({"parent": "elsewhere"}, Share(), "a share needs a parent"),
        ({"parent": "p"}, Share(), "open children from within a turn"),
        ({"parent": "p"}, Share(cost="1"), "needs prices"),
    ]
    async with Family(run_nothing).opens(Limits(max_tokens=100)) as engine:
        session = await engine.open("p")
        for who, share, text in cases:
            with pytest.raises(UsageError, match=text):
                await engine.open("child", share=share, **who)
        assert [info.id for info in await engine.journal.sessions()] == ["p"]
        assert session.state is State.IDLE
        assert (await session.ask(Prompt(text="hi"))).outcome is Outcome.COMPLETED


async def run_nothing(engine: Engine, context: ToolContext) -> str:
    return ""
