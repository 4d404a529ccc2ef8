"""A model's shape as the native core knows it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Experts, FeedForward, LayerConfig, ModelConfig, RopeConfig


@dataclass(frozen=True, slots=True)
class CoreRotary:
    """`Rotary` in csrc/model/shape.h."""

    inverse_frequencies: NDArray[np.float32]  # [R / 2]
    factor: float


@dataclass(frozen=True, slots=True)
class CoreLayer:
    """A kind of layer: `LayerShape` in csrc/model/shape.h."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int  # 0: all positions
    rotary: int  # of CoreShape.rotaries; -1: none
    scale: float
    softcap: float  # 0: none
    whole_norm: bool
    position_scale: float
    original_context: int
    size: int  # of the feed-forward, or of each expert
    activation: str
    limit: float
    norm_before: bool
    norm_after: bool
    residual_multiplier: float
    experts: int  # 0: a dense feed-forward
    top_k: int
    sigmoid: bool
    normalized: bool
    routing_scale: float
    shared_size: int  # 0: no shared expert
    shared_activation: str
    shared_limit: float
    shared_gate: bool

    @classmethod
    def of(cls, kind: LayerConfig, rotary: int) -> CoreLayer:
        """A kind of a model's layers, whose RoPE has that number."""
        mixer, inner = kind.mixer, kind.feed_forward
        experts = inner if isinstance(inner, Experts) else None
        each = inner.each if isinstance(inner, Experts) else inner
        shared = (experts.shared if experts else None) or FeedForward(size=1)
        return cls(
            heads=mixer.num_heads,
            kv_heads=mixer.num_kv_heads,
            head_dim=mixer.head_dim,
            window=mixer.window or 0,
            rotary=rotary,
            scale=mixer.score_scale,
            softcap=mixer.softcap or 0.0,
            whole_norm=mixer.qk_norm == "whole",
            position_scale=mixer.position_scale,
            original_context=mixer.rope.original_context if mixer.rope else 1,
            size=each.size,
            activation=each.activation,
            limit=each.limit,
            norm_before=kind.norm_before,
            norm_after=kind.norm_after,
            residual_multiplier=kind.residual_multiplier,
            experts=experts.count if experts else 0,
            top_k=experts.top_k if experts else 0,
            sigmoid=experts is not None and experts.routing == "sigmoid",
            normalized=experts is not None and experts.normalized,
            routing_scale=experts.scale if experts else 1.0,
            shared_size=shared.size if experts and experts.shared else 0,
            shared_activation=shared.activation,
            shared_limit=shared.limit,
            shared_gate=experts is not None and experts.shared_gate,
        )


@dataclass(frozen=True, slots=True)
class CoreShape:
    """`ModelShape` in csrc/model/shape.h."""

    vocab: int
    hidden: int
    norm_eps: float
    tied_head: bool
    embedding_multiplier: float
    logit_multiplier: float
    logit_softcap: float  # 0: none
    kinds: list[CoreLayer]
    order: list[int]  # the kind of each layer
    rotaries: list[CoreRotary] = field(default_factory=list)
    # Of a draft head only.
    features: int = 0
    embedding_rows: int = 0
    wide: bool = False

    @classmethod
    def of(cls, config: ModelConfig) -> CoreShape:
        """A whole model's, of what `native_parts.check_runnable` lets pass."""
        places = {kind: place for place, kind in enumerate(config.layer_counts)}
        ropes: dict[tuple[RopeConfig, int], int] = {}
        kinds = []
        for kind in config.layer_kinds:
            rope, rotary = kind.mixer.rope, -1
            if rope is not None:
                rotary = ropes.setdefault((rope, kind.mixer.head_dim), len(ropes))
            kinds.append(CoreLayer.of(kind, rotary))
        return cls(
            vocab=config.vocab_size,
            hidden=config.hidden_size,
            norm_eps=config.norm_eps,
            tied_head=config.tied_head,
            embedding_multiplier=config.embedding_multiplier,
            logit_multiplier=config.logit_multiplier,
            logit_softcap=config.logit_softcap or 0.0,
            kinds=kinds,
            order=[places[config.order[i % len(config.order)]] for i in range(config.num_layers)],
            rotaries=[
                CoreRotary(rope.inverse_frequencies(head_dim), rope.attention_factor)
                for rope, head_dim in ropes
            ],
        )
