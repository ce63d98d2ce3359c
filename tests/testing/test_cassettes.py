"""The plugin for pytest: recordings are made once, replayed without anything outside, and failed on with a report."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import anyio
import pytest

from engine.journal import JsonlJournal
from engine.replay import verify_journal

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]

SUITE = '''
import anyio
import pytest
from engine import Message, ModelReply, ToolCall, tool
from engine.core.redaction import Redactor
from engine.models import FunctionModel

asked = []

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

def reply(request):
    asked.append("model")
    results = [message.text for message in request.messages if message.role == "tool"]
    if results:
        return ModelReply(text=f"Found: {', '.join(sorted(results))}.")
    calls = [ToolCall(id=f"c{place}", name="look_up", arguments={"order": place}) for place in (1, 2)]
    return ModelReply(tool_calls=calls)

second_is_done = anyio.Event()

@tool(effect="read")
async def look_up(order: int) -> str:
    """Tell where an order is."""
    asked.append("tool")
    if order == 2:
        second_is_done.set()
    await second_is_done.wait()
    return f"{order} is on its way, code 7391-5502"

class Shelf:
    async def provide(self, session, messages):
        asked.append("provider")
        return [Message(role="user", text=f"Note {len(asked)}.")]

SETUP = dict(
    model=FunctionModel(reply), tools=[look_up], providers=[Shelf()], redactor=Redactor({"code": "7391-5502"})
)

@pytest.mark.anyio
async def test_orders(cassette):
    try:
        async with cassette("orders", **SETUP) as session:
            result = await session.ask("Where are my orders?")
            assert result.text.startswith("Found: 1 is on its way")
    finally:
        print("\\nasked:", *sorted(asked))
'''
EVERYTHING = "asked: model model provider tool tool"
RECORDED = "cassettes/orders.jsonl"


def run(pytester: pytest.Pytester, suite: str = SUITE, *options: str) -> pytest.RunResult:
    pytester.makepyfile(test_desk=suite)
    return pytester.runpytest("-p", "engine.testing.cassettes", "-p", "no:cacheprovider", "-s", *options)


@pytest.fixture
def recorded(pytester: pytest.Pytester) -> Path:
    """The recording of the suite."""
    run(pytester, SUITE, "--cassettes=record", "-k", "asyncio").assert_outcomes(passed=1, deselected=1)
    return pytester.path / RECORDED


@pytest.mark.parametrize("mode", ["replay", "record"])
def test_m21_a_recording_answers_for_everything_outside(pytester: pytest.Pytester, recorded: Path, mode: str) -> None:
    """A replay passes on both event loops, whatever order calls end in; no model, tool or provider is asked."""
    before = recorded.read_bytes()
    result = run(pytester, SUITE, f"--cassettes={mode}")
    result.assert_outcomes(passed=2)
    assert [line for line in result.outlines if "asked" in line] == ["asked:", "asked:"]
    assert recorded.read_bytes() == before


def test_the_first_run_asks_everything(pytester: pytest.Pytester) -> None:
    """A recording that is missing is made with the real model, tools and providers."""
    result = run(pytester, SUITE, "--cassettes=record", "-k", "trio")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines([EVERYTHING])


def test_without_a_recording_nothing_is_performed(pytester: pytest.Pytester) -> None:
    """A replay of what was never recorded fails, and says how to record it."""
    result = run(pytester)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["asked:", "*no recording*orders.jsonl: make it with pytest --cassettes=record"])


def test_a_recording_is_a_journal_that_verifies(recorded: Path) -> None:
    """It can be inspected and replayed like any other history."""

    async def check() -> None:
        journal = JsonlJournal(recorded)
        [verified] = await verify_journal(journal)
        assert (verified.session, verified.ok) == ("orders", True)
        await journal.aclose()

    anyio.run(check)


def test_secrets_are_not_recorded(recorded: Path) -> None:
    """A value that the redactor knows is nowhere in the recording, its name is."""
    text = recorded.read_text(encoding="utf-8")
    assert "7391-5502" not in text
    assert "[redacted:code]" in text


def test_named_fields_are_secret_without_a_redactor(pytester: pytest.Pytester) -> None:
    """A session that was given no redactor is recorded without what usual names of fields hold."""
    suite = SUITE.replace(', redactor=Redactor({"code": "7391-5502"})', "")
    suite = suite.replace('f"{order} is on its way, code 7391-5502"', """'{"password": "7391-5502"}'""")
    suite = suite.replace("""f"Found: {', '.join(sorted(results))}.\"""", '"Found: 1 is on its way"')
    run(pytester, suite, "--cassettes=record", "-k", "asyncio").assert_outcomes(passed=1, deselected=1)
    assert "7391" not in (pytester.path / RECORDED).read_text(encoding="utf-8")


def test_what_comes_out_otherwise_is_reported(pytester: pytest.Pytester, recorded: Path) -> None:
    """Another prompt fails with the first difference and the counts; the recording stays as it is."""
    before = recorded.read_bytes()
    suite = SUITE.replace("Where are my orders?", "Where is it?").replace("assert result", "result")
    result = run(pytester, suite.replace(".text.startswith", ".text and str"))
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([
        "*came out otherwise than it was recorded in *orders.jsonl",
        "changed: 2 prompt_received*Where are my orders?* | 2 prompt_received*Where is it?*",
        "*the same, 1 changed, *",
        "*--cassettes=update",
    ])  # fmt: skip
    assert recorded.read_bytes() == before


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("order: int) -> str:", "order: int, shop: str) -> str:", "argument: the call look_up: recorded run, now ref*"),
        ('effect="read"', 'effect="write"', "order: *look_up*"),
        ("SETUP = dict(", "from engine import Limits\nSETUP = dict(limits=Limits(max_tool_calls=1),", "budget: *"),
    ],
    ids=["schema", "effect", "limit"],
)
def test_what_is_decided_otherwise_is_told_first(
    pytester: pytest.Pytester, recorded: Path, was: str, now: str, told: str
) -> None:
    """The divergence report names the cause, also beside an assertion of the test's own that it explains."""
    result = run(pytester, SUITE.replace(was, now))
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"*orders:4: {told}", "*the recording | this test"])


def test_a_turn_that_is_not_asked_for_any_more_is_missed(pytester: pytest.Pytester, recorded: Path) -> None:
    """A test that does less than was recorded fails."""
    less = SUITE.replace('result = await session.ask("Where are my orders?")', "return await session.cancel()")
    result = run(pytester, less)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["only_left: 2 prompt_received*"])


def test_update_records_anew(pytester: pytest.Pytester, recorded: Path) -> None:
    """The recording is replaced by what comes out today, and holds from then on."""
    suite = SUITE.replace("Where are my orders?", "Where is it?")
    run(pytester, suite, "--cassettes=update", "-k", "asyncio").assert_outcomes(passed=1, deselected=1)
    assert b"Where is it?" in recorded.read_bytes()
    run(pytester, suite).assert_outcomes(passed=2)


def test_a_failed_test_records_nothing(pytester: pytest.Pytester) -> None:
    """What a test did not accept is not kept, nor is anything half written."""
    run(pytester, SUITE.replace("Found: 1", "Lost: 1"), "--cassettes=record").assert_outcomes(failed=2)
    assert not (pytester.path / "cassettes").exists()


def test_what_cannot_be_repeated_is_not_kept(pytester: pytest.Pytester) -> None:
    """A model that failed in between would not fail again in a replay."""
    flaky = SUITE.replace(
        '    asked.append("model")\n',
        '    asked.append("model")\n    if len(asked) == 2:\n        raise ModelError("busy", retryable=True)\n',
    ).replace("import pytest\n", "import pytest\nfrom engine.errors import ModelError\n", 1)
    result = run(pytester, flaky, "--cassettes=record", "-k", "asyncio")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["nothing was kept: record 4 is faulted*"])
    assert not (pytester.path / RECORDED).exists()


def test_a_damaged_recording_is_refused(pytester: pytest.Pytester, recorded: Path) -> None:
    """A recording that somebody edited is no recording; the error says what to do."""
    recorded.write_text(recorded.read_text(encoding="utf-8").replace("on its way", "lost"), encoding="utf-8")
    result = run(pytester)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*JournalCorrupt*", "*line of *orders.jsonl; make the recording anew *=update"])


def test_a_recording_is_named_after_its_test(pytester: pytest.Pytester) -> None:
    """Without a name each test, and each of its parameters, has a recording of its own."""
    run(pytester, SUITE.replace('"orders", ', ""), "--cassettes=record", "-k", "trio")
    assert [path.name for path in (pytester.path / "cassettes").iterdir()] == ["test_orders-trio.jsonl"]


def test_pytest_finds_the_plugin() -> None:
    """The entry point names the module, by the name that `-p` gives it: it is never loaded twice."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    points = config["options.entry_points"]["pytest11"].split("\n")
    assert points == ["", "engine.testing.cassettes = engine.testing.cassettes"]
