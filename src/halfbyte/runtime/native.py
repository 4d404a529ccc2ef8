"""The native CPU runtime: loads weights into the core and runs whole steps in one call each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from halfbyte import _native
from halfbyte.checks import check_one_of
from halfbyte.config import Level, ModelConfig
from halfbyte.errors import ModelError
from halfbyte.formats.transforms import Rotation
from halfbyte.formats.weights import Dense, Planes, Weights
from halfbyte.runtime.draft_head import other_taps
from halfbyte.runtime.machine import choose_threads, choose_tier, processor_name
from halfbyte.runtime.native_parts import check_runnable
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


@dataclass(frozen=True, slots=True)
class CoreShape:
    """A model as the core knows it: `ModelShape` in csrc/model/model.h."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    sliding_window: int  # 0: none
    tied_head: bool
    inverse_frequencies: NDArray[np.float32]  # [D / 2]
    # Of a draft head only.
    features: int = 0
    embedding_rows: int = 0
    wide: bool = False

    @classmethod
    def of(cls, config: ModelConfig) -> CoreShape:
        """A whole model's, of what `native_parts.check_runnable` lets pass."""
        mixer = config.attention
        assert mixer.rope is not None
        return cls(
            vocab=config.vocab_size,
            hidden=config.hidden_size,
            intermediate=config.feed_forward.size,
            layers=config.num_layers,
            heads=mixer.num_heads,
            kv_heads=mixer.num_kv_heads,
            head_dim=mixer.head_dim,
            norm_eps=config.norm_eps,
            sliding_window=mixer.window or 0,
            tied_head=config.tied_head,
            inverse_frequencies=mixer.rope.inverse_frequencies(mixer.head_dim),
        )


class NativeRuntime:
    """One model in panels on pinned threads, and its KV pages: a `runtime.protocol.Runtime`.

    `num_tokens` is the size of the KV pool in tokens (rounded up to pages); untouched pages cost no
    memory.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        threads: int | None = None,
        tier: str | None = None,
        num_tokens: int = RuntimeOptions.num_tokens,
        page_size: int = RuntimeOptions.page_size,
        kv_dtype: str = RuntimeOptions.kv_dtype,
        max_rows: int = RuntimeOptions.max_rows,
    ) -> None:
        check_one_of("kv_dtype", kv_dtype, KV_DTYPES, "choose one")
        check_one_of("page_size", page_size, (16, 32, 64, 128, 256), "choose one")
        config = weights.config
        self.config: Final = config
        self.page_size: Final = page_size
        self.num_pages: Final = -(-num_tokens // page_size)
        self.max_rows: Final = max_rows
        self._head_bits = dict(weights.head_bits)
        self.threads = choose_threads(threads)
        self.tier = choose_tier(tier)
        check_runnable(config)
        shape = CoreShape.of(config)
        self._model = _native.NativeModel(shape, self.tier, self.threads, max_rows)
        _load(self._model, weights)
        self._model.allocate_kv(self.num_pages, page_size, kv_dtype)
        self.kv_dtype: Final = kv_dtype
        self._taps: tuple[int, ...] = ()
        self._heads: dict[bytes, int] = {}
        self._kv_type = np.dtype(np.uint32 if kv_dtype == "f32" else np.uint16)

    @property
    def speed_key(self) -> str:
        """Processor, tier, threads, KV type and build of the core."""
        build = Path(_native.__file__).stat()
        return (
            f"{processor_name()}; {self.tier}; {self.threads} threads; KV {self.kv_dtype}; "
            f"core {build.st_size} {build.st_mtime_ns}"
        )

    def supports(self, level: Level) -> bool:
        """Whether the weights loaded have what `level` reads."""
        if self._model.dense:
            return level.weight_bits == 32
        return level.weight_bits == 4 or (level.weight_bits == 8 and self._model.has_lo)

    def forward(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Run M rows, write their KV, return logits [R, V] of the rows named."""
        return self._model.forward(batch, self._bits(level), logit_rows)

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        """Forward, then sample every named row, in one native call."""
        tokens, logprobs, top_ids, top_logprobs = self._model.forward_sample(
            batch,
            self._bits(level),
            logit_rows,
            sampling.rows.view(np.uint8),
            sampling.adjustments,
        )
        if not top_ids.shape[1]:
            return Sampled(tokens, logprobs)
        return Sampled(tokens, logprobs, top_ids, top_logprobs)

    def draft(self, batch: Batch, run: DraftRun, sampling: Sampling) -> Drafted:
        """A whole drafting run in one native call."""
        rows, level = sampling.rows.view(np.uint8), self._bits(run.level)
        return Drafted(*self._model.draft(batch, run, level, rows, sampling.adjustments))

    def decode(self, batch: Batch, level: Level, length: int, sampling: Sampling) -> Decoded:
        """Several tokens of plain decoding in one native call."""
        rows = sampling.rows.view(np.uint8)
        return Decoded(*self._model.decode(batch, self._bits(level), length, rows))

    def draft_and_verify(
        self, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
    ) -> Speculated:
        """A draft and its verify in one native call."""
        rows, level = sampling.rows.view(np.uint8), self._bits(run.level)
        return Speculated(
            *self._model.draft_and_verify(batch, run, level, self._bits(target), rows)
        )

    def interrupt(self, *, wanted: bool) -> None:
        """Whether `decode` is to end after the forward it is in."""
        self._model.interrupt(wanted)

    def reduce_head(self, ids: NDArray[np.int32]) -> int:
        """A second head over some tokens; the rows are copied once."""
        key = ids.tobytes()
        if key not in self._heads:
            check_head_ids(ids, self.config.vocab_size)
            self._heads[key] = self._model.reduce_head(np.ascontiguousarray(ids, dtype=np.int32))
        return self._heads[key]

    def copy_kv(
        self, pages: NDArray[np.int32], sources: NDArray[np.int32], targets: NDArray[np.int32]
    ) -> None:
        """Copy K and V of every layer between slots of one sequence."""
        self._model.copy_kv(pages, sources, targets)

    def run_layer(
        self,
        layer: int,
        residual: NDArray[np.float32],
        row_starts: NDArray[np.int32],
        level: Level,
    ) -> LayerPass:
        """Run one layer alone over whole sequences; see `protocol.LayerRuntime`."""
        first, pages = fresh_pages(row_starts, self.page_size)
        weight_bits, act_bits, _ = self._bits(level)
        taken = self._model.capture_layer(
            layer, _f32(residual), row_starts, first, pages, weight_bits, act_bits
        )
        return LayerPass(*taken)

    @property
    def core(self) -> _native.NativeModel:
        """The model itself, for a draft head that shares its matrices."""
        return self._model

    def keep_features(self, taps: tuple[int, ...]) -> None:
        """Keep features beside the KV from now on."""
        if self._taps not in ((), taps):
            raise other_taps(self._taps, taps)
        self._taps = taps
        self._model.keep_features(list(taps))

    def read_features(
        self, pages: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Kept features: [n, taps * hidden]."""
        return self._model.read_features(pages, positions)

    def read_kv(self, layer: int, page: int) -> tuple[KvBits, KvBits]:
        """Raw bits of one page: K [Hkv, D, S], V [Hkv, S, D]."""
        k, v = self._model.read_kv(layer, page)
        return k.view(self._kv_type), v.view(self._kv_type)

    def weight_bytes(self, level: Level, head: int = 0) -> int:
        """Bytes of weights one forward reads."""
        return self._model.bytes_read(self._bits(level), head)

    def memory_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return self._model.memory_bytes()

    def _bits(self, level: Level) -> tuple[int, int, int]:
        head = level.head_bits or self._head_bits.get(level.weight_bits, level.weight_bits)
        return level.weight_bits, level.act_bits, head


def _load(model: _native.NativeModel, weights: Weights) -> None:
    config = weights.config
    _load_matrix(model, weights, "embed", 0, ["embed"])
    if not config.tied_head:
        _load_matrix(model, weights, "head", 0, ["head"])
    model.set_vector("final_norm", 0, _f32(weights.vector("norm.final")))
    for i in range(config.num_layers):
        at = f"layers.{i}"
        _load_matrix(model, weights, "qkv", i, [f"{at}.attn.{p}" for p in "qkv"])
        _load_matrix(model, weights, "o", i, [f"{at}.attn.o"])
        _load_matrix(model, weights, "gate_up", i, [f"{at}.mlp.gate", f"{at}.mlp.up"])
        _load_matrix(model, weights, "down", i, [f"{at}.mlp.down"])
        model.set_vector("attn_norm", i, _f32(weights.vector(f"{at}.norm.attn")))
        model.set_vector("mlp_norm", i, _f32(weights.vector(f"{at}.norm.mlp")))
        mixer = config.layer(i).mixer
        if mixer.bias:
            bias = np.concatenate([_f32(weights.vector(f"{at}.attn.{p}.bias")) for p in "qkv"])
            model.set_vector("qkv_bias", i, bias)
        if mixer.qk_norm != "none":
            model.set_vector("q_norm", i, _f32(weights.vector(f"{at}.attn.q_norm")))
            model.set_vector("k_norm", i, _f32(weights.vector(f"{at}.attn.k_norm")))


def _load_matrix(
    model: _native.NativeModel, weights: Weights, slot: str, layer: int, names: list[str]
) -> None:
    """One matrix of the core from the named parts, stacked by rows."""
    put_matrix(model, slot, layer, [weights.matrix(name) for name in names])


def put_matrix(
    model: _native.NativeModel, slot: str, layer: int, parts: list[Planes | Dense]
) -> None:
    """One matrix of the core from parts stacked by rows."""
    _put_transform(model, slot, layer, parts)
    planes = [p for p in parts if isinstance(p, Planes)]
    if len(planes) == len(parts):
        model.set_planes(
            slot,
            layer,
            [_part(p) for p in planes],
            planes[0].group_size,
            planes[0].wide_groups,
        )
        return
    dense = [p for p in parts if isinstance(p, Dense)]
    dtype = dense[0].dtype
    if any(p.dtype != dtype for p in dense):
        dense, dtype = [Dense(_widen(p), "f32") for p in dense], "f32"
    values = [np.ascontiguousarray(p.values) for p in dense]
    if dtype == "f32":
        model.set_dense(slot, layer, [_f32(v) for v in values], dtype)
    else:
        model.set_dense(slot, layer, [v.view(np.uint16) for v in values], dtype)


def _part(p: Planes) -> _native._Part:
    scale: Any = np.ascontiguousarray(p.scale)
    offset: Any = None if p.offset is None else np.ascontiguousarray(p.offset)
    return (
        np.ascontiguousarray(p.hi),
        None if p.lo is None else np.ascontiguousarray(p.lo),
        scale.view(np.uint16) if scale.dtype == np.float16 else scale,
        offset,
        None if p.unit is None else np.ascontiguousarray(p.unit),
    )


def _put_transform(
    model: _native.NativeModel, slot: str, layer: int, parts: list[Planes | Dense]
) -> None:
    transform = parts[0].transform
    if any(part.transform != transform for part in parts):
        raise ModelError(
            f"input of {slot} in layer {layer}",
            got="matrices that want it transformed in different ways",
            expected="one transform",
            fix="quantize the model again",
        )
    if isinstance(transform, Rotation):
        r = transform
        model.set_rotation(slot, layer, r.matrix, r.block, r.stride, float(r.scale))
    elif transform is not None:
        model.set_gather(slot, layer, np.ascontiguousarray(transform.indices, np.int32))


def _widen(part: Dense) -> NDArray[np.float32]:
    if part.dtype == "bf16":
        return (part.values.astype(np.uint32) << 16).view(np.float32)
    return part.values.astype(np.float32)


def _f32(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)
