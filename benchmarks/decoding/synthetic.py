"""Random weights of a given shape: for what depends on bytes alone, such as linear layers' GB/s."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig, uniform_model
from halfbyte.formats.names import expected_matrices
from halfbyte.formats.weights import Dense, Planes

# Of one layer: hidden 4096, inner 14336, 32 heads over 8 KV heads, the shapes of Llama 3 8B.
LAYER_WEIGHTS = 218_103_808


@dataclass(frozen=True, slots=True)
class WideLayers:
    """Implements `Weights`: layers as wide as an 8B model's and a vocabulary too small to count."""

    num_layers: int
    group_size: int = 32

    @classmethod
    def larger_than(cls, num_bytes: int) -> WideLayers:
        """Enough layers that even one plane of them outgrows `num_bytes`."""
        return cls(num_layers=1 + num_bytes // (LAYER_WEIGHTS // 2))

    @property
    def config(self) -> ModelConfig:
        return uniform_model(
            family="llama",
            vocab_size=1024,
            hidden_size=4096,
            intermediate_size=14336,
            num_layers=self.num_layers,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
            max_context=4096,
            norm_eps=1e-5,
            tied_head=True,
        )

    @property
    def head_bits(self) -> dict[int, int]:
        return {4: 4, 8: 8}

    def matrix(self, name: str) -> Planes | Dense:
        rows, inputs = dict(expected_matrices(self.config))[name]
        random = np.random.default_rng(rows)
        hi, lo = (
            np.frombuffer(random.bytes(rows * inputs // 2), dtype=np.uint8).reshape(rows, -1)
            for _ in range(2)
        )
        scale = np.full((rows, inputs // self.group_size), 0.002, dtype=np.float16)
        return Planes(hi, lo, scale, None, self.group_size)

    def vector(self, name: str) -> NDArray[np.float32]:
        return np.ones(self.config.hidden_size, dtype=np.float32)
