"""What a server's refusal means: the text for a human, and whether to try again.

Pure. No secret that it was given and no control character passes into a text. May import core, errors and `wire`.
Must never do I/O or read a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import ModelError
from .wire import as_object

MESSAGE_LIMIT = 500
"""Characters that are kept of a server's own message."""

_EXHAUSTED = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Codes sent with status 429 that waiting does not mend."""

_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_SAYS_TOO_LONG = ("maximum context length", "prompt is too long", "exceeds the available context size")
"""Codes, and words of those who send none, for a conversation that does not fit the model's window."""

_ADVICE = {
    400: "the request does not suit this server; check the parameters and the model's name",
    401: "check the API key",
    402: "check the account's balance",
    403: "check that the API key may use this model",
    404: "check base_url (it usually ends in /v1) and the model's name",
    413: "the conversation is too long for this server",
    422: "the request does not suit this server; check the parameters",
}


class Cleaner:
    """Makes foreign text fit for a log line: secrets cut out, control characters escaped, length bounded."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first, so that a secret that contains another goes as a whole. Up to three letters hide nothing.
        self._secrets = sorted({secret for secret in secrets if len(secret) > 3}, key=len, reverse=True)

    def __call__(self, text: str, limit: int = MESSAGE_LIMIT) -> str:
        """Return the text without secrets, as one line of at most `limit` characters."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        text = text[: limit + 1]
        line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
        return line if len(line) <= limit else line[: limit - 1] + "…"


def status_error(status: int, body: object, host: str, clean: Cleaner, wait_s: float | None = None) -> ModelError:
    """Return the error for a refusal with an HTTP status.

    Args:
        status: 300 or above.
        body: what the server sent: decoded JSON, or its text.
        host: whom the text names.
        clean: takes the secrets out.
        wait_s: the server's wish, from `rate_headers.wait_s`.
    """
    message, code = _message(body)
    said = f": {clean(message)}" if message.strip() else ""
    advice = _ADVICE.get(status)
    text = f"{host} answered with status {status}{said}" + (f" ({advice})" if advice else "")
    limited, kind = status == 429, "rate_limit" if status == 429 else "model_failure"
    if status in (400, 413) and (code in _TOO_LONG or any(words in message.lower() for words in _SAYS_TOO_LONG)):
        kind = "context_full"
    retryable = (limited and code not in _EXHAUSTED) or status in (408, 409, 425) or status >= 500
    return ModelError(
        text,
        retryable=retryable,
        kind=kind,
        status=status,
        retry_after_s=wait_s,
    )


def error_in(chunk: Mapping[str, object], host: str, clean: Cleaner) -> ModelError | None:
    """Return the error that a server sent instead of a reply or in the middle of one; None where it is none."""
    error = chunk.get("error")
    if not error and chunk.get("object") != "error" and chunk.get("type") != "error":
        return None
    message, code = _message(chunk)
    status = _status(code) or _status(as_object(error).get("status"))
    if status is not None:
        return status_error(status, chunk, host, clean)
    limited = "rate_limit" in code or code in _EXHAUSTED
    return ModelError(
        f"{host} sent an error instead of a reply: {clean(message or 'without a text')}",
        retryable=code not in _EXHAUSTED and not code.startswith("invalid_request"),
        kind="rate_limit" if limited else "model_failure",
    )


def _message(body: object) -> tuple[str, str]:
    """Return the message of an error body and its code, "" where there is none. Servers differ in how they wrap it."""
    if isinstance(body, str):
        return body, ""
    outer = as_object(body)
    error = outer.get("error")
    if isinstance(error, str) and error:
        return error, ""
    inner = as_object(error) or outer
    found = next((inner[key] for key in ("message", "detail", "error_description") if inner.get(key)), "")
    code = inner.get("code") or inner.get("type") or ""
    return found if isinstance(found, str) else str(found), str(code)


def _status(code: object) -> int | None:
    text = str(code) if isinstance(code, str | int) else ""
    number = int(text) if text.isdecimal() and len(text) == 3 else 0
    return number if 400 <= number < 600 else None
