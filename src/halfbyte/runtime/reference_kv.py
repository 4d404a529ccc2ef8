"""The KV pages of the numpy twin: a pool of each layer, so that layers may differ in shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.runtime.protocol import KvBits
from halfbyte.runtime.reference_ops import F32, narrow, widen


class KvPages:
    """K [P, Hkv, D, S] and V [P, Hkv, S, D] of every layer; P pages of S positions."""

    def __init__(self, config: ModelConfig, num_pages: int, page_size: int, kv_dtype: str) -> None:
        self.page_size = page_size
        self.kv_dtype = kv_dtype
        bits = np.uint32 if kv_dtype == "f32" else np.uint16
        self.keys, self.values = [], []
        for i in range(config.num_layers):
            mixer = config.layer(i).mixer
            pool = (num_pages, mixer.num_kv_heads if mixer.kv_layer is None else 0)
            self.keys.append(np.zeros((*pool, mixer.head_dim, page_size), dtype=bits))
            self.values.append(np.zeros((*pool, page_size, mixer.head_dim), dtype=bits))

    def write(
        self, layer: int, pages: NDArray[np.int32], slots: NDArray[np.int32], k: F32, v: F32
    ) -> None:
        """K and V [M, Hkv, D] of M rows into a slot of a page each."""
        self.keys[layer][pages, :, :, slots] = narrow(k, self.kv_dtype)
        self.values[layer][pages, :, slots, :] = narrow(v, self.kv_dtype)

    def gather(self, layer: int, table: NDArray[np.int32], length: int) -> tuple[F32, F32]:
        """K [Hkv, D, length] and V [Hkv, length, D] of a sequence's positions 0 .. length - 1."""
        pages = table[: -(-length // self.page_size)]
        _, heads, size, _ = self.keys[layer].shape
        keys = self.keys[layer][pages].transpose(1, 2, 0, 3).reshape(heads, size, -1)
        values = self.values[layer][pages].transpose(1, 0, 2, 3).reshape(heads, -1, size)
        return (
            widen(np.ascontiguousarray(keys[:, :, :length]), self.kv_dtype),
            widen(np.ascontiguousarray(values[:, :length]), self.kv_dtype),
        )

    def copy(
        self, pages: NDArray[np.int32], sources: NDArray[np.int32], targets: NDArray[np.int32]
    ) -> None:
        """Copy K and V of every layer between slots of one sequence."""
        size = self.page_size
        for keys, values in zip(self.keys, self.values, strict=True):
            some_keys = keys[pages[sources // size], :, :, sources % size]
            some_values = values[pages[sources // size], :, sources % size]
            keys[pages[targets // size], :, :, targets % size] = some_keys
            values[pages[targets // size], :, targets % size] = some_values

    def page(self, layer: int, page: int) -> tuple[KvBits, KvBits]:
        """Raw bits of one page: K [Hkv, D, S], V [Hkv, S, D]."""
        return self.keys[layer][page].copy(), self.values[layer][page].copy()
