"""Integer weights as other tools store them, and the planes that hold exactly the same values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.planes import MAX_CODE, MIN_CODE, pack, split
from halfbyte.formats.weights import Planes

_LARGEST_F16 = 65504.0


class UnfitError(Exception):
    """No planes have exactly these values; the text says why."""


@dataclass(frozen=True, slots=True)
class IntegerWeights:
    """w[n, k] = scales[n, g] * (codes[n, k] - zeros[n, g]), g = groups[k] the group of input k."""

    codes: NDArray[np.uint8]  # [N, K], 0 .. 2^bits - 1
    zeros: NDArray[np.int16]  # [N, groups], 0 .. 2^bits
    scales: NDArray[np.float32]  # [N, groups]
    groups: NDArray[np.int64]  # [K]
    bits: int  # 4 or 8

    def rows(self, order: NDArray[np.int64]) -> IntegerWeights:
        """Some of the outputs, in another order."""
        return replace(
            self, codes=self.codes[order], zeros=self.zeros[order], scales=self.scales[order]
        )

    def inputs(self, order: NDArray[np.int64]) -> IntegerWeights:
        """The inputs in another order."""
        return replace(self, codes=self.codes[:, order], groups=self.groups[order])

    def dequantize(self) -> NDArray[np.float32]:
        """[N, K]; scales of at most 16 significant bits make this exact."""
        steps = self.codes.astype(np.int16)
        steps -= self.zeros[:, self.groups]
        values = steps.astype(np.float32)
        values *= self.scales[:, self.groups]
        return values


def unpack_words(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """[..., W] little-endian words -> [..., W * 32 / bits] values, the lowest bits first."""
    raw = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    if bits == 8:
        return raw
    values = np.empty((*raw.shape[:-1], 2 * raw.shape[-1]), dtype=np.uint8)
    values[..., 0::2] = raw & 15
    values[..., 1::2] = raw >> 4
    return values


def to_planes(weights: IntegerWeights, group_size: int) -> Planes:
    """Planes of the same values, to the bit; raises UnfitError where there are none.

    4 bits: w = s * (q - 8) + s * (8 - zero).  8 bits: the code q - 128 is in [-128, 127], ours end
    at 119: see `fit_codes`. An offset where every zero is in the middle is left out. Scale times
    code has at most 20 significant bits and the sum no more, so float32 rounds nothing.
    """
    which = _group_of_blocks(weights.groups, group_size)
    zeros, scales = weights.zeros[:, which], weights.scales[:, which]  # [N, K/G]
    rows, inputs = weights.codes.shape
    middle = 1 << (weights.bits - 1)
    codes = (weights.codes.astype(np.int16) - np.int16(middle)).reshape(rows, -1, group_size)
    offset = scales * (np.int16(middle) - zeros)
    if weights.bits == 4:
        hi, lo = codes.reshape(rows, inputs).astype(np.int8), None
    else:
        codes, scales, shift = fit_codes(codes, scales)
        hi, lo = split(codes.reshape(rows, inputs))
        offset = offset + shift
        scales = scales * np.float32(16)
    return Planes(
        pack(hi),
        None if lo is None else pack(lo),
        _exact_f16(scales),
        offset if offset.any() else None,
        group_size,
    )


def fit_codes(
    codes: NDArray[np.int16], scales: NDArray[np.float32]
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]]:
    """Codes in [-128, 127] -> (codes in [-136, 119], scales, offsets) of the same values.

    `codes` [N, groups, G], the rest [N, groups]. A group with large codes has its signs flipped;
    one with both large and very negative ones is shifted by 8.
    """
    codes, scales = codes.copy(), scales.copy()
    fits = codes.max(axis=2) <= MAX_CODE
    flipped = ~fits & (codes.min(axis=2) >= -MAX_CODE)
    shifted = ~fits & ~flipped
    codes[flipped] *= -1
    scales[flipped] *= -1
    codes[shifted] -= 8
    assert codes.min(initial=0) >= MIN_CODE
    return codes, scales, np.where(shifted, 8 * scales, np.float32(0))


def _group_of_blocks(groups: NDArray[np.int64], group_size: int) -> NDArray[np.int64]:
    """The one group that each block of `group_size` inputs is in: [K/G]."""
    blocks = groups.reshape(-1, group_size)
    if (blocks != blocks[:, :1]).any():
        raise UnfitError(f"groups not made of {group_size} neighbouring inputs (act-order?)")
    first: NDArray[np.int64] = blocks[:, 0]
    return first


def _exact_f16(scales: NDArray[np.float32]) -> NDArray[np.float16]:
    if not (np.abs(scales) <= _LARGEST_F16).all():
        raise UnfitError("a scale that is not finite or too large for half precision")
    halves = scales.astype(np.float16)
    if (halves.astype(np.float32) != scales).any():
        raise UnfitError("scales that half precision cannot hold exactly")
    return halves
