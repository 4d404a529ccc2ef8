"""Weights as the numpy twin holds them; a matrix does a linear layer or a row lookup."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.formats.planes import dequantize, join, low_codes, unpack
from halfbyte.formats.weights import OFFSET_STEP, Dense, Planes, Weights
from halfbyte.runtime.reference_ops import (
    F32,
    linear_dense,
    linear_planes,
    quantize_activations,
    transformed,
    widen,
)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One [N, K] matrix. Either `values` or the codes and scales are there."""

    stored: Planes | Dense
    values: F32 | None  # [N, K]
    codes: dict[int, NDArray[np.int16]]  # weight bits 4 and 8 -> [N, K]
    scales: dict[int, F32]  # weight bits 4 and 8 -> [N, K/G]
    offset: F32 | None = None  # [N, K/G], like the scales in units where rows have one

    def linear(self, x: F32, weight_bits: int, act_bits: int) -> F32:
        """[M, K] -> [M, N], no bias; x as the layer makes it, before the transform."""
        x = transformed(x, self.stored.transform)
        if self.values is not None:
            return linear_dense(self.values, x)
        p = self.stored
        assert isinstance(p, Planes)
        codes, scale = quantize_activations(x, act_bits, p.group_size, p.wide_groups)
        return linear_planes(
            self.codes[weight_bits], self.scales[weight_bits], self.offset, codes, scale, p.unit
        )

    def rows(self, ids: NDArray[np.int32]) -> F32:
        """Rows [M, K] of the matrix, every stored plane used."""
        if isinstance(self.stored, Planes):
            return dequantize(self.stored.rows(ids), 8)
        assert self.values is not None
        return self.values[ids]

    def read_bytes(self, weight_bits: int) -> int:
        """Bytes of the checkpoint's tensors that a product at `weight_bits` reads."""
        p = self.stored
        if isinstance(p, Dense):
            return p.values.nbytes
        wide = p.wide_groups * p.group_size * p.hi.shape[0] // 2
        low = p.lo.nbytes if p.lo is not None and weight_bits == 8 else wide
        return low + sum(array.nbytes for name, array in p.arrays.items() if name != "lo")


def load_matrix(weights: Weights, name: str) -> Matrix:
    """Read one matrix and work out its codes at every weight precision."""
    return hold_matrix(weights.matrix(name))


def hold_matrix(stored: Planes | Dense) -> Matrix:
    """Work out the codes of a matrix at every weight precision."""
    if isinstance(stored, Dense):
        if stored.dtype == "f32":
            values = np.asarray(stored.values, dtype=np.float32)
        else:
            values = widen(np.ascontiguousarray(stored.values).view(np.uint16), stored.dtype)
        return Matrix(stored, values, {}, {})
    hi = unpack(stored.hi)
    low = low_codes(stored)
    codes, scales = {}, {}
    for bits in (4, 8):
        wide = stored.scale.shape[1] if bits == 8 and stored.has_full_lo else stored.wide_groups
        codes[bits] = hi.astype(np.int16)
        scales[bits] = stored.scale.astype(np.float32)
        if wide:  # the last `wide` groups have codes of 8 bits
            assert low is not None
            inputs = wide * stored.group_size
            codes[bits][:, -inputs:] = join(hi[:, -inputs:], low[:, -inputs:])
            scales[bits][:, -wide:] /= np.float32(16)
    offset = None
    if stored.offset is not None:
        offset = stored.offset.astype(np.float32)
        if stored.unit is not None:
            offset *= np.float32(OFFSET_STEP)
    return Matrix(stored, None, codes, scales, offset)


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer."""

    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    attn_norm: F32  # [hidden]
    mlp_norm: F32  # [hidden]
    biases: tuple[F32, F32, F32] | None  # of q, k, v
    qk_norms: tuple[F32, F32] | None  # [D] each

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """All seven, in the order of a forward."""
        return (self.q, self.k, self.v, self.o, self.gate, self.up, self.down)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The whole model."""

    embed: Matrix
    layers: tuple[Layer, ...]
    final_norm: F32  # [hidden]
    head: Matrix  # the embedding itself when the head is tied
    head_bits: dict[int, int]

    @property
    def matrices(self) -> list[Matrix]:
        """Every matrix once."""
        stacked = [m for layer in self.layers for m in layer.matrices]
        return [self.embed, *stacked, *([] if self.head is self.embed else [self.head])]

    def head_bits_of(self, level: Level) -> int:
        """Planes the head reads at a level."""
        return level.head_bits or self.head_bits.get(level.weight_bits, level.weight_bits)


def load_model(weights: Weights) -> LoadedModel:
    """Read everything a forward needs."""
    config = weights.config

    def layer(i: int) -> Layer:
        attn, mlp, norm = f"layers.{i}.attn.", f"layers.{i}.mlp.", f"layers.{i}.norm."
        q, k, v, o = (load_matrix(weights, attn + name) for name in "qkvo")
        gate, up, down = (load_matrix(weights, mlp + name) for name in ("gate", "up", "down"))
        biases = qk_norms = None
        if config.qkv_bias:
            biases = (
                weights.vector(attn + "q.bias"),
                weights.vector(attn + "k.bias"),
                weights.vector(attn + "v.bias"),
            )
        if config.qk_norm:
            qk_norms = (weights.vector(attn + "q_norm"), weights.vector(attn + "k_norm"))
        attn_norm, mlp_norm = weights.vector(norm + "attn"), weights.vector(norm + "mlp")
        return Layer(q, k, v, o, gate, up, down, attn_norm, mlp_norm, biases, qk_norms)

    embed = load_matrix(weights, "embed")
    head = embed if config.tied_head else load_matrix(weights, "head")
    layers = tuple(layer(i) for i in range(config.num_layers))
    return LoadedModel(embed, layers, weights.vector("norm.final"), head, weights.head_bits)
