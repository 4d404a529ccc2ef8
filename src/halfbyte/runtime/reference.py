"""The numpy runtime: docs/numerics.md as a program. Clear rather than fast; the native oracle."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from halfbyte.checks import check_int, check_one_of
from halfbyte.config import Experts, FeedForward, LayerConfig, Level
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
from halfbyte.runtime.reference_feed_forward import dense, experts, experts_apart
from halfbyte.runtime.reference_kv import KvPages
from halfbyte.runtime.reference_mixer import Rows, attention, own_slots
from halfbyte.runtime.reference_ops import F32, gelu_tanh_mul, softcapped, transformed
from halfbyte.runtime.reference_sampling import adjustments_of, sample_rows
from halfbyte.runtime.reference_weights import DenseWeights, ExpertWeights, Layer, load_model
from halfbyte.runtime.stepwise import decode_stepwise, draft_and_verify_stepwise


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
            check_int(name, value, 1, 2**31 - 1, "see the default")
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
        self._kv: Final = KvPages(self.config, self.num_pages, page_size, kv_dtype)
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
        c = self.config
        x = model.embed.rows(batch.tokens) * np.float32(c.embedding_multiplier)
        inputs = self._layer_inputs(batch, x, level)
        rows = Rows.of(batch)
        for i in range(len(model.layers)):
            self._keep(i, x, rows)
            own = None if inputs is None else inputs[:, i]
            x = self._layer(i, x, rows, level, own).residual
        final = rms_norm(x, model.final_norm, self.config.norm_eps)
        self._keep(len(model.layers), final, rows)
        logits = model.head.linear(final[logit_rows], model.head_bits_of(level), level.act_bits)
        return softcapped(logits * np.float32(c.logit_multiplier), c.logit_softcap)

    def _layer_inputs(self, batch: Batch, x: F32, level: Level) -> F32 | None:
        """The inputs that each layer has of its own: [M, L, P]."""
        size, held = self.config.layer_input, self._model.inputs
        if held is None:
            return None
        projected = held.project.linear(x, level.weight_bits, level.act_bits)
        projected = projected * np.float32(self.config.hidden_size**-0.5)
        shape = (len(x), self.config.num_layers, size)
        projected = rms_norm(projected.reshape(shape), held.norm, self.config.norm_eps)
        looked_up = held.embed.rows(batch.tokens).reshape(shape) * np.float32(size**0.5)
        return (projected + looked_up) * np.float32(0.5**0.5)

    def _layer(
        self, index: int, x: F32, rows: Rows, level: Level, own: F32 | None = None
    ) -> LayerPass:
        """x + m * mixer(N(x)), then the same with the feed-forward; `own` are its inputs [M, P]."""
        layer, eps = self._model.layers[index], self.config.norm_eps
        kind, weights = layer.config, layer.attention
        attn_in = normed(x, layer.attn_norm, eps)
        mixed = attention(kind.mixer, weights, attn_in, rows, self._kv, index, level, eps)
        out = weights.o.linear(mixed, level.weight_bits, level.act_bits)
        if weights.out_bias is not None:
            out = out + weights.out_bias
        x = added(x, normed(out, layer.attn_out_norm, eps), kind)
        mlp_in = normed(x, layer.mlp_norm, eps)
        inner, out = self._feed_forward(layer, x, mlp_in, level)
        x = added(x, normed(out, layer.mlp_out_norm, eps), kind)
        if layer.input is not None and own is not None:
            gate = layer.input.gate.linear(x, level.weight_bits, level.act_bits)
            taken = gelu_tanh_mul(gate, own)
            out = layer.input.project.linear(taken, level.weight_bits, level.act_bits)
            x = x + rms_norm(out, layer.input.norm, eps)
        if layer.scalar is not None:
            x = x * layer.scalar
        inner_weights = layer.feed_forward
        if isinstance(inner_weights, ExpertWeights):
            gate_up, down = transformed(mlp_in, inner_weights.stacked.gate.transform), inner
        else:
            gate_up = transformed(mlp_in, inner_weights.gate.transform)
            down = transformed(inner, inner_weights.down.transform)
        return LayerPass(
            qkv=transformed(attn_in, weights.q.transform),
            o=transformed(mixed, weights.o.transform),
            gate_up=gate_up,
            down=down,
            residual=x,
        )

    def _feed_forward(self, layer: Layer, residual: F32, x: F32, level: Level) -> tuple[F32, F32]:
        """What `down` reads, nothing where there are experts, and the output [M, hidden]."""
        kind, weights = layer.config.feed_forward, layer.feed_forward
        if isinstance(weights, DenseWeights):
            assert isinstance(kind, FeedForward)
            return dense(kind, weights, x, level)
        assert isinstance(kind, Experts)
        nothing = np.zeros((len(x), 0), np.float32)
        if kind.apart:
            eps = self.config.norm_eps
            return nothing, experts_apart(kind, weights, residual, x, level, eps)
        return nothing, experts(kind, weights, x, level)

    def run_layer(
        self, layer: int, residual: F32, row_starts: NDArray[np.int32], level: Level
    ) -> LayerPass:
        """Run one layer alone over whole sequences; see `protocol.LayerRuntime`."""
        first, pages = fresh_pages(row_starts, self.page_size)
        batch = Batch(np.zeros(len(residual), dtype=np.int32), row_starts, first, pages)
        self._check(batch, level)
        with np.errstate(over="ignore", invalid="ignore"):
            return self._layer(layer, residual, Rows.of(batch), level)

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
        self._kv.copy(pages, sources, targets)
        size = self.page_size
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
        return self._kv.page(layer, page)

    def weight_bytes(self, level: Level, head: int = 0) -> int:
        """Bytes of stored matrices that one forward at `level` reads."""
        model = self._model
        stacked = sum(layer.read_bytes(level.weight_bits) for layer in model.layers)
        if model.inputs is not None:
            stacked += model.inputs.project.read_bytes(level.weight_bits)
        whole = model.head.read_bytes(model.head_bits_of(level))
        rows = len(self._heads[head - 1]) if head else self.config.vocab_size
        return stacked + whole * rows // self.config.vocab_size

    def memory_bytes(self) -> int:
        """Bytes of all stored matrices."""
        return sum(m.read_bytes(8) for m in self._model.matrices)

    def _keep(self, tap: int, x: F32, rows: Rows) -> None:
        """Keep x [M, hidden] for every tap that names it."""
        hidden = x.shape[1]
        for i in (i for i, kept in enumerate(self._taps) if kept == tap):
            pages, slots = own_slots(rows.batch, rows.contexts, self.page_size)
            self._features[pages, slots, i * hidden : (i + 1) * hidden] = x

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


def normed(x: F32, weight: F32 | None, eps: float) -> F32:
    """The norm of x where there is one."""
    return x if weight is None else rms_norm(x, weight, eps)


def added(x: F32, out: F32, kind: LayerConfig) -> F32:
    """The residual stream with what a half of a layer gave."""
    if kind.residual_multiplier != 1:
        out = out * np.float32(kind.residual_multiplier)
    return x + out


def _rows_of(sampling: Sampling, rows: NDArray[np.intp], depth: int) -> Sampling:
    adjustments = adjustments_of(sampling.adjustments, rows, masked=depth == 0)
    moved = Sampling(sampling.rows[rows]).shifted(depth)
    moved.rows["forced"], moved.rows["tops"] = -1, 0
    moved.adjustments = adjustments
    return moved
