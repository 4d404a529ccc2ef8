"""Gemma 2 and 3: windows on most layers, norms on both sides, weights of norms stored less 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halfbyte.config import Attention, Experts, FeedForward, LayerConfig
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


def _gemma4(keys: Keys) -> dict[str, Any]:
    """Full attention has heads of its own; the last layers read the K and V of earlier ones."""
    keys.require("attention_bias", False)
    keys.require("hidden_activation", "gelu_pytorch_tanh")
    if keys.values.get("use_bidirectional_attention") == "all":
        raise keys.fault("use_bidirectional_attention", "all", "null")
    width = keys.integer("hidden_size_per_layer_input", 256)
    if width and keys.integer("vocab_size_per_layer_input", 262_144) != keys.integer("vocab_size"):
        raise keys.fault("vocab_size_per_layer_input", "another size", "vocab_size")
    mixers = _gemma4_mixers(keys)
    kinds = keys.layer_types(
        {name: name for name in mixers},
        lambda i: "sliding_attention" if (i + 1) % 6 else "full_attention",
    )
    own = len(kinds) - keys.integer("num_kv_shared_layers", 0)
    size, wide = keys.positive("intermediate_size"), keys.flag("use_double_wide_mlp")
    layers = []
    for i, name in enumerate(kinds):
        mixer, inner = mixers[name], FeedForward(size, "gelu-tanh")
        if i >= own:
            sources = [j for j in range(own) if kinds[j] == name]
            if not sources:
                raise keys.fault("num_kv_shared_layers", own, f"a layer of {name} before them")
            mixer = replace(mixer, kv_layer=sources[-1], tied_v=False)
            inner = FeedForward(2 * size if wide else size, "gelu-tanh")
        layers.append(
            LayerConfig(
                mixer,
                _beside_experts(keys, inner) if keys.flag("enable_moe_block") else inner,
                norms="both",
                reads_input=width > 0,
                scaled=True,
            )
        )
    return arranged(layers) | {
        "embedding_multiplier": float(keys.integer("hidden_size") ** 0.5),
        "logit_softcap": keys.maybe_real("final_logit_softcapping"),
        "layer_input": width,
    }


def _beside_experts(keys: Keys, inner: FeedForward) -> Experts:
    return Experts(
        count=keys.positive("num_experts"),
        top_k=keys.positive("top_k_experts"),
        each=FeedForward(keys.positive("moe_intermediate_size"), "gelu-tanh"),
        shared=inner,
        apart=True,
        each_scale=True,
    )


def _gemma4_mixers(keys: Keys) -> dict[str, Attention]:
    ropes, size = keys.inside("rope_parameters"), keys.positive("head_dim", 256)
    nothing = keys.with_values({}, only=True)
    near_rope = {"rope_theta": 10_000.0} | dict(ropes.inside("sliding_attention").values)
    far_rope = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
    far_rope |= ropes.inside("full_attention").values
    listed = keys.inside("per_layer_config").values.values()  # as transformers writes it itself
    special = next((entry for entry in listed if isinstance(entry, dict)), {})
    special = {key: keys.values.get(f"global_{key}", special.get(key)) for key in ("head_dim",)}
    heads = keys.values.get("num_global_key_value_heads")
    for entry in listed:
        if heads is None and isinstance(entry, dict):
            heads = entry.get("num_key_value_heads")
    tied = keys.flag("attention_k_eq_v")
    far_size = keys.with_values(special).positive("head_dim", 512)
    far_keys = keys
    if tied and heads is not None:
        far_keys = keys.with_values({"num_key_value_heads": heads})
    parts: dict[str, Any] = {"scale": 1.0, "qk_norm": "head", "v_norm": True}
    return {
        "sliding_attention": attention(
            keys,
            head_dim=size,
            rope=rope_of(nothing, nothing.with_values(near_rope), size),
            window=keys.positive("sliding_window", 512),
            **parts,
        ),
        "full_attention": attention(
            far_keys,
            head_dim=far_size,
            rope=rope_of(nothing, nothing.with_values(far_rope), far_size),
            tied_v=tied,
            **parts,
        ),
    }


def _gguf_values(keys: Keys) -> dict[str, Any]:
    """The scale of scores: that of a head, but in the 27B."""
    largest = keys.integer("num_hidden_layers") in _LARGEST.values()
    width = keys.integer("hidden_size") // keys.positive("num_attention_heads")
    return {"query_pre_attn_scalar": width if largest else keys.positive("head_dim", 256)}


_GEMMA4 = SANDWICH | {
    "input.gate": "per_layer_input_gate",
    "input.project": "per_layer_projection",
    "norm.input": "post_per_layer_input_norm",
    "scalar": "=layer_scalar",
}
GEMMA4 = Family("gemma4_text", _gemma4, names=_GEMMA4, tied=True)
GEMMA4_EXPERTS = Family(
    "gemma4_experts",
    _gemma4,
    names=_GEMMA4
    | {
        "mlp.router": "router.proj",
        "mlp.each_scale": "=router.per_expert_scale",
        "mlp.gate": "=experts.gate_up_proj",
        "mlp.up": "=experts.gate_up_proj",
        "mlp.down": "=experts.down_proj",
        "shared.gate": "mlp.gate_proj",
        "shared.up": "mlp.up_proj",
        "shared.down": "mlp.down_proj",
        "norm.experts": "pre_feedforward_layernorm_2",
        "norm.experts_out": "post_feedforward_layernorm_2",
        "norm.shared_out": "post_feedforward_layernorm_1",
    },
    experts="joined",
    router_scale="router.scale",
    tied=True,
)
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
