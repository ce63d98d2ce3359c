"""What redaction promises: no known secret passes, in no wrapping, and what is none stays as it is."""

from __future__ import annotations

import base64
import json
import random
import re
import traceback
from collections.abc import Callable
from functools import cache
from typing import NamedTuple
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, strategies as st

from engine.core.events import (
    EVENT_TYPES,
    EVENTS,
    BudgetLent,
    BudgetSettled,
    ContextCompacted,
    ContextPrepared,
    Faulted,
    GrantRevoked,
    KnownEvent,
    LateResult,
    ModelReplied,
    ProbeResult,
    PromptReceived,
    RecordsRewritten,
    Recovered,
    RecoveryFailed,
    RecoveryNeedsUser,
    RecoveryPlanned,
    Resumed,
    SessionForked,
    SessionOpened,
    ShutdownRequested,
    ToolFinished,
    ToolRetried,
    ToolStarted,
    TurnCancelled,
    UserAnswered,
)
from engine.core.loans import Loan, Spent
from engine.core.notices import Gap, ReasoningDelta, TextDelta, ToolInputDelta, ToolProgress, ToolRunning
from engine.core.redaction import MIN_SECRET_CHARS, NoticeRedactor, RedactingStream, Redactor
from engine.core.secret_names import CUT
from engine.core.values import Fault, JsonObject, Message, ModelReply, PlannedCall, RecoveryPlan, ToolCall, WirePatch
from engine.errors import SecretRefused
from engine.journal.canonical import canonical
from engine.testing.strategies import events

HOSTILE = 'Aé"\\/<&>+ %\n\tz09-_=\u202e'


@cache
def canaries() -> dict[str, str]:
    """Return 500 secrets: keys as providers give them out, numbers, and passwords that need escaping everywhere."""
    dice = random.Random(18)  # noqa: S311
    plain = [f"sk-{dice.getrandbits(128):032x}" for _ in range(400)]
    numbers = [str(10**9 + dice.getrandbits(40)) for _ in range(50)]
    hostile = ["".join(dice.choices(HOSTILE, k=16)) for _ in range(50)]
    return {f"K{index}": secret for index, secret in enumerate([*plain, *numbers, *hostile])}


@cache
def of_all() -> Redactor:
    """Return what knows every canary."""
    return Redactor(canaries())


def few(kind: int = 3) -> list[str]:
    """Return some canaries of every sort."""
    secrets = list(canaries().values())
    return [*secrets[:kind], *secrets[400 : 400 + kind], *secrets[450 : 450 + 3 * kind]]


def planted(secret: str) -> list[KnownEvent]:
    """Return events of every kind with the secret in every field that holds a text or data from outside."""
    text = f"before {secret} after"
    data: JsonObject = {"plain": secret, secret: [1, {"deep": text}], "json": json.dumps({"k": [secret]})}
    patch = WirePatch(put={"extra": secret, "more": {"x": text}}, drop=(secret,))
    call = ToolCall(id="c1", name=text, arguments=data, arguments_text=json.dumps(data))
    plan = PlannedCall(call_id="c1", conflict_key=f"account:{secret}", refusal=text)
    message = Message(role="user", text=text, tool_calls=(call,), patch=patch)
    return [
        SessionOpened(user=secret, workspace=text, metadata=data),
        SessionForked(session="f", parent="s"),
        PromptReceived(messages=(message,), direct_calls=(call,), plans=(plan,), metadata=data),
        ContextPrepared(messages=(message,)),
        ContextCompacted(text=text, reason=text, reply=ModelReply(text=text, model=secret)),
        ModelReplied(reply=ModelReply(text=text, tool_calls=(call,), model=secret, patch=patch), plans=(plan,)),
        ToolStarted(call_id="c1"),
        ToolFinished(call_id="c1", content=text, error=f"KeyError: {secret!r}", patch=patch),
        ToolRetried(call_id="c1", content=text, error=f"KeyError: {secret!r}"),
        LateResult(call_id="c1", key="s:1:0"),
        GrantRevoked(grant_id="g1", by=text),
        UserAnswered(request_id="r1", approve=True, text=text, by=secret),
        UserAnswered(request_id="r1", approve=True, arguments=data, plan=plan),
        GrantRevoked(grant_id="r1", by=text),
        BudgetLent(child="child", loan=Loan(tokens=3)),
        BudgetSettled(loan="s:4:0", spent=Spent(tokens=2)),
        Faulted(fault=Fault(kind="model_failure", message=f"401 for {text}")),
        RecoveryPlanned(plan=RecoveryPlan(action="give_up")),
        Recovered(),
        RecoveryNeedsUser(),
        RecoveryFailed(),
        TurnCancelled(reason=text),
        Resumed(probes=(ProbeResult(call_id="c1", happened=True, content=text),)),
        RecordsRewritten(action="pruned", records=(), reason=text, by=secret),
        ShutdownRequested(reason=text),
    ]


def check_absent(secret: str, text: str) -> None:
    """Assert that a text holds the secret neither plain nor as JSON writes it."""
    for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]):
        assert form not in text


def test_f18_no_canary_passes_through_any_field_of_any_event() -> None:
    """None of 500 canaries stands in the canonical text of an event, in whatever field it came, and that text reads
    back as the cleaned event.
    """
    assert {event.kind for event in planted("x" * 8)} == EVENT_TYPES.keys()
    for secret in canaries().values():
        for event in planted(secret):
            cleaned = of_all().clean(event)
            line = canonical(cleaned)
            check_absent(secret, line)
            assert EVENTS.validate_python(json.loads(line)) == cleaned


def test_f18_every_canary_is_named_where_it_stood() -> None:
    """What stands in place of a secret is its name."""
    for name, secret in canaries().items():
        assert of_all().text(f"<{secret}>") == f"<[redacted:{name}]>"


WRAPPINGS: dict[str, Callable[[str], str]] = {
    "json": json.dumps,
    "json of text": lambda secret: json.dumps(secret, ensure_ascii=False),
    "json in json": lambda secret: json.dumps({"text": json.dumps({"key": secret})}),
    "json with escaped slashes": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "json for pages": lambda secret: (
        json.dumps(secret).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    ),
    "repr": repr,
    "ascii": ascii,
    "path of a url": lambda secret: quote(secret),
    "parameter of a url": lambda secret: quote(secret, safe=""),
    "form": lambda secret: quote_plus(secret),
    "lower-case percents": lambda secret: re.sub("%..", lambda code: code.group().lower(), quote(secret, safe="")),
    "json in a url": lambda secret: quote(json.dumps({"key": secret}), safe=""),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_f18_no_wrapping_hides_a_secret(wrapping: str) -> None:
    """A secret is found in every form in which programs write texts into other texts."""
    for name, secret in canaries().items():
        wrapped = WRAPPINGS[wrapping](secret)
        cleaned = of_all().text(f"GET /{wrapped}/ HTTP")
        assert f"[redacted:{name}]" in cleaned, (wrapped, cleaned)


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_f18_base64_hides_no_secret(before: str, encode: Callable[[bytes], bytes]) -> None:
    """A secret is found inside base64, standard and for URLs, wherever it begins."""
    for name, secret in canaries().items():
        text = encode(f"{before}{secret} and more".encode()).decode()
        assert f"[redacted:{name}]" in of_all().text(f"Basic: {text}")


def test_f18_no_canary_passes_in_a_traceback() -> None:
    """The text of an exception and of its causes is cleaned like any other."""
    for secret in few():
        try:
            try:
                raise KeyError(secret)
            except KeyError as error:
                raise RuntimeError(f"could not open with {secret}") from error
        except RuntimeError:
            check_absent(secret, of_all().text(traceback.format_exc()))


def test_f18_no_canary_passes_a_stream_however_it_is_split() -> None:
    """Cut in two at any place, every canary stays out of what a stream shows, and the rest of the text comes whole."""
    for name, secret in canaries().items():
        text = f"a {secret} z"
        for cut in range(len(text) + 1):
            stream = of_all().stream()
            shown = stream.push(text[:cut]) + stream.push(text[cut:]) + stream.end()
            assert shown == f"a [redacted:{name}] z"


def test_f18_no_canary_passes_a_stream_character_by_character() -> None:
    """Nothing of a secret is shown before it is known to be none, also when every character comes alone."""
    for name, secret in canaries().items():
        stream = of_all().stream()
        assert "".join(map(stream.push, f"{secret}.")) + stream.end() == f"[redacted:{name}]."


TANGLED = Redactor({"A": "abcabd", "B": "abcabdab", "C": "bdabca", "D": "cabdab"}, ())


@given(st.lists(st.text("abcd", max_size=12), max_size=12))
def test_f18_stream_shows_what_the_whole_text_would(pieces: list[str]) -> None:
    """However a text is cut, secrets that overlap and begin alike included, a stream shows just the cleaned text."""
    stream = TANGLED.stream()
    assert "".join(map(stream.push, pieces)) + stream.end() == TANGLED.text("".join(pieces))


@given(st.text("abcd", max_size=40))
def test_cleaned_text_holds_no_known_value(text: str) -> None:
    """No secret is left in a cleaned text, also where several overlap."""
    cleaned = TANGLED.text(text)
    assert not any(secret in cleaned for secret in ("abcabd", "abcabdab", "bdabca", "cabdab"))


@pytest.mark.parametrize("form", ["sesame/open/0123", "sesame%2Fopen%2F0123"])
def test_f18_a_text_that_was_cut_shows_no_half_of_a_secret(form: str) -> None:
    """Errors are cut to a length before they get here, and say so: half of a secret or more before that is replaced as
    the whole is; less than that may be any word, and stays. Where a text ends by itself nothing is missing.
    """
    redactor = Redactor({"KEY": "sesame/open/0123"}, ())
    for shown in range(1, len(form)):
        expected = "[redacted:KEY]" if 2 * shown >= len(form) else form[:shown]
        assert redactor.text(f"no access with {form[:shown]}{CUT}") == f"no access with {expected}{CUT}"
    assert redactor.text(f"no access{CUT}") == f"no access{CUT}"
    assert redactor.text(form[:-1]) == form[:-1]


def test_f18_stream_waits_for_the_longer_secret_around_a_shorter_one() -> None:
    """A secret that stands inside the beginning of another is named only when the other is known not to come."""
    redactor = Redactor({"OUTER": "abcdefghij", "INNER": "cdefgh"})
    stream = redactor.stream()
    assert (stream.push("abcdefgh"), stream.push("ij.")) == ("", "[redacted:OUTER].")
    assert (stream.push("abcdefgh"), stream.push("!")) == ("", "ab[redacted:INNER]!")


def test_stream_without_secrets_holds_nothing_back() -> None:
    """Where no value is known every piece is shown as it comes."""
    stream = Redactor().stream()
    assert isinstance(stream, RedactingStream)
    assert (stream.push("anything"), stream.end()) == ("anything", "")


def test_stream_holds_back_only_what_may_become_a_secret() -> None:
    """Text that no secret begins with is shown at once."""
    stream = Redactor({"KEY": "sesame-open"}).stream()
    assert (stream.push("the word is ses"), stream.push("quipedalian")) == ("the word is ", "sesquipedalian")


FIELDS = [
    ('{"password": "abc\\"d", "n": 1}', '{"password": "[redacted:password]", "n": 1}'),
    ('{"dbPassword":"x"}', '{"dbPassword":"[redacted:password]"}'),
    ('{"OPENAI_API_KEY":"x"}', '{"OPENAI_API_KEY":"[redacted:api_key]"}'),
    ('{"token": 12, "secret": null}', '{"token": "[redacted:token]", "secret": null}'),
    ('{"pwd": ["a", {"v": 1}], "n": 1.50}', '{"pwd": ["[redacted:pwd]", {"v": "[redacted:pwd]"}], "n": 1.50}'),
    ('{"password": "cut short', '{"password": "[redacted:password]'),
    ('{"password": [1, cut', '{"password": [1, cut'),
    (f'{{"password": "{"x" * 9000}", "n": 1}}', '{"password": "[redacted:password]", "n": 1}'),
    ('"{\\"password\\": \\"abc\\", \\"n\\": 1}"', '"{\\"password\\": \\"[redacted:password]\\", \\"n\\": 1}"'),
    ('{\\"pwd\\": 12, \\"secret\\": null}', '{\\"pwd\\": \\"[redacted:pwd]\\", \\"secret\\": null}'),
    ("{'token': 'abc', 'n': 2}", "{'token': '[redacted:token]', 'n': 2}"),
    ("https://x/y?a=1&api-key=abc&b=1", "https://x/y?a=1&api-key=[redacted:api_key]&b=1"),
    ("postgres://user:pw@host/db", "postgres://user:[redacted:password]@host/db"),
    ("Authorization: Basic dTpw\nHost: x", "Authorization: [redacted:authorization]\nHost: x"),
    ("> X-Api-Key: 99\n> Accept: y", "> X-Api-Key: [redacted:api_key]\n> Accept: y"),
    ("Set-Cookie: a=b; c=d", "Set-Cookie: [redacted:cookie]"),
    ("got {authorization: Bearer abc} back", "got {authorization: [redacted:authorization]} back"),
    ("sent bearer 0123456789abcdef.x", "sent bearer [redacted:authorization]"),
    ("HOME=/h\nexport AWS_SECRET_ACCESS_KEY='a b'\n", "HOME=/h\nexport AWS_SECRET_ACCESS_KEY=[redacted:access_key]\n"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FIELDS)
def test_a19_secret_fields_of_a_text_are_hidden(text: str, expected: str) -> None:
    """Members of JSON, parameters, headers and environment listings lose secret values and nothing else."""
    assert Redactor().text(text) == expected


@pytest.mark.parametrize("text", [text for text, _ in FIELDS])
def test_redaction_is_idempotent(text: str) -> None:
    """What is clean stays as it is: an event may pass the funnel twice."""
    cleaned = Redactor().text(text)
    assert Redactor().text(cleaned) is cleaned


@pytest.mark.parametrize(
    "text",
    [
        "def login(token: str, password=password) -> None: ...",
        "token = token_of(user)",
        '{"page_token": "x", "max_tokens": 5, "tokens": 3, "password_policy": "long"}',
        "The secret of success is a good password.",
        "https://example.org/a:b?q=token",
    ],
)
def test_what_only_speaks_of_secrets_is_left_alone(text: str) -> None:
    """Program text, counts of tokens, page tokens and prose stay readable."""
    assert Redactor().text(text) is text


def test_a19_secret_fields_of_data_are_hidden_at_any_depth() -> None:
    """Texts and numbers below a secret name go, the structure and what says nothing stays."""
    data = {"a": [{"Api-Key": "x", "n": 1}], "credentials": {"user": "u", "pins": (1, True, None, "")}, "ok": "y"}
    assert Redactor().clean(data) == {
        "a": [{"Api-Key": "[redacted:api_key]", "n": 1}],
        "credentials": {
            "user": "[redacted:credentials]",
            "pins": ["[redacted:credentials]", True, None, ""],
        },
        "ok": "y",
    }  # fmt: skip


def test_a_known_value_keeps_its_own_name_in_a_secret_field() -> None:
    """Where both rules apply the name of the secret says more than the name of the field."""
    redactor = Redactor({"DB": "hunter2!"})
    assert redactor.clean({"password": "hunter2!"}) == {"password": "[redacted:DB]"}
    assert redactor.text('{"password": "hunter2!"}') == '{"password": "[redacted:DB]"}'


@pytest.mark.parametrize(
    "hostile", ["\\", '"', '"a" ', "://a:", "?a=", '"token":[', '"token":{', "Bearer ", "\n", "a-"]
)
def test_f18_no_text_makes_cleaning_slow(hostile: str) -> None:
    """Texts made to send a search back and forth are read once: this test would not end within hours otherwise."""
    text = hostile * (400_000 // len(hostile))
    assert Redactor({"KEY": "sesame-open"}).text(f'{text} "token": "x"').endswith('"token": "[redacted:token]"')


def test_names_can_be_left_out() -> None:
    """A host that hands secrets to tools through the model looks for known values only."""
    text = '{"password": "abc"}'
    assert Redactor({}, ()).text(text) is text


class Pair(NamedTuple):
    """Some named tuple."""

    left: str
    right: int


def test_clean_keeps_the_types_of_containers() -> None:
    """Tuples stay tuples, named ones too, and keys that become equal stay apart."""
    redactor = Redactor({"A": "secret-one", "B": "12345678"})
    assert redactor.clean(("secret-one", 1)) == ("[redacted:A]", 1)
    assert redactor.clean(Pair("secret-one", 12345678)) == Pair("[redacted:A]", "[redacted:B]")  # type: ignore[arg-type]
    assert list(redactor.clean({"secret-one": 1, "[redacted:A]": 2})) == ["[redacted:A]", "[redacted:A]+"]
    assert redactor.clean({1: "secret-one"}) == {1: "[redacted:A]"}


@given(events())
def test_what_holds_no_secret_comes_back_itself(event: KnownEvent) -> None:
    """An event without a secret is not copied: most events are such, and nothing about them changes."""
    assert Redactor({"KEY": "\x00no such text\x00"}, ()).clean(event) is event


def test_ids_stay() -> None:
    """What refers to calls, requests and sessions is not changed, so that everything still finds its other half."""
    secret = "call-0123456789"  # noqa: S105
    redactor = Redactor({"KEY": secret})
    reply = ModelReply(tool_calls=(ToolCall(id=secret, name="look", arguments={}),))
    plan = PlannedCall(call_id=secret)
    kept: list[KnownEvent] = [
        SessionOpened(external_id=secret, parent=secret),
        ModelReplied(reply=reply, plans=(plan,)),
        ToolStarted(call_id=secret),
        UserAnswered(request_id=secret, approve=True),
        ContextPrepared(messages=(Message(role="tool", text="", tool_call_id=secret),)),
    ]
    assert all(redactor.clean(event) is event for event in kept)


def test_tags_stay() -> None:
    """A secret that is a word of the engine's own vocabulary damages no tag and no enum member."""
    redactor = Redactor({"KEY": "completed", "OTHER": "tool_finished", "WORD": "assistant"})
    finished = ToolFinished(call_id="c1", content="it completed")
    assert redactor.clean(finished) == ToolFinished(call_id="c1", content="it [redacted:KEY]")
    assert redactor.clean(finished.status) is finished.status
    assert redactor.clean(message := Message(role="assistant")) is message


def test_marks_do_not_outgrow_a_field() -> None:
    """A name of a tool that gets longer by its marks is cut to what a record can hold."""
    event = ModelReplied(reply=ModelReply(tool_calls=(ToolCall(id="c1", name="sesame" * 85),)))
    cleaned = Redactor({"LONG-NAME": "sesame"}).clean(event)
    assert EVENTS.validate_python(json.loads(canonical(cleaned))) == cleaned


def test_f18_short_secrets_are_refused() -> None:
    """A secret that occurs by chance is refused with the reason, and without the secret."""
    with pytest.raises(SecretRefused, match=f"fewer than {MIN_SECRET_CHARS}") as refused:
        Redactor({"PIN": "12345"})
    assert "PIN" in str(refused.value)
    assert "12345" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "two words", "new\nline", "x" * 65])
def test_odd_names_of_secrets_are_refused(name: str) -> None:
    """A name stands in texts and log lines, so it is a word."""
    with pytest.raises(SecretRefused, match="does not match"):
        Redactor({name: "secret-one"})


def test_a_mark_that_would_show_a_secret_is_refused() -> None:
    """Neither the name of a secret nor that of a field gives a value away."""
    for name, secret in (("hunter22", "hunter22"), ("DB", "password")):
        with pytest.raises(SecretRefused, match="choose another name"):
            Redactor({name: secret})


def test_a_redactor_does_not_show_its_secrets() -> None:
    """Its own text, as in a log or a traceback, says how many it knows."""
    assert repr(Redactor({"A": "secret-one"})) == "<redactor of 1 secrets>"


def test_f18_notices_are_cleaned_as_the_texts_they_are_pieces_of() -> None:
    """Text, reasoning and the arguments of each call are streams of their own; other notices pass."""
    redactor = NoticeRedactor(Redactor({"KEY": "sesame-open"}))
    assert redactor.see(TextDelta("say sesame-")) == TextDelta("say ")
    assert redactor.see(ReasoningDelta("sesame-")) is None
    assert redactor.see(ToolInputDelta(0, "t", "sesame-")) is None
    assert redactor.see(ToolInputDelta(1, "t", "open")) == ToolInputDelta(1, "t", "open")
    assert redactor.see(TextDelta("open!")) == TextDelta("[redacted:KEY]!")
    assert redactor.see(ToolProgress("c", "sesame-open")) == ToolProgress("c", "[redacted:KEY]")
    for notice in (ToolRunning("c", "t"), Gap(2)):
        assert redactor.see(notice) is notice
    assert redactor.end() == [ReasoningDelta("sesame-"), ToolInputDelta(0, "t", "sesame-")]
    assert redactor.end() == []


LOOKED_AT_ONE_BY_ONE = "sesame-open-0123"


@given(
    st.recursive(
        st.none()
        | st.integers(0, 3)
        | st.sampled_from(
            [
                0,
                77001234,
                "Σ token=x",
                "a.Σ",
                "Bearer abcdefghijklmnopqrst",
                "http://u:pw@h",
                f"no{CUT}",
                LOOKED_AT_ONE_BY_ONE,
            ]
        )
        | st.text(max_size=6)
        | events(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.text(max_size=6) | st.sampled_from(["pass1word", "to\u212aen", ":token", "n", LOOKED_AT_ONE_BY_ONE]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
def test_f18_looking_at_all_texts_at_once_finds_what_looking_at_each_does(value: object) -> None:
    """What is returned as clean after one look is what a walk over each of its values returns, to the same object."""
    redactor = Redactor({"WORD": LOOKED_AT_ONE_BY_ONE, "NUMBER": "77001234"})
    alone = redactor.clean(value)
    _, beside_a_secret = redactor.clean([LOOKED_AT_ONE_BY_ONE, value])
    assert alone == beside_a_secret
    assert (alone is value) == (beside_a_secret is value)


@pytest.mark.parametrize(
    "text",
    ["password=hunter22", "Bearer abcdefghijklmnopqrst", "http://u:pw123456@h/", f"no {LOOKED_AT_ONE_BY_ONE[:9]}{CUT}"],
)
def test_f18_a_value_is_looked_through_for_all_that_a_text_is(text: str) -> None:
    """Fields in texts, URLs and cut secrets are found in a value as they are in a text, in whatever field it came."""
    redactor = Redactor({"WORD": LOOKED_AT_ONE_BY_ONE})
    cleaned = redactor.text(text)
    assert cleaned != text
    assert redactor.clean({"n": [1, text]}) == {"n": [1, cleaned]}
    assert redactor.clean(ToolFinished(call_id="c1", content=text)).content == cleaned


def test_f18_a_number_of_zeros_is_found() -> None:
    """A secret that is zero as a number is found though zero is as empty as nothing."""
    assert Redactor({"PIN": "000000"}).clean({"pin_was": [0, 1]}) == {"pin_was": ["[redacted:PIN]", 1]}


def test_what_holds_itself_or_very_much_is_walked_through() -> None:
    """A list that holds itself is refused as everywhere, in bounded time; a very long one is cleaned."""
    endless: list[object] = ["text"]
    endless.append(endless)
    ring: dict[str, object] = {}
    ring["again"] = ring
    for value in (endless, ring):
        with pytest.raises(RecursionError):
            Redactor({"WORD": LOOKED_AT_ONE_BY_ONE}).clean(value)
    many = [*["text"] * 20_000, LOOKED_AT_ONE_BY_ONE]
    assert Redactor({"WORD": LOOKED_AT_ONE_BY_ONE}).clean(many) == [*["text"] * 20_000, "[redacted:WORD]"]
    assert Redactor({"WORD": LOOKED_AT_ONE_BY_ONE}).clean(dict.fromkeys(range(20_000), 1)) == dict.fromkeys(
        range(20_000), 1
    )
