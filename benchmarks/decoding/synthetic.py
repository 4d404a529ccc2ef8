"""Random weights of a given shape: for what depends on bytes alone, such as linear layers' GB/s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import (
    Attention,
    Experts,
    FeedForward,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    uniform_model,
)
from halfbyte.formats.names import expected_tensors
from halfbyte.formats.weights import Dense, Planes

# Of one layer: hidden 4096, inner 14336, 32 heads over 8 KV heads, the shapes of Llama 3 8B.
LAYER_WEIGHTS = 218_103_808


@dataclass(frozen=True, slots=True)
class RandomLayers:
    """Implements `Weights`: random planes of any shape."""

    config: ModelConfig
    group_size: int = 32

    @property
    def head_bits(self) -> dict[int, int]:
        return {4: 4, 8: 8}

    def matrix(self, name: str) -> Planes | Dense:
        rows, inputs = _shapes(self.config)[name]
        random = np.random.default_rng(rows)
        hi, lo = (
            np.frombuffer(random.bytes(rows * inputs // 2), dtype=np.uint8).reshape(rows, -1)
            for _ in range(2)
        )
        scale = np.full((rows, inputs // self.group_size), 0.002, dtype=np.float16)
        return Planes(hi, lo, scale, None, self.group_size)

    def vector(self, name: str) -> NDArray[np.float32]:
        """Random where it routes, so that every expert is chosen; ones elsewhere."""
        (size,) = _shapes(self.config)[name]
        if name.endswith("router"):
            return np.random.default_rng(size).standard_normal(size, dtype=np.float32)
        return np.ones(size, dtype=np.float32)


def wide_layers(num_bytes: int) -> RandomLayers:
    """Layers as wide as an 8B model's, so many that even one plane of them outgrows `num_bytes`.

    The vocabulary is too small to count.
    """
    config = uniform_model(
        family="llama",
        vocab_size=1024,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=1 + num_bytes // (LAYER_WEIGHTS // 2),
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_context=4096,
        norm_eps=1e-5,
        tied_head=True,
    )
    return RandomLayers(config)


def _expert_model(hidden: int, layers: int, *kinds: LayerConfig) -> ModelConfig:
    return ModelConfig(
        family="experts",
        vocab_size=1024,
        hidden_size=hidden,
        num_layers=layers,
        max_context=4096,
        norm_eps=1e-6,
        kinds=kinds,
        order=tuple(range(len(kinds))),
        tied_head=True,
    )


def _qwen3_30b_a3b(layers: int) -> ModelConfig:
    mixer = Attention(32, 4, 128, rope=RopeConfig(base=1e6), qk_norm="head")
    return _expert_model(2048, layers, LayerConfig(mixer, Experts(128, 8, FeedForward(768))))


def _gpt_oss_20b(layers: int) -> ModelConfig:
    rope = RopeConfig(base=150_000.0, kind="yarn", factor=32.0, original_context=4096)
    far = Attention(64, 8, 64, rope=rope, bias=True, out_bias=True, sinks=True)
    near = Attention(64, 8, 64, rope=rope, window=128, bias=True, out_bias=True, sinks=True)
    each = FeedForward(2880, "clamped-swiglu", bias=True)
    experts = Experts(32, 4, each, router_bias=True)
    return _expert_model(2880, layers, LayerConfig(near, experts), LayerConfig(far, experts))


# Name -> the model cut to so many layers.
EXPERT_SHAPES: Mapping[str, Callable[[int], ModelConfig]] = {
    "qwen3-30b-a3b": _qwen3_30b_a3b,
    "gpt-oss-20b": _gpt_oss_20b,
}


@cache
def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return dict(expected_tensors(config))
