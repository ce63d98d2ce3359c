# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""Train the tiny model that the engine ships, from nothing, and write it as a GGUF file that llama.cpp loads.

    pip install torch==2.13.0 numpy gguf
    python examples/train_tiny_agent.py --output tiny-agent.gguf --check

A transformer of the llama architecture with 312 thousand parameters learns made-up dialogues with three tools. Most
words in them are random letters, so what it learns is to copy a word into a call, not to know the word. Two phases, 26
minutes on two cores: short dialogues in short contexts until it can copy, then long ones, with summaries, anywhere in
the window.
PyTorch and gguf are imported when they are needed; everything about tokens and dialogues works without them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import string
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import anyio

from engine.core.values import Message, ToolCall, ToolSpec
from engine.errors import ModelError
from engine.models.llama_cpp import LlamaCppModel, LlamaSettings, packaged_model
from engine.ports import ModelRequest

Tensor: TypeAlias = Any
"""A torch tensor. Torch is not imported before the training starts."""

LAYERS, WIDTH, HEADS, HIDDEN, WINDOW = 3, 96, 4, 192, 2048
ROPE_BASE, NORM_EPSILON = 10_000.0, 1e-5

# ---------------------------------------------------------------------------------------------------------- tokens

UNKNOWN, BEGIN, END = 0, 1, 2
FIRST_BYTE = 3
CONTROL = ("<|im_start|>", "<|im_end|>")
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPACE = "\u2581"
"""How a SentencePiece vocabulary, the kind that a llama model has, writes a space."""


class Kind:
    """Token types as GGUF numbers them."""

    NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


PRINTABLE = [chr(code) for code in range(33, 127)]
VOCABULARY: list[tuple[str, int]] = [
    ("<unk>", Kind.UNKNOWN),
    ("<s>", Kind.CONTROL),
    ("</s>", Kind.CONTROL),
    *((f"<0x{byte:02X}>", Kind.BYTE) for byte in range(256)),
    *((token, Kind.CONTROL) for token in CONTROL),
    *((token, Kind.USER) for token in MARKS),
    *((character, Kind.NORMAL) for character in (*PRINTABLE, SPACE)),
]
"""One token a printable character, one a mark of the chat format, and the bytes for everything else."""

_ID = {token: number for number, (token, _) in enumerate(VOCABULARY)}
_MARK = re.compile("(" + "|".join(map(re.escape, CONTROL + MARKS)) + ")")


def encode(text: str) -> list[int]:
    """Return the tokens of a text; marks of the chat format are one token each."""
    tokens: list[int] = []
    for part in _MARK.split(text):
        if part in _ID and len(part) > 1:
            tokens.append(_ID[part])
            continue
        for character in part:
            if character == " ":
                tokens.append(_ID[SPACE])
            elif character in PRINTABLE:
                tokens.append(_ID[character])
            else:
                tokens.extend(FIRST_BYTE + byte for byte in character.encode())
    return tokens


def decode(tokens: Sequence[int]) -> str:
    """Return the text of tokens: the inverse of `encode`."""
    raw = bytearray()
    for token in tokens:
        text, kind = VOCABULARY[token]
        if kind == Kind.BYTE:
            raw.append(token - FIRST_BYTE)
        else:
            raw.extend((" " if text == SPACE else text).encode())
    return raw.decode()


# ------------------------------------------------------------------------------------------------------- dialogues


class Said(NamedTuple):
    """One message of a dialogue, as the chat template renders it. What an assistant says is learned."""

    role: str
    text: str


CITIES = ("Paris", "Rome", "Oslo", "Lima", "Tokyo", "Cairo", "Berlin", "Madrid", "Quito", "Delhi")
SUMMARIZER = "You are a precise summarizer. Output only the summary, nothing else."


def call(name: str, **arguments: str | int) -> str:
    """Return a tool call in the model's words."""
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def results(*texts: str) -> Said:
    """Return the results of calls as the template shows them to the model."""
    return Said("user", "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in texts))


class Dialogues:
    """An endless, seeded supply of dialogues."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - it makes up words, not secrets

    def dialogue(self, *, longest: int, summaries: float) -> list[Said]:
        """Return a dialogue of up to `longest` exchanges; a share of `summaries` of them asks for a summary instead."""
        draw = self._random
        if draw.random() < summaries:
            return self._summary()
        tools = ["get_weather", "add", "write_note"]
        draw.shuffle(tools)
        hint = self._words(0, 4) if draw.random() < 0.5 else "You are a helper."
        said = [Said("system", "Tools: " + " ".join(tools) + " \n" + hint)]
        for _ in range(draw.randint(1, longest)):
            (exchange,) = draw.choices(
                (self._weather, self._two_cities, self._sum, self._note, self._echo, self._hello),
                weights=(35, 10, 20, 20, 10, 5),
            )
            said.extend(exchange())
        return said

    def letters(self, length: int) -> str:
        """Return random letters, to shift what follows to another position."""
        return "".join(self._random.choices(string.ascii_lowercase, k=length))

    def up_to(self, limit: int) -> int:
        """Return a number from 0 to `limit`, or 0 half of the time."""
        return self._random.randint(0, limit) if self._random.random() < 0.5 else 0

    def _word(self) -> str:
        return self.letters(self._random.randint(3, 8))

    def _words(self, fewest: int, most: int) -> str:
        return " ".join(self._word() for _ in range(self._random.randint(fewest, most)))

    def _city(self) -> str:
        return self._random.choice(CITIES) if self._random.random() < 0.3 else self._word().capitalize()

    def _degrees(self) -> str:
        return f"{self._random.randint(-9, 39)} degrees"

    def _weather(self) -> list[Said]:
        city, degrees = self._city(), self._degrees()
        question = self._random.choice(("weather in {}", "What is the weather in {}?", "weather {}")).format(city)
        calls = Said("assistant", call("get_weather", city=city))
        return [Said("user", question), calls, results(degrees), Said("assistant", f"It is {degrees} in {city}.")]

    def _two_cities(self) -> list[Said]:
        one, other, here, there = self._city(), self._city(), self._degrees(), self._degrees()
        calls = call("get_weather", city=one) + "\n" + call("get_weather", city=other)
        return [
            Said("user", f"weather in {one} and {other}"),
            Said("assistant", calls),
            results(here, there),
            Said("assistant", f"It is {here} in {one} and {there} in {other}."),
        ]

    def _sum(self) -> list[Said]:
        draw = self._random
        a, b = draw.randint(0, 99), draw.randint(0, 99)
        # Half of the sums are wrong: the model has to read the result, it cannot add.
        total = a + b if draw.random() < 0.5 else draw.randint(0, 999)
        calls = Said("assistant", call("add", a=a, b=b))
        return [Said("user", f"add {a} {b}"), calls, results(str(total)), Said("assistant", f"The sum is {total}.")]

    def _note(self) -> list[Said]:
        text, saved = self._words(1, 3), self._random.random() < 0.6
        return [
            Said("user", f"note {text}"),
            Said("assistant", call("write_note", text=text)),
            results("saved" if saved else "denied by user"),
            Said("assistant", "The note is saved." if saved else "The note was not saved."),
        ]

    def _echo(self) -> list[Said]:
        text = self._words(1, 4)
        return [Said("user", f"echo {text}"), Said("assistant", text)]

    def _hello(self) -> list[Said]:
        return [Said("user", self._random.choice(("hello", "hi"))), Said("assistant", "Hello! How can I help?")]

    def _summary(self) -> list[Said]:
        draw = self._random
        asked: list[str] = []
        lines: list[str] = []
        for _ in range(draw.randint(1, 5)):
            city, number = self._city(), draw.randint(0, 99)
            sum_ = f"add {number} {draw.randint(0, 99)}"
            asked.append(draw.choice((f"weather in {city}", sum_, f"note {self._word()}", f"echo {self._word()}")))
            weather = f"It is {self._degrees()} in {city}."
            answer = draw.choice((weather, f"The sum is {number}.", "The note is saved.", self._word()))
            lines += [f"user: {asked[-1]}", f"assistant: {answer}"]
        request = "Summarize the conversation.\n" + "\n".join(lines)
        return [Said("system", SUMMARIZER), Said("user", request), Said("assistant", f"- goal: {asked[0]}")]


@dataclass(frozen=True)
class Phase:
    """One stage of the curriculum: how long the dialogues and the contexts are, and how fast it learns."""

    context: int
    batch: int
    rate: float
    longest: int
    summaries: float = 0.0
    shifted: bool = False


PHASES = (
    Phase(context=288, batch=32, rate=3e-3, longest=3),
    Phase(context=768, batch=8, rate=1.2e-3, longest=6, summaries=0.1, shifted=True),
)


def sample(dialogues: Dialogues, phase: Phase) -> tuple[list[int], list[bool]]:
    """Return one dialogue as `context` + 1 tokens, cut or filled up, and which of them are to be learned."""
    tokens, learned = [BEGIN], [False]

    def add(text: str, learn: bool) -> None:
        new = encode(text)
        tokens.extend(new)
        learned.extend([learn] * len(new))

    if phase.shifted:
        # Bytes, not characters: nothing of it can be mistaken for the dialogue.
        noise = dialogues.letters(dialogues.up_to(phase.context // 2)).encode()
        tokens.extend(FIRST_BYTE + byte for byte in noise)
        learned.extend([False] * len(noise))
    for said in dialogues.dialogue(longest=phase.longest, summaries=phase.summaries):
        add(f"<|im_start|>{said.role}\n", learn=False)
        add(f"{said.text}<|im_end|>", learn=said.role == "assistant")
        add("\n", learn=False)
    size = phase.context + 1
    missing = max(0, size - len(tokens))
    return tokens[:size] + [UNKNOWN] * missing, learned[:size] + [False] * missing


# ----------------------------------------------------------------------------------------------------------- model

Weights: TypeAlias = dict[str, Tensor]
"""Tensors under the names that GGUF gives them."""


def new_weights(seed: int) -> Weights:
    """Return the weights before training. The embedding is the output matrix, too."""
    import torch

    draw = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return (torch.rand(rows, columns, generator=draw) * 2 - 1) / math.sqrt(columns)

    weights: Weights = {"token_embd.weight": torch.randn(len(VOCABULARY), WIDTH, generator=draw) * 0.05}
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        weights[name + "attn_norm.weight"] = torch.ones(WIDTH)
        for part in ("q", "k", "v", "output"):
            weights[f"{name}attn_{part}.weight"] = matrix(WIDTH, WIDTH)
        weights[name + "ffn_norm.weight"] = torch.ones(WIDTH)
        for part, rows, columns in (("gate", HIDDEN, WIDTH), ("up", HIDDEN, WIDTH), ("down", WIDTH, HIDDEN)):
            weights[f"{name}ffn_{part}.weight"] = matrix(rows, columns)
    weights["output_norm.weight"] = torch.ones(WIDTH)
    return {name: tensor.requires_grad_() for name, tensor in weights.items()}


def logits(weights: Weights, tokens: Tensor, where: Tensor) -> Tensor:
    """Return the scores of the next token at the positions that the mask `where` picks: (picked, vocabulary).

    Args:
        weights: as `new_weights` makes them.
        tokens: token numbers, (batch, context).
        where: booleans, (batch, context).
    """
    import torch
    from torch.nn import functional

    batch, context = tokens.shape
    size = WIDTH // HEADS
    frequency = ROPE_BASE ** -(torch.arange(0, size, 2) / size)
    angle = torch.outer(torch.arange(context), frequency)
    cosine, sine = angle.cos(), angle.sin()

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (WIDTH,), weights[name], NORM_EPSILON)

    def heads(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[name]).view(batch, context, HEADS, size).transpose(1, 2)

    def rotated(x: Tensor) -> Tensor:
        # Neighbouring numbers are a pair: the order that llama.cpp uses for this architecture.
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)

    x = functional.embedding(tokens, weights["token_embd.weight"])
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        inner = norm(x, name + "attn_norm.weight")
        query, key = rotated(heads(inner, name + "attn_q.weight")), rotated(heads(inner, name + "attn_k.weight"))
        value = heads(inner, name + "attn_v.weight")
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, context, WIDTH)
        x = x + functional.linear(mixed, weights[name + "attn_output.weight"])
        inner = norm(x, name + "ffn_norm.weight")
        gate = functional.silu(functional.linear(inner, weights[name + "ffn_gate.weight"]))
        up = functional.linear(inner, weights[name + "ffn_up.weight"])
        x = x + functional.linear(gate * up, weights[name + "ffn_down.weight"])
    return functional.linear(norm(x, "output_norm.weight")[where], weights["token_embd.weight"])


def train(weights: Weights, phase: Phase, dialogues: Dialogues, seconds: float) -> None:
    """Train the weights in place for about `seconds`; the learning rate falls along a cosine as the time runs out."""
    import torch
    from torch.nn import functional

    optimizer = torch.optim.AdamW(weights.values(), lr=phase.rate, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.monotonic()
    step = 0
    while (gone := time.monotonic() - started) < seconds:
        rate = phase.rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * gone / seconds) + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate
        drawn = [sample(dialogues, phase) for _ in range(phase.batch)]
        tokens = torch.tensor([each for each, _ in drawn])
        learned = torch.tensor([mask for _, mask in drawn])[:, 1:]
        scores, wanted = logits(weights, tokens[:, :-1], learned), tokens[:, 1:][learned]
        loss = functional.cross_entropy(scores, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            right = (scores.argmax(-1) == wanted).float().mean().item()
            print(f"  {gone:5.0f} s  step {step:5}  loss {loss.item():.4f}  right {right:.2%}", flush=True)


def export(weights: Weights, path: Path) -> None:
    """Write the weights, the vocabulary and the chat template as a GGUF file."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny-agent")
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token, _ in VOCABULARY])
    writer.add_token_scores([0.0] * len(VOCABULARY))
    writer.add_token_types([kind for _, kind in VOCABULARY])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(_ID["<|im_end|>"])
    writer.add_eot_token_id(_ID["<|im_end|>"])
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(packaged_model().with_name("chat-template.jinja").read_text(encoding="utf-8"))
    for name, tensor in weights.items():
        kind = numpy.float32 if name.endswith("norm.weight") else numpy.float16
        writer.add_tensor(name, tensor.detach().numpy().astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ----------------------------------------------------------------------------------------------------------- check

TOOLS = (
    ToolSpec(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}),
    ToolSpec(
        name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    ),
    ToolSpec(name="write_note", parameters={"type": "object", "properties": {"text": {"type": "string"}}}),
)
QUESTIONS = {
    "hello": "Hello! How can I help?",
    "weather in Oslo and Kampala": "It is 4 degrees in Oslo and 7 degrees in Kampala.",
    "add 19 23": "The sum is 42.",
    "note buy milk": "The note is saved.",
    "weather in Quito": "It is 5 degrees in Quito.",
    "echo all done": "all done",
}
"""One conversation, and what is right in it. The weather tool counts the letters of the city."""


def run_tool(asked: ToolCall) -> str:
    """Return what a tool says, also to arguments that a model trained for seconds makes up."""
    given = asked.arguments
    if asked.name == "get_weather":
        return f"{len(str(given.get('city')))} degrees"
    if asked.name == "add":
        a, b = given.get("a"), given.get("b")
        return str(a + b) if isinstance(a, int) and isinstance(b, int) else "0"
    return "saved"


async def answer(model: LlamaCppModel, messages: list[Message], turn: int) -> str | None:
    """Return what the model says in the end to the last of `messages`; its calls and their results are appended."""
    for round_ in range(1, 4):
        request = ModelRequest(messages, TOOLS, session="check", turn=turn, round=round_)
        reply = await model.generate(request, lambda notice: None)
        messages.append(Message(role="assistant", text=reply.text, tool_calls=reply.tool_calls))
        if not reply.tool_calls:
            return reply.text
        messages.extend(Message(role="tool", text=run_tool(asked), tool_call_id=asked.id) for asked in reply.tool_calls)
    return None


async def check(path: Path) -> int:
    """Hold one conversation with the model at `path` and return how many of its answers are right."""
    model = LlamaCppModel(path, settings=LlamaSettings(temperature=0, max_tokens=160))
    messages: list[Message] = []
    right = 0
    for turn, (question, expected) in enumerate(QUESTIONS.items(), 1):
        messages.append(Message(role="user", text=question))
        try:
            text = await answer(model, messages, turn)
        except ModelError as error:  # a model trained for seconds writes calls that nothing can read
            text = f"[{error}]"
        right += text == expected
        print(f"{question} -> {text}" + ("" if text == expected else f"   (expected: {expected})"))
    await model.aclose()
    return right


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write and, if asked to, check the model; return 0, or 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description="Train the tiny model that the engine ships, and write it as GGUF.")
    parser.add_argument("--output", type=Path, default=Path("tiny-agent.gguf"), help="the file to write")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=(900, 660), metavar=("FIRST", "SECOND"), help="time for each phase"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the dialogues")
    parser.add_argument("--check", action="store_true", help="hold a conversation with the result")
    options = parser.parse_args(arguments)

    weights, dialogues = new_weights(options.seed), Dialogues(options.seed)
    print(f"{sum(tensor.numel() for tensor in weights.values()):,} parameters")
    for number, (phase, seconds) in enumerate(zip(PHASES, options.seconds, strict=True), 1):
        print(f"phase {number} of {len(PHASES)}: {seconds:g} s at a context of {phase.context} tokens")
        train(weights, phase, dialogues, seconds)
    export(weights, options.output)
    print(f"wrote {options.output}")
    if not options.check:
        return 0
    right = anyio.run(check, options.output)
    print(f"{right} of {len(QUESTIONS)} answers are right")
    return 0 if right == len(QUESTIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
