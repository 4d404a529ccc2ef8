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
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import ModelError
from halfbyte.formats.planes import pack, pack_low, split
from halfbyte.formats.weights import Planes
from halfbyte.quantize.assemble import join_wide
from halfbyte.quantize.scales import StoredScales, check_range, nearest_codes, sixteenths
from halfbyte.quantize.scheme import Grid, InputDetail, InputStatistics, RoundRows

F32 = NDArray[np.float32]

NESTED_FACTORS = (1.0, 1.02, 1.04, 1.07)
HI_FACTORS = (0.82, 0.88, 0.94, 1.0, 1.06, 1.12)
# The 8-bit squared error is about 1/256 of the draft error: at this weight both count alike.
LO_WEIGHT = 256.0
BLOCK_WEIGHTS = 1 << 16  # 256 KB of float32: the trials stay in the second-level cache


@dataclass(frozen=True, slots=True)
class RoundToNearest:
    """`quantize` as the rounder of a scheme: it looks at no inputs."""

    detail: InputDetail = InputDetail.NONE

    def fit(self, inputs: InputStatistics | None, grid: Grid) -> RoundRows:
        """Nothing to prepare."""

        def round_rows(name: str, rows: F32) -> Planes:
            scales = StoredScales.of(rows, grid.scales, grid.group_size)
            narrow = rows.shape[1] - grid.wide_groups * grid.group_size
            own, wide = replace(grid, wide_groups=0), replace(grid, wide_groups=0, planes=8)
            parts = [
                quantize(name, [part], (part.shape[0], part.shape[1]), kind, scales)
                for part, kind in ((rows[:, :narrow], own), (rows[:, narrow:], wide))
                if part.shape[1]
            ]
            return parts[0] if not grid.wide_groups else join_wide(parts[:-1], parts[-1])

        return round_rows


def quantize(
    name: str,
    blocks: Iterable[F32],
    shape: tuple[int, int],
    grid: Grid,
    scales: StoredScales | None = None,
) -> Planes:
    """Quantize an [N, K] matrix given as row blocks ([n, K] each, in order).

    `scales` are those of the rows that the blocks are a part of; None: the blocks are whole rows.
    Raises HalfbyteError on NaN, infinity or weights too large for an f16 scale.
    """
    rows, inputs = shape
    group_size = grid.group_size
    if inputs % group_size:
        raise ModelError(
            f"matrix {name}",
            got=f"{inputs} inputs",
            expected=f"a multiple of the group size {group_size}",
            fix="choose a group size that divides it",
        )
    hi = np.empty((rows, inputs // 2), dtype=np.uint8)
    lo = np.empty((rows, inputs * grid.lo_bits // 8), dtype=np.uint8) if grid.planes == 8 else None
    chosen = np.empty((2, inputs // group_size, rows), dtype=np.float32)
    unit = None if grid.scales == "f16" else np.empty(rows, dtype=np.float32)
    size = max(1, BLOCK_WEIGHTS // inputs)
    begin = 0
    for block in blocks:
        first, own = begin, scales or StoredScales.of(block, grid.scales, group_size)
        if unit is not None:
            unit[begin : begin + block.shape[0]] = own.unit
        for at in range(0, block.shape[0], size):
            part = block[at : at + size]
            end = begin + part.shape[0]
            codes, chosen[:, :, begin:end] = _quantize_rows(
                name, part, grid, own.rows(slice(begin - first, end - first))
            )
            high, low = split(codes)
            hi[begin:end] = pack(high)
            if lo is not None:
                lo[begin:end] = pack_low(low, grid.lo_bits)
            begin = end
    scale, offset = StoredScales(grid.scales, unit).stored(*chosen)
    return Planes(hi, lo, scale, offset, group_size, unit=unit)


def _quantize_rows(
    name: str, rows: F32, grid: Grid, scales: StoredScales
) -> tuple[NDArray[np.int16], F32]:
    """Codes [n, K] (multiples of 16 for 4 planes), scales and offsets [2, K/G, n]."""
    # Groups stand in columns, so that sums over a group run over whole vectors.
    w = np.ascontiguousarray(rows.reshape(-1, grid.group_size).T)  # [G, groups]
    high, low = w.max(axis=0), w.min(axis=0)
    check_range(name, high, low)
    factors = NESTED_FACTORS if grid.planes == 8 else HI_FACTORS
    of_groups = scales.for_groups(rows.shape[1] // grid.group_size)
    best_error = np.full(w.shape[1], np.inf, dtype=np.float32)
    best = np.zeros((2, w.shape[1]), dtype=np.float32)
    for tried in zip(*of_groups.tries(high, low, factors, grid.planes), strict=True):
        error = _error(w, *tried, grid)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = np.where(better, np.stack(tried), best)
    codes = _codes((w - best[1]) * sixteenths(best[0]), grid).astype(np.int16)
    by_group = best.reshape(2, rows.shape[0], -1).transpose(0, 2, 1)
    return codes.T.reshape(rows.shape), by_group


def _codes(t: F32, grid: Grid) -> F32:
    """t = 16 (w - z) / s -> codes, as floats."""
    if grid.planes == 8:
        return nearest_codes(t, grid.lo_bits)
    upper: F32 = np.clip(np.rint(t * np.float32(1 / 16)), -8, 7) * np.float32(16)
    return upper


def _error(w: F32, scale: F32, offset: F32, grid: Grid) -> F32:
    """What a scale and an offset cost each group, in units of weights squared: [groups]."""
    t = (w - offset) * sixteenths(scale)
    codes = _codes(t, grid)
    total = np.zeros(w.shape[1], dtype=np.float32)
    if grid.lo_bits == 4:
        high = np.floor((codes + 8) * np.float32(1 / 16)) * np.float32(16)
        high -= t
        total += np.einsum("gn,gn->n", high, high)
    if grid.planes == 8:
        codes -= t
        total += np.float32(LO_WEIGHT) * np.einsum("gn,gn->n", codes, codes)
    total *= np.square(scale * np.float32(1 / 16))
    return total
