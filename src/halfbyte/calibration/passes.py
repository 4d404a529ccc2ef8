"""Calibration text as rows of the residual stream, and a layer run over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from halfbyte.calibration.layer import OneLayer
from halfbyte.calibration.moments import Moments
from halfbyte.config import Level
from halfbyte.formats.weights import Weights
from halfbyte.quantize.scheme import InputDetail, InputStatistics
from halfbyte.runtime.protocol import LayerPass, LayerRuntime

F32 = NDArray[np.float32]

# A runtime over a layer, with KV pages for so many tokens.
MakeRuntime = Callable[[Weights, int], LayerRuntime]
F32_LEVEL = Level(32, 32)
_ROWS = 2048  # of one pass: what a layer reads and writes stays within some hundred MB
_FIELDS = {"attn.qkv": "qkv", "attn.o": "o", "mlp.gate_up": "gate_up", "mlp.down": "down"}
_INTO_RESIDUAL = ("attn.o", "mlp.down")


class LayerPasses:
    """Runs layers, one at a time, over sequences of one length."""

    def __init__(self, make_runtime: MakeRuntime, length: int) -> None:
        self._make_runtime = make_runtime
        self._length = length

    def observe(
        self, layer: OneLayer, residual: F32, wanted: InputDetail
    ) -> Mapping[str, InputStatistics]:
        """What the layer's linears read, at the `f32` level, over residual [S, L, hidden].

        What is added to the residual stream counts by its size beside the stream's: every reader
        normalizes the stream first. Else a few tokens, whose stream is a thousand times larger than
        any other's, decide alone how `o` and `down` are rounded.
        """
        moments = {name: Moments(wanted) for name in _FIELDS}
        for _, taken in self._passes(layer, residual, F32_LEVEL):
            stream = taken.residual
            sizes = np.einsum("mh,mh->m", stream, stream) / np.float32(stream.shape[1])
            counts = 1 / np.maximum(sizes, np.finfo(np.float32).tiny)
            for name, field in _FIELDS.items():
                moments[name].add(getattr(taken, field), counts if name in _INTO_RESIDUAL else None)
        return {name: each.result() for name, each in moments.items()}

    def advance(self, layer: OneLayer, residual: F32, level: Level) -> None:
        """Replace residual [S, L, hidden] by what the layer makes of it."""
        for part, taken in self._passes(layer, residual, level):
            residual[part] = taken.residual.reshape(residual[part].shape)

    def _passes(
        self, layer: OneLayer, residual: F32, level: Level
    ) -> Iterator[tuple[slice, LayerPass]]:
        size = max(1, _ROWS // self._length)
        # Each sequence begins a page of its own: room for one that is not whole pages.
        runtime = self._make_runtime(layer, size * (self._length + 256))
        for begin in range(0, len(residual), size):
            part = slice(begin, min(begin + size, len(residual)))
            rows = np.ascontiguousarray(residual[part]).reshape(-1, residual.shape[2])
            count = part.stop - part.start
            starts = (np.arange(count + 1) * self._length).astype(np.int32)
            yield part, runtime.run_layer(0, rows, starts, level)
