"""What a table of `architectures` says: how configs, layers and tensors of a family are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from halfbyte.config import Attention, FeedForward, LayerConfig, ModelConfig
from halfbyte.importers.keys import Keys
from halfbyte.importers.rope_keys import read_rope

# Tensor of a layer (formats/names.py) -> its Hugging Face module. `{e}` stands for an expert, `=`
# for a whole name without `.weight`. Tensors of one name lie in it one after the other.
# GGUF names are what the `gguf` package makes of these.
PLAIN = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "norm.attn": "input_layernorm",
    "norm.mlp": "post_attention_layernorm",
}
SANDWICH = {
    "norm.attn_out": "post_attention_layernorm",
    "norm.mlp": "pre_feedforward_layernorm",
    "norm.mlp_out": "post_feedforward_layernorm",
}


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models that one config class of transformers describes."""

    name: str
    describe: Callable[[Keys], dict[str, Any]]  # `kinds`, and further fields of ModelConfig
    gguf: str = ""  # its architecture in GGUF files; none: it is not read from them
    names: Mapping[str, str] = field(default_factory=dict)  # where not PLAIN
    gguf_names: Mapping[str, str] = field(default_factory=dict)  # where not like `names`
    gguf_values: Callable[[Keys], dict[str, Any]] = lambda keys: {}  # keys its files leave out
    norm_offset: float = 0.0  # what a stored norm weight lacks in Hugging Face files
    interleaved: str = ""  # "gguf" | "both": files that keep RoPE pairs of q and k side by side
    # How experts lie in Hugging Face files: "" in a tensor each; "mixed" in [E, inputs, outputs],
    # rows of gate and up taking turns; "joined" in [E, outputs, inputs], gate before up.
    experts: str = ""
    router_scale: str = ""  # what the router's input is times, besides hidden ** -0.5
    tied: bool = False  # where its config does not say


def attention(keys: Keys, *, head_dim: int | None = None, **changes: Any) -> Attention:
    """The mixer that most families have, with some fields changed."""
    heads = keys.positive("num_attention_heads")
    size = head_dim or keys.integer("head_dim", keys.integer("hidden_size") // heads)
    if "rope" not in changes:
        changes["rope"] = read_rope(keys, size)
    return Attention(
        num_heads=heads,
        num_kv_heads=keys.integer("num_key_value_heads", heads),
        head_dim=size,
        **changes,
    )


def feed_forward(keys: Keys, activation: str = "silu", **changes: Any) -> FeedForward:
    """The dense feed-forward of a config; `mlp_bias` is refused."""
    for key in ("hidden_act", "hidden_activation"):
        keys.require(key, "silu" if activation == "silu" else keys.values.get(key))
    keys.require("mlp_bias", False)
    return FeedForward(keys.integer("intermediate_size"), activation, **changes)


def arranged(layers: Sequence[LayerConfig]) -> dict[str, Any]:
    """Layers one by one -> `kinds` and `order`."""
    kinds = list(dict.fromkeys(layers))
    return {"kinds": tuple(kinds), "order": tuple(kinds.index(layer) for layer in layers)}


def alike(mixer: Attention, inner: Any, **fields: Any) -> dict[str, Any]:
    """All layers of one kind."""
    return {"kinds": (LayerConfig(mixer, inner, **fields),)}


def described(family: Family, keys: Keys, **fields: Any) -> ModelConfig:
    """The model that a config of the family describes."""
    return ModelConfig(
        family=family.name,
        hidden_size=keys.integer("hidden_size"),
        num_layers=keys.integer("num_hidden_layers"),
        max_context=keys.integer("max_position_embeddings", 2048),
        norm_eps=keys.real("rms_norm_eps", 1e-6),
        **family.describe(keys),
        **fields,
    )
