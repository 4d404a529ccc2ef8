"""Llama, Mistral, Qwen2 and Qwen3: layers that are all alike and plain."""

from __future__ import annotations

from typing import Any

from halfbyte.importers.architectures.family import Family, alike, attention, feed_forward
from halfbyte.importers.keys import Keys
from halfbyte.importers.rope_keys import PLAIN_KINDS, read_rope


def _described(keys: Keys, head_dim: int | None = None, **changes: Any) -> dict[str, Any]:
    heads = keys.positive("num_attention_heads")
    size = keys.integer("head_dim", head_dim or keys.integer("hidden_size") // heads)
    rope = read_rope(keys, size, PLAIN_KINDS)
    return alike(attention(keys, head_dim=size, rope=rope, **changes), feed_forward(keys))


def _llama(keys: Keys) -> dict[str, Any]:
    keys.require("attention_bias", False)
    return _described(keys)


def _mistral(keys: Keys) -> dict[str, Any]:
    stated = keys.values.get("sliding_window", 4096)  # transformers' own default
    window = None if stated is None else keys.integer("sliding_window", 4096)
    heads = {"num_key_value_heads": keys.integer("num_key_value_heads", 8)}
    return _described(keys.with_values(heads), window=window)


def _qwen2(keys: Keys) -> dict[str, Any]:
    return _described(keys, window=_qwen_window(keys), bias=True)


def _qwen3(keys: Keys) -> dict[str, Any]:
    keys.require("attention_bias", False)
    return _described(keys, head_dim=128, window=_qwen_window(keys), qk_norm="head")


def _qwen_window(keys: Keys) -> int | None:
    """A window only with `use_sliding_window`, and on upper layers."""
    if not keys.flag("use_sliding_window") or keys.values.get("sliding_window") is None:
        return None
    # Layers below max_window_layers attend to everything.
    lower = keys.integer("max_window_layers", 28)
    if lower >= keys.integer("num_hidden_layers"):
        return None
    if lower == 0:
        return keys.integer("sliding_window")
    raise keys.fault(
        "use_sliding_window", "a window on some layers only", "one window for all layers, or none"
    )


FAMILIES = (
    Family("llama", _llama, "llama", interleaved="gguf"),
    Family("mistral", _mistral, "llama", interleaved="gguf"),
    Family("qwen2", _qwen2, "qwen2"),
    Family("qwen3", _qwen3, "qwen3"),
)
