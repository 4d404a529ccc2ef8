"""The numpy runtime: docs/numerics.md as a program. Clear rather than fast; the native oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halfbyte.checks import check_one_of
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.formats.weights import Dense, Planes, Weights
from halfbyte.runtime.draft_head import other_taps
from halfbyte.runtime.norm import rms_norm
from halfbyte.runtime.options import KV_DTYPES, RuntimeOptions
from halfbyte.runtime.protocol import (
    Batch,
    Decoded,
    Drafted,
    DraftRun,
    KvBits,
    LayerPass,
    Sampled,
    Sampling,
    Speculated,
    check_head_ids,
    fresh_pages,
)
from halfbyte.runtime.reference_ops import (
    F32,
    attend,
    narrow,
    rope,
    rope_angles,
    silu_mul,
    transformed,
    widen,
)
from halfbyte.runtime.reference_sampling import adjustments_of, sample_rows
from halfbyte.runtime.reference_weights import Layer, load_model
from halfbyte.runtime.stepwise import decode_stepwise, draft_and_verify_stepwise


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a forward and where they stand."""

    batch: Batch
    contexts: list[NDArray[np.int32]]  # [M] slots each row attends to
    angles: tuple[F32, F32]  # cosine and sine, [M, D/2] each


class ReferenceRuntime:
    """One model and one pool of KV pages in numpy. Implements `protocol.Runtime`."""

    def __init__(
        self,
        weights: Weights,
        *,
        num_tokens: int,
        page_size: int = RuntimeOptions.page_size,
        kv_dtype: str = RuntimeOptions.kv_dtype,
        max_rows: int = RuntimeOptions.max_rows,
    ) -> None:
        check_one_of("kv_dtype", kv_dtype, KV_DTYPES, "choose one")
        for name, value in (("num_tokens", num_tokens), ("max_rows", max_rows)):
            if value < 1:
                raise ArgumentError(name, got=value, expected="at least 1", fix=f"raise {name}")
        if page_size < 16 or page_size % 16:
            raise ArgumentError(
                "page_size", got=page_size, expected="a multiple of 16", fix="use 64"
            )
        self.config: Final = weights.config
        self._interrupted = False
        self._model: Final = load_model(weights)
        self.page_size: Final = page_size
        self.num_pages: Final = -(-num_tokens // page_size)
        self.max_rows: Final = max_rows
        self.kv_dtype: Final = kv_dtype
        self._frequencies: Final = self.config.rope.inverse_frequencies(self.config.head_dim)
        c = self.config
        bits = np.uint32 if kv_dtype == "f32" else np.uint16
        pool = (c.num_layers, self.num_pages, c.num_kv_heads)
        self._keys: Final = np.zeros((*pool, c.head_dim, page_size), dtype=bits)
        self._values: Final = np.zeros((*pool, page_size, c.head_dim), dtype=bits)
        self._taps: tuple[int, ...] = ()
        self._heads: list[NDArray[np.int32]] = []  # ids of each reduced head
        self._features = np.zeros((0, page_size, 0), dtype=np.float32)  # [P, S, taps * hidden]

    @property
    def speed_key(self) -> str:
        """The twin is slow everywhere."""
        return "reference"

    def supports(self, level: Level) -> bool:
        """Dense weights run at `f32` only, planes at the others; w8 needs `lo` in every layer."""
        stored = [m.stored for layer in self._model.layers for m in layer.matrices]
        if level.weight_bits == 32:
            return all(isinstance(s, Dense) for s in stored)
        return all(
            isinstance(s, Planes) and (level.weight_bits == 4 or s.has_full_lo) for s in stored
        )

    def forward(self, batch: Batch, level: Level, logit_rows: NDArray[np.int32]) -> F32:
        """Run M rows, write their KV, return logits [R, V] of the rows named."""
        self._check(batch, level)
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite weights give what they give
            return self._forward(batch, level, logit_rows)

    def _forward(self, batch: Batch, level: Level, logit_rows: NDArray[np.int32]) -> F32:
        model = self._model
        x = model.embed.rows(batch.tokens)
        rows = self._rows(batch)
        for i in range(len(model.layers)):
            self._keep(i, x, rows)
            x = self._layer(i, x, rows, level).residual
        final = rms_norm(x, model.final_norm, self.config.norm_eps)
        self._keep(len(model.layers), final, rows)
        return model.head.linear(final[logit_rows], model.head_bits_of(level), level.act_bits)

    def _rows(self, batch: Batch) -> _Rows:
        contexts = row_contexts(batch)
        positions = np.array([len(slots) - 1 for slots in contexts], dtype=np.int32)
        return _Rows(batch, contexts, rope_angles(positions, self._frequencies))

    def _layer(self, index: int, x: F32, rows: _Rows, level: Level) -> LayerPass:
        layer, eps = self._model.layers[index], self.config.norm_eps
        weight_bits, act_bits = level.weight_bits, level.act_bits
        attn_in = rms_norm(x, layer.attn_norm, eps)
        mixed = self._attention(index, layer, attn_in, rows, level)
        x = x + layer.o.linear(mixed, weight_bits, act_bits)
        mlp_in = rms_norm(x, layer.mlp_norm, eps)
        gate = layer.gate.linear(mlp_in, weight_bits, act_bits)
        up = layer.up.linear(mlp_in, weight_bits, act_bits)
        hidden = silu_mul(gate, up)
        x = x + layer.down.linear(hidden, weight_bits, act_bits)
        inputs = ((layer.q, attn_in), (layer.o, mixed), (layer.gate, mlp_in), (layer.down, hidden))
        qkv, o, gate_up, down = (transformed(a, m.stored.transform) for m, a in inputs)
        return LayerPass(qkv, o, gate_up, down, x)

    def run_layer(
        self, layer: int, residual: F32, row_starts: NDArray[np.int32], level: Level
    ) -> LayerPass:
        """Run one layer alone over whole sequences; see `protocol.LayerRuntime`."""
        first, pages = fresh_pages(row_starts, self.page_size)
        batch = Batch(np.zeros(len(residual), dtype=np.int32), row_starts, first, pages)
        self._check(batch, level)
        with np.errstate(over="ignore", invalid="ignore"):
            return self._layer(layer, residual, self._rows(batch), level)

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        """`forward`, then `reference_sampling.sample_rows`."""
        return sample_rows(self.forward(batch, level, logit_rows), sampling)

    def draft(self, batch: Batch, run: DraftRun, sampling: Sampling) -> Drafted:
        """`forward` and `sample_rows` per depth over sequences still drafting; see the protocol.

        The probability compared with `min_confidence` is that of the raw logits, exp(logprob).
        """
        lengths = run.lengths
        ids = self._heads[run.head - 1] if run.head else None
        tokens = np.full((len(lengths), int(lengths.max(initial=0))), -1, dtype=np.int32)
        counts = np.zeros(len(lengths), dtype=np.int32)
        pending = batch.tokens.copy()
        going = np.flatnonzero(lengths > 0)
        for depth in range(tokens.shape[1]):
            if not len(going):
                break
            rows = Batch(
                tokens=pending[going],
                row_starts=np.arange(len(going) + 1, dtype=np.int32),
                first_positions=batch.first_positions[going] + np.int32(depth),
                page_tables=batch.page_tables[going],
            )
            logits = self.forward(rows, run.level, np.arange(len(going), dtype=np.int32))
            drawn = sample_rows(logits, _rows_of(sampling, going, depth), ids)
            sure = (drawn.tokens >= 0) & (np.exp(drawn.logprobs) >= run.min_confidence)
            going = going[sure]
            tokens[going, depth] = pending[going] = drawn.tokens[sure]
            counts[going] = depth + 1
            going = going[lengths[going] > depth + 1]
        return Drafted(tokens, counts)

    def decode(self, batch: Batch, level: Level, length: int, sampling: Sampling) -> Decoded:
        """`forward_sample` per token."""
        return decode_stepwise(self, batch, level, length, sampling, lambda: self._interrupted)

    def draft_and_verify(
        self, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
    ) -> Speculated:
        """`draft`, then `forward_sample`."""
        return draft_and_verify_stepwise(self, batch, run, target, sampling)

    def interrupt(self, *, wanted: bool) -> None:
        """Whether `decode` is to end after the forward it is in."""
        self._interrupted = wanted

    def reduce_head(self, ids: NDArray[np.int32]) -> int:
        """Only the ids are kept: the twin scores every token and looks at these."""
        check_head_ids(ids, self.config.vocab_size)
        for number, known in enumerate(self._heads, start=1):
            if np.array_equal(known, ids):
                return number
        self._heads.append(ids.copy())
        return len(self._heads)

    def copy_kv(
        self, pages: NDArray[np.int32], sources: NDArray[np.int32], targets: NDArray[np.int32]
    ) -> None:
        """Copy K and V of every layer between slots of one sequence."""
        size = self.page_size
        keys = self._keys[:, pages[sources // size], :, :, sources % size]
        values = self._values[:, pages[sources // size], :, sources % size]
        self._keys[:, pages[targets // size], :, :, targets % size] = keys
        self._values[:, pages[targets // size], :, targets % size] = values
        if self._taps:
            kept = self._features[pages[sources // size], sources % size]
            self._features[pages[targets // size], targets % size] = kept

    def keep_features(self, taps: tuple[int, ...]) -> None:
        """Keep features beside the KV from now on."""
        if self._taps not in ((), taps):
            raise other_taps(self._taps, taps)
        if not self._taps:
            width = len(taps) * self.config.hidden_size
            shape = (self.num_pages, self.page_size, width)
            self._features = np.zeros(shape, dtype=np.float32)
        self._taps = taps

    def read_features(
        self, pages: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Kept features: [n, taps * hidden]."""
        kept: F32 = self._features[pages[positions // self.page_size], positions % self.page_size]
        return kept

    def read_kv(self, layer: int, page: int) -> tuple[KvBits, KvBits]:
        """Raw bits of one page: K [Hkv, D, S], V [Hkv, S, D]."""
        return self._keys[layer, page].copy(), self._values[layer, page].copy()

    def weight_bytes(self, level: Level, head: int = 0) -> int:
        """Bytes of stored matrices that one forward at `level` reads."""
        model = self._model
        stacked = sum(
            m.read_bytes(level.weight_bits) for layer in model.layers for m in layer.matrices
        )
        whole = model.head.read_bytes(model.head_bits_of(level))
        rows = len(self._heads[head - 1]) if head else self.config.vocab_size
        return stacked + whole * rows // self.config.vocab_size

    def memory_bytes(self) -> int:
        """Bytes of all stored matrices."""
        return sum(m.read_bytes(8) for m in self._model.matrices)

    def _attention(
        self,
        index: int,
        layer: Layer,
        normed: F32,  # [M, hidden]
        placed: _Rows,
        level: Level,
    ) -> F32:
        """Project, rotate, write K and V of all rows, then attend row by row: [M, H * D]."""
        c, rows = self.config, len(normed)
        batch, contexts, angles = placed.batch, placed.contexts, placed.angles
        q, k, v = (
            m.linear(normed, level.weight_bits, level.act_bits) for m in (layer.q, layer.k, layer.v)
        )
        if layer.biases is not None:
            q, k, v = q + layer.biases[0], k + layer.biases[1], v + layer.biases[2]
        q = q.reshape(rows, c.num_heads, c.head_dim)
        k = k.reshape(rows, c.num_kv_heads, c.head_dim)
        v = v.reshape(rows, c.num_kv_heads, c.head_dim)
        if layer.qk_norms is not None:
            q, k = (
                rms_norm(q, layer.qk_norms[0], c.norm_eps),
                rms_norm(k, layer.qk_norms[1], c.norm_eps),
            )
        q = rope(q, *angles) * np.float32(c.head_dim**-0.5)
        k = rope(k, *angles)
        pages, slots = own_slots(batch, contexts, self.page_size)
        self._keys[index, pages, :, :, slots] = narrow(k, self.kv_dtype)
        self._values[index, pages, :, slots, :] = narrow(v, self.kv_dtype)
        out = np.empty((rows, c.num_heads * c.head_dim), dtype=np.float32)
        for b, (start, stop) in enumerate(
            zip(batch.row_starts[:-1], batch.row_starts[1:], strict=True)
        ):
            if start == stop:
                continue
            length = int(max(slots.max() for slots in contexts[start:stop])) + 1
            keys, values = self._gather(index, batch.page_tables[b], length)
            for m in range(start, stop):
                last = len(contexts[m]) - 1
                first = max(0, last - c.sliding_window + 1) if c.sliding_window else 0
                grouped = q[m].reshape(c.num_kv_heads, -1, c.head_dim)
                own_keys = np.take(keys, contexts[m], axis=2)
                own_values = np.take(values, contexts[m], axis=1)
                out[m] = attend(grouped, own_keys, own_values, first, last).reshape(-1)
        return out

    def _keep(self, tap: int, x: F32, rows: _Rows) -> None:
        """Keep x [M, hidden] for every tap that names it."""
        hidden = x.shape[1]
        for i in (i for i, kept in enumerate(self._taps) if kept == tap):
            pages, slots = own_slots(rows.batch, rows.contexts, self.page_size)
            self._features[pages, slots, i * hidden : (i + 1) * hidden] = x

    def _gather(self, layer: int, table: NDArray[np.int32], length: int) -> tuple[F32, F32]:
        """K [Hkv, D, length] and V [Hkv, length, D] of a sequence's positions 0 .. length - 1."""
        pages = table[: -(-length // self.page_size)]
        c = self.config
        keys = (
            self._keys[layer, pages].transpose(1, 2, 0, 3).reshape(c.num_kv_heads, c.head_dim, -1)
        )
        values = (
            self._values[layer, pages].transpose(1, 0, 2, 3).reshape(c.num_kv_heads, -1, c.head_dim)
        )
        return (
            widen(np.ascontiguousarray(keys[:, :, :length]), self.kv_dtype),
            widen(np.ascontiguousarray(values[:, :length]), self.kv_dtype),
        )

    def _check(self, batch: Batch, level: Level) -> None:
        if not self.supports(level):
            raise ArgumentError(
                "level",
                got=str(level),
                expected="one these weights have",
                fix="pick another level or checkpoint",
            )
        rows, tokens = len(batch.tokens), batch.tokens
        if not 0 < rows <= self.max_rows:
            raise ArgumentError(
                "rows of a forward",
                got=rows,
                expected=f"1 to {self.max_rows}",
                fix="cut into chunks",
            )
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise ArgumentError(
                "token id",
                got=f"{tokens.min()} to {tokens.max()}",
                expected=f"0 to {self.config.vocab_size - 1}",
                fix="use this model's tokenizer",
            )


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


def _rows_of(sampling: Sampling, rows: NDArray[np.intp], depth: int) -> Sampling:
    adjustments = adjustments_of(sampling.adjustments, rows, masked=depth == 0)
    moved = Sampling(sampling.rows[rows]).shifted(depth)
    moved.rows["forced"], moved.rows["tops"] = -1, 0
    moved.adjustments = adjustments
    return moved
