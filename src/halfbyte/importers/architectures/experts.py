"""Mixtures of experts: Qwen3-MoE, Mixtral, gpt-oss."""

from __future__ import annotations

from typing import Any

from halfbyte.config import Experts, FeedForward, LayerConfig
from halfbyte.importers.architectures.family import Family, alike, arranged, attention
from halfbyte.importers.keys import Keys


def _qwen3_moe(keys: Keys) -> dict[str, Any]:
    keys.require("hidden_act", "silu")
    keys.require("attention_bias", False)
    keys.require("use_sliding_window", False)
    keys.require("decoder_sparse_step", 1)
    if keys.values.get("mlp_only_layers"):
        raise keys.fault("mlp_only_layers", "dense layers among the others", "none")
    counted = "num_local_experts" if "num_local_experts" in keys.values else "num_experts"
    inner = Experts(
        count=keys.positive(counted, 128),
        top_k=keys.positive("num_experts_per_tok", 8),
        each=FeedForward(keys.positive("moe_intermediate_size", 768)),
        normalized=keys.flag("norm_topk_prob"),
    )
    return alike(attention(keys, qk_norm="head"), inner)


def _mixtral(keys: Keys) -> dict[str, Any]:
    keys.require("hidden_act", "silu")
    window = keys.values.get("sliding_window")
    inner = Experts(
        count=keys.positive("num_local_experts", 8),
        top_k=keys.positive("num_experts_per_tok", 2),
        each=FeedForward(keys.positive("intermediate_size")),
    )
    heads = {"num_key_value_heads": keys.integer("num_key_value_heads", 8)}
    window = keys.integer("sliding_window") if window is not None else None
    return alike(attention(keys.with_values(heads), window=window), inner)


def _gpt_oss(keys: Keys) -> dict[str, Any]:
    keys.require("swiglu_alpha", 1.702)
    inner = Experts(
        count=keys.positive("num_local_experts", 128),
        top_k=keys.positive("num_experts_per_tok", 4),
        each=FeedForward(
            keys.positive("intermediate_size"),
            "clamped-swiglu",
            bias=True,
            limit=keys.real("swiglu_limit", 7.0),
        ),
        router_bias=True,
    )
    far = attention(
        keys,
        bias=keys.flag("attention_bias", True),
        out_bias=keys.flag("attention_bias", True),
        sinks=True,
    )
    near = attention(
        keys,
        bias=far.bias,
        out_bias=far.out_bias,
        sinks=True,
        window=keys.positive("sliding_window", 128),
    )
    kinds = {
        "sliding_attention": LayerConfig(near, inner),
        "full_attention": LayerConfig(far, inner),
    }
    return arranged(keys.layer_types(kinds, lambda i: list(kinds)[i % 2]))


def _gpt_oss_gguf(keys: Keys) -> dict[str, Any]:
    # The band of its YaRN is not rounded to whole pairs, which files do not say.
    scaling = dict(keys.values.get("rope_scaling") or {})
    return {"rope_scaling": scaling | {"truncate": False}} if scaling else {}


FAMILIES = (
    Family(
        "qwen3_moe",
        _qwen3_moe,
        "qwen3moe",
        names={
            "mlp.router": "mlp.gate",
            "mlp.gate": "mlp.experts.{e}.gate_proj",
            "mlp.up": "mlp.experts.{e}.up_proj",
            "mlp.down": "mlp.experts.{e}.down_proj",
        },
        gguf_values=lambda keys: {"norm_topk_prob": True},
    ),
    Family(
        "mixtral",
        _mixtral,
        "llama",
        names={
            "mlp.router": "block_sparse_moe.gate",
            "mlp.gate": "block_sparse_moe.experts.{e}.w1",
            "mlp.up": "block_sparse_moe.experts.{e}.w3",
            "mlp.down": "block_sparse_moe.experts.{e}.w2",
        },
        interleaved="gguf",
    ),
    Family(
        "gpt_oss",
        _gpt_oss,
        "gpt-oss",
        names={
            "attn.sinks": "=self_attn.sinks",
            "mlp.router": "mlp.router",
            "mlp.gate": "=mlp.experts.gate_up_proj",
            "mlp.up": "=mlp.experts.gate_up_proj",
            "mlp.down": "=mlp.experts.down_proj",
        },
        gguf_names={
            "mlp.gate": "mlp.experts.gate_proj",
            "mlp.up": "mlp.experts.up_proj",
            "mlp.down": "mlp.experts.down_proj",
        },
        gguf_values=_gpt_oss_gguf,
        experts="mixed",
    ),
)
