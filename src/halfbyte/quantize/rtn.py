"""Round to nearest into nested codes: 8 bits whose upper half is itself a good 4-bit code.

A group of G weights gets one signed f16 scale s; code = round(16 w / s) in [-136, 119], and the
draft reads hi = round(code / 16). The scale decides both errors, and they pull apart:

- At 8 bits any scale works that lets no weight fall outside the codes; the error grows with s. The
  smallest such scale is `fit` = max(p / 7.4375, n / 8.5), p and n being the largest magnitudes on
  the side of s and against it.
- At 4 bits the codes are asymmetric (-8 .. 7), so the sign of s matters: the larger extreme belongs
  on the side of -8. Beyond that the best s varies from group to group by some tenths of a per cent
  to 10%, which only a trial shows.

So each group tries both signs and a few multiples of `fit`, and keeps the scale with the least
`draft error + LO_WEIGHT * 8-bit error`. Multiples stay near 1: below it the extreme is clipped at 8
bits, far above it the 8-bit step is needlessly coarse. With 4 planes only the draft error counts
and the multiples reach lower.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import ModelError
from halfbyte.formats.planes import MAX_CODE, MIN_CODE, pack, split
from halfbyte.formats.weights import Planes
from halfbyte.quantize.scales import check_range, fitting, round_to_f16, sixteenths
from halfbyte.quantize.scheme import Grid, InputStatistics, RoundRows, Statistics
from halfbyte.quantize.wide import join_wide

NESTED_FACTORS = (1.0, 1.02, 1.04, 1.07)
HI_FACTORS = (0.82, 0.88, 0.94, 1.0, 1.06, 1.12)
# The 8-bit squared error is about 1/256 of the draft error: at this weight both count alike.
LO_WEIGHT = 256.0
BLOCK_WEIGHTS = 1 << 16  # 256 KB of float32: the trials stay in the second-level cache


@dataclass(frozen=True, slots=True)
class RoundToNearest:
    """`quantize` as the rounder of a scheme: it looks at no inputs."""

    statistics: Statistics = Statistics.NONE

    def fit(self, inputs: InputStatistics | None, grid: Grid) -> RoundRows:
        """Nothing to prepare."""

        def round_rows(name: str, rows: NDArray[np.float32]) -> Planes:
            narrow = rows.shape[1] - grid.wide_groups * grid.group_size
            parts = [
                quantize(name, [part], (part.shape[0], part.shape[1]), grid.group_size, planes)
                for part, planes in ((rows[:, :narrow], grid.planes), (rows[:, narrow:], 8))
                if part.shape[1]
            ]
            return parts[0] if not grid.wide_groups else join_wide(parts[:-1], parts[-1])

        return round_rows


def quantize(
    name: str,
    blocks: Iterable[NDArray[np.float32]],
    shape: tuple[int, int],
    group_size: int,
    planes: int,
) -> Planes:
    """Quantize an [N, K] matrix given as row blocks ([n, K] each, in order) into `planes` 8 or 4.

    Raises HalfbyteError on NaN, infinity or weights too large for an f16 scale.
    """
    rows, inputs = shape
    if inputs % group_size:
        raise ModelError(
            f"matrix {name}",
            got=f"{inputs} inputs",
            expected=f"a multiple of the group size {group_size}",
            fix="choose a group size that divides it",
        )
    hi = np.empty((rows, inputs // 2), dtype=np.uint8)
    lo = np.empty((rows, inputs // 2), dtype=np.uint8) if planes == 8 else None
    scale = np.empty((rows, inputs // group_size), dtype=np.float16)
    step = max(1, BLOCK_WEIGHTS // inputs)
    begin = 0
    for block in blocks:
        for at in range(0, block.shape[0], step):
            part = block[at : at + step]
            end = begin + part.shape[0]
            codes, scale[begin:end] = _quantize_rows(name, part, group_size, planes)
            high, low = split(codes)
            hi[begin:end] = pack(high)
            if lo is not None:
                lo[begin:end] = pack(low)
            begin = end
    return Planes(hi, lo, scale, None, group_size)


def _quantize_rows(
    name: str, rows: NDArray[np.float32], group_size: int, planes: int
) -> tuple[NDArray[np.int16], NDArray[np.float16]]:
    """Codes [n, K] (multiples of 16 for 4 planes) and scales [n, K/G]."""
    # Groups stand in columns, so that sums over a group run over whole vectors.
    w = np.ascontiguousarray(rows.reshape(-1, group_size).T)  # [G, groups]
    top, bottom = w.max(axis=0), w.min(axis=0)
    check_range(name, top, bottom)
    top, bottom = np.maximum(top, 0), np.maximum(-bottom, 0)
    best_error = np.full(w.shape[1], np.inf, dtype=np.float32)
    best_scale = np.zeros(w.shape[1], dtype=np.float32)
    for fit in fitting(top, bottom):
        for factor in NESTED_FACTORS if planes == 8 else HI_FACTORS:
            scale = round_to_f16(fit * np.float32(factor))
            error = _error(w, scale, planes)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scale = np.where(better, scale, best_scale)
    codes = _codes(w * sixteenths(best_scale), planes).astype(np.int16)
    grid = best_scale.astype(np.float16).reshape(rows.shape[0], -1)
    return codes.T.reshape(rows.shape), grid


def _codes(t: NDArray[np.float32], planes: int) -> NDArray[np.float32]:
    """t = 16 w / s -> codes, as floats."""
    if planes == 8:
        nested: NDArray[np.float32] = np.clip(np.rint(t), MIN_CODE, MAX_CODE)
        return nested
    upper: NDArray[np.float32] = np.clip(np.rint(t * np.float32(1 / 16)), -8, 7) * np.float32(16)
    return upper


def _error(w: NDArray[np.float32], scale: NDArray[np.float32], planes: int) -> NDArray[np.float32]:
    """What a scale costs each group, in units of weights squared: [groups]."""
    t = w * sixteenths(scale)
    codes = _codes(t, planes)
    high = np.floor((codes + 8) * np.float32(1 / 16)) * np.float32(16)
    high -= t
    total: NDArray[np.float32] = np.einsum("gn,gn->n", high, high)
    if planes == 8:
        codes -= t
        total += np.float32(LO_WEIGHT) * np.einsum("gn,gn->n", codes, codes)
    total *= np.square(scale * np.float32(1 / 16))
    return total
