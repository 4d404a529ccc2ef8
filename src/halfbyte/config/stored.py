"""A model's description in JSON, in two forms.

Flat, in checkpoints of the formats 1 to 4: a model of one of `FLAT_FAMILIES`, whose layers are all
alike and plain. In layers, from format 5 on: any other; what is as it would be anyway is left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from halfbyte.config.fields import (
    but_defaults,
    check_flags,
    check_word,
    known_keys,
    listed,
)
from halfbyte.config.layers import Attention, Experts, FeedForward, LayerConfig
from halfbyte.config.model import MAX_KINDS, MAX_ORDER, ModelConfig
from halfbyte.config.rope import RopeConfig

FLAT_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_FLAT_ROPE = (
    "base",
    "kind",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_context",
    "frequency_factors",
)
_FLAT_KINDS = ("none", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class FlatModel:
    """A model whose layers are alike: attention, a SiLU feed-forward, a norm before each."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    norm_eps: float
    rope: RopeConfig = field(default_factory=RopeConfig)
    tied_head: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def described(self) -> ModelConfig:
        """As layers."""
        check_word("architecture", self.family, FLAT_FAMILIES)
        check_flags(self, "qk_norm")
        mixer = Attention(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            rope=self.rope,
            window=self.sliding_window,
            bias=self.qkv_bias,
            qk_norm="head" if self.qk_norm else "none",
        )
        return ModelConfig(
            family=self.family,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            max_context=self.max_context,
            norm_eps=self.norm_eps,
            kinds=(LayerConfig(mixer, FeedForward(self.intermediate_size)),),
            tied_head=self.tied_head,
            bos_id=self.bos_id,
            eos_ids=self.eos_ids,
        )


def uniform_model(**fields: Any) -> ModelConfig:
    """A model from the fields of `FlatModel`."""
    return FlatModel(**fields).described()


def flat_form(config: ModelConfig) -> FlatModel | None:
    """The model in flat fields, where they say all of it."""
    kinds = config.layer_kinds
    if len(kinds) != 1 or config.family not in FLAT_FAMILIES:
        return None
    mixer, inner = kinds[0].mixer, kinds[0].feed_forward
    if mixer.rope is None or mixer.rope.kind not in _FLAT_KINDS or isinstance(inner, Experts):
        return None
    flat = FlatModel(
        family=config.family,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=inner.size,
        num_layers=config.num_layers,
        num_heads=mixer.num_heads,
        num_kv_heads=mixer.num_kv_heads,
        head_dim=mixer.head_dim,
        max_context=config.max_context,
        norm_eps=config.norm_eps,
        rope=RopeConfig(**{name: getattr(mixer.rope, name) for name in _FLAT_ROPE}),
        tied_head=config.tied_head,
        qkv_bias=mixer.bias,
        qk_norm=mixer.qk_norm == "head",
        sliding_window=mixer.window,
        bos_id=config.bos_id,
        eos_ids=config.eos_ids,
    )
    same = flat.described() == replace(config, kinds=(kinds[0],), order=(0,))
    return flat if same else None


def is_flat(config: ModelConfig) -> bool:
    """Whether flat fields say all of the model."""
    return flat_form(config) is not None


def model_values(config: ModelConfig) -> dict[str, Any]:
    """The `model` of a manifest."""
    flat = flat_form(config)
    if flat is not None:
        values = asdict(flat)
        values["rope"] = {name: values["rope"][name] for name in _FLAT_ROPE}
        return values
    values = but_defaults(asdict(config), ModelConfig)
    values["kinds"] = [_layer_values(kind) for kind in config.kinds]
    return values


def _layer_values(kind: LayerConfig) -> dict[str, Any]:
    values = but_defaults(asdict(kind), LayerConfig)
    mixer = but_defaults(values["mixer"], Attention)
    if mixer["rope"] is not None:
        mixer["rope"] = but_defaults(mixer["rope"], RopeConfig)
    inner = values["feed_forward"]
    if isinstance(kind.feed_forward, Experts):
        inner = but_defaults(inner, Experts)
        for name in {"each", "shared"} & set(inner):
            inner[name] = but_defaults(inner[name], FeedForward)
        inner = {"type": "experts", **inner}
    else:
        inner = {"type": "dense", **but_defaults(inner, FeedForward)}
    return {**values, "mixer": {"type": "attention", **mixer}, "feed_forward": inner}


def read_model(values: dict[str, Any], *, flat: bool = False) -> ModelConfig:
    """What `model_values` wrote; `flat`: in that form for certain.

    Raises ModelError; an unknown key names the nearest known one.
    """
    values = dict(values)
    values["eos_ids"] = tuple(values.get("eos_ids", ()))
    if flat or "kinds" not in values:
        values["rope"] = RopeConfig.from_dict(values.get("rope", {}))
        return FlatModel(**known_keys(FlatModel, values)).described()
    kinds = listed(values["kinds"], "layer kinds", MAX_KINDS)
    values["kinds"] = tuple(LayerConfig.from_dict(kind) for kind in kinds)
    if "order" in values:
        values["order"] = tuple(listed(values["order"], "order of layer kinds", MAX_ORDER))
    return ModelConfig(**known_keys(ModelConfig, values))
