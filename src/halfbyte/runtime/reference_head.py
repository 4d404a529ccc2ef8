"""A draft head in numpy: the definition the native one is tested against."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.formats.draft_head import HeadWeights
from halfbyte.formats.weights import Planes, Weights
from halfbyte.runtime.draft_head import HeadOutput, check_target, scoring_matrix
from halfbyte.runtime.norm import rms_norm
from halfbyte.runtime.protocol import Batch
from halfbyte.runtime.reference import ReferenceRuntime
from halfbyte.runtime.reference_mixer import Rows, attended, own_slots
from halfbyte.runtime.reference_ops import (
    F32,
    narrow,
    rope,
    silu_mul,
    widen,
)
from halfbyte.runtime.reference_weights import Matrix, hold_matrix, load_matrix


class ReferenceHead:
    """A `runtime.draft_head.DraftHead` beside a `ReferenceRuntime`."""

    def __init__(
        self,
        weights: HeadWeights,
        target: ReferenceRuntime,
        target_weights: Weights,
        *,
        scratch_pages: int = 64,
        max_rows: int = 512,
    ) -> None:
        """Tells the target to keep the features it reads."""
        config = weights.config
        taps = check_target(config, target.config)
        self.config: Final = config
        self._ids = weights.draft_ids
        self.page_size: Final = target.page_size
        self.scratch_pages: Final = range(target.num_pages, target.num_pages + scratch_pages)
        self.max_rows: Final = max_rows
        self._kv_dtype = target.kv_dtype
        self._embed = load_matrix(target_weights, "embed")
        self._head = hold_matrix(scoring_matrix(weights, target_weights))
        names = ["fuse", *(f"layers.0.attn.{x}" for x in "qkvo")]
        names += [f"layers.0.mlp.{x}" for x in ("gate", "up", "down")]
        self._matrices = {name: hold_matrix(weights.matrix(name)) for name in names}
        mixer = config.model.attention
        self._weights = weights
        bits = np.uint32 if target.kv_dtype == "f32" else np.uint16
        pool = (self.scratch_pages.stop, self.page_size, mixer.num_kv_heads, mixer.head_dim)
        self._keys, self._values = np.zeros(pool, dtype=bits), np.zeros(pool, dtype=bits)
        target.keep_features(taps)

    @property
    def level(self) -> Level:
        """The level to run it at."""
        stored = [m.stored for m in self._matrices.values()]
        nested = all(isinstance(s, Planes) and s.lo is not None for s in stored)
        return Level(8 if nested else 4, 8)

    def forward(
        self, batch: Batch, level: Level, features: F32, rows: NDArray[np.int32], k: int
    ) -> HeadOutput:
        """See the protocol; HeadConfig has the formulas."""
        with np.errstate(over="ignore", invalid="ignore"):  # hostile weights give what they give
            x = self._layer(batch, level, features)
            logits = self._linear(self._head, self._norm("final", x[rows]), level)
        k = min(k, logits.shape[1])
        clean = np.where(np.isnan(logits), np.float32(-np.inf), logits)
        best = np.argsort(-clean, axis=1, kind="stable")[:, :k].astype(np.int32)
        doubles = clean.astype(np.float64)
        with np.errstate(invalid="ignore"):
            top = doubles.max(axis=1, keepdims=True)
            shift = top + np.log(np.exp(doubles - top).sum(axis=1, keepdims=True))
            logprobs = np.take_along_axis(doubles - shift, best, axis=1).astype(np.float32)
        return HeadOutput(best if self._ids is None else self._ids[best], logprobs, x[rows])

    def weight_bytes(self, level: Level) -> int:
        """Bytes of stored matrices one forward reads."""
        matrices = [*self._matrices.values(), self._head]
        return sum(m.read_bytes(level.weight_bits) for m in matrices)

    def _layer(self, batch: Batch, level: Level, features: F32) -> F32:
        """The hidden state of every row: [M, hidden]."""
        hidden, is_eagle3 = self.config.model.hidden_size, self.config.is_eagle3
        embedded = self._norm("embed", self._embed.rows(batch.tokens))
        if is_eagle3:
            own = features.shape[1] == hidden and self.config.num_taps > 1
            x = features if own else self._matrix("fuse", features, level)
            normed = np.concatenate([embedded, self._norm("feature", x)], axis=1)
        else:
            joined = np.concatenate([embedded, self._norm("feature", features)], axis=1)
            x = self._matrix("fuse", joined, level)
            if self.config.fuse_bias:
                x = x + self._weights.vector("fuse.bias")
            normed = self._norm("attn", x)
        x = x + self._matrix("layers.0.attn.o", self._attention(batch, normed, level), level)
        normed = rms_norm(x, self._weights.vector("layers.0.norm.mlp"), self._eps)
        gate = self._matrix("layers.0.mlp.gate", normed, level)
        up = self._matrix("layers.0.mlp.up", normed, level)
        out: F32 = x + self._matrix("layers.0.mlp.down", silu_mul(gate, up), level)
        return out

    def _attention(self, batch: Batch, normed: F32, level: Level) -> F32:
        mixer, rows = self.config.model.attention, len(normed)
        assert mixer.rope is not None, "a head's layer is plain"
        at = Rows.of(batch)
        angles = at.angles(mixer.rope, mixer.head_dim)
        parts = []
        for x, heads in zip(
            "qkv", (mixer.num_heads, mixer.num_kv_heads, mixer.num_kv_heads), strict=True
        ):
            out = self._matrix(f"layers.0.attn.{x}", normed, level)
            if mixer.bias:
                out = out + self._weights.vector(f"layers.0.attn.{x}.bias")
            parts.append(out.reshape(rows, heads, mixer.head_dim))
        q, k, v = parts
        q = rope(q, *angles) * np.float32(mixer.score_scale)
        pages, slots = own_slots(batch, at.contexts, self.page_size)
        self._keys[pages, slots] = narrow(rope(k, *angles), self._kv_dtype)
        self._values[pages, slots] = narrow(v, self._kv_dtype)
        out = np.empty((rows, mixer.query_width), dtype=np.float32)
        owners = np.repeat(np.arange(len(batch.first_positions)), np.diff(batch.row_starts))
        for m, context in enumerate(at.contexts):
            table = batch.page_tables[owners[m]][context // self.page_size]
            keys = widen(self._keys[table, context % self.page_size], self._kv_dtype)
            values = widen(self._values[table, context % self.page_size], self._kv_dtype)
            out[m] = attended(mixer, q[m], keys.transpose(1, 2, 0), values.transpose(1, 0, 2), None)
        return out

    @property
    def _eps(self) -> float:
        return self.config.model.norm_eps

    def _norm(self, name: str, x: F32) -> F32:
        if name not in self.config.norms:
            return x
        at = "layers.0.norm.attn" if name == "attn" else f"norm.{name}"
        return rms_norm(x, self._weights.vector(at), self._eps)

    def _matrix(self, name: str, x: F32, level: Level) -> F32:
        return self._linear(self._matrices[name], x, level)

    def _linear(self, matrix: Matrix, x: F32, level: Level) -> F32:
        return matrix.linear(x, level.weight_bits, level.act_bits)
