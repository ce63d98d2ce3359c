"""The page in a real browser: silent, inert, equal to the core, usable by keyboard, readable in light and dark."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from engine import Message, TransitionRecord
from engine.core.events import KnownEvent, PromptReceived, SessionOpened
from engine.inspect import exports, inspect_page
from engine.inspect.assembling import PACKED_FROM_CHARS
from engine.inspect.filtering import filtered
from engine.inspect.viewing import view
from engine.journal.canonical import canonical
from engine.replay import states
from engine.testing.recording import Recording
from tests.cli.commands import LIMIT_S, environment, start_of

from .browser import Opened, chromium, npm_package
from .pages import example, nasty

AIRLINE = Path(__file__).resolve().parents[3] / "shared" / "data" / "airline-conversations.jsonl"
SPEEDSCOPE = "speedscope@1.25.0"
MERMAID = "mermaid@11.17.2"

Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests here. Of this module only: while it is there, an event loop counts as running."""
    with chromium() as started:
        yield started


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open the page of a history as a file, and close it at the end."""
    opened: list[Opened] = []

    def show(records: list[TransitionRecord], fragment: str = "", scheme: str = "light") -> Opened:
        file = tmp_path / "run.html"
        file.write_text(inspect_page(records, "runs.db"), encoding="utf-8")
        opened.append(Opened(browser, file.as_uri() + fragment, scheme))
        return opened[-1]

    yield show
    for one in opened:
        one.page.close()


def large() -> list[TransitionRecord]:
    """Return a history of few records that is large enough to be packed."""
    text = "".join(f"{number} bottles, " for number in range(PACKED_FROM_CHARS // 10))
    events: list[KnownEvent] = [SessionOpened(), PromptReceived(messages=(Message(role="user", text=text),))]
    return Recording("large").play(events).records


def as_json(value: object) -> Any:
    return json.loads(json.dumps(value))


# --- alone and inert --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [example, nasty, large])
def test_page_asks_for_nothing_but_itself(show: Open, history: Callable[[], list[TransitionRecord]]) -> None:
    """In every view and tab there is no error, no word in the console, and no request but the page."""
    opened = show(history())
    for name in ("states", "usage", "predictions", "history"):
        opened.page.click(f"#show-{name}")
    for name in ("state", "changes", "test", "record"):
        opened.page.click(f"#tab-{name}")
    assert opened.requests == [opened.page.url.partition("#")[0]]
    assert opened.complaints == []


def test_script_in_tool_output_stays_text(show: Open) -> None:
    """What a tool wrote is shown letter by letter: nothing of it runs, and nothing of it becomes an element."""
    records = nasty()
    opened = show(records)
    before = opened.run("() => document.querySelectorAll('script').length")
    for record in records:
        opened.run("(seq) => { location.hash = `#seq=${seq}`; }", record.seq)
        for name in ("state", "changes", "test", "record"):
            opened.page.click(f"#tab-{name}")
    opened.page.click("#show-usage")
    assert before == 3
    assert opened.run("() => [window.pwned, document.querySelectorAll('img, b, script').length]") == [None, 3]
    assert opened.complaints == []
    assert "</script><script>window.pwned = 1</script>" in opened.run(
        "() => document.querySelector('#usage').textContent"
    )


def test_policy_of_the_page_stops_a_script_that_got_in(show: Open) -> None:
    """Even an element that somebody manages to plant neither runs nor reaches the network."""
    opened = show(example())
    opened.run(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.pwned = 1";
            document.body.append(script);
            const image = new Image();
            image.src = "https://example.invalid/x.png";
            document.body.append(image);
        }"""
    )
    assert opened.run("() => window.pwned") is None
    assert all("Content Security Policy" in complaint for complaint in opened.complaints)
    assert len(opened.complaints) == 2


# --- equal to the core ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [example, nasty, large])
def test_state_of_every_record_is_that_of_the_core(show: Open, history: Callable[[], list[TransitionRecord]]) -> None:
    """The page's state and conversation at each record are those of `state_at`, read in any order."""
    records = history()
    opened = show(records)
    found = opened.run(
        "(last) => Array.from({length: last}, (_, i) => inspector.stateAt(last - i)).reverse()", len(records)
    )
    sessions = list(states(records))
    assert found == [as_json(view(session)) for session in sessions]
    told = opened.run("(last) => inspector.messagesAt(last)", len(records))
    assert told == [json.loads(canonical(message)) for message in sessions[-1].transcript]


@pytest.mark.parametrize("history", [example, nasty])
def test_changes_of_every_record_are_the_difference_of_its_states(
    show: Open, history: Callable[[], list[TransitionRecord]]
) -> None:
    """What the tab shows as removed and added is exactly what differs between the states before and after."""
    records = history()
    opened = show(records)
    opened.page.click("#tab-changes")
    before: Any = {"id": records[0].session, "seq": 0, "state": "idle", "transcript": 0}
    for record, session in zip(records, states(records), strict=True):
        after = as_json(view(session))
        opened.run("(seq) => { location.hash = `#seq=${seq}`; }", record.seq)
        shown = opened.run(
            """() => [...document.querySelectorAll("#panel .change")].map((one) => [one.dataset.path,
                ...[".before pre", ".after pre"].map((part) => one.querySelector(part)?.textContent ?? null)])"""
        )
        found = {path: [None if text is None else json.loads(text) for text in sides] for path, *sides in shown}
        assert found == dict(differences(before, after))
        before = after


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield where two JSON values differ, the sequence aside, as deep as both are of one kind."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key), after.get(key), f"{path}/{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            one, other = (side[index] if index < len(side) else None for side in (before, after))
            yield from differences(one, other, f"{path}/{index}")
    elif before != after and path != "seq":
        yield path, [before, after]


@pytest.mark.parametrize("history", [example, nasty])
def test_page_gives_back_the_lines_of_the_journal(show: Open, history: Callable[[], list[TransitionRecord]]) -> None:
    """Every record can be put together again byte for byte: nothing was lost on the way into the page."""
    records = history()
    opened = show(records)
    assert opened.run("(last) => Array.from({length: last}, (_, i) => inspector.line(i + 1))", len(records)) == [
        record.line for record in records
    ]


FILTERS = [
    "", "parcel", "PARCEL", "track -lost", "tool:refund", "tool:Track_Parcel is:problem", "state:idle", "-state:idle",
    "state:executing", "generating", "trigger:model_replied turn:2", "turn:02", "status:timed_out", "is:waits",
    "call:refund-2", '"Ada Lindqvist"', '"wal', "nobody", "kind", "http://x", "Grüße", "你好", "👋🏽", '\\"',
    "</script>", "\x7f", "prepare_context", "tool:", "tool", "~12/reply",
]  # fmt: skip


@pytest.mark.parametrize("history", [example, nasty])
def test_filter_counts_as_python_does(show: Open, history: Callable[[], list[TransitionRecord]]) -> None:
    """For every filter the page leaves the records that the command line leaves."""
    records = history()
    opened = show(records)
    for text in FILTERS:
        wanted = [record.seq for record, _ in filtered(records, text)]
        assert (text, opened.run("(text) => inspector.filter(text)", text)) == (text, wanted)
        says = opened.filter(text)
        whole = len(wanted) == len(records)
        assert says == (f"{len(records)} records" if whole else f"{len(wanted)} of {len(records)} records")


def test_diagram_has_the_counts_of_the_history(show: Open) -> None:
    """Each move of the table is drawn, and those that happened say how often."""
    records = example()
    opened = show(records)
    opened.page.click("#show-states")
    drawn = opened.run(
        """() => Object.fromEntries([...document.querySelectorAll("#diagram [data-move]")]
            .map((one) => [one.dataset.move, Number(one.dataset.count)]))"""
    )
    moves = [(record.source.value, record.dest.value) for record in records if record.source is not record.dest]
    assert {key: count for key, count in drawn.items() if count} == {
        f"{source} {dest}": moves.count((source, dest)) for source, dest in moves
    }
    assert len(drawn) > len(set(moves))


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_keyboard_walks_the_history(show: Open) -> None:
    """Arrows, paging and both ends move; left closes a group, right opens it; the address follows; Enter leads on."""
    opened = show(example())
    page = opened.page
    page.focus("#rows")

    def press(key: str) -> list[str]:
        page.keyboard.press(key)
        found: list[str] = opened.run(
            """() => {
                const active = document.getElementById("rows").getAttribute("aria-activedescendant");
                const row = document.getElementById(active);
                return [row.dataset.seq ?? row.querySelector(".name, .words").textContent, location.hash];
            }"""
        )
        return found

    assert press("Home") == ["1", "#seq=1"]
    assert press("ArrowDown") == ["Turn 1", "#seq=1"]
    assert press("ArrowDown") == ["2", "#seq=2"]
    assert press("ArrowLeft") == ["Turn 1", "#seq=2"]
    assert press("ArrowLeft") == ["Turn 1", "#seq=2"]
    assert press("ArrowDown") == ["Turn 2", "#seq=2"]
    assert press("ArrowUp") == ["Turn 1", "#seq=2"]
    assert press("ArrowRight") == ["Turn 1", "#seq=2"]
    assert press("ArrowRight") == ["2", "#seq=2"]
    assert press("End") == ["33", "#seq=33"]
    assert press("ArrowUp") == ["32", "#seq=32"]
    assert int(press("PageUp")[0]) < 32
    page.keyboard.press("Enter")
    assert opened.run("() => document.activeElement.id") == "tab-record"
    page.keyboard.press("ArrowRight")
    assert opened.run("() => [document.activeElement.id, document.activeElement.ariaSelected]") == ["tab-state", "true"]
    page.keyboard.press("/")
    page.keyboard.type("tool:refund")
    assert opened.text("#matches") == "3 of 33 records"
    page.keyboard.press("Escape")
    assert opened.text("#matches") == "33 records"


def test_link_opens_its_record(show: Open) -> None:
    """An address that ends in #seq=N shows record N, in a group of its own call, and scrolls to it."""
    opened = show(example(), "#seq=16")
    assert opened.text("#detail-title").startswith("16")
    assert opened.run("() => document.querySelector('[aria-selected=true][data-seq]').dataset.seq") == "16"
    opened.run("() => { location.hash = '#seq=4'; }")
    opened.page.wait_for_function("() => document.getElementById('detail-title').textContent.startsWith('4')")


@pytest.mark.parametrize("seq", [1, 13, 16, 27, 33])
def test_copied_test_passes_and_can_fail(show: Open, seq: int) -> None:
    """The text that "copy as test" gives is a test of that state: it holds, and another state makes it fail."""
    opened = show(example(), f"#seq={seq}")
    opened.page.click("#tab-test")
    code = opened.text("#test-code")
    assert "HISTORY" in code
    assert opened.run("(seq) => inspector.testAt(seq)", seq).split() == code.split()
    check_copied(code, seq)
    state = next(record.dest.value for record in example() if record.seq == seq)
    with pytest.raises(AssertionError):
        check_copied(code.replace(f'session.state.value == "{state}"', 'session.state.value == "elsewhere"'), seq)


def test_copied_test_of_odd_texts_is_python(show: Open) -> None:
    """Whatever letters a history is made of, the copied test is Python and holds."""
    opened = show(nasty(), "#seq=6")
    check_copied(opened.run("() => inspector.testAt(6)"), 6, "nasty")


def check_copied(code: str, seq: int, session: str = "order_4711") -> None:
    names: dict[str, Any] = {}
    exec(compile(code, "copied", "exec", dont_inherit=True), names)  # noqa: S102 - that is what it is for
    names[f"test_{session}_at_{seq}"]()


def test_button_copies_the_test(show: Open, browser: Any) -> None:
    """The button puts the test on the clipboard and says so."""
    opened = show(example(), "#seq=5")
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.click("#tab-test")
    opened.page.click("#copy-test")
    # A function: a page that is forbidden to evaluate text can be asked again and again only by one.
    opened.page.wait_for_function("() => document.querySelector('.told').textContent === 'copied'")
    assert opened.run("() => navigator.clipboard.readText()") == opened.run("() => inspector.testAt(5)")


def test_only_rows_on_screen_exist(show: Open) -> None:
    """Of a long history only a screenful of rows is there, wherever one scrolls."""
    from benchmarks.histories import history
    from benchmarks.workload import STANDARD

    records = history("long", 60, STANDARD)
    opened = show(records)
    rows = "() => document.querySelectorAll('#sheet .row').length"
    assert opened.run(rows) < 60
    opened.run("() => { document.getElementById('rows').scrollTop = 1e9; }")
    opened.page.wait_for_selector(f"[data-seq='{len(records)}']")
    assert opened.run(rows) < 60


# --- for everybody ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(show: Open, scheme: str) -> None:
    """Every text of every view has at least the contrast that WCAG 2.2 asks for at level AA: 4.5 to 1."""
    opened = show(example(), "#seq=16", scheme)
    assert opened.run("() => document.documentElement.dataset.theme") == scheme
    for name in ("record", "state", "changes", "test"):
        opened.page.click(f"#tab-{name}")
        assert opened.run(LOW_CONTRAST) == []
    for name in ("states", "usage", "predictions"):
        opened.page.click(f"#show-{name}")
        assert opened.run(LOW_CONTRAST) == []


LOW_CONTRAST = """() => {
    const light = (color) => {
        const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = color.map((part) => linear(part / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = parts(getComputedStyle(at).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color.slice(0, 3);
        }
        return [255, 255, 255];
    };
    const low = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.parentElement;
        if (!node.data.trim() || !element.checkVisibility() || element.closest("script, svg, .skip")) continue;
        const [a, b] = [light(parts(getComputedStyle(element).color).slice(0, 3)), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push([element.tagName + "." + element.className, node.data.slice(0, 30), ratio]);
    }
    return low;
}"""


def test_everything_one_can_operate_has_a_name(show: Open) -> None:
    """Whoever does not see the page is told what each control, list and picture is."""
    opened = show(example(), "#seq=16")
    nameless = opened.run(
        """() => [...document.querySelectorAll("button, input, [tabindex], [role=tree], [role=tablist], section")]
            .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length ||
                one.hasAttribute("aria-labelledby"))).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    tree = opened.run(
        """() => [...document.querySelectorAll("#sheet [role=treeitem]")].map((one) =>
            [one.ariaLevel, one.ariaPosInSet, one.ariaSetSize].every((value) => Number(value) > 0))"""
    )
    assert all(tree)
    assert opened.run("() => document.querySelectorAll('[role=tab][aria-selected=true]').length") == 1


def test_whoever_wants_less_motion_gets_none(show: Open) -> None:
    """Nothing moves by itself where the system asks for reduced motion."""
    opened = show(example())
    opened.page.emulate_media(reduced_motion="reduce")
    assert opened.run(
        """() => [...document.querySelectorAll("*")].filter((one) => {
            const style = getComputedStyle(one);
            return style.transitionDuration !== "0s" || style.animationName !== "none";
        }).length"""
    ) == 0  # fmt: skip


def test_page_prints_every_view(show: Open) -> None:
    """On paper all views follow one another, every row is there, and controls are not."""
    opened = show(example(), "#seq=16")
    opened.page.emulate_media(media="print")
    opened.run("() => window.dispatchEvent(new Event('beforeprint'))")
    seen = "(ids) => ids.map((id) => document.getElementById(id).checkVisibility())"
    assert opened.run(seen, ["view-history", "view-states", "view-usage", "view-predictions"]) == [True] * 4
    assert opened.run(seen, ["theme", "filter", "show-states"]) == [False] * 3
    assert opened.run("() => document.querySelectorAll('#sheet [data-seq]').length") == 33
    assert opened.run("() => getComputedStyle(document.querySelector('#sheet .row')).position") == "static"


# --- real runs, and live ones -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not AIRLINE.exists(), reason="the airline conversations are not in shared/data beside the checkout")
def test_airline_conversations_can_be_looked_at(browser: Any, tmp_path: Path) -> None:
    """Imported conversations of a real agent open without an error, and the page counts what they hold."""
    lines = AIRLINE.read_text(encoding="utf-8").splitlines()[:2]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    journal = str(tmp_path / "airline.db")
    command("import", str(tmp_path / "chats.jsonl"), "--journal", journal)
    for line in lines:
        chat = json.loads(line)
        target = tmp_path / f"{chat['id']}.html"
        command("inspect", journal, chat["id"], "-o", str(target))
        opened = Opened(browser, target.as_uri())
        opened.page.click("#show-usage")
        asked = sum(len(message.get("tool_calls") or ()) for message in chat["messages"])
        assert opened.run("() => inspector.store.calls.length") == asked
        last = opened.run("() => inspector.messagesAt(inspector.store.count).length")
        assert last == len(chat["messages"])
        assert opened.complaints == []
        opened.page.close()


def command(*arguments: str) -> None:
    """Run the real command: while a browser is there, this process cannot run an event loop of its own."""
    subprocess.run(start_of(*arguments), check=True, capture_output=True, env=environment(), timeout=LIMIT_S)


def test_followed_page_grows_while_another_process_writes(browser: Any, tmp_path: Path) -> None:
    """New records appear by themselves, the reader's place is kept, and Ctrl-C ends the server in order."""
    journal = str(tmp_path / "runs.db")
    say = ("run", "note buy milk", "--journal", journal, "--session", "s", "--model", "scripted")
    command(*say)
    serving = subprocess.Popen(
        start_of("inspect", journal, "--follow", "--port", "0"), stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert serving.stdout is not None
    with serving, serving.stdout:
        address = serving.stdout.readline().split(" at ")[1].split()[0]
        opened = Opened(browser, f"{address}#seq=3")
        before = opened.run("() => inspector.store.count")
        command(*say)
        opened.page.wait_for_function("(before) => inspector.store.count >= 2 * before - 1", arg=before)
        opened.page.wait_for_function("() => document.getElementById('matches').textContent.startsWith('15')")
        assert opened.text("#detail-title").startswith("3")
        assert opened.run("(seq) => inspector.stateAt(seq).turns", 2 * before - 1) == 2
        assert {urlsplit(asked).path for asked in opened.requests} == {"/", "/events"}
        assert opened.complaints == []
        opened.page.close()
        serving.send_signal(signal.SIGINT)
        assert serving.wait(LIMIT_S) == 0


# --- other programs ---------------------------------------------------------------------------------------------------


def test_speedscope_takes_the_trace(browser: Any, tmp_path: Path) -> None:
    """Speedscope reads the trace and offers the session and each lane of tools as a profile."""
    release = npm_package(SPEEDSCOPE, tmp_path) / "dist" / "release"
    data = base64.b64encode(json.dumps(exports.trace(example())).encode()).decode()
    file = tmp_path / "profile.js"
    file.write_text(f"speedscope.loadFileFromBase64('run.json', '{data}')", encoding="ascii")
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{(release / 'index.html').as_uri()}#localProfilePath={file}")
    page.wait_for_function("document.body.innerText.includes('(1/4)')")
    text = page.inner_text("body")
    page.close()
    assert "session" in text
    assert errors == []


@pytest.fixture(scope="module")
def mermaid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npm_package(MERMAID, tmp_path_factory.mktemp("mermaid")) / "dist" / "mermaid.min.js"


@pytest.mark.parametrize("history", [example, nasty])
def test_mermaid_draws_the_diagrams(browser: Any, mermaid: Path, history: Callable[[], list[TransitionRecord]]) -> None:
    """Mermaid renders the sequence and the state diagram, and shows texts as they are."""
    page = browser.new_page()
    page.set_content("<body></body>")
    page.add_script_tag(path=mermaid)
    records = history()
    for text in (exports.sequence(records), exports.states(records)):
        drawn = page.evaluate("async (text) => (await mermaid.render('drawn', text)).svg", text)
        assert drawn.startswith("<svg")
        assert "Syntax error" not in drawn
    assert page.evaluate("() => window.pwned") is None
    page.close()
