"""The native CPU runtime: loads weights into the core and runs whole steps in one call each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halfbyte import _native
from halfbyte.checks import check_one_of
from halfbyte.config import Level
from halfbyte.formats.weights import Weights
from halfbyte.runtime.draft_head import other_taps
from halfbyte.runtime.machine import choose_threads, choose_tier, processor_name
from halfbyte.runtime.native_load import load_model
from halfbyte.runtime.native_parts import check_runnable
from halfbyte.runtime.native_shape import CoreShape
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
        load_model(self._model, weights)
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
            layer,
            np.ascontiguousarray(residual, dtype=np.float32),
            row_starts,
            first,
            pages,
            weight_bits,
            act_bits,
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
