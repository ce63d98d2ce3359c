"""A fork shares its parent's records, verifies through them, and inherits no leave that anybody gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine import Engine, Limits, ModelReply, Outcome, Prompt, State, ToolCall, tool
from engine.core.events import ToolStarted
from engine.core.grants import GrantTerms
from engine.core.record import TransitionRecord
from engine.errors import InvalidId, JournalCorrupt, ReplayError, UnknownSession, UsageError
from engine.journal import MemoryJournal, SqliteJournal
from engine.journal.codec import Chain
from engine.journal.forking import Origin
from engine.journal.keeping import Checkpointing
from engine.models import FunctionModel
from engine.ports import Journal, ModelRequest
from engine.replay import copy_journal, diverge, export_chats, fold, fork, state_at, verify, verify_journal
from engine.replay.checkpoints import read_checkpoint
from engine.replay.copying import CopyReport
from engine.runtime.parts import EngineSettings
from engine.testing.checks import check_history, check_session
from engine.testing.forking import forked
from engine.testing.journals import YieldingJournal
from engine.testing.records import chain, read_all
from engine.tools.policy import RulePolicy
from tests.journal.stores import KINDS, factory_of

from .logs import SAMPLE_CHATS, StoppedClock, imported, run_again, stored

pytestmark = pytest.mark.anyio
CLOCK = StoppedClock()


@tool(effect="write")
def pay(amount: int) -> str:
    """Pay somebody."""
    PAID.append(amount)
    return f"paid {amount}"


PAID: list[int] = []


@pytest.fixture(autouse=True)
def nothing_paid() -> None:
    """Forget what earlier tests have paid."""
    PAID.clear()


def payer(journal: Journal, *, ask: bool = True) -> Engine:
    """Return an engine whose model pays 5 when it is asked to, then says so; payments are asked about."""

    def generate(request: ModelRequest) -> ModelReply:
        if request.messages[-1].role == "tool":
            return ModelReply(text=request.messages[-1].text)
        return ModelReply(tool_calls=(ToolCall(id=f"c{len(request.messages)}", name="pay", arguments={"amount": 5}),))

    policy = RulePolicy(["ask pay"] if ask else ["allow pay"])
    limits = Limits(approval_timeout_s=30)
    return Engine(model=FunctionModel(generate), tools=[pay], journal=journal, policy=policy, limits=limits)


async def paid(journal: Journal, *, grant: bool = False) -> list[TransitionRecord]:
    """Return the history of a turn in which a payment was asked for, approved and made."""
    async with payer(journal) as engine:
        session = await engine.open("s")
        asked = await session.ask("pay")
        terms = GrantTerms(pattern="pay", scope="session") if grant else None
        done = await session.answer(asked.pending[0].id, approve=True, grant=terms)
        assert done.text == "paid 5"
    return list(await read_all(journal, "s"))


def place(records: list[TransitionRecord], trigger: str) -> int:
    return next(record.seq for record in records if record.trigger == trigger)


@pytest.mark.parametrize("kind", KINDS)
async def test_m5_forked_anywhere_it_verifies_through_its_parent(kind: str, tmp_path: Path) -> None:
    """A fork at every record of a real history verifies, and stands where the parent stood."""
    source = await imported(*SAMPLE_CHATS[:3])
    records = list(await read_all(source, (await source.sessions())[0].id))
    journal = factory_of(kind, tmp_path)()
    await copy_journal(source, journal)
    for record in records:
        name = await fork(journal, record.session, record.seq, clock=CLOCK, name=f"f{record.seq}")
        history = list(await read_all(journal, name))
        assert history[: record.seq] == records[: record.seq]
        check_session(state_at(history, len(history)))
        assert state_at(history, len(history)).messages() == state_at(records, record.seq).messages()
        assert verify(history).ok
    found = await verify_journal(journal)
    assert all(check.ok for check in found)
    assert {check.session for check in found} >= {f"f{record.seq}" for record in records}
    await journal.aclose()


async def test_m6_fork_goes_on_live_like_its_parent() -> None:
    """A live engine takes a fork over at any record and ends with the parent's messages."""
    chat = SAMPLE_CHATS[0]
    records = await read_all(await imported(chat), (await (await imported(chat)).sessions())[0].id)
    for record in records:
        journal = await stored(records)
        name = await fork(journal, record.session, record.seq, clock=CLOCK)
        assert await run_again(records, journal, name=name) == chat["messages"], f"forked after record {record.seq}"
        assert list(await read_all(journal, record.session)) == list(records)


async def test_fork_is_in_its_own_words_a_new_session() -> None:
    """The fork's first record names its parent and its place; the parent knows nothing of it."""
    journal = MemoryJournal()
    records = await paid(journal)
    name = await fork(journal, "s", 4, clock=CLOCK)
    history = await read_all(journal, name)
    assert history[4].trigger == "session_forked"
    assert (history[4].session, history[4].prev) == (name, records[3].hash)
    assert await journal.origin(name) == Origin("s", 4)
    assert list(await read_all(journal, "s")) == records
    assert state_at(history, 5).state is State.SHUTDOWN


async def test_a_fork_of_what_a_fork_inherited_belongs_to_the_first() -> None:
    """A fork at a record that its parent only shares continues the session that holds the record."""
    journal = await stored(chain("s", 6))
    one = await fork(journal, "s", 4, clock=CLOCK)
    two = await fork(journal, one, 2, clock=CLOCK)
    three = await fork(journal, one, 5, clock=CLOCK)
    assert await journal.origin(two) == Origin("s", 2)  # type: ignore[attr-defined]
    assert await journal.origin(three) == Origin(one, 5)  # type: ignore[attr-defined]
    assert verify(await read_all(journal, three)).ok


async def test_f17_a_question_is_asked_again_in_the_fork_and_answered_there() -> None:
    """A fork at a pending approval waits for it, without the clock of the parent; a yes there runs the call there."""
    journal = MemoryJournal()
    records = await paid(journal)
    name = await fork(journal, "s", place(records, "model_replied"), clock=CLOCK)
    async with payer(journal) as engine:
        session = await engine.open(name)
        [request] = session.pending
        assert request.expires_at is None
        assert (await session.answer(request.id, approve=True)).text == "paid 5"
    assert PAID == [5, 5]
    assert verify(await read_all(journal, name)).ok


async def test_f17_changed_arguments_are_approved_in_the_fork() -> None:
    """The question of the parent can be answered in the fork with other arguments."""
    journal = MemoryJournal()
    records = await paid(journal)
    name = await fork(journal, "s", place(records, "model_replied"), clock=CLOCK)
    async with payer(journal) as engine:
        session = await engine.open(name)
        assert (
            await session.answer(session.pending[0].id, approve=True, arguments={"amount": 2})
        ).outcome is Outcome.COMPLETED
    assert PAID == [5, 2]


async def test_f17_an_approval_is_not_inherited() -> None:
    """A call that was approved in the parent and had not started there is asked about again."""
    journal = MemoryJournal()
    records = await paid(journal)
    answered = place(records, "user_answered")
    assert not any(isinstance(record.event, ToolStarted) for record in records[:answered])
    name = await fork(journal, "s", answered, clock=CLOCK)
    async with payer(journal) as engine:
        session = await engine.open(name)
        assert (await session.result()).outcome is Outcome.WAITING
        assert PAID == [5]
        assert (await session.answer(session.pending[0].id, approve=False)).outcome is Outcome.COMPLETED
    assert PAID == [5]
    check_history(name, [record.line for record in await read_all(journal, name)])


@pytest.mark.parametrize("ask", [True, False], ids=["still asked about", "now allowed"])
async def test_f17_an_approval_is_not_inherited_whatever_the_policy(ask: bool) -> None:
    """What the parent was allowed is not what the fork may do, also where the policy would let new calls through."""
    journal = MemoryJournal()
    records = await paid(journal)
    name = await fork(journal, "s", place(records, "user_answered"), clock=CLOCK)
    async with payer(journal, ask=ask) as engine:
        session = await engine.open(name)
        assert (await session.result()).outcome is Outcome.WAITING
    assert PAID == [5]


async def test_f17_a_grant_is_not_inherited() -> None:
    """Leave that was given for the parent's session admits nothing in the fork; the parent keeps it."""
    journal = MemoryJournal()
    records = await paid(journal, grant=True)
    name = await fork(journal, "s", len(records), clock=CLOCK)
    async with payer(journal) as engine:
        session = await engine.open(name)
        assert session.grants == ()
        assert (await session.ask("again")).outcome is Outcome.WAITING
        parent = await engine.open("s")
        assert (await parent.ask("again")).text == "paid 5"
    assert PAID == [5, 5]


async def test_f2_a_write_that_had_started_in_the_parent_is_in_doubt_in_the_fork() -> None:
    """A fork between the intent of a write and its end does not run it: somebody is asked what happened."""
    journal = MemoryJournal()
    records = await paid(journal)
    name = await fork(journal, "s", place(records, "tool_started"), clock=CLOCK)
    async with payer(journal) as engine:
        session = await engine.open(name)
        result = await session.result()
        assert [request.kind for request in result.pending] == ["outcome"]
    assert PAID == [5]


async def test_fork_keeps_its_idempotency_keys() -> None:
    """A call that both run has one key in both, so that a service can tell that it is one."""
    journal = MemoryJournal()
    records = await paid(journal)
    name = await fork(journal, "s", place(records, "model_replied"), clock=CLOCK)
    history = await read_all(journal, name)
    turn = state_at(history, len(history)).turn
    assert turn is not None
    assert [call.key.partition(":")[0] for call in turn.calls] == ["s"]


@pytest.mark.parametrize("kind", KINDS)
async def test_copy_keeps_what_forks_share(kind: str, tmp_path: Path) -> None:
    """Forks, and forks of forks, are copied after their parents, whatever they are called, and shared there too."""
    source = await stored(chain("m", 9))
    await fork(source, "m", 5, clock=CLOCK, name="a")
    await fork(source, "a", 6, clock=CLOCK, name="z")
    await fork(source, "z", 2, clock=CLOCK, name="b")
    target = factory_of(kind, tmp_path)()
    assert await copy_journal(source, target) == CopyReport(4, 12, 0)
    assert await copy_journal(source, target) == CopyReport(4, 0, 12)
    for info in await source.sessions():
        assert list(await read_all(target, info.id)) == list(await read_all(source, info.id))
    assert all(found.ok for found in await verify_journal(target))
    await target.aclose()


async def test_copy_into_a_journal_that_shares_nothing_is_refused() -> None:
    """Where a fork cannot be shared, the copy says so and names both sessions."""
    source = await stored(chain("m", 4))
    await fork(source, "m", 2, clock=CLOCK, name="z")
    with pytest.raises(UsageError, match="'z' shares records of 'm'"):
        await copy_journal(source, YieldingJournal(MemoryJournal()))


async def test_fork_can_be_exported_and_judged() -> None:
    """A fork is a history like any other for those who read it."""
    journal = MemoryJournal()
    records = await paid(journal)
    name = await fork(journal, "s", len(records), clock=CLOCK)
    [own, parent] = [chat["messages"] async for chat in export_chats(journal, [name, "s"])]
    assert own == parent
    assert diverge(await read_all(journal, name), payer(MemoryJournal())).ok


BAD: dict[str, tuple[Callable[[Journal], object], type[Exception], str]] = {
    "an unknown session": (lambda journal: fork(journal, "nobody", 1, clock=CLOCK), UnknownSession, "nobody"),
    "a record beyond the end": (lambda journal: fork(journal, "s", 99, clock=CLOCK), ReplayError, "no record 99"),
    "record 0": (lambda journal: fork(journal, "s", 0, clock=CLOCK), ReplayError, "no record 0"),
    "a hostile name": (lambda journal: fork(journal, "s", 1, clock=CLOCK, name="../x"), InvalidId, "x"),
    "a name that is taken": (lambda journal: fork(journal, "s", 1, clock=CLOCK, name="s"), UsageError, "exists"),
    "a journal that cannot share": (
        lambda journal: fork(YieldingJournal(journal), "s", 1, clock=CLOCK), UsageError, "cannot share",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("attempt", "error", "text"), BAD.values(), ids=BAD)
async def test_bad_fork_is_refused(attempt: Callable[[Journal], object], error: type[Exception], text: str) -> None:
    """What cannot be forked is told, and nothing is created."""
    journal = await stored(chain("s", 3))
    with pytest.raises(error, match=text):
        await attempt(journal)  # type: ignore[misc]
    assert [info.id for info in await journal.sessions()] == ["s"]


def test_f8_a_history_that_stops_before_its_own_records_is_not_the_session_s() -> None:
    """Records of a parent alone are not the history of the fork, and no other record may stand in between."""
    records = chain("s", 4)
    own = forked(records[2], "f")
    links = Chain("f")
    for record in records[:3]:
        links.check(record)
    with pytest.raises(JournalCorrupt, match="session 's'"):
        links.finish()
    with pytest.raises(JournalCorrupt, match="session 'f'"):
        links.check(forked(records[2]._replace(session="x"), "f"))
    links.check(own)
    links.finish()


async def test_f8_a_flipped_byte_in_the_shared_part_is_located_from_the_fork(tmp_path: Path) -> None:
    """Damage in the parent's records is found when the fork is verified, at its record."""
    import sqlite3

    journal = SqliteJournal(tmp_path / "r.db")
    writer = await journal.claim("s")
    await writer.append(chain("s", 6, text="hello"))
    await fork(journal, "s", 4, clock=CLOCK, name="f")
    await journal.aclose()
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE records SET line = replace(line, 'hello', 'jello') WHERE session = 's' AND seq = 2")
    connection.close()
    found = {check.session: check for check in await verify_journal(journal)}
    assert [(found[name].ok, found[name].diverged[0].seq) for name in ("f", "s")] == [(False, 2), (False, 2)]
    await journal.aclose()


async def test_prompt_reaches_the_model_with_the_shared_conversation() -> None:
    """What is asked in a fork is asked on top of the parent's conversation up to there."""
    seen: list[int] = []

    def generate(request: ModelRequest) -> ModelReply:
        seen.append(len(request.messages))
        return ModelReply(text="yes")

    async with Engine(model=FunctionModel(generate)) as engine:
        session = await engine.open("s")
        for text in ("one", "two", "three"):
            await session.ask(text)
        records = await read_all(engine.journal, "s")
        second = [record.seq for record in records if record.dest is State.IDLE][2]
        name = await fork(engine.journal, "s", second, clock=CLOCK)
        await (await engine.open(name)).ask(Prompt(text="instead"))
    assert seen == [1, 3, 5, 5]


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_m5_fork_opens_from_a_checkpoint_of_its_own(kind: str, tmp_path: Path) -> None:
    """The parent's checkpoint is not the fork's; the fork leaves its own behind, and opens from that."""
    journal = factory_of(kind, tmp_path)()
    assert isinstance(journal, Checkpointing)
    settings = EngineSettings(checkpoint_records=1)

    def generate(request: ModelRequest) -> ModelReply:
        return ModelReply(text=f"{len(request.messages)}")

    async with Engine(model=FunctionModel(generate), journal=journal, settings=settings) as engine:
        async with await engine.open("s") as parent:
            await parent.ask("one")
            await parent.ask("two")
        assert await journal.get_checkpoint("s") is not None
        await fork(journal, "s", 4, clock=CLOCK, name="f")
        assert await journal.get_checkpoint("f") is None
        async with await engine.open("f") as session:
            assert (await session.ask("three")).text == "3"
        text = await journal.get_checkpoint("f")
        assert text is not None
        history = await read_all(journal, "f")
        assert read_checkpoint(text, "f").session == fold(history)
        assert (await (await engine.open("f")).ask("four")).text == "5"
    assert all(check.ok for check in await verify_journal(journal))
    await journal.aclose()


async def test_v27_fork_that_left_memory_comes_back() -> None:
    """A fork is paged out like any session, and goes on with the conversation that it shares."""
    settings = EngineSettings(sessions_in_memory=1)

    def generate(request: ModelRequest) -> ModelReply:
        return ModelReply(text=f"{len(request.messages)}")

    async with Engine(model=FunctionModel(generate), settings=settings) as engine:
        await (await engine.open("s")).ask("one")
        last = len(await read_all(engine.journal, "s"))
        session = await engine.open(await fork(engine.journal, "s", last, clock=CLOCK))
        await session.ask("two")
        await (await engine.open("another")).ask("something else")
        assert session.paged_out
        assert (await session.ask("three")).text == "5"
        assert verify(await read_all(engine.journal, session.id)).ok
