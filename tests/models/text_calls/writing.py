"""Tool calls as models write them: one writer for every form, taken from the chat templates of the models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Call: TypeAlias = tuple[str, dict[str, Any]]
Writer: TypeAlias = Callable[[Sequence[Call]], str]


def _json(name: str, arguments: dict[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments})


def _parameter(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def hermes(calls: Sequence[Call]) -> str:
    return "\n".join(f"<tool_call>\n{_json(*call)}\n</tool_call>" for call in calls)


def qwen_coder(calls: Sequence[Call]) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>\n{_parameter(value)}\n</parameter>\n" for key, value in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


def llama_bare(calls: Sequence[Call]) -> str:
    return "; ".join(_json(*call, key="parameters") for call in calls)


def llama_tag(calls: Sequence[Call]) -> str:
    return "<|python_tag|>" + llama_bare(calls) + "<|eom_id|>"


def llama_function(calls: Sequence[Call]) -> str:
    return "".join(f"<function={name}>{json.dumps(arguments)}</function>" for name, arguments in calls)


def mistral_array(calls: Sequence[Call]) -> str:
    return "[TOOL_CALLS] [" + ", ".join(_json(*call) for call in calls) + "]</s>"


def mistral_names(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls) + "</s>"


def mistral_short(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}{json.dumps(arguments)}" for name, arguments in calls)


def fenced(calls: Sequence[Call]) -> str:
    return "\n".join(f"```json\n{_json(*call)}\n```" for call in calls)


def fenced_array(calls: Sequence[Call]) -> str:
    return "```json\n[" + ",\n".join(_json(*call) for call in calls) + "]\n```"


def invoke(calls: Sequence[Call]) -> str:
    return "\n".join(
        f'<invoke name="{name}">\n'
        + "".join(f'<parameter name="{key}">{_parameter(value)}</parameter>\n' for key, value in arguments.items())
        + "</invoke>"
        for name, arguments in calls
    )


def invoke_wrapped(calls: Sequence[Call]) -> str:
    return f"<function_calls>\n{invoke(calls)}\n</function_calls>"


def invoke_minimax(calls: Sequence[Call]) -> str:
    return f"<minimax:tool_call>\n{invoke(calls)}\n</minimax:tool_call>"


WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (
        hermes, qwen_coder, llama_bare, llama_tag, llama_function, mistral_array, mistral_names, mistral_short, fenced,
        fenced_array, invoke, invoke_wrapped, invoke_minimax,
    )
}  # fmt: skip
AS_ELEMENTS = frozenset({"qwen_coder", "invoke", "invoke_wrapped", "invoke_minimax"})
"""Those whose values are bare text."""
