"""config.json of a Hugging Face model -> ModelConfig."""

from __future__ import annotations

from typing import Any

from halfbyte.config import ModelConfig
from halfbyte.errors import SourceError
from halfbyte.importers.architectures import BY_NAME, described
from halfbyte.importers.keys import Keys

_TEXT = "text_config"  # of a model that reads more than text


def read_config(
    values: dict[str, Any], *, bos_id: int | None, eos_ids: tuple[int, ...]
) -> ModelConfig:
    """Raises SourceError or ModelError for what we cannot run."""
    kind = model_type(values)
    keys = Keys(text_values(values), lambda key: f"config.json {key}")
    vocab_size = keys.integer("vocab_size")
    text = {
        "bos_id": bos_id if bos_id is not None and bos_id < vocab_size else None,
        "eos_ids": tuple(token for token in eos_ids if token < vocab_size),
    }
    family = BY_NAME[kind]
    tied = keys.flag("tie_word_embeddings", family.tied)
    return described(family, keys, vocab_size=vocab_size, tied_head=tied, **text)


def text_values(values: dict[str, Any]) -> dict[str, Any]:
    """What a config says of the language model in it."""
    inner = values.get(_TEXT)
    if not isinstance(inner, dict):
        return values
    shared = {key: value for key, value in values.items() if key == "tie_word_embeddings"}
    return shared | inner


def model_type(values: dict[str, Any]) -> str:
    """The `model_type` of the language model. Raises SourceError for one that is not known."""
    text = text_values(values)
    kind = text.get("model_type")
    if kind == "gemma4_text" and text.get("enable_moe_block") is True:
        kind = "gemma4_experts"  # one config class, two sets of tensors
    if not isinstance(kind, str) or kind not in BY_NAME:
        raise SourceError(
            "config.json model_type",
            got=repr(kind)[:80],
            expected=", ".join(BY_NAME),
            fix="use one of those",
        )
    return kind
