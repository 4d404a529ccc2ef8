"""Mixers in numpy: what looks at other positions. The definition; see docs/numerics.md."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Attention, Level, RopeConfig
from halfbyte.runtime.norm import rms_norm
from halfbyte.runtime.protocol import Batch
from halfbyte.runtime.reference_kv import KvPages
from halfbyte.runtime.reference_ops import F32, attend, rope, rope_angles
from halfbyte.runtime.reference_weights import AttentionWeights, KvWeights


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a step and where they stand."""

    batch: Batch
    contexts: list[NDArray[np.int32]]  # [M] slots each row attends to
    positions: NDArray[np.int32]  # [M]
    _angles: dict[tuple[RopeConfig, int], tuple[F32, F32]] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        """The rows of a batch."""
        contexts = row_contexts(batch)
        return cls(batch, contexts, np.array([len(slots) - 1 for slots in contexts], np.int32))

    def angles(self, config: RopeConfig, head_dim: int) -> tuple[F32, F32]:
        """Cosine and sine, [M, R/2] each."""
        key = (config, head_dim)
        if key not in self._angles:
            frequencies = config.inverse_frequencies(head_dim)
            self._angles[key] = rope_angles(self.positions, frequencies, config.attention_factor)
        return self._angles[key]


def attention(
    config: Attention,
    weights: AttentionWeights,
    normed: F32,  # [M, hidden]
    rows: Rows,
    kv: KvPages,
    layer: int,
    level: Level,
    eps: float,
) -> F32:
    """Project, rotate, write K and V of all rows, then attend row by row: [M, H * D]."""
    batch, contexts = rows.batch, rows.contexts
    bits = level.weight_bits, level.act_bits
    q = _placed(config, _query(config, weights, weights.q.linear(normed, *bits), eps), rows)
    q = q * np.float32(config.score_scale)
    if weights.kv is not None:
        k, v = _key_and_value(config, weights.kv, normed, level, eps)
        pages, slots = own_slots(batch, contexts, kv.page_size)
        kv.write(layer, pages, slots, _placed(config, k, rows, is_query=False), v)
    source = layer if config.kv_layer is None else config.kv_layer
    out = np.empty((len(normed), config.query_width), dtype=np.float32)
    for b, (start, stop) in enumerate(
        zip(batch.row_starts[:-1], batch.row_starts[1:], strict=True)
    ):
        if start == stop:
            continue
        length = int(max(slots.max() for slots in contexts[start:stop])) + 1
        keys, values = kv.gather(source, batch.page_tables[b], length)
        for m in range(start, stop):
            own_keys = np.take(keys, contexts[m], axis=2)
            own_values = np.take(values, contexts[m], axis=1)
            out[m] = attended(config, q[m], own_keys, own_values, weights.sinks)
    return out


def attended(config: Attention, q: F32, keys: F32, values: F32, sinks: F32 | None) -> F32:
    """One row [H, D] over the positions of its context: [H * D]."""
    last = keys.shape[2] - 1
    first = max(0, last - config.window + 1) if config.window else 0
    grouped = q.reshape(config.num_kv_heads, -1, config.head_dim)
    return attend(grouped, keys, values, first, last, config.softcap, sinks).reshape(-1)


def _query(config: Attention, weights: AttentionWeights, q: F32, eps: float) -> F32:
    """q [M, H, D] before positions."""
    if weights.q_bias is not None:
        q = q + weights.q_bias
    return _normed(config, q, weights.q_norm, config.num_heads, eps)


def _key_and_value(
    config: Attention, kv: KvWeights, normed: F32, level: Level, eps: float
) -> tuple[F32, F32]:
    """k and v, [M, Hkv, D] each, before positions."""
    bits = level.weight_bits, level.act_bits
    k = kv.k.linear(normed, *bits)
    if kv.k_bias is not None:
        k = k + kv.k_bias
    v = k
    if kv.v is not None:
        v = kv.v.linear(normed, *bits)
        if kv.v_bias is not None:
            v = v + kv.v_bias
    v = v.reshape(len(normed), config.num_kv_heads, config.head_dim)
    if config.v_norm:
        v = rms_norm(v, np.ones(config.head_dim, np.float32), eps)
    return _normed(config, k, kv.k_norm, config.num_kv_heads, eps), v


def _normed(config: Attention, x: F32, weight: F32 | None, heads: int, eps: float) -> F32:
    """[M, heads * D] -> [M, heads, D], normed over all of it or over each head."""
    if weight is not None and config.qk_norm == "whole":
        x = rms_norm(x, weight, eps)
    x = x.reshape(len(x), heads, config.head_dim)
    return rms_norm(x, weight, eps) if weight is not None and config.qk_norm == "head" else x


def _placed(config: Attention, x: F32, rows: Rows, *, is_query: bool = True) -> F32:
    """q or k [M, heads, D] at its positions."""
    if config.rope is None:
        return x
    x = rope(x, *rows.angles(config.rope, config.head_dim))
    if is_query and config.position_scale:
        far = np.log1p(rows.positions // config.rope.original_context)
        x = x * (1 + config.position_scale * far).astype(np.float32)[:, None, None]
    return x


def row_contexts(batch: Batch) -> list[NDArray[np.int32]]:
    """Per row, the slot of each position it attends to, its own last: [M] of [position + 1]."""
    contexts = []
    for b, first in enumerate(batch.first_positions.tolist()):
        for m in range(int(batch.row_starts[b]), int(batch.row_starts[b + 1])):
            past = np.arange(first, first + m - int(batch.row_starts[b]) + 1)
            if batch.paths is not None and batch.paths[m, 0] >= 0:
                path = batch.paths[m]
                past = first + path[: int(np.argmax(np.append(path, -1) < 0))]
            contexts.append(np.concatenate([np.arange(first), past]).astype(np.int32))
    return contexts


def own_slots(
    batch: Batch, contexts: list[NDArray[np.int32]], page_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Page and slot in it where each row's KV goes: [M] each."""
    sequences = np.repeat(np.arange(len(batch.first_positions)), np.diff(batch.row_starts))
    own = np.array([slots[-1] for slots in contexts], dtype=np.int32)
    return batch.page_tables[sequences, own // page_size], own % np.int32(page_size)
