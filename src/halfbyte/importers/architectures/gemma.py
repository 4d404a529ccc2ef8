"""Gemma 2 and 3: windows on most layers, norms on both sides, weights of norms stored less 1."""

from __future__ import annotations

from typing import Any

from halfbyte.config import Attention, LayerConfig
from halfbyte.importers.architectures.family import (
    SANDWICH,
    Family,
    arranged,
    attention,
    feed_forward,
)
from halfbyte.importers.keys import Keys
from halfbyte.importers.rope_keys import rope_of

_LARGEST = {"gemma2": 46, "gemma3": 62}  # layers of the 27B, whose scores have a scale of their own


def _described(keys: Keys, far: Attention, near: Attention, period: int) -> dict[str, Any]:
    inner = feed_forward(keys, "gelu-tanh")
    for key in ("hidden_act", "hidden_activation"):
        keys.require(key, "gelu_pytorch_tanh")
    kinds = {
        "sliding_attention": LayerConfig(near, inner, norms="both"),
        "full_attention": LayerConfig(far, inner, norms="both"),
    }
    layers = keys.layer_types(
        kinds, lambda i: "sliding_attention" if (i + 1) % period else "full_attention"
    )
    return arranged(layers) | {
        "embedding_multiplier": float(keys.integer("hidden_size") ** 0.5),
        "logit_softcap": keys.maybe_real("final_logit_softcapping"),
    }


def _parts(keys: Keys) -> dict[str, Any]:
    keys.require("attention_bias", False)
    return {
        "head_dim": keys.positive("head_dim", 256),
        "scale": keys.real("query_pre_attn_scalar", 256) ** -0.5,
        "softcap": keys.maybe_real("attn_logit_softcapping"),
    }


def _gemma2(keys: Keys) -> dict[str, Any]:
    defaults = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    keys = keys.with_values(defaults | dict(keys.values))
    parts, window = _parts(keys), keys.positive("sliding_window", 4096)
    return _described(keys, attention(keys, **parts), attention(keys, window=window, **parts), 2)


def _gemma3(keys: Keys) -> dict[str, Any]:
    if keys.values.get("use_bidirectional_attention"):
        raise keys.fault("use_bidirectional_attention", "true", "false")
    parts, size = _parts(keys), keys.positive("head_dim", 256)
    ropes = keys.inside("rope_parameters")
    if "full_attention" not in ropes.values:  # a config from before there was one for each kind
        far = rope_of(keys, keys.inside("rope_scaling"), size, theta=1e6)
        near = {"rope_theta": keys.real("rope_local_base_freq", 10_000.0)}
        ropes = keys.with_values({"sliding_attention": near})
    else:
        far = rope_of(keys, ropes.inside("full_attention"), size, theta=1e6)
    local = rope_of(keys.with_values({}, only=True), ropes.inside("sliding_attention"), size)
    window = keys.positive("sliding_window", 4096)
    return _described(
        keys,
        attention(keys, rope=far, qk_norm="head", **parts),
        attention(keys, rope=local, window=window, qk_norm="head", **parts),
        keys.positive("sliding_window_pattern", 6),
    )


def _gguf_values(keys: Keys) -> dict[str, Any]:
    """The scale of scores: that of a head, but in the 27B."""
    largest = keys.integer("num_hidden_layers") in _LARGEST.values()
    width = keys.integer("hidden_size") // keys.positive("num_attention_heads")
    return {"query_pre_attn_scalar": width if largest else keys.positive("head_dim", 256)}


FAMILIES = tuple(
    Family(
        name,
        describe,
        arch,
        names=SANDWICH,
        gguf_values=_gguf_values,
        norm_offset=1.0,
        tied=True,
    )
    for name, describe, arch in (
        ("gemma2", _gemma2, "gemma2"),
        ("gemma3_text", _gemma3, "gemma3"),
    )
)
