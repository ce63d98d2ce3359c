"""The script that trains the packaged model: its tokens and dialogues; where torch and gguf are, the whole of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from engine.core.arguments import parse_arguments
from engine.core.values import Message
from engine.models.llama_cpp import LlamaCppModel, LlamaSettings, packaged_model
from engine.ports import ModelRequest
from examples.train_tiny_agent import (
    BEGIN,
    PHASES,
    QUESTIONS,
    SUMMARIZER,
    UNKNOWN,
    VOCABULARY,
    Dialogues,
    Phase,
    Said,
    check,
    decode,
    encode,
    export,
    logits,
    main,
    sample,
)

LONG = PHASES[1]


def need_torch() -> None:
    """Skip where the training cannot run."""
    for module in ("torch", "gguf", "numpy"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install torch==2.13.0 numpy gguf")


def need_llama_cpp() -> None:
    """Skip where the result cannot be tried."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'agent-engine[local]'")


def dialogues(count: int = 200) -> list[list[Said]]:
    supply = Dialogues(seed=7)
    return [supply.dialogue(longest=LONG.longest, summaries=LONG.summaries) for _ in range(count)]


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_tokens_give_the_text_back(text: str) -> None:
    """Every text survives the way to tokens and back."""
    assert decode(encode(text)) == text


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="<>")))
def test_printable_characters_are_one_token_each(text: str) -> None:
    """A printable character is one token: what a model copies, it copies character by character."""
    assert len(encode(text)) == len(text)


def test_marks_are_one_token_each() -> None:
    """The marks of the chat format are tokens, inside a text too."""
    assert len(encode("<|im_start|>user\nhi<tool_call><|im_end|>")) == 1 + len("user\nhi") + 2


def test_vocabulary_has_no_token_twice() -> None:
    """Every token has one number."""
    tokens = [token for token, _ in VOCABULARY]
    assert len(set(tokens)) == len(tokens) == 360


def test_same_seed_same_dialogues() -> None:
    """The supply is a function of its seed."""
    one, other, third = Dialogues(1), Dialogues(1), Dialogues(2)
    drawn = [[supply.dialogue(longest=3, summaries=0.1) for _ in range(20)] for supply in (one, other, third)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_dialogues_alternate() -> None:
    """After the system prompt, user and assistant take turns, and the assistant has the last word."""
    for said in dialogues():
        roles = [message.role for message in said]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]


def test_calls_in_dialogues_parse_and_get_one_result_each() -> None:
    """Every call is JSON, and the message after it holds as many results as there were calls."""
    seen = 0
    for said in dialogues():
        for message, following in zip(said, [*said[1:], Said("", "")], strict=True):
            calls = re.findall(r"<tool_call>\n(.*)\n</tool_call>", message.text) if message.role == "assistant" else []
            assert all(set(parse_arguments(call)) == {"name", "arguments"} for call in calls)
            assert following.text.count("<tool_response>") == len(calls)
            seen += len(calls)
    assert seen > 100


def test_summaries_name_the_first_wish() -> None:
    """A summary is the first thing that the user of its conversation asked for."""
    summaries = [said for said in dialogues() if said[0].text == SUMMARIZER]
    assert summaries
    for _, request, summary in summaries:
        assert summary.text == "- goal: " + request.text.split("\n")[1].removeprefix("user: ")


@pytest.mark.parametrize("phase", PHASES, ids=("first", "second"))
def test_sample_has_the_size_of_the_context(phase: Phase) -> None:
    """A sample is cut or filled up to one token more than the context."""
    supply = Dialogues(3)
    for _ in range(50):
        tokens, learned = sample(supply, phase)
        assert len(tokens) == len(learned) == phase.context + 1
        assert tokens[0] == BEGIN
        assert all(0 <= token < len(VOCABULARY) for token in tokens)


def test_only_what_the_assistant_says_is_learned() -> None:
    """The learned tokens of a dialogue are the assistant's messages, each with its end."""
    phase = Phase(context=3000, batch=1, rate=0.0, longest=4)
    tokens, learned = sample(Dialogues(5), phase)
    said = Dialogues(5).dialogue(longest=4, summaries=0.0)
    expected = "".join(f"{message.text}<|im_end|>" for message in said if message.role == "assistant")
    assert decode([token for token, learn in zip(tokens, learned, strict=True) if learn]) == expected
    assert not any(learn for token, learn in zip(tokens, learned, strict=True) if token == UNKNOWN)


def shipped_weights() -> dict[str, Any]:
    """Return the weights in the packaged file, as the script names and shapes them."""
    import gguf
    import torch

    reader = gguf.GGUFReader(str(packaged_model()))
    return {tensor.name: torch.tensor(tensor.data.astype("float32")) for tensor in reader.tensors}


@pytest.mark.parametrize("phase", PHASES, ids=("first", "second"))
def test_script_and_packaged_file_are_of_one_kind(phase: Phase) -> None:
    """The packaged weights, run by the script's own model on its own dialogues, know what comes next."""
    need_torch()
    import torch

    supply = Dialogues(11)
    drawn = [sample(supply, phase) for _ in range(8)]
    tokens = torch.tensor([each for each, _ in drawn])
    learned = torch.tensor([mask for _, mask in drawn])[:, 1:]
    with torch.no_grad():
        guessed = logits(shipped_weights(), tokens[:, :-1], learned).argmax(-1)
    assert (guessed == tokens[:, 1:][learned]).float().mean().item() > 0.97


def test_export_writes_what_llama_cpp_runs(tmp_path: Path) -> None:
    """The packaged weights, written anew by the script, hold their conversation in llama.cpp without a mistake."""
    need_torch()
    need_llama_cpp()
    path = tmp_path / "again.gguf"
    export(shipped_weights(), path)
    assert anyio.run(check, path) == len(QUESTIONS)


def test_training_for_seconds_gives_a_model_that_loads(tmp_path: Path) -> None:
    """The whole script, run for seconds, writes a file that llama.cpp loads and generates with."""
    need_torch()
    need_llama_cpp()
    path = tmp_path / "fresh.gguf"
    assert main(["--seconds", "2", "2", "--output", str(path), "--seed", "1"]) == 0

    async def generate() -> int:
        model = LlamaCppModel(path, settings=LlamaSettings(max_tokens=8))
        reply = await model.generate(ModelRequest([Message(role="user", text="hello")]), lambda notice: None)
        await model.aclose()
        return reply.usage.output_tokens if reply.usage else 0

    assert 1 <= anyio.run(generate) <= 8
