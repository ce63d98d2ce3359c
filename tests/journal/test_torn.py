"""F8: what crashes and bad disks leave in a JSONL journal is cut off and reported, or refused; never skipped."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from engine.errors import JournalCorrupt, JournalError, JournalTooNew, NotAJournal
from engine.journal import JsonlJournal
from engine.journal._jsonl_layout import file_name
from engine.journal._jsonl_store import JsonlStore
from engine.journal._orders import Append, Claim, Granted, Order
from engine.journal._thread import Job
from engine.journal.codec import Chain
from engine.journal.jsonl import LockFreeReader
from engine.testing.records import chain, read_all, tail_of

from .stores import path_of, quick_folder

TAILS = {"nothing": b"", "nuls": b"\0" * 40, "garbage": b'\xff{"at":"2026\r"\xc2\x85}', "half": b'{"at":"2026-01-01T00'}
JSONL = ("jsonl-file", "jsonl-folder")


def file_of(kind: str, path: Path) -> Path:
    return path if kind == "jsonl-file" else path / file_name("s")


async def written(kind: str, folder: Path, count: int) -> Path:
    """Write a history and return its file."""
    path = path_of(kind, folder)
    journal = JsonlJournal(path)
    await (await journal.claim("s")).append(chain("s", count))
    await journal.aclose()
    return file_of(kind, path)


async def reopened_and_continued(path: Path) -> tuple[int, int, int]:
    """Claim, append one record, reopen, verify; return sequence at the claim, bytes cut, records at the end."""
    journal = JsonlJournal(path)
    writer = await journal.claim("s")
    await writer.append(chain("s", 1, after=writer.tail, text="after the crash"))
    await journal.aclose()
    stored = await read_all(JsonlJournal(path), "s")
    return writer.tail.seq, writer.tail.cut_bytes, len(stored)


def perform(store: JsonlStore, order: Order) -> Granted:
    """Carry out one order without a thread, so that thousands take a few seconds."""
    job = Job(order)
    store.perform([job])
    if job.error is not None:
        raise job.error
    return job.granted


@pytest.mark.parametrize("kind", JSONL)
@pytest.mark.parametrize("tail", TAILS)
def test_f8_torn_tail_is_cut_at_every_byte(kind: str, tail: str) -> None:
    """A file cut at any byte, whatever follows the cut, keeps every whole line and goes on after it."""
    wrong: list[int] = []
    with quick_folder() as folder:
        path = path_of(kind, folder)
        file = anyio.run(written, kind, folder, 2)
        whole = file.read_bytes()
        for cut in range(len(whole) + 1):
            torn = whole[:cut] + TAILS[tail]
            file.write_bytes(torn)
            kept = whole[: whole[:cut].rfind(b"\n") + 1]
            store = JsonlStore(str(path))
            epoch, owner, found = perform(store, Claim("s", takeover=False))
            (record,) = chain("s", 1, after=found, text="after the crash")
            perform(store, Append("s", epoch, owner, [record]))
            store.close()
            wanted = (kept.count(b"\n"), len(torn) - len(kept), kept + record.line.encode("ascii") + b"\n")
            if (found.seq, found.cut_bytes, file.read_bytes()) != wanted:
                wrong.append(cut)
        assert anyio.run(read_all, JsonlJournal(path), "s")
    assert wrong == []


@pytest.mark.parametrize("kind", JSONL)
def test_f8_bit_flips_are_detected(kind: str) -> None:
    """A flipped bit anywhere makes the claim or the verified reading fail, or shows as bytes that were cut off."""

    def detected(path: Path) -> bool:
        store = JsonlStore(str(path))
        try:
            links = Chain("s")
            for line in LockFreeReader(store.layout).page("s", 0, 512):
                links.decode(line.text, line.offset)
            return perform(store, Claim("s", takeover=False)).tail.cut_bytes > 0
        except JournalCorrupt:
            return True
        finally:
            store.close()

    missed: list[int] = []
    with quick_folder() as folder:
        file = anyio.run(written, kind, folder, 3)
        whole = file.read_bytes()
        for bit in range(0, len(whole) * 8, 7):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            if not detected(path_of(kind, folder)):
                missed.append(bit)
    assert missed == []


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
@pytest.mark.parametrize("damage", [b"garbage\n", b"\0\0\0\n", b"[1]\n", b"{}\n", b"\n", b"\xff\n"])
async def test_f8_damage_before_the_tail_is_refused_with_its_offset(kind: str, damage: bytes, tmp_path: Path) -> None:
    """Damage followed by a record stops claim and reader at its offset; what precedes it can be read."""
    file = await written(kind, tmp_path, 4)
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], damage, *lines[2:]])
    file.write_bytes(damaged)
    journal = JsonlJournal(path_of(kind, tmp_path))
    with pytest.raises(JournalCorrupt) as claimed:
        await journal.claim("s")
    with pytest.raises(JournalCorrupt) as read:
        await read_all(journal, "s")
    readable = await journal.read("s")
    listed = await journal.sessions()
    await journal.aclose()
    offset = len(lines[0] + lines[1])
    assert (claimed.value.offset, read.value.offset, len(readable), listed[0].records) == (offset, offset, 2, 2)
    assert file.read_bytes() == damaged


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
async def test_f8_terminated_garbage_at_the_end_is_damage(kind: str, tmp_path: Path) -> None:
    """A last line that is whole and no record was not left by a crash: it is reported, not cut."""
    file = await written(kind, tmp_path, 2)
    size = file.stat().st_size
    with file.open("ab") as stream:
        stream.write(b"garbage\n")
    journal = JsonlJournal(path_of(kind, tmp_path))
    with pytest.raises(JournalCorrupt) as refused:
        await journal.claim("s")
    await journal.aclose()
    assert refused.value.offset == size


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
async def test_f8_terminated_nuls_at_the_end_are_cut(kind: str, tmp_path: Path) -> None:
    """Lines of NULs at the end are padding that a file system left: they are cut and counted."""
    file = await written(kind, tmp_path, 2)
    with file.open("ab") as stream:
        stream.write(b"\0\0\0\n\0\0\n\0")
    assert await reopened_and_continued(path_of(kind, tmp_path)) == (2, 8, 3)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
async def test_f8_record_out_of_place_is_damage(kind: str, tmp_path: Path) -> None:
    """A line that is a record, but not the next one, is damage at its offset."""
    file = await written(kind, tmp_path, 3)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[2])
    journal = JsonlJournal(path_of(kind, tmp_path))
    with pytest.raises(JournalCorrupt, match="sequence 3") as refused:
        await journal.claim("s")
    await journal.aclose()
    assert refused.value.offset == len(lines[0])


@pytest.mark.anyio
async def test_f8_record_of_another_session_is_damage_in_a_folder(tmp_path: Path) -> None:
    """A session's own file holds no other session's record."""
    file = await written("jsonl-folder", tmp_path, 1)
    with file.open("ab") as stream:
        stream.write(chain("t", 1)[0].line.encode("ascii") + b"\n")
    journal = JsonlJournal(path_of("jsonl-folder", tmp_path))
    with pytest.raises(JournalCorrupt, match="session 't'"):
        await journal.claim("s")
    await journal.aclose()
    assert [info.id for info in await journal.sessions()] == ["s"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
async def test_f8_damaged_last_record_stops_the_claim(kind: str, tmp_path: Path) -> None:
    """A claim checks the hash of the record that it will continue."""
    file = await written(kind, tmp_path, 2)
    whole = file.read_bytes()
    at = whole.rindex(b"hello")
    file.write_bytes(whole[:at] + b"hullo" + whole[at + 5 :])
    journal = JsonlJournal(path_of(kind, tmp_path))
    with pytest.raises(JournalCorrupt, match="hash") as refused:
        await journal.claim("s")
    await journal.aclose()
    assert refused.value.offset == whole.index(b"\n") + 1


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
async def test_f8_tail_torn_by_another_process_is_cut_before_the_next_append(kind: str, tmp_path: Path) -> None:
    """A writer that finds half a line of someone who died since cuts it off, so its own record is not lost with it."""
    path = path_of(kind, tmp_path)
    journal = JsonlJournal(path)
    writer = await journal.claim("s")
    records = chain("s", 3)
    await writer.append(records[:2])
    with file_of(kind, path).open("ab") as stream:
        stream.write(b'{"at":"half a rec')
    await writer.append(records[2:])
    await journal.aclose()
    assert list(await read_all(JsonlJournal(path), "s")) == records


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
async def test_f8_reader_ignores_half_a_line_until_it_is_whole(kind: str, tmp_path: Path) -> None:
    """A reader neither shows nor skips a line that is being written, and shows it once it ends."""
    file = await written(kind, tmp_path, 2)
    reader = JsonlJournal(path_of(kind, tmp_path))
    line = chain("s", 3)[2].line.encode("ascii") + b"\n"
    seen: list[int] = []
    for part in (b"", line[:50], line[50:]):
        with file.open("ab") as stream:
            stream.write(part)
        seen.append(len(await reader.read("s")))
    assert seen == [2, 2, 3]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JSONL)
async def test_f8_reader_follows_a_file_that_was_cut_and_grew_again(kind: str, tmp_path: Path) -> None:
    """A reader that saw lines which a failed append took back shows what stands there now."""
    file = await written(kind, tmp_path, 2)
    whole = file.read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    reader = JsonlJournal(path_of(kind, tmp_path))
    assert len(await reader.read("s")) == 2
    tail = tail_of(chain("s", 1))
    other = b"".join(
        record.line.encode("ascii") + b"\n" for record in chain("s", 3, after=tail, text="longer than it was before")
    )
    file.write_bytes(first + other)
    seen = [len(await reader.read("s"))]
    file.write_bytes(first)
    seen.append(len(await reader.read("s")))
    assert seen == [4, 1]


@pytest.mark.anyio
async def test_records_of_a_newer_release_are_named_as_such(tmp_path: Path) -> None:
    """A line with a greater record version is no damage: the reader says that an upgrade is needed."""
    from hashlib import sha256

    file = await written("jsonl-file", tmp_path, 1)
    line = file.read_text("ascii").rstrip("\n")
    at = line.rindex('"hash":"')
    bare = (line[:at] + line[at + 74 :]).replace('"v":1}', '"v":2,"what":"is new"}')
    digest = sha256(bare.encode("ascii")).hexdigest()
    file.write_text(bare[:at] + f'"hash":"{digest}",' + bare[at:] + "\n", "ascii")
    journal = JsonlJournal(file)
    with pytest.raises(JournalTooNew):
        await journal.claim("s")
    with pytest.raises(JournalTooNew):
        await read_all(journal, "s")
    await journal.aclose()
    assert [info.id for info in await journal.sessions()] == ["s"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"hello",
        b'{"id": 1, "messages": []}\n',
        b'{"id": 1}',
        b"\x7fELF\0\0\0\n\n",
        b"SQLite format 3\0",
        b"{\n",
    ],
)
async def test_another_programs_file_is_not_touched(content: bytes, tmp_path: Path) -> None:
    """A file that never was a journal is refused, and stays byte for byte, with nothing beside it."""
    file = tmp_path / "chat.jsonl"
    file.write_bytes(content)
    journal = JsonlJournal(file)
    refused: list[type[JournalError]] = []
    for attempt in (journal.claim("s"), journal.read("s"), journal.sessions()):
        with pytest.raises(NotAJournal) as caught:
            await attempt
        refused.append(caught.type)
    await journal.aclose()
    assert refused == [NotAJournal] * 3
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (content, [file])


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"", b'{"at":"2026', b"\0\0\0\0"])
async def test_first_line_that_never_ended_is_a_torn_tail(content: bytes, tmp_path: Path) -> None:
    """A file that holds nothing but the beginning of a first record is a journal whose first append was cut."""
    file = tmp_path / "runs.jsonl"
    file.write_bytes(content)
    assert await reopened_and_continued(file) == (0, len(content), 1)
