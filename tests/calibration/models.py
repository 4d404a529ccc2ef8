"""Hugging Face directories to quantize: tiny, with a byte tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.importers.tiny_huggingface import CONFIG, tiny_values, write_model


def byte_tokenizer() -> dict:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, **{char: i + 1 for i, char in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return json.loads(tokenizer.to_str())


def model(path: Path, layers: int = 2, **changes: object) -> Path:
    """A random model whose vocabulary is bytes."""
    config = CONFIG | {"vocab_size": 288, "num_hidden_layers": layers, "bos_token_id": 0} | changes
    values = tiny_values(config)
    for array in values.values():
        if array.ndim == 2:
            array *= 0.1
    return write_model(path, config, values=values, tokenizer=byte_tokenizer())


def text(path: Path, length: int = 4000) -> Path:
    words = "the quick brown fox jumps over a lazy dog while seven wizards box "
    path.write_text((words * (length // len(words) + 1))[:length], encoding="utf-8")
    return path
