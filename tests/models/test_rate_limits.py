"""Rate limits with real time, a real server and a real file: what virtual time could hide."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest
from engine.core.values import Outcome
from engine.errors import ModelError
from engine.journal import SqliteJournal
from engine.models.http import HttpModel

from .servers import ScriptedServer, whole


class ShiftedClock:
    """The real clocks; the time of day is moved."""

    def __init__(self, offset_s: float) -> None:
        self.offset_ns = int(offset_s * 1e9)

    def time_ns(self) -> int:
        return time.time_ns() + self.offset_ns

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class RefusesFirst:
    """Refuses the first request for an hour."""

    quota_key = "provider#1"

    def __init__(self) -> None:
        self.sent = 0
        self.answered = anyio.Event()

    async def generate(self, request: ModelRequest, emit: object) -> ModelReply:
        self.sent += 1
        if self.sent == 1:
            raise ModelError("slow down", kind="rate_limit", status=429, retry_after_s=3_600)
        self.answered.set()
        return ModelReply(text="done")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "retries", "requests"), [(429, 3, 4), (429, 0, 1), (503, 2, 3), (500, 1, 2), (401, 3, 1), (404, 3, 1)]
)
async def test_v24_d8_one_retry_layer_in_the_whole_stack(status: int, retries: int, requests: int) -> None:
    """What reaches the server is one request and `max_model_retries` more, nothing multiplied by a client library."""
    limits = Limits(max_model_retries=retries, backoff_base_s=0)
    with ScriptedServer(whole(status, {"error": {"message": "no"}})) as server:
        model = HttpModel(server.url, "m", api_key="key-1")
        async with Engine(model=model, limits=limits) as engine:
            session = await engine.open("s")
            assert (await session.ask("go")).outcome is Outcome.FAILED
        assert len(server.requests) == requests


@pytest.mark.anyio
async def test_f20_v24_not_before_survives_a_restart(tmp_path: Path) -> None:
    """Over one SQLite file: an engine half an hour later sends nothing for any session of the key, and the one that
    comes when the time is over goes on by itself.
    """
    path, limits = tmp_path / "runs.db", Limits(backoff_base_s=0)
    model = RefusesFirst()
    async with Engine(model=model, journal=SqliteJournal(path), limits=limits) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.WAITING
        (request,) = result.pending
    later = ShiftedClock(1_800)
    async with Engine(model=model, journal=SqliteJournal(path), limits=limits, clock=later) as engine:
        session = await engine.open("s")
        assert session.pending == (request,)
        other = await engine.open("t")
        assert (await other.ask("go")).outcome is Outcome.WAITING
        await other.cancel()
        assert model.sent == 1
    later = ShiftedClock(3_601)
    async with Engine(model=model, journal=SqliteJournal(path), limits=limits, clock=later) as engine:
        session = await engine.open("s")
        with anyio.fail_after(30):
            await model.answered.wait()
            assert (await session.result()).text == "done"
    assert model.sent == 2


def test_v24_a_quota_is_named_by_server_model_and_credentials() -> None:
    """Models that share a quota give the same key, others another; what they authenticate with is not in it."""
    one = HttpModel("http://127.0.0.1:9/v1", "m", api_key="sk-secret-one")
    assert one.quota_key == HttpModel("http://127.0.0.1:9/v1/", "m", api_key="sk-secret-one").quota_key
    others = [
        HttpModel("http://127.0.0.1:8/v1", "m", api_key="sk-secret-one"),
        HttpModel("http://127.0.0.1:9/v1", "n", api_key="sk-secret-one"),
        HttpModel("http://127.0.0.1:9/v1", "m", api_key="sk-secret-two"),
        HttpModel("http://127.0.0.1:9/v1", "m"),
    ]
    assert len({one.quota_key, *(other.quota_key for other in others)}) == 5
    assert "secret" not in one.quota_key
