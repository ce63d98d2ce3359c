"""Results that are too long: nothing is lost, nothing is cut in two, nothing of other sessions can be read."""

from __future__ import annotations

import json
import re

import anyio
import pytest
from hypothesis import given, strategies as st
from pydantic import JsonValue

from engine.core.budgets import MIN_OUTPUT_BYTES
from engine.core.values import ToolStatus
from engine.errors import JournalUnavailable
from engine.journal.blobs import MemoryBlobs
from engine.ports import Tool, ToolContext, ToolOutput
from engine.tools.function import FunctionTool
from engine.tools.spill import fits, read_tool, shape, spilled

pytestmark = pytest.mark.anyio

PAIR = "\ud83d\ude00"
"""One emoji as the two lone surrogates that a broken decoder makes of it."""

pieces = st.sampled_from(["a", "é", "€", "😀", PAIR, "\ud83d", "\ude00", "\n", "\0", '"', "\u2028"])
texts = st.lists(pieces | st.text(st.characters(), max_size=3), max_size=60).map("".join)
long_texts = texts.filter(bool).map(lambda unit: unit * (4000 // len(unit) + 1))


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def context(session: str = "s", **arguments: JsonValue) -> ToolContext:
    return ToolContext("c1", "read_result", arguments, "k", 5.0, session, 1)


async def read(blobs: MemoryBlobs, session: str = "s", **arguments: JsonValue) -> ToolOutput:
    return await call(read_tool(blobs, 4096), session, **arguments)


async def call(tool: Tool, session: str = "s", **arguments: JsonValue) -> ToolOutput:
    return await tool.run(tool.bind(dict(arguments)), context(session, **arguments))


def handle_in(preview: str) -> str:
    found: list[str] = re.findall(r'handle="([0-9a-f]{64})"', preview)
    return found[-1]


@given(text=texts, limit=st.integers(0, 300))
def test_fits_counts_bytes(text: str, limit: int) -> None:
    """A text fits exactly if its UTF-8 is not longer than the limit."""
    assert fits(text, limit) == (len(encoded(text)) <= limit)


@given(text=long_texts, limit=st.integers(MIN_OUTPUT_BYTES, 1200))
def test_demand20_preview_is_bounded_and_cuts_no_character(text: str, limit: int) -> None:
    """For any text: the preview keeps the limit, is the same every time, begins and ends as the text does, cuts neither
    a character nor a surrogate pair, and names the range that it leaves out.
    """

    async def story() -> None:
        blobs = MemoryBlobs()
        found = (await spilled(text, blobs, "s", limit)).text
        assert found == (await spilled(text, MemoryBlobs(), "s", limit)).text
        assert len(encoded(found)) <= limit
        assert len(encoded(found)) > limit - 40
        match = re.search(
            r"It begins:\]\n(.*)\n\[Bytes (\d+) to (\d+) are left out; read_result\(handle=\"(\w+)\", "
            r"offset=(\d+)\) reads on\. It ends:\]\n(.*)$",
            found,
            re.DOTALL,
        )
        assert match is not None
        head, first, last, _, offset, tail = match.groups()
        assert (int(first), int(last)) == (int(offset), len(encoded(text)) - len(encoded(tail)))
        assert encoded(text).startswith(encoded(head))
        assert len(encoded(head)) == int(first)
        assert text.endswith(tail)
        assert text.startswith(head)
        for place in (len(head), len(text) - len(tail)):
            assert not ("\ud800" <= text[place - 1] < "\udc00" <= text[place] < "\ue000")

    anyio.run(story)


@given(text=long_texts, length=st.integers(16, 3000), first=st.integers(0, 2000))
def test_demand20_reading_on_gives_the_whole_text(text: str, length: int, first: int) -> None:
    """For any text and any place to begin: pieces read one after the other are the text from the character at that
    place on, each within its bounds.
    """

    async def story() -> None:
        blobs = MemoryBlobs()
        handle = handle_in((await spilled(text, blobs, "s", 1100)).text)
        offset: int | None = min(first, len(encoded(text)) - 1)
        begin = None
        got = ""
        tool = read_tool(blobs, 4096)
        while offset is not None:
            output = await call(tool, handle=handle, offset=offset, length=length if begin is None else 10**6)
            assert output.status is ToolStatus.COMPLETED, output.content
            assert len(encoded(output.content)) <= 4096
            caption, _, piece = output.content.partition("\n")
            match = re.fullmatch(r"\[Bytes (\d+) to (\d+) of (\d+)(; offset=(\d+) reads on|, its end)\]", caption)
            assert match is not None, caption
            if begin is None:
                begin = int(match[1])
                assert len(encoded(piece)) <= length + 5
                assert first - 6 < begin <= first or begin == offset
            else:
                assert int(match[1]) == offset
            assert len(encoded(piece)) == int(match[2]) - int(match[1])
            assert int(match[3]) == len(encoded(text))
            got += piece
            offset = int(match[5]) if match[5] else None
        assert begin is not None
        assert encoded(got) == encoded(text)[begin:]

    anyio.run(story)


async def test_f15_another_sessions_result_is_refused() -> None:
    """A handle of another session is refused exactly as one that does not exist."""
    blobs = MemoryBlobs()
    secret = "secret " * 1000
    handle = handle_in((await spilled(secret, blobs, "hers", 2000)).text)
    assert "secret" in (await read(blobs, "hers", handle=handle)).content
    refused = await read(blobs, "mine", handle=handle)
    assert refused.status is ToolStatus.FAILED
    assert "secret" not in refused.content
    unknown = await read(blobs, "mine", handle="0" * 64)
    assert unknown.content.replace("0" * 64, handle) == refused.content


@pytest.mark.parametrize("session", ["her", "hers2", "", "hers ", "x" * 128])
async def test_f15_similar_session_names_are_others(session: str) -> None:
    """A prefix, an extension or anything like the owner's name is not the owner."""
    blobs = MemoryBlobs()
    handle = handle_in((await spilled("secret " * 1000, blobs, "hers", 2000)).text)
    assert (await read(blobs, session, handle=handle)).status is ToolStatus.FAILED


async def test_f15_other_values_of_the_store_are_no_results() -> None:
    """A value that somebody else keeps in the same store cannot be read, however it begins."""
    blobs = MemoryBlobs()
    for data in (b"", b"s 12", b"s 5" + b" " * 100, b"\xff" * 500):
        output = await read(blobs, handle=await blobs.put(data))
        assert output.status is ToolStatus.FAILED
        assert "has no result" in output.content


@pytest.mark.parametrize("handle", ["", "../../etc/passwd", "A" * 64, "a" * 64 + "\n", "a" * 65])
async def test_f15_hostile_handles_do_not_fit(handle: str) -> None:
    """What is no handle is refused before the tool runs, with the reason for the model."""
    with pytest.raises(ValueError, match="handle"):
        await read(MemoryBlobs(), handle=handle)


@pytest.mark.parametrize("arguments", [{"offset": -1}, {"length": 0}, {"length": 2**60}, {"offset": 2**60}])
async def test_ranges_out_of_bounds_do_not_fit(arguments: dict[str, JsonValue]) -> None:
    """Offsets and lengths beyond their bounds are refused before the tool runs."""
    with pytest.raises(ValueError, match=r"offset|length"):
        await read(MemoryBlobs(), "s", handle="0" * 64, **arguments)


async def test_offset_beyond_the_end_says_where_the_end_is() -> None:
    """An offset at or after the end is refused with the size."""
    blobs = MemoryBlobs()
    handle = handle_in((await spilled("x" * 5000, blobs, "s", 2000)).text)
    output = await read(blobs, handle=handle, offset=5000)
    assert (output.status, "5000 bytes" in output.content) == (ToolStatus.FAILED, True)
    assert (await read(blobs, handle=handle, offset=4999)).content.endswith("its end]\nx")


async def test_result_that_cannot_be_kept_is_still_shown() -> None:
    """Where the store refuses, the model gets the preview and is told that the rest is gone; nothing is raised."""

    class Full(MemoryBlobs):
        async def put(self, data: bytes) -> str:
            raise JournalUnavailable("disk full")

    text = "x" * 3000 + "the end"
    found = (await spilled(text, Full(), "s", 2000)).text
    assert "could not be kept" in found
    assert "read_result" not in found
    assert found.endswith("the end")
    assert len(found) <= 2000


async def test_forgotten_result_is_said_to_be_gone() -> None:
    """A result that had to make room is refused in words that name no path and no store."""
    blobs = MemoryBlobs(4000)
    handle = handle_in((await spilled("x" * 3000, blobs, "s", 2000)).text)
    await spilled("y" * 3000, blobs, "s", 2000)
    assert "has no result" in (await read(blobs, handle=handle)).content


async def test_cancelled_caller_still_has_the_result_kept() -> None:
    """A result whose call has ended is kept although its turn is being cancelled."""
    blobs = MemoryBlobs()
    found = None

    class Slow(MemoryBlobs):
        async def put(self, data: bytes) -> str:
            await anyio.lowlevel.checkpoint()
            return await blobs.put(data)

    with anyio.CancelScope() as scope:
        scope.cancel()
        found = (await spilled("x" * 3000, Slow(), "s", 2000)).text
    assert found is not None
    assert (await read(blobs, handle=handle_in(found))).status is ToolStatus.COMPLETED


def test_read_tool_is_an_ordinary_read() -> None:
    """The tool is a function tool with effect read whose schema has bounds and no session."""
    tool = read_tool(MemoryBlobs(), 4096)
    assert isinstance(tool, FunctionTool)
    assert tool.options.effect == "read"
    properties = tool.spec.parameters["properties"]
    assert isinstance(properties, dict)
    assert set(properties) == {"handle", "offset", "length"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", "text of 1 line"),
        ("one\ntwo\n", "text of 3 lines"),
        ("[1, 2, null]", "JSON: array of 3 (null, number)"),
        ("[]", "JSON: array of 0"),
        (
            '{"rows": [{"id": 1, "name": "x"}, {"id": 2}], "total": 2, "ok": true, "note": "abc"}',
            'JSON: object of 4 {"rows": array of 2, the first an object of 2, "total": number, "ok": boolean, '
            '"note": string of 3}',
        ),
        ('[{"id": 1, "tags": [1]}]', 'JSON: array of 1, the first an object of 2 {"id": number, "tags": array of 1}'),
        ('[[1], {"a": {}}]', "JSON: array of 2 (array, object)"),
        ("[1, 2", "text of 1 line"),
        ("[" * 100_000, "text of 1 line"),
        ("[" + "9" * 5000 + "]", "text of 1 line"),
        ("[" + " " * 2**20 + "]", "text of 1 line"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_shapes(text: str, expected: str) -> None:
    """Kinds, keys and lengths of JSON; lines of anything else, of JSON that does not parse or is too large too."""
    found = shape(text)
    if text.startswith('[{"id"'):
        assert found.startswith('JSON: array of 1, the first an object of 2 {"id": number, "tags": array of 1')
    else:
        assert found == expected


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=30,
    )
)
def test_shape_is_short_ascii_on_one_line(value: JsonValue) -> None:
    """Whatever the JSON holds, its shape is bounded, printable ASCII: it forges no line of the preview."""
    found = shape(json.dumps(value))
    assert len(found) <= 320
    assert found.isascii()
    assert found.isprintable()
