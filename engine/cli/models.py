"""The models that a command can be asked to use: the packaged one, an endpoint, or a script.

May import models, ports, core, errors. Must never take a key from the command line: a process list shows those.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from pydantic import JsonValue

from ..core.values import ModelReply, ToolCall
from ..errors import UsageError
from ..models.function import FunctionModel
from ..ports import Model, ModelRequest


def add_model_options(parser: ArgumentParser) -> None:
    """Add the options that `chosen_model` reads."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", choices=("local", "http", "scripted"), default="local",
        help="local: llama.cpp in this process (default); http: an OpenAI-compatible endpoint; scripted: fixed phrases",
    )  # fmt: skip
    group.add_argument(
        "--model-file", metavar="GGUF", type=Path, help="for local: a model file instead of the packaged one"
    )
    group.add_argument("--base-url", metavar="URL", help="for http: where the API begins, usually ending in /v1")
    group.add_argument("--model-name", metavar="NAME", help="for http: the name the server knows the model by")
    group.add_argument(
        "--api-key-env", metavar="VARIABLE", default="OPENAI_API_KEY",
        help="for http: the environment variable that holds the key (default: %(default)s)",
    )  # fmt: skip


def chosen_model(options: Namespace) -> Model:
    """Return the model that the options name.

    Raises:
        MissingExtra: its optional dependency is not installed.
        UsageError: an option is missing or cannot be used.
    """
    if options.model == "scripted":
        return scripted_model()
    if options.model == "local":
        from ..models.llama_cpp import LlamaCppModel

        return LlamaCppModel(options.model_file)
    if not options.base_url or not options.model_name:
        raise UsageError("--model http needs --base-url and --model-name")
    from ..models.http import HttpModel

    return HttpModel(options.base_url, options.model_name, api_key=os.environ.get(options.api_key_env) or None)


def scripted_model() -> FunctionModel:
    """Return a model of fixed phrases that speaks the packaged model's little language, and answers from results alike.

    It decides by the conversation alone, so an interrupted turn goes on with it in any process.
    """
    return FunctionModel(_scripted)


def _scripted(request: ModelRequest) -> ModelReply:
    results: list[str] = []
    prompt = ""
    for message in reversed(request.messages):
        if message.role == "tool":
            results.insert(0, message.text or "")
        elif message.role == "user":
            prompt = message.text or ""
            break
    calls = [
        ToolCall(id=f"call_{request.turn}_{request.round}_{index}", name=name, arguments=arguments)
        for index, (name, arguments) in enumerate(_asked(prompt))
    ]
    if calls and not results:
        return ModelReply(tool_calls=calls, finish="tool_calls", model="scripted")
    return ModelReply(text=_answer(prompt, calls, results), model="scripted")


def _asked(prompt: str) -> list[tuple[str, dict[str, JsonValue]]]:
    if found := re.match(r"(?:what is the )?weather(?: in)? (\w+)(?: and (\w+))?\W*$", prompt, re.IGNORECASE):
        return [("get_weather", {"city": city}) for city in found.groups() if city]
    if found := re.match(r"add (-?\d{1,15}) (-?\d{1,15})$", prompt):
        return [("add", {"a": int(found[1]), "b": int(found[2])})]
    if prompt.startswith("note "):
        return [("write_note", {"text": prompt.removeprefix("note ")})]
    return []


def _answer(prompt: str, calls: list[ToolCall], results: list[str]) -> str:
    match [call.name for call in calls]:
        case ["get_weather", *_]:
            return "It is " + " and ".join(
                f"{result} in {call.arguments['city']}" for call, result in zip(calls, results, strict=False)
            ) + "."  # fmt: skip
        case ["add"]:
            return f"The sum is {results[0]}."
        case ["write_note"]:
            return "The note is saved." if results == ["saved"] else "The note was not saved."
        case _:
            return "Hello! How can I help?" if prompt in ("hello", "hi") else prompt.removeprefix("echo ")
