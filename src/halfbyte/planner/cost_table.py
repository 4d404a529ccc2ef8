"""T(level, M, context): what a forward costs, as the planner reads it.

Time is split into what the weights cost and what the context costs:

    T = linear(level, rows of the whole batch) + sum over sequences of attention(its rows) * context

`linear` is extrapolated to an empty context. `attention` is the same at every level, since queries
and KV are the same floats, so it is measured at one level only. A drafting call is one weight pass
per token; its first pass finds the caches as the verify left them, later ones as a draft left them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

MAX_POINTS = 64  # of rows; more in a file is a corrupt file
MAX_SECONDS = 1e4


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of forwards and drafts; linear between grid points, never falling with M."""

    rows: tuple[int, ...]  # M, ascending from 1
    linear: Mapping[str, tuple[float, ...]]  # level -> [len(rows)]
    attention: tuple[float, ...]  # [len(rows)] per token of context
    # Level -> one sequence drafting at an empty context: the call's first token, each after it.
    drafts: Mapping[str, tuple[float, float]]
    spread: float = 1.0  # median over low quantile of the times of a point, typically

    def __post_init__(self) -> None:
        """Raises ValueError: a table is made by the probe or read from a cache, never by hand."""
        size, curves = len(self.rows), (*self.linear.values(), self.attention)
        times = [x for each in (*self.linear.values(), *self.drafts.values()) for x in each]
        if not (
            1 <= size <= MAX_POINTS
            and list(self.rows) == sorted({1, *self.rows})
            and self.linear
            and all(len(c) == size and all(a <= b for a, b in pairwise(c)) for c in curves)
            and all(0.0 < x < MAX_SECONDS for x in (*times, self.attention[-1] + 1.0))
            and self.attention[0] >= 0.0
            and self.spread >= 1.0
        ):
            raise ValueError("curves of other lengths, that fall with M, or of what is no time")

    def linear_seconds(self, level: str, rows: float) -> float:
        """The part of a forward that does not grow with context; `rows` of the whole batch."""
        return interpolated(self.rows, self.linear[level], rows)

    def attention_seconds(self, rows: float, context: float) -> float:
        """What `rows` rows of one sequence add at this context."""
        return interpolated(self.rows, self.attention, rows) * context

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `dataclasses.asdict` through JSON; ValueError, TypeError, KeyError or
        AttributeError if it is not that."""
        return cls(
            rows=tuple(map(int, values["rows"])),
            linear={str(k): tuple(map(float, v)) for k, v in values["linear"].items()},
            attention=tuple(map(float, values["attention"])),
            drafts={str(k): (float(a), float(b)) for k, (a, b) in values["drafts"].items()},
            spread=float(values["spread"]),
        )


def rising(seconds: Seq[float]) -> tuple[float, ...]:
    """The curve without falls: noise only adds time, so M rows cost at most what more rows did."""
    return tuple(accumulate(reversed(seconds), min))[::-1]


def interpolated(grid: Seq[int], curve: Seq[float], at: float) -> float:
    """Linear between grid points; outside of them the slope of the nearest stretch goes on."""
    if len(grid) == 1:
        return curve[0]
    i = min(max(bisect_left(grid, at), 1), len(grid) - 1)
    low, high = grid[i - 1], grid[i]
    return curve[i - 1] + (curve[i] - curve[i - 1]) * (at - low) / (high - low)
