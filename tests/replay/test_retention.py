"""What is redacted or pruned is gone, is on record, and the history verifies as before."""

from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from engine import Engine, ModelReply, Prompt, State, ToolCall, tool
from engine.core.events import RecordsRewritten, RewrittenRecord, SessionOpened, ToolFinished, UserAnswered
from engine.core.grants import GrantTerms
from engine.core.session import Session
from engine.core.values import JsonObject
from engine.errors import (
    HistoryShared,
    JournalCorrupt,
    JournalUnavailable,
    ReplayError,
    SessionBusy,
    StaleWriter,
    UsageError,
)
from engine.journal import MemoryJournal, SqliteJournal
from engine.journal.blobs import blobs_beside
from engine.journal.canonical import canonical
from engine.journal.codec import Chain, decode, rewrite, seal
from engine.journal.forking import Forking
from engine.journal.keeping import Checkpointing, Rewriting
from engine.models import FunctionModel
from engine.ports import Journal, ModelRequest, Writer
from engine.replay import (
    Account,
    Timeline,
    copy_journal,
    fold,
    fork,
    prune,
    read_history,
    redact,
    verify,
    verify_journal,
)
from engine.runtime.clock import SystemClock
from engine.runtime.parts import EngineSettings
from engine.testing.forking import forked
from engine.testing.recording import Recording
from engine.testing.records import read_all
from engine.testing.strategies import recordings
from engine.tools.spill import kept_form
from tests.core.scenarios import ASK, ASKED, RUN, SESSIONS, ended, prompt, reply, says
from tests.journal.children import start
from tests.journal.stores import DURABLE, KINDS, factory_of

PHONE = "+49 170 555-01-99"
CLOCK = SystemClock()
ACCOUNT = Account(CLOCK, "asked to be forgotten", "support")


async def store(journal: Journal, recording: Recording) -> None:
    writer = await journal.claim(recording.session.id)
    await writer.append(recording.records)
    await writer.release()


def spoken(times: int = 3) -> Recording:
    """Return a session of so many turns in which a number is said and handed to a tool."""
    events = [SESSIONS["idle"][0]]
    for _ in range(times):
        events += [prompt(f'call "{PHONE}"'), *ASKED[2:], reply(RUN), ended(1), *ASKED[2:], says(f"I called {PHONE}.")]
    return Recording().play(events)


def texts(session: Session) -> str:
    return json.dumps([message.text for message in session.messages()])


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# --- redaction --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_redacted_history_verifies_and_says_what_was_done(kind: str, tmp_path: Path) -> None:
    """The value is gone, the chain holds up to the same hashes, and the last record names each that was changed."""
    make = factory_of(kind, tmp_path)
    before = spoken()
    await store(make(), before)
    done = await redact(make(), "s", PHONE, ACCOUNT)
    after = await read_all(make(), "s")
    assert [record.hash for record in after[:-1]] == [record.hash for record in before.records]
    assert (done.rewritten, done.declared, done.left) == ((2, 7, 8, 13, 14, 19), len(after), ())
    assert verify(after).ok
    assert [finding.seq for finding in verify(after).rewritten] == [2, 7, 8, 13, 14, 19]
    assert PHONE[-6:] not in "".join(record.line for record in after)
    assert texts(fold(after)).count("[redacted:value]") == 6


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_redacted_value_is_in_no_file(kind: str, tmp_path: Path) -> None:
    """Not in the records, not in the log of writes beside them, not in a checkpoint, not in what was deleted."""
    make = factory_of(kind, tmp_path)
    settings = EngineSettings(checkpoint_records=1)
    async with Engine(model=FunctionModel(_repeat), journal=make(), settings=settings) as engine:
        await (await engine.open("s")).ask(f"call {PHONE}")
    journal = make()
    assert isinstance(journal, Checkpointing)
    assert PHONE in (await journal.get_checkpoint("s") or "")
    assert PHONE.encode() in bytes_in(tmp_path)
    await redact(journal, "s", PHONE, ACCOUNT)
    assert PHONE.encode() not in bytes_in(tmp_path)
    await journal.aclose()
    assert PHONE.encode() not in bytes_in(tmp_path)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_redaction_reaches_what_is_kept_beside_the_journal(kind: str, tmp_path: Path) -> None:
    """A long result is kept without the value, under another name that the records have; a preview that cut the value
    in two shows no half of it; results of other sessions stay.
    """
    limit = 1100
    numbers = " ".join(f"{number:04}" for number in range(2000))
    journal = factory_of(kind, tmp_path)()

    @tool(effect="read", max_output_bytes=limit)
    def look_up(secret: bool) -> str:
        """Look it up."""
        return f"{'.' * 550}{PHONE * 12} {numbers} {PHONE}" if secret else numbers

    def generate(request: ModelRequest) -> ModelReply:
        if request.messages[-1].role == "tool":
            return ModelReply(text="It was long.")
        asked: JsonObject = {"secret": request.messages[-1].text == "secret"}
        return ModelReply(tool_calls=[ToolCall(id="c1", name="look_up", arguments=asked)])

    async with Engine(model=FunctionModel(generate), tools=[look_up], journal=journal) as engine:
        for name, text in (("s", "secret"), ("s", "other"), ("t", "secret")):
            await (await engine.open(name)).ask(text)
    blobs = blobs_beside(journal)
    names = await blobs.names()
    assert len(names) == 3
    done = await redact(journal, "s", PHONE, ACCOUNT)
    assert (len(done.rewritten), done.left) == (1, ())
    kept = [(await blobs.get(name)).decode() for name in await blobs.names()]
    assert sorted(text.split()[0] for text in kept if PHONE in text) == ["t"]
    ends = [record.event for record in await read_all(journal, "s") if isinstance(record.event, ToolFinished)]
    assert "+49" not in ends[0].content
    assert ends[0].blob is not None
    assert ends[0].blob in ends[0].content
    assert "[redacted:value]" in (await blobs.get(ends[0].blob)).decode()
    assert all(check.ok for check in await verify_journal(journal))
    await redact(journal, "t", PHONE, ACCOUNT)
    assert len(await blobs.names()) == 3
    if kind != "memory":
        assert PHONE.encode() not in bytes_in(tmp_path)
    assert (await redact(journal, "t", PHONE, ACCOUNT)).declared is None
    await journal.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_result_that_a_cut_redaction_left_is_found_again(kind: str, tmp_path: Path) -> None:
    """A kept result that no record names any more is found by the next redaction, which finishes the one before."""
    journal = factory_of(kind, tmp_path)()
    await store(journal, spoken(1))
    blobs = blobs_beside(journal)
    await blobs.put(kept_form("s", f"left behind: {PHONE}"))
    await blobs.put(b"no result of any session")
    await redact(journal, "s", PHONE, ACCOUNT)
    assert PHONE not in "".join([(await blobs.get(name)).decode() for name in await blobs.names()])
    await journal.aclose()


async def _repeat(request: object) -> ModelReply:
    return ModelReply(text=f"I call {PHONE}.")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_session_goes_on_after_redaction_and_pruning(kind: str, tmp_path: Path) -> None:
    """An engine opens what is left, asks, and the whole verifies where it is stored."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken())
    await redact(make(), "s", PHONE, ACCOUNT)
    await prune(make(), "s", 13, ACCOUNT)
    async with Engine(model=FunctionModel(_repeat), journal=make()) as engine:
        session = await engine.open("s")
        assert (await session.ask(Prompt(text="again"))).turn == 4
    [check] = await verify_journal(make())
    assert (check.ok, check.state) == (True, State.IDLE)


@pytest.mark.anyio
async def test_value_that_a_record_needs_is_not_taken_out() -> None:
    """Where a record needs the value, nothing is changed, and the text says which record it is."""
    journal = MemoryJournal()
    grant = GrantTerms(pattern="pay", expires_at="2027-01-01T00:00:00.000000Z")
    given = UserAnswered(request_id="s:4:0:approval", approve=True, grant=grant)
    recording = Recording().play([*ASKED, reply(ASK), given])
    await store(journal, recording)
    with pytest.raises(UsageError, match=r"record 5, .* nothing was changed"):
        await redact(journal, "s", "2027-01-01T00:00:00.000000Z", ACCOUNT)
    assert [record.line for record in await read_all(journal, "s")] == recording.lines


@pytest.mark.anyio
async def test_value_that_is_nowhere_changes_nothing() -> None:
    """What does not occur is not declared."""
    journal = MemoryJournal()
    recording = spoken(1)
    await store(journal, recording)
    done = await redact(journal, "s", "not in there", ACCOUNT)
    assert (done.rewritten, done.declared) == ((), None)
    assert [record.line for record in await read_all(journal, "s")] == recording.lines


@pytest.mark.anyio
async def test_value_in_an_id_is_left_and_told_of() -> None:
    """The host's own name of a session stays, for it is found by that; the report names the records it stands in."""
    journal = MemoryJournal()
    opened = SessionOpened(external_id="customer-4711")
    await store(journal, Recording().play([opened, prompt("I am customer-4711.")]))
    done = await redact(journal, "s", "customer-4711", ACCOUNT)
    assert (done.rewritten, done.left) == ((2,), (1,))


@pytest.mark.anyio
async def test_redacting_twice_takes_both_out() -> None:
    """A record can be redacted again; the later declaration counts."""
    journal = MemoryJournal()
    await store(journal, Recording().play([*SESSIONS["idle"], prompt("first-secret second-secret")]))
    await redact(journal, "s", "first-secret", ACCOUNT)
    await redact(journal, "s", "second-secret", ACCOUNT)
    check = verify(await read_all(journal, "s"))
    assert (check.ok, check.records) == (True, 4)


# --- forgery ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_rewritten_record_that_nobody_declared_is_found() -> None:
    """Whoever rewrites a record without the right to append is found by verification, by folding and by opening."""
    journal = MemoryJournal()
    recording = spoken(1)
    await store(journal, recording)
    victim = recording.records[1]
    event = canonical(victim.event).replace("call", "ruin")
    forged = rewrite(victim, event, victim.trigger, canonical(victim.effects))
    writer = await journal.claim("s")
    assert isinstance(writer, Rewriting)
    await writer.rewrite(1, {2: forged.line})
    await writer.release()
    with pytest.raises(JournalCorrupt, match="no later record says so"):
        await read_all(journal, "s")
    records = [decode(line.text) for line in await journal.read("s")]
    [finding] = verify(records).diverged
    [stored] = await verify_journal(journal)
    assert (finding.seq, stored.ok) == (2, False)
    with pytest.raises(ReplayError, match="no later record says so"):
        fold(records)
    async with Engine(model=FunctionModel(_repeat), journal=journal) as engine:
        with pytest.raises(JournalCorrupt, match="no later record says so"):
            await engine.open("s")


@pytest.mark.anyio
async def test_no_character_of_a_rewritten_record_can_be_another() -> None:
    """A redacted record is as well protected as any: by its digest, and that by the record that declares it."""
    journal = MemoryJournal()
    await store(journal, Recording().play([*SESSIONS["idle"], prompt(PHONE)]))
    await redact(journal, "s", PHONE, ACCOUNT)
    lines = [line.text for line in await journal.read("s")]
    for place in range(len(lines[1])):
        changed = lines[1][:place] + chr(ord(lines[1][place]) ^ 1) + lines[1][place + 1 :]
        with pytest.raises((JournalCorrupt, ReplayError)):
            fold([decode(lines[0]), decode(changed), decode(lines[2])])


@pytest.mark.anyio
async def test_declaration_of_another_content_does_not_count() -> None:
    """The digest of what stands there must be the declared one."""
    journal = MemoryJournal()
    await store(journal, Recording().play([*SESSIONS["idle"], prompt(PHONE)]))
    await redact(journal, "s", PHONE, ACCOUNT)
    records = await read_all(journal, "s")
    other = rewrite(records[1], '{"kind":"prompt_received"}', "prompt_received", '[{"kind":"prepare_context"}]')
    assert verify([records[0], other, records[2]]).diverged[0].seq == 2


# --- pruning ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_pruned_history_leads_to_the_same_session(kind: str, tmp_path: Path) -> None:
    """What is left folds to the same session; the journal counts as before and gives the same pages."""
    make = factory_of(kind, tmp_path)
    recording = spoken()
    await store(make(), recording)
    done = await prune(make(), "s", 15, ACCOUNT)
    journal = make()
    left = [decode(line.text) for line in await journal.read("s")]
    assert (done.dropped, left[0].seq, len(left)) == (12, 13, 8)
    assert fold(left)._replace(seq=0) == recording.session._replace(seq=0)
    assert verify(left).ok
    assert [info.records for info in await journal.sessions()] == [20]
    assert [decode(line.text).seq for line in await journal.read("s", 13, 3)] == [14, 15, 16]
    assert [decode(line.text).seq for line in await journal.read("s", 3, 2)] == [13, 14]


@settings(max_examples=25)
@given(recordings(max_events=25), st.integers(0, 25))
def test_any_history_can_be_pruned_anywhere(recording: Recording, through: int) -> None:
    """Wherever a history is cut, what is left verifies and folds to the same session, timelines included."""

    async def check() -> None:
        journal = MemoryJournal()
        if not recording.records:
            return
        await store(journal, recording)
        await prune(journal, recording.session.id, through, ACCOUNT)
        left = [decode(line.text) for line in await journal.read(recording.session.id)]
        assert verify(left).ok, verify(left)
        assert fold(left)._replace(seq=0) == recording.session._replace(seq=0)
        assert Timeline(left).go(left[-1].seq) == fold(left)

    anyio.run(check)


@pytest.mark.anyio
async def test_forgotten_conversation_is_gone() -> None:
    """A history that is pruned with its conversation begins without one; counts and settings stay."""
    journal = MemoryJournal()
    await store(journal, spoken())
    await prune(journal, "s", 15, ACCOUNT, forget=True)
    left = [decode(line.text) for line in await journal.read("s")]
    begun = Timeline(left).go(13)
    assert (len(begun.messages()), begun.turns, begun.last_turn) == (0, 2, None)
    assert (len(fold(left).messages()), verify(left).ok) == (4, True)


@pytest.mark.anyio
async def test_nothing_to_prune_changes_nothing() -> None:
    """Before the first point without an open turn, nothing can go."""
    journal = MemoryJournal()
    recording = Recording().play(ASKED)
    await store(journal, recording)
    assert (await prune(journal, "s", 0, ACCOUNT)).declared is None
    assert [record.line for record in await read_all(journal, "s")] == recording.lines


@pytest.mark.anyio
async def test_history_is_pruned_again_and_again() -> None:
    """What was pruned before goes with what is pruned later."""
    journal = MemoryJournal()
    await store(journal, spoken())
    await prune(journal, "s", 8, ACCOUNT)
    await prune(journal, "s", 15, ACCOUNT)
    left = [decode(line.text) for line in await journal.read("s")]
    assert (left[0].seq, verify(left).ok) == (13, True)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_pruned_history_can_be_copied(kind: str, tmp_path: Path) -> None:
    """Another journal takes a history that begins later than at 1, and goes on with it."""
    source = MemoryJournal()
    await store(source, spoken())
    await prune(source, "s", 15, ACCOUNT)
    make = factory_of(kind, tmp_path)
    await copy_journal(source, make())
    assert await make().read("s") is not None
    [check] = await verify_journal(make())
    assert (check.ok, check.hash) == (True, (await verify_journal(source))[0].hash)
    writer = await make().claim("s")
    assert writer.tail.seq == 20
    await writer.release()


def test_history_cannot_begin_late_without_saying_so() -> None:
    """A history whose first records are missing is no pruned one."""
    with pytest.raises(JournalCorrupt, match="sequence 2 follows 0"):
        Chain("s").check(spoken(1).records[1])


# --- two writers, crashes, full disks ---------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_open_session_is_not_rewritten(kind: str, tmp_path: Path) -> None:
    """While an engine holds the session it cannot be redacted or pruned."""
    make = factory_of(kind, tmp_path)
    journal = make()
    async with Engine(model=FunctionModel(_repeat), journal=journal) as engine:
        await (await engine.open("s")).ask(PHONE)
        with pytest.raises(SessionBusy):
            await redact(make(), "s", PHONE, ACCOUNT)
    await make().aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_writer_whose_claim_is_over_rewrites_nothing(kind: str, tmp_path: Path) -> None:
    """The epoch guards rewriting as it guards appending."""
    make = factory_of(kind, tmp_path)
    first, second = make(), make()
    await store(first, spoken(1))
    late = await first.claim("s")
    newer = await second.claim("s", takeover=True)
    assert isinstance(late, Rewriting)
    with pytest.raises(StaleWriter):
        await late.rewrite(5, {})
    assert len(await read_all(second, "s")) == 7
    await newer.release()
    await first.aclose()
    await second.aclose()


class Interrupted(MemoryJournal):
    """A journal whose process ends between the declaration and the change, once."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = True

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        return _Interrupted(await super().claim(session, takeover=takeover), self)


class _Interrupted:
    def __init__(self, inner: Writer, journal: Interrupted) -> None:
        self._inner, self._journal = inner, journal
        self.epoch, self.tail = inner.epoch, inner.tail
        self.append, self.release = inner.append, inner.release

    async def rewrite(self, first: int, lines: Mapping[int, str]) -> None:
        if self._journal.broken:
            raise JournalUnavailable("the power is gone")
        assert isinstance(self._inner, Rewriting)
        await self._inner.rewrite(first, lines)


@pytest.mark.anyio
async def test_crash_between_declaration_and_change_loses_nothing() -> None:
    """The history is whole and verifies; doing the same again finishes it."""
    journal = Interrupted()
    recording = spoken()
    await store(journal, recording)
    with pytest.raises(JournalUnavailable):
        await prune(journal, "s", 15, ACCOUNT)
    with pytest.raises(JournalUnavailable):
        await redact(journal, "s", PHONE, ACCOUNT)
    whole = await read_all(journal, "s")
    assert [record.line for record in whole[: len(recording.lines)]] == recording.lines
    assert verify(whole).ok
    journal.broken = False
    await prune(journal, "s", 15, ACCOUNT)
    await redact(journal, "s", PHONE, ACCOUNT)
    left = [decode(line.text) for line in await journal.read("s")]
    assert (left[0].seq, verify(left).ok, PHONE in "".join(r.line for r in left)) == (13, True, False)


@pytest.mark.parametrize("kind", DURABLE)
def test_killed_while_rewriting_the_history_holds(kind: str, tmp_path: Path) -> None:
    """Kill -9 while a process appends, redacts and prunes: what is there verifies, nothing acknowledged is lost."""
    acked = 0
    for kill in range(3):
        child = start("rewrite_for_ever", kind, str(tmp_path))
        assert child.stdout is not None
        for _ in range(2 + 5 * kill):
            child.stdout.readline()
        child.kill()
        rest, _ = child.communicate()
        finished = [int(word) for word in rest[: rest.rfind("\n") + 1].split()]
        acked = finished[-1] if finished else acked

        [found] = anyio.run(verify_journal, factory_of(kind, tmp_path)())
        assert (found.diverged, found.records >= acked) == ((), True)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_full_disk_loses_nothing(kind: str, tmp_path: Path) -> None:
    """Where the disk has no room for the new content, the old one stays whole."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken(40))
    journal = make()
    writer = await journal.claim("s")
    assert isinstance(writer, Rewriting)
    records = await read_all(journal, "s")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(JournalUnavailable):
            await writer.rewrite(1, {record.seq: record.line for record in records})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await journal.aclose()
    assert [record.line for record in await read_all(make(), "s")] == [record.line for record in records]
    assert b'"rewritten":' not in bytes_in(tmp_path)


@pytest.mark.anyio
async def test_journal_that_cannot_rewrite_says_so() -> None:
    """A journal without the capability is told from one with it before anything is recorded."""

    class Plain(MemoryJournal):
        async def claim(self, session: str, *, takeover: bool = False) -> Writer:
            return _Plain(await super().claim(session, takeover=takeover))

    class _Plain:
        def __init__(self, inner: Writer) -> None:
            self.epoch, self.tail, self.append, self.release = inner.epoch, inner.tail, inner.append, inner.release

    journal = Plain()
    recording = Recording().play([*SESSIONS["idle"], prompt(PHONE)])
    await store(journal, recording)
    with pytest.raises(UsageError, match="cannot rewrite"):
        await redact(journal, "s", PHONE, ACCOUNT)
    assert [record.line for record in await read_all(journal, "s")] == recording.lines


# --- histories that share records -------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_records_that_a_fork_shares_are_not_rewritten(kind: str, tmp_path: Path) -> None:
    """Pruning and redacting the shared part is refused and names the forks; what follows it can be redacted."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken(2).play([prompt("late-secret"), *ASKED[2:], says("late-secret")]))
    journal = make()
    for name, last in (("b", 9), ("a", 8)):
        await fork(journal, "s", last, clock=CLOCK, name=name)
    lines = [line.text for line in await journal.read("s")]
    with pytest.raises(HistoryShared, match=r"its forks \(a, b\)") as pruned:
        await prune(journal, "s", 8, ACCOUNT)
    with pytest.raises(HistoryShared):
        await redact(journal, "s", PHONE, ACCOUNT)
    assert pruned.value.forks == ("a", "b")
    assert [line.text for line in await journal.read("s")] == lines
    assert (await redact(journal, "s", "late-secret", ACCOUNT)).rewritten == (14, 16)
    assert all(check.ok for check in await verify_journal(journal))
    await journal.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_journal_itself_refuses_to_rewrite_what_a_fork_shares(kind: str, tmp_path: Path) -> None:
    """A fork that is made while a change is declared is not broken by it: the journal looks again."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken(2))
    journal = make()
    await fork(journal, "s", 8, clock=CLOCK, name="a")
    records = await read_all(journal, "s")
    writer = await journal.claim("s")
    assert isinstance(writer, Rewriting)
    for first, lines in ((7, {}), (1, {8: records[7].line})):
        with pytest.raises(HistoryShared):
            await writer.rewrite(first, lines)
    await writer.rewrite(1, {9: records[8].line})
    assert await read_all(journal, "s") == records
    await writer.release()
    await journal.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_fork_that_a_change_of_its_parent_overtakes_is_refused(kind: str, tmp_path: Path) -> None:
    """A fork that was sealed before its parent was pruned and is made after that is refused: it would not open."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken(2))
    journal = make()
    assert isinstance(journal, Forking)
    shared = (await read_all(journal, "s"))[10]
    await redact(journal, "s", PHONE, ACCOUNT)
    declared = (await prune(journal, "s", 7, ACCOUNT)).declared
    with pytest.raises(ReplayError, match=f"fork after record {declared} or a later one"):
        await journal.fork(forked(shared, "f"))
    assert [info.id for info in await journal.sessions()] == ["s"]
    await journal.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_change_that_was_declared_and_not_made_stops_no_fork(kind: str, tmp_path: Path) -> None:
    """What is declared and never carried out has rewritten nothing: a fork of what was meant verifies."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken(2))
    journal = make()
    records = await read_all(journal, "s")
    one = RewrittenRecord(seq=8, hash=records[7].hash, digest="0" * 64)
    event = RecordsRewritten(action="redacted", records=(one,))
    writer = await journal.claim("s")
    await writer.append([
        seal(
            session="s", seq=len(records) + 1, at=records[-1].at, mono_ns=0, source=records[-1].dest,
            dest=records[-1].dest, event=event, effects=(), prev=records[-1].hash,
        )
    ])  # fmt: skip
    await writer.release()
    await fork(journal, "s", 8, clock=CLOCK, name="f")
    assert all(check.ok for check in await verify_journal(journal))
    await journal.aclose()


@pytest.mark.anyio
async def test_database_of_before_finds_its_declarations(tmp_path: Path) -> None:
    """A file that was written before declarations were indexed refuses the same forks."""
    path = tmp_path / "runs.db"
    await store(SqliteJournal(path), spoken(2))
    journal = SqliteJournal(path)
    await prune(journal, "s", 7, ACCOUNT)
    await journal.aclose()
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX declarations")
    connection.close()
    with pytest.raises(ReplayError, match="is not declared up to there"):
        await fork(journal, "s", 8, clock=CLOCK)
    await journal.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_pruned_fork_stands_by_itself(kind: str, tmp_path: Path) -> None:
    """A fork is not cut inside what it shares; cut at a point of its own it needs no parent, and frees that."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken(2))
    journal = make()
    assert isinstance(journal, Forking)
    await fork(journal, "s", 7, clock=CLOCK, name="f")
    async with Engine(model=FunctionModel(_repeat), journal=journal) as engine:
        for text in ("one", "two"):
            await (await engine.open("f")).ask(text)
    whole = await read_all(journal, "f")
    assert (await prune(journal, "f", 7, ACCOUNT)).declared is None
    with pytest.raises(HistoryShared, match=r"records of session 's' .* its forks \(f\)"):
        await redact(journal, "f", PHONE, ACCOUNT)
    assert [record.line for record in await read_all(journal, "f")] == [record.line for record in whole]

    await prune(journal, "f", 13, ACCOUNT)
    assert await journal.origin("f") is None
    assert await journal.forks("s") == {}
    left = [decode(line.text) for line in await journal.read("f")]
    assert {record.session for record in left} == {"f"}
    assert fold(left)._replace(seq=0) == fold(whole)._replace(seq=0)
    await prune(journal, "s", 7, ACCOUNT)
    for name in ("f", "s"):
        await redact(journal, name, PHONE, ACCOUNT)
        assert PHONE[-6:] not in "".join(line.text for line in await journal.read(name))
    assert all(check.ok for check in await verify_journal(journal))
    async with Engine(model=FunctionModel(_repeat), journal=journal) as engine:
        assert (await (await engine.open("f")).ask("three")).turn == 4
    await journal.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_pruned_history_can_be_forked_where_it_says_so(kind: str, tmp_path: Path) -> None:
    """From the record that declares it on; before that is nothing, or what could not be told from a forgery."""
    make = factory_of(kind, tmp_path)
    await store(make(), spoken())
    journal = make()
    declared = (await prune(journal, "s", 15, ACCOUNT)).declared
    assert declared is not None
    with pytest.raises(ReplayError, match=r"its records count from 13 to its end, those before were pruned"):
        await fork(journal, "s", 12, clock=CLOCK)
    for seq in (13, declared - 1):
        with pytest.raises(ReplayError, match=f"fork after record {declared} or a later one"):
            await fork(journal, "s", seq, clock=CLOCK)
    await fork(journal, "s", declared, clock=CLOCK, name="f")
    assert [decode(line.text).seq for line in await journal.read("f", 3, 2)] == [13, 14]
    async with Engine(model=FunctionModel(_repeat), journal=journal) as engine:
        assert (await (await engine.open("f")).ask("again")).turn == 4
    history = [record async for record in read_history(journal, "f")]
    assert [record.seq for record in history] == list(range(13, history[-1].seq + 1))
    assert verify(history).ok
    assert all(check.ok for check in await verify_journal(journal))

    (tmp_path / "copy").mkdir()
    copy = factory_of(kind, tmp_path / "copy")()
    await copy_journal(journal, copy)
    assert [line.text for line in await copy.read("f")] == [record.line for record in history]
    await copy.aclose()
    await journal.aclose()
