"""Texts that a model writes by itself: what its draft head has to learn is how *it* goes on.

An instruct model is given only what precedes a user's turn and writes the turn, then the answer
(Magpie, arXiv 2406.08464). A model without a chat template goes on from its first token, one
without a tokenizer from random ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfbyte.api.llm import LLM
from halfbyte.api.results import Completion
from halfbyte.errors import SourceError
from halfbyte.sampling.params import SamplingParams

_MARK = "\u2063"  # an invisible separator, which no template has
_TURN_TOKENS = 96
_SEED_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Text:
    """One sequence; the model wrote the tokens from `prompt_len` on."""

    tokens: list[int]
    prompt_len: int


def write_texts(llm: LLM, count: int, max_tokens: int, seed: int) -> Iterator[list[Text]]:
    """`count` texts in batches, every second one greedy; the same for the same seed."""
    batch = llm.options.max_batch
    for first in range(0, count, batch):
        seeds = [seed * 1_000_003 + first + i for i in range(min(batch, count - first))]
        prompts = _prompts(llm, seeds)
        params = [
            SamplingParams(temperature=0.8 if i % 2 else 0.0, max_tokens=max_tokens, seed=s)
            for i, s in enumerate(seeds)
        ]
        answers = llm.generate(prompts, params)
        yield [Text(a.prompt_token_ids + a.token_ids, len(a.prompt_token_ids)) for a in answers]


def _prompts(llm: LLM, seeds: list[int]) -> list[list[int]]:
    vocab = llm.model.runtime.config.vocab_size
    if not llm.model.has_text:
        draws = [np.random.default_rng(seed).integers(0, vocab, _SEED_TOKENS) for seed in seeds]
        return [[int(t) for t in draw] for draw in draws]
    turn = SamplingParams(temperature=1.0, top_p=0.95, max_tokens=_TURN_TOKENS)
    if not llm.model.source.chat_template:
        bos = llm.model.codec.encode("")[:1] or [min(llm.model.eos_ids, default=0)]
        opened = llm.generate([bos] * len(seeds), [_with(turn, s) for s in seeds])
        return [answer.prompt_token_ids + answer.token_ids for answer in opened]
    empty = llm.model.template.render([{"role": "user", "content": _MARK}])
    head = llm.model.codec.encode(empty.partition(_MARK)[0], as_chat=True)
    opened = llm.generate([head] * len(seeds), [_with(turn, s) for s in seeds])
    return [_asked(llm, answer) for answer in opened]


def _asked(llm: LLM, turn: Completion) -> list[int]:
    """The prompt of a chat that begins with a turn the model wrote."""
    content = turn.text.strip() or "Hello"
    text = llm.model.template.render([{"role": "user", "content": content}])
    return llm.model.codec.encode(text, as_chat=True)


def _with(params: SamplingParams, seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        max_tokens=params.max_tokens,
        seed=seed,
    )


def append_texts(path: Path, texts: list[Text]) -> None:
    """One JSON object per line."""
    with path.open("a", encoding="utf-8") as file:
        for text in texts:
            line = {"tokens": text.tokens, "prompt_len": text.prompt_len}
            file.write(json.dumps(line) + "\n")


def read_texts(path: Path) -> list[Text]:
    """What `append_texts` wrote; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    texts = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            values = json.loads(line)
            texts.append(Text([int(t) for t in values["tokens"]], int(values["prompt_len"])))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1:
                break
            raise SourceError(
                f"{path.name} line {number + 1}",
                got=str(error)[:100],
                expected="a text",
                fix="remove the work directory and start again",
            ) from error
    return texts
