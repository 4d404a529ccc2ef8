"""Codes and scales -> planes; parts of a matrix -> the matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.planes import pack, pack_low, split
from halfbyte.formats.weights import Planes
from halfbyte.quantize.scales import StoredScales
from halfbyte.quantize.scheme import Grid

F32 = NDArray[np.float32]


def to_planes(
    codes: NDArray[np.int16], scale: F32, offset: F32, grid: Grid, scales: StoredScales
) -> Planes:
    """Codes [n, K], scales and offsets [K/G, n] -> their stored form."""
    hi, lo = split(codes)
    low = None
    if grid.planes == 8:
        low = pack_low(lo, grid.lo_bits)
    elif grid.wide_groups:
        low = pack(lo[:, -grid.wide_groups * grid.group_size :])
    stored, shifts = scales.stored(scale, offset)
    return Planes(
        pack(hi), low, stored, shifts, grid.group_size, grid.wide_groups, unit=scales.unit
    )


def join_wide(narrow: list[Planes], wide: Planes) -> Planes:
    """Rows [n, K]: groups as their grid has them, if there are any, then wide ones with `lo`."""
    parts = [*narrow, wide]
    offsets: list[NDArray[Any]] = [p.offset for p in parts if p.offset is not None]
    return Planes(
        hi=np.concatenate([p.hi for p in parts], axis=1),
        lo=np.concatenate([p.lo for p in parts if p.lo is not None], axis=1),
        scale=np.concatenate([p.scale for p in parts], axis=1),
        offset=np.concatenate(offsets, axis=1) if offsets else None,
        group_size=wide.group_size,
        wide_groups=wide.scale.shape[1],
        unit=wide.unit,
    )


def stack_rows(blocks: list[Planes]) -> Planes:
    """Blocks of rows of one matrix -> the matrix."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    stacked: dict[str, Any] = {
        name: np.concatenate([b.arrays[name] for b in blocks]) for name in first.arrays
    }
    return replace(first, **stacked)
