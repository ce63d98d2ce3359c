"""The log: one line a record whatever is logged, nothing forged, no secret in it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from engine import Engine, ModelReply
from engine.core.redaction import Redactor
from engine.journal import MemoryJournal
from engine.log import hide_in_log, logger
from engine.models import FunctionModel
from engine.testing.records import read_all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return what was logged, each record checked to be one line of printable ASCII as any handler would write it."""
    messages = [logging.Formatter().format(record) for record in caplog.records if record.name == "engine"]
    for message in messages:
        assert message.isascii()
        assert message.isprintable()
    return [json.loads(message) for message in messages]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=st.text(), value=JSON)
def test_f19_a_record_is_one_line_that_parses_back(caplog: pytest.LogCaptureFixture, event: str, value: object) -> None:
    """Whatever text is logged, control characters, marks of direction and line breaks included, stays in its line."""
    caplog.clear()
    caplog.set_level(logging.WARNING, "engine")
    logger.warning(event, value=value)
    assert lines(caplog) == [{"event": event, "value": value, "level": "warning"}]


def test_f19_a_traceback_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception is a member of the line like any other."""
    try:
        raise ValueError('done\n{"event": "all is well"}\x1b[2J\u2028\u202e')
    except ValueError:
        logger.exception("tool failed")
    (line,) = lines(caplog)
    assert line["event"] == "tool failed"
    assert '{"event": "all is well"}' in line["exception"]


class Hostile:
    """Something whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_what_is_no_json_is_logged_in_words(caplog: pytest.LogCaptureFixture) -> None:
    """Objects without a text, keys that are none, and values that contain themselves do not break the log."""
    ring: list[object] = []
    ring.append(ring)
    logger.error("odd", value=Hostile())
    logger.error("odd", value={(1, 2): 3})
    logger.error("odd", value=ring)
    values = [line["value"] for line in lines(caplog)]
    assert values == ["a Hostile whose text cannot be shown (RuntimeError)", "{(1, 2): 3}", "[[...]]"]


class Client:
    """Something whose text shows its key."""

    def __repr__(self) -> str:
        return "<client sesame-open>"


def test_f18_known_secrets_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Texts, data, tracebacks and the texts of objects are cleaned while an engine that knows the secret is open."""
    show = hide_in_log(Redactor({"KEY": "sesame-open"}))
    try:
        raise ValueError("sesame-open")
    except ValueError:
        logger.exception("sesame-open", deep={"a": ["sesame-open"]}, password="x", client=Client())  # noqa: S106
    ring: list[object] = ["sesame-open"]
    ring.append(Client())
    logger.error("odd", value={("sesame-open",): ring})
    assert "sesame-open" not in caplog.text
    assert lines(caplog)[0]["client"] == "<client [redacted:KEY]>"
    assert lines(caplog)[0]["password"] == "[redacted:password]"  # noqa: S105
    show()
    logger.error("sesame-open")
    assert lines(caplog)[-1]["event"] == "sesame-open"


@pytest.mark.anyio
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
async def test_m20_each_step_is_a_line_at_debug_level(caplog: pytest.LogCaptureFixture, level: int) -> None:
    """A host that listens at debug level sees every move that was recorded, and nothing that was said; else nothing."""
    journal = MemoryJournal()
    model = FunctionModel(lambda request: ModelReply(text="a secret answer"))
    with caplog.at_level(level, logger="engine"):
        async with Engine(model=model, journal=journal) as engine:
            await (await engine.open("s")).ask("a secret question")
    steps = [line for line in lines(caplog) if line["event"] == "step"]
    expected = [
        {"event": "step", "session": "s", "level": "debug", "seq": record.seq, "trigger": record.trigger,
         "source": record.source.value, "dest": record.dest.value}
        for record in await read_all(journal, "s")
    ]  # fmt: skip
    assert steps == (expected if level == logging.DEBUG else [])
    assert "secret" not in caplog.text
