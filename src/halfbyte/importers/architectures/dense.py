"""Dense families of plain layers with a few parts changed."""

from __future__ import annotations

from typing import Any

from halfbyte.config import LayerConfig
from halfbyte.importers.architectures.family import (
    Family,
    alike,
    arranged,
    attention,
    feed_forward,
)
from halfbyte.importers.keys import Keys


def _phi3(keys: Keys) -> dict[str, Any]:
    window = keys.values.get("sliding_window")
    window = keys.positive("sliding_window") if window is not None else None
    return alike(attention(keys, window=window), feed_forward(keys))


def _smollm3(keys: Keys) -> dict[str, Any]:
    """Every fourth layer has no positions."""
    keys.require("attention_bias", False)
    keys.require("use_sliding_window", False)
    keys = keys.with_values({"rope_theta": keys.values.get("rope_theta", 2e6)})
    period = keys.positive("no_rope_layer_interval", 4)
    turned = keys.each_layer("no_rope_layers", lambda i: int((i + 1) % period != 0))
    inner = feed_forward(keys)
    kinds = [LayerConfig(attention(keys, rope=None), inner), LayerConfig(attention(keys), inner)]
    return arranged([kinds[bool(there)] for there in turned])


def _granite(keys: Keys) -> dict[str, Any]:
    keys.require("attention_bias", False)
    mixer = attention(keys, scale=keys.real("attention_multiplier", 1.0))
    fields = {
        "embedding_multiplier": keys.real("embedding_multiplier", 1.0),
        "logit_multiplier": 1 / keys.nonzero("logits_scaling", 1.0),
    }
    residual = keys.real("residual_multiplier", 1.0)
    return alike(mixer, feed_forward(keys), residual_multiplier=residual) | fields


def _olmo2(keys: Keys) -> dict[str, Any]:
    keys.require("attention_bias", False)
    keys = keys.with_values({"rms_norm_eps": keys.values.get("rms_norm_eps", 1e-5)})
    return alike(attention(keys, qk_norm="whole"), feed_forward(keys), norms="after")


def _ministral3(keys: Keys) -> dict[str, Any]:
    name = "rope_parameters" if keys.values.get("rope_parameters") else "rope_scaling"
    scaling, window = keys.inside(name), keys.values.get("sliding_window")
    mixer = attention(
        keys,
        window=keys.positive("sliding_window") if window is not None else None,
        position_scale=scaling.real("llama_4_scaling_beta", 0.0),
    )
    return alike(mixer, feed_forward(keys))


def _ministral3_gguf(keys: Keys) -> dict[str, Any]:
    """What a file keeps beside its YaRN."""
    scaling = dict(keys.inside("rope_scaling").values)
    if (beta := keys.values.get("llama_4_scaling_beta")) is not None:
        scaling["llama_4_scaling_beta"] = beta
    if (times := keys.values.get("mscale_all_dim")) is not None:
        scaling |= {"mscale": 1.0, "mscale_all_dim": times}
    return {"rope_scaling": scaling} if scaling else {}


def _glm4(keys: Keys) -> dict[str, Any]:
    share = keys.values.get("partial_rotary_factor", 0.5)
    keys = keys.with_values({"partial_rotary_factor": share})
    mixer = attention(keys, bias=keys.flag("attention_bias", True))
    return alike(mixer, feed_forward(keys), norms="both")


_FUSED_UP = {"mlp.gate": "mlp.gate_up_proj", "mlp.up": "mlp.gate_up_proj"}
FAMILIES = (
    Family(
        "phi3",
        _phi3,
        "phi3",
        names=_FUSED_UP | {f"attn.{x}": "self_attn.qkv_proj" for x in "qkv"},
    ),
    Family("smollm3", _smollm3, "smollm3", interleaved="gguf", tied=True),
    Family("granite", _granite, "granite", interleaved="gguf"),
    Family(
        "olmo2",
        _olmo2,
        "olmo2",
        names={
            "norm.attn_out": "post_attention_layernorm",
            "norm.mlp_out": "post_feedforward_layernorm",
        },
    ),
    Family(
        "ministral3",
        _ministral3,
        "mistral3",
        gguf_values=_ministral3_gguf,
        interleaved="gguf",
    ),
    Family(
        "glm4",
        _glm4,
        "glm4",
        names=_FUSED_UP
        | {"norm.attn_out": "post_self_attn_layernorm", "norm.mlp_out": "post_mlp_layernorm"},
        interleaved="both",
    ),
)
