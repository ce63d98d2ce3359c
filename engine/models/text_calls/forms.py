"""The forms in which models write tool calls, and what stands inside each of them.

A form is what opens it, what may end it, and how the text in between becomes calls. What cannot be read is still a
call, with the text as it stands for its arguments, so that the engine tells the model exactly what is wrong with it;
what does not even begin like a call is text. Forms that also occur in plain answers count only where they name a tool
that was offered. Pure. May import the core and its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, get_args

from ...core.arguments import is_list, is_object
from .elements import How, elements
from .repair import Read, Repair, read_keywords, read_only_value, read_value, unfenced

TextCallFormat: TypeAlias = Literal["hermes", "llama", "mistral", "fenced", "function", "invoke"]
"""Who writes like that: see `docs/models.md`."""

TEXT_CALL_FORMATS: tuple[TextCallFormat, ...] = get_args(TextCallFormat)
"""All of them."""


class FoundCall(NamedTuple):
    """A call that was found: the name, the text of its arguments, the id that the model gave it, what was forgiven.

    The name is empty where none could be read. The text is JSON where it could be read, else as the model wrote it.
    """

    name: str
    arguments_text: str
    id: str | None = None
    repairs: tuple[Repair, ...] = ()


class Inside(NamedTuple):
    """What stands in a form: its calls, and text that follows the last of them."""

    calls: tuple[FoundCall, ...]
    rest: str = ""


Reading: TypeAlias = Callable[[str, How], Inside | None]
"""Turns what stands in a form into calls. None: it is text. Raises ValueError as `How` says."""


class Form(NamedTuple):
    """One way to write calls.

    `closers` end it and belong to it; the same opener once more ends it too, and so does the end of the reply. `begins`
    is what must follow the opener; text that `undecided` matches as a whole may still become that.
    """

    format: TextCallFormat
    opener: str
    closers: tuple[str, ...]
    begins: re.Pattern[str]
    read: Reading
    undecided: re.Pattern[str] | None = None


# --- JSON -------------------------------------------------------------------------------------------------------------

_SEPARATORS = re.compile(r"[\s;]*+(?:,\s*+(?=[{\[]))?")
_MARKS = re.compile(r"(?:\s*<\|(?:eom_id|eot_id|im_end)\|>|\s*</s>)+\s*\Z")
_MARK_CHARS = 200
_NAMED = re.compile(r"""["'“”‘’]?(?:name|function)["'“”‘’]?\s*:\s*["'“”‘’]([^"'“”‘’]{1,512})["'“”‘’]""")
_NAME_WITHIN_CHARS = 1000
_MAX_CHARS = 512


def _call_of(value: object, repairs: tuple[Repair, ...]) -> FoundCall:
    held = value if is_object(value) else {}
    call_id = held.get("id")
    if is_object(held.get("function")):
        held = held["function"]
    name = held.get("name", held.get("function"))
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_CHARS:
        raise ValueError("a call without a name")
    text, more = _arguments_text(held.get("arguments", held.get("parameters")))
    usable = isinstance(call_id, str) and 0 < len(call_id) <= _MAX_CHARS
    return FoundCall(name, text, call_id if usable else None, tuple(sorted({*repairs, *more})))


def _arguments_text(arguments: object) -> tuple[str, tuple[Repair, ...]]:
    """Return arguments as JSON text in the order they were written in. A text holds them once more as JSON."""
    if arguments is None:
        return "{}", ()
    if not isinstance(arguments, str):
        return json.dumps(arguments, ensure_ascii=False), ()
    if not arguments.strip():
        return "{}", ()
    try:
        read = read_only_value(arguments)
    except ValueError:
        return arguments, ()
    return json.dumps(read.value, ensure_ascii=False), read.repairs


def _json_calls(text: str, how: How) -> Inside:
    """Return the calls that a text begins with, as JSON: objects, or arrays of them, one after another.

    Raises:
        ValueError: it begins with none, or what follows looks like a part of the last one.
    """
    inner, fenced = unfenced(text)
    inner = _without_marks(inner)
    fence: tuple[Repair, ...] = ("code_fence",) if fenced else ()
    calls: list[FoundCall] = []
    at, strict = 0, True
    while True:
        read = read_value(inner, at, whole=how.whole, strict=strict)
        strict = strict and not read.repairs
        values = read.value if is_list(read.value) else [read.value]
        calls.extend(_call_of(value, (*read.repairs, *fence)) for value in values)
        found = _SEPARATORS.match(inner, read.end)
        assert found is not None
        at = found.end()
        if not inner.startswith(("{", "["), at):
            return Inside(tuple(calls), _rest(inner, read.end))


def _rest(text: str, at: int) -> str:
    """Return the text behind a call; closing brackets too many are dropped."""
    rest = _without_marks(text[at:])
    begun = rest.lstrip(" \t\r\n;")
    if not begun.strip("]} \t\r\n"):
        return ""
    if begun.startswith((",", ":", '"', "'", "]", "}")):
        raise ValueError("the call goes on where it should have ended")
    return rest


def _without_marks(text: str) -> str:
    """Return a text without the marks of a turn's end, which a server that shows others shows too."""
    marks = _MARKS.search(text, max(0, len(text) - _MARK_CHARS))
    return text[: marks.start()] if marks else text


def _named(text: str) -> str:
    found = _NAMED.search(text, 0, _NAME_WITHIN_CHARS)
    return found.group(1) if found else ""


def _tagged_json(text: str, how: How) -> Inside:
    """Read JSON between a pair of marks: what is wrong with it is the model's mistake."""
    try:
        inside = _json_calls(text, how)
        if inside.rest.strip():
            raise ValueError("something follows the call")
    except ValueError as error:
        how.may_be_damaged(error)
        return _damaged(text)
    return inside


def _damaged(text: str) -> Inside:
    """Return the call that a text was meant to be."""
    return Inside((FoundCall(_named(text), text.strip()),))


def _offered_json(text: str, how: How) -> Inside | None:
    """Read JSON that may as well be a plain answer."""
    try:
        inside = _json_calls(text, how)
    except ValueError as error:
        how.may_be_damaged(error)
        return _damaged(text) if _named(text) in how.schemas else None
    return inside if inside.calls and all(call.name in how.schemas for call in inside.calls) else None


# --- the others -------------------------------------------------------------------------------------------------------

_BUILT_IN = re.compile(r"\s*([A-Za-z_][\w.]{0,500})\.call\(", re.ASCII)
_MISTRAL = re.compile(r"\s*([\w.-]{1,512})(?:\[CALL_ID\]([\w-]{1,512}))?(?:\[ARGS\])?\s*(?=\{)", re.ASCII)


def _open_json(text: str, how: How) -> Inside:
    """Read JSON behind a mark that nothing closes."""
    try:
        return _json_calls(text, how)
    except ValueError as error:
        how.may_be_damaged(error)
        return _damaged(text)


def _python_tag(text: str, how: How) -> Inside:
    """Read what follows Llama's tag: JSON, or `name.call(key="value")`."""
    head = _BUILT_IN.match(text)
    return _open_json(text, how) if head is None else _headed(head, text, how, read_keywords)


def _mistral(text: str, how: How) -> Inside:
    """Read what follows Mistral's mark: an array of calls, or `name[CALL_ID]id[ARGS]{…}` with the two marks or not."""
    head = _MISTRAL.match(text)
    if head is None:
        return _open_json(text, how)
    return _headed(head, text, how, partial(read_value, whole=how.whole))


def _headed(head: re.Match[str], text: str, how: How, read_at: Callable[[str, int], Read]) -> Inside:
    name, call_id = head.group(1), head.group(2) if head.re.groups > 1 else None
    try:
        read = read_at(text, head.end())
        rest = _rest(text, read.end)
    except ValueError as error:
        how.may_be_damaged(error)
        return Inside((FoundCall(name, text[head.end() :].strip(), call_id),))
    written = json.dumps(read.value, ensure_ascii=False)
    return Inside((FoundCall(name, written, call_id, read.repairs),), rest)


def _in_tool_call(text: str, how: How) -> Inside | None:
    return _elements(text, how) if text.lstrip().startswith("<") else _tagged_json(text, how)


def _elements(text: str, how: How) -> Inside | None:
    calls = tuple(FoundCall(*call) for call in elements(text, how))
    return Inside(calls) if calls else None


def _after(opener: str) -> Reading:
    """Return how to read a form whose opener is the beginning of an element."""

    def read(text: str, how: How) -> Inside | None:
        return _elements(opener + text, how)

    return read


_ANY_JSON = re.compile(r"\s*(?:```[a-z_]*\s*)?[{\[]")
_KEYS = "name|type|id|function|arguments|parameters"
_CALL_JSON = re.compile(rf"""\s*(?:\[\s*)?\{{\s*["'“”‘’]?(?:{_KEYS})["'“”‘’]?\s*:""")
_CALL_BEGUN = re.compile(r"""\s*(?:\[\s*)?(?:\{\s*(?:["'“”‘’]?[a-z]{0,10}["'“”‘’]?\s*)?)?""")
_ELEMENT = re.compile(r"\s*<(?:antml:)?(?:function|invoke)\b")
_JSON_OR_ELEMENT = re.compile(rf"{_ANY_JSON.pattern}|{_ELEMENT.pattern}")
_TAG = re.compile(r"[^<>]{1,600}>")

BARE = Form("llama", "", (), _CALL_JSON, _offered_json, _CALL_BEGUN)
"""Llama's calls without a mark: the whole of a reply is one."""

FORMS: Sequence[Form] = (
    Form("hermes", "<tool_call>", ("</tool_call>",), _JSON_OR_ELEMENT, _in_tool_call),
    Form("llama", "<|python_tag|>", (), re.compile(rf"{_ANY_JSON.pattern}|{_BUILT_IN.pattern}"), _python_tag),
    Form("mistral", "[TOOL_CALLS]", (), re.compile(rf"\s*[\[{{]|{_MISTRAL.pattern}"), _mistral),
    *(Form("fenced", f"```{kind}", ("```",), _CALL_JSON, _offered_json, _CALL_BEGUN) for kind in ("json", "tool_call")),
    *(Form("function", tag, ("</function>",), _TAG, _after(tag)) for tag in ("<function=", "<function name=")),
    *(
        Form("invoke", f"<{space}{name}", (f"</{space}{closer}>",), begins, read)
        for space in ("", "antml:")
        for name, closer, begins, read in (
            ("function_calls>", "function_calls", _ELEMENT, _elements),
            ("invoke ", "invoke", _TAG, _after("<invoke ")),
        )
    ),
    Form("invoke", "<minimax:tool_call>", ("</minimax:tool_call>",), _ELEMENT, _elements),
)
"""Every form with a mark, in the order of the formats."""
