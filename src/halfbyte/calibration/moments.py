"""Running statistics of the inputs of linears."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.quantize.scheme import InputDetail, InputStatistics

F32 = NDArray[np.float32]


class Moments:
    """Sums over rows [M, K] as they come."""

    def __init__(self, wanted: InputDetail) -> None:
        self._wanted = wanted
        self._rows = 0
        self._largest: F32 | None = None
        self._sums: list[NDArray[np.float64]] = []
        self._products: F32 | None = None

    def add(self, rows: F32, counts: F32 | None = None) -> None:
        """Take in rows [M, K]; squares and products count `counts` [M] times (None: once)."""
        sizes = np.abs(rows)
        mean_abs = sizes.sum(axis=0, dtype=np.float64)
        largest = sizes.max(axis=0)
        if counts is not None:
            rows = rows * np.sqrt(counts)[:, None]
        sums = [mean_abs, np.einsum("mk,mk->k", rows, rows, dtype=float)]
        if self._largest is None:
            self._largest, self._sums = largest, sums
        else:
            self._largest = np.maximum(self._largest, largest)
            self._sums = [have + more for have, more in zip(self._sums, sums, strict=True)]
        self._rows += len(rows)
        if self._wanted >= InputDetail.SECOND_MOMENTS:
            products: F32 = rows.T @ rows  # numpy sees the symmetry and does half the work
            if self._products is None:
                self._products = products
            else:
                self._products += products

    def result(self) -> InputStatistics:
        """Means over every row taken in."""
        assert self._largest is not None, "no rows were added"
        count = self._rows
        mean_abs, mean_square = ((s / count).astype(np.float32) for s in self._sums)
        second = self._products
        if second is not None:
            second = second / np.float32(count)
        return InputStatistics(count, self._largest, mean_abs, mean_square, second)
