"""Rows of a matrix out of the tensors they are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.importers.families import Place


def stacked_rows(
    place: Place, begin: int, end: int, read: Callable[[str], NDArray[Any]]
) -> NDArray[Any]:
    """[end - begin, K], in the type they are stored in; a view where one tensor holds them so."""
    wanted = place.rows(begin, end)
    if len(place.tensors) == 1 and len(place.shape) == 2:
        return np.asarray(read(place.tensors[0])[wanted])
    if isinstance(wanted, slice):
        wanted = np.arange(wanted.start, wanted.stop)
    blocks = wanted // place.block_rows
    parts = [
        _block(place, block, read)[wanted[blocks == block] - block * place.block_rows]
        for block in np.unique(blocks)
    ]
    return np.concatenate(parts) if parts else _block(place, 0, read)[:0]


def _block(place: Place, block: int, read: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
    """One of the matrices that are stacked: [n, K]."""
    if len(place.tensors) > 1:
        return read(place.tensors[block])
    whole = read(place.tensors[0])
    matrix: NDArray[Any] = whole[block] if whole.ndim == 3 else whole
    return matrix.T if place.transposed else matrix
