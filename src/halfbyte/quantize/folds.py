"""Channel scales moved between a linear and what feeds it, so that its inputs quantize better.

A linear computes the same when input channel k is divided by s_k and column k of its weights is
multiplied by it. The division is folded into what makes the input: a norm, v for the output
projection, up for the down projection. So nothing is left to do at run time. A model whose inputs
are transformed at run time cannot be folded so: the transform stands in between.

    SmoothQuant (arXiv 2211.10438, section 4): s_k = max|x_k|^a / max|w_k|^(1-a)
    AWQ (arXiv 2306.00978, section 3.2): s_k = mean|x_k|^a, a by search for the least output error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.planes import dequantize
from halfbyte.quantize.rtn import quantize
from halfbyte.quantize.scheme import LINEAR_INPUTS, Grid, InputDetail, InputStatistics, Layer

F32 = NDArray[np.float32]

# Linear input -> what its channels are made by: vectors and matrices whose rows are channels.
_MAKERS = {
    "attn.qkv": ("norm.attn",),
    "attn.o": ("attn.v", "attn.v.bias"),
    "mlp.gate_up": ("norm.mlp",),
    "mlp.down": ("mlp.up",),
}
_RANGE = np.float32(1e4)  # largest ratio of a channel scale to their geometric mean
_STEPS = 20
_ROWS = 512  # of a matrix, evenly spaced, that the search looks at


@dataclass(frozen=True, slots=True)
class SmoothQuant:
    """Evens out activations, for the levels with 8-bit or 4-bit ones."""

    strength: float = 0.5
    detail: InputDetail = InputDetail.CHANNELS

    def __call__(
        self,
        config: ModelConfig,
        layer: Layer,
        inputs: Mapping[str, InputStatistics],
        grid: Grid,
    ) -> Layer:
        """The same function, activations and weights sharing the range of each channel."""

        def scales(name: str, matrices: list[F32], seen: InputStatistics) -> F32:
            weights = np.max([np.abs(w).max(axis=0) for w in matrices], axis=0)
            s = _power(seen.largest, self.strength) / _power(weights, 1 - self.strength)
            return np.asarray(s, dtype=np.float32)

        return _fold(config, layer, inputs, scales)


@dataclass(frozen=True, slots=True)
class Awq:
    """Gives channels with large inputs finer steps."""

    detail: InputDetail = InputDetail.SECOND_MOMENTS

    def __call__(
        self,
        config: ModelConfig,
        layer: Layer,
        inputs: Mapping[str, InputStatistics],
        grid: Grid,
    ) -> Layer:
        """The same function, with the scales whose rounded weights miss least at 4 bits."""

        def scales(name: str, matrices: list[F32], seen: InputStatistics) -> F32:
            rows = np.concatenate([w[:: max(1, len(w) // _ROWS)] for w in matrices])
            tied = _tie(config, name)
            tried = [tied(_centred(_power(seen.mean_abs, step / _STEPS))) for step in range(_STEPS)]
            errors = [_output_error(name, rows, s, seen, grid) for s in tried]
            return tried[int(np.argmin(errors))]

        return _fold(config, layer, inputs, scales)


def _output_error(name: str, rows: F32, scales: F32, seen: InputStatistics, grid: Grid) -> float:
    """Mean squared output error of 4-bit rows rounded to nearest after scaling."""
    moments = seen.second_moments
    assert moments is not None, "the search asked for second moments"
    scaled = rows * scales
    shape = (scaled.shape[0], scaled.shape[1])
    planes = quantize(name, [scaled], shape, grid)
    missed = (dequantize(planes, 4) - scaled) / scales
    return float(np.einsum("nk,nk->", missed @ moments, missed, dtype=np.float64))


def _fold(
    config: ModelConfig,
    layer: Layer,
    inputs: Mapping[str, InputStatistics],
    scales_of: Callable[[str, list[F32], InputStatistics], F32],
) -> Layer:
    """Scale the columns of what reads each input, and divide the channels of what makes it."""
    folded = dict(layer)
    for name, readers in LINEAR_INPUTS:
        found = scales_of(name, [layer[reader] for reader in readers], inputs[name])
        scales = _tie(config, name)(_centred(found))
        for reader in readers:
            folded[reader] = folded[reader] * scales
        for maker in _MAKERS[name]:
            if maker in folded:
                own = _of_kv_heads(config, scales) if name == "attn.o" else scales
                values = folded[maker]
                folded[maker] = values / (own[:, None] if values.ndim == 2 else own)
    return folded


def _power(values: F32, exponent: float) -> F32:
    """Of sizes; channels that are zero count as the smallest of the others."""
    positive = values[values > 0]
    floor = positive.min() if len(positive) else np.float32(1)
    raised: F32 = np.maximum(values, floor) ** np.float32(exponent)
    return raised


def _centred(scales: F32) -> F32:
    """Scales of geometric mean 1, within a range that folding survives."""
    logs = np.log(scales)
    centred: F32 = np.exp(logs - logs.mean())
    return np.clip(centred, 1 / _RANGE, _RANGE)


def _tie(config: ModelConfig, name: str) -> Callable[[F32], F32]:
    """Query heads that read one KV head share its scales: their geometric mean."""
    if name != "attn.o":
        return lambda scales: scales
    mixer = config.attention
    group = mixer.num_heads // mixer.num_kv_heads

    def tie(scales: F32) -> F32:
        heads = np.log(scales).reshape(mixer.num_kv_heads, group, mixer.head_dim)
        shared = np.exp(heads.mean(axis=1, keepdims=True))
        return np.broadcast_to(shared, heads.shape).reshape(-1).astype(np.float32)

    return tie


def _of_kv_heads(config: ModelConfig, scales: F32) -> F32:
    """Tied scales [H * D] -> those of the rows of v [Hkv * D]."""
    mixer = config.attention
    group = mixer.num_heads // mixer.num_kv_heads
    return scales.reshape(mixer.num_kv_heads, group, mixer.head_dim)[:, 0].reshape(-1)
