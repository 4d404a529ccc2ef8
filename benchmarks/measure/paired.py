"""Ratios of what was measured in pairs, one right after the other on the same work."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios, and between what it lies with `CONFIDENCE`."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """`ours[i]` and `theirs[i]` are a pair; at least one.

        The interval is that of order statistics, which assumes nothing of how ratios are spread:
        the k-th lowest is above the median with the chance of fewer than k heads in n tosses. Of
        fewer than five pairs it is all of them, and promises less.
        """
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        count, outside, left_out = len(ratios), 0.0, 0
        for k in range(count // 2):
            outside += 2 * math.comb(count, k) / 2**count
            if outside > 1 - CONFIDENCE:
                break
            left_out = k
        low, high = ratios[left_out], ratios[count - 1 - left_out]
        return cls(statistics.median(ratios), low, high)

    @property
    def interval(self) -> list[float]:
        """As rows have it."""
        return [self.low, self.high]
