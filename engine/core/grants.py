"""What a person allows: what an approval is bound to, what a person may decide, and grants for calls still to come.

An approval is bound to everything it was given for, by one hash: if any of it is another when the call is to run, the
approval is not for this call. A grant admits calls that a policy would ask about, within its scope, until it expires,
is used up or is revoked; it names the session it was given in, so a fork or a copy has no authority. What a policy
denies no grant admits. Pure: the time is a parameter, a text as records write it, which sorts as it runs. May import
`values`, `arguments` and `patterns`.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Literal, NamedTuple, Self, TypeAlias

from pydantic import AfterValidator, StringConstraints, model_validator

from ..errors import UsageError
from .arguments import json_text
from .patterns import parse_pattern
from .values import JsonObject, Natural, Positive, ToolCall, ToolEffect, ToolSpec, Value

Moment: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{6}Z$")
]
"""A time as records write it, earlier ones sort before later ones: f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"."""


def is_over(expires_at: str | None, now: str) -> bool:
    """Return whether a time limit has been reached; without one never."""
    return expires_at is not None and now >= expires_at


# --- what an approval is bound to -------------------------------------------------------------------------------------


class Approved(NamedTuple):
    """Everything that an approval is given for. `arguments` is canonical JSON, `principal` on whose behalf."""

    tool: str
    tool_version: str
    arguments: str
    session: str
    call_id: str
    principal: str | None
    policy_version: str


def binding(approved: Approved) -> str:
    """Return the SHA-256, in hex, of what an approval is given for. No two of them share an encoding."""
    digest = sha256()
    for part in approved:
        # A length before each part, and a sign of its own for none: where one ends is never in question.
        text = b"" if part is None else part.encode("utf-8", "surrogatepass")
        digest.update((b"-" if part is None else b"%d:" % len(text)) + text)
    return digest.hexdigest()


def tool_version(spec: ToolSpec, effect: ToolEffect) -> str:
    """Return what tells a tool from another one of its name: a hash of what it says of itself."""
    said = json_text([spec.name, spec.description, spec.parameters, effect])
    return sha256(said.encode("ascii")).hexdigest()[:16]


# --- grants -----------------------------------------------------------------------------------------------------------


def _checked_pattern(text: str) -> str:
    try:
        parse_pattern(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return text


PatternText: TypeAlias = Annotated[str, AfterValidator(_checked_pattern)]
"""The text of a pattern, known to parse."""


class GrantTerms(Value):
    """For which further calls a person gives leave.

    Attributes:
        pattern: which calls, see `patterns`: `pay` any arguments, `pay()` none, `pay({…})` exactly these.
        scope: one call, the calls of this turn, or those of this session.
        expires_at: when the grant ends on its own, if it does.
        max_uses: how many calls it admits; as many as come if not given, always one in the scope "once".
    """

    pattern: PatternText
    scope: Literal["once", "turn", "session"] = "session"
    expires_at: Moment | None = None
    max_uses: Positive | None = None

    @model_validator(mode="after")
    def _once_is_one(self) -> Self:
        if self.scope == "once" and self.max_uses not in (None, 1):
            raise ValueError(
                f'the scope "once" admits one call, not {self.max_uses}; use the scope "turn" or "session"'
            )
        return self


class Grant(GrantTerms):
    """A grant that was given: where, on whose behalf, by whom, and how often it has been used.

    `id` is that of the request whose answer gave it, unique in its session.
    """

    id: str
    session: str
    turn: int
    principal: str | None = None
    granted_by: str | None = None
    uses: Natural = 0

    @property
    def uses_left(self) -> int | None:
        """How many more calls it admits; None for as many as come."""
        limit = 1 if self.scope == "once" else self.max_uses
        return None if limit is None else max(0, limit - self.uses)


class Here(NamedTuple):
    """Where and when a call is about to run, and on whose behalf."""

    session: str
    turn: int
    principal: str | None
    now: str


def asked_where(key: str, here: Here) -> Here:
    """Return where the call with this key was asked about: in a fork that may be its parent, which the key names."""
    return here._replace(session=key.partition(":")[0])


def admits(grant: Grant, call: ToolCall, here: Here) -> bool:
    """Return whether a grant gives leave to this call, here and now. An argument without a text is never admitted
    by a pattern for it.
    """
    return (
        grant.session == here.session
        and grant.principal == here.principal
        and (grant.scope != "turn" or grant.turn == here.turn)
        and grant.uses_left != 0
        and not is_over(grant.expires_at, here.now)
        and parse_pattern(grant.pattern).matches(call)
    )


def admitting(grants: Iterable[Grant], call: ToolCall, here: Here) -> Grant | None:
    """Return the first grant that gives leave to this call, here and now, if there is one."""
    return next((grant for grant in grants if admits(grant, call, here)), None)


def consumed(grants: tuple[Grant, ...], grant_id: str) -> tuple[Grant, ...]:
    """Return the grants after one use of the one with this id. One that is used up stays and admits nothing more: only
    a revoked one is missing, which stops also a call that it has let through and that has not started.
    """
    return tuple(_used(grant) if grant.id == grant_id else grant for grant in grants)


def revoked(grants: tuple[Grant, ...], grant_id: str) -> tuple[Grant, ...]:
    """Return the grants without the one with this id."""
    return tuple(grant for grant in grants if grant.id != grant_id)


def given(terms: GrantTerms, request_id: str, here: Here, by: str | None) -> Grant:
    """Return the grant that the answer to a request gave on these terms."""
    where = {"session": here.session, "turn": here.turn, "principal": here.principal}
    return Grant.model_validate({**dict(terms), **where, "id": request_id, "granted_by": by})


def _used(grant: Grant) -> Grant:
    return grant.model_copy(update={"uses": grant.uses + 1})


# --- what a person decides --------------------------------------------------------------------------------------------


class Ruling(Value):
    """What a person says to a request.

    approve=True: yes, as it was asked. With `arguments`: yes, but with these. approve=False: no; `text` says why, for
    the model. With `result`: the call does not run, and this is its result. A `grant` gives leave to further calls, and
    comes with a yes only; the call that was asked about is no use of it.
    """

    approve: bool
    text: str | None = None
    by: str | None = None
    arguments: JsonObject | None = None
    result: str | None = None
    grant: GrantTerms | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if not self.approve and (self.arguments is not None or self.grant is not None):
            raise ValueError("arguments and a grant come with approve=True: a call that is refused has no use for them")
        if self.approve and self.result is not None:
            raise ValueError("a result comes with approve=False: it stands for a call that does not run")
        return self
