"""What a server says about a conversation that is too long becomes the engine's own word for it."""

from __future__ import annotations

import pytest

from engine.models.http_faults import Cleaner, status_error

BODIES: list[tuple[int, object]] = [
    (400, {"error": {"message": "too many", "code": "context_length_exceeded"}}),
    (400, {"error": {"message": "This model's maximum context length is 8192 tokens.", "code": None}}),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it"}}),
]


@pytest.mark.parametrize(("status", "body"), BODIES)
def test_l2_servers_that_say_too_long_are_understood(status: int, body: object) -> None:
    """Whatever the form, it is a full window, and the same request is not sent again."""
    error = status_error(status, body, "host", Cleaner(()))
    assert (error.kind, error.retryable, error.status) == ("context_full", False, status)


def test_l2_other_refusals_stay_what_they_are() -> None:
    """A wrong request, and a rate limit that speaks of context, are no full window."""
    assert status_error(400, {"error": {"message": "no such model"}}, "host", Cleaner(())).kind == "model_failure"
    assert status_error(429, {"error": {"message": "prompt is too long"}}, "host", Cleaner(())).kind == "rate_limit"
