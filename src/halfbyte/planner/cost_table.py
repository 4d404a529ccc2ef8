"""T(level, M, context): what a forward costs, as the planner reads it.

Time is split into what the weights cost and what the context costs:

    T = linear(level, rows of the whole batch) + sum over sequences of attention(its rows, context)

`linear` is extrapolated to an empty context. `attention` is the same at every level, since queries
and KV are the same floats, so it is measured at one level only. A drafting call is one weight pass
a token; its first pass finds the caches as the verify left them, later ones as a draft left them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

MAX_POINTS = 64  # of either axis; more in a file is a corrupt file
MAX_SECONDS = 1e4


@dataclass(frozen=True, slots=True)
class DraftCost:
    """One sequence drafting at a short context, in seconds."""

    first: float  # the call with its first token
    further: float  # each token after it


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of forwards and drafts; between grid points linear, never falling with M."""

    rows: tuple[int, ...]  # M, ascending from 1
    contexts: tuple[int, ...]  # ascending
    linear: Mapping[str, tuple[float, ...]]  # level -> [len(rows)]
    attention: tuple[tuple[float, ...], ...]  # [len(rows), len(contexts)]
    drafts: Mapping[str, DraftCost]  # level ->
    spread: float = 1.0  # median over low quantile of the times of a point, typically

    def __post_init__(self) -> None:
        """Raises ValueError: a table is made by the probe or read from a cache, never by hand."""
        for axis in (self.rows, self.contexts):
            if not 1 <= len(axis) <= MAX_POINTS or any(a >= b for a, b in pairwise(axis)):
                raise ValueError("an axis is empty, too long or not ascending")
        if self.rows[0] != 1 or self.contexts[0] < 1:
            raise ValueError("rows start at 1, contexts at 1 or more")
        if not self.linear or len(self.attention) != len(self.rows):
            raise ValueError("no level, or attention of other rows")
        curves = [*self.linear.values(), *zip(*self.attention, strict=True)]
        for curve in curves:
            if len(curve) != len(self.rows) or any(a > b for a, b in pairwise(curve)):
                raise ValueError("a curve has another length or falls with M")
        flat = [x for curve in curves for x in curve]
        flat += [x for d in self.drafts.values() for x in (d.first, d.further)]
        if not all(isinstance(x, float) and 0.0 <= x < MAX_SECONDS for x in flat):
            raise ValueError("a time that is no time")
        if not self.spread >= 1.0:
            raise ValueError("a spread below 1")
        if any(curve[0] <= 0.0 for curve in self.linear.values()):
            raise ValueError("a forward that takes no time")

    def linear_seconds(self, level: str, rows: float) -> float:
        """The part of a forward that does not grow with context; `rows` of the whole batch."""
        return interpolated(self.rows, self.linear[level], rows)

    def attention_seconds(self, rows: float, context: float) -> float:
        """What `rows` rows of one sequence add at this context."""
        if context <= 0 or rows <= 0:
            return 0.0
        at, share = _place(self.contexts, context)
        low = interpolated(self.rows, [r[at] for r in self.attention], rows)
        if share == 0.0 or at + 1 == len(self.contexts):
            # Below the first context and past the last, attention is proportional to it.
            return low * context / self.contexts[at]
        high = interpolated(self.rows, [r[at + 1] for r in self.attention], rows)
        return low + (high - low) * share

    def forward_seconds(self, level: str, rows: Seq[float], contexts: Seq[float]) -> float:
        """One forward: `rows[b]` rows of each sequence, at its context."""
        attention = sum(map(self.attention_seconds, rows, contexts))
        return self.linear_seconds(level, sum(rows)) + attention

    def step_seconds(self, level: str, sequences: float, *, first: bool) -> float:
        """One pass of a drafting call over `sequences` rows, attention not counted."""
        cost = self.drafts[level]
        growth = self.linear_seconds(level, sequences) - self.linear_seconds(level, 1)
        return (cost.first if first else cost.further) + growth

    def draft_seconds(self, level: str, lengths: Seq[int], contexts: Seq[float]) -> float:
        """One drafting call: `lengths[b]` tokens of each sequence."""
        total = 0.0
        for step in range(max(lengths, default=0)):
            active = [c + step for n, c in zip(lengths, contexts, strict=True) if n > step]
            total += self.step_seconds(level, len(active), first=step == 0)
            total += sum(self.attention_seconds(1, c) for c in active)
        return total

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": list(self.rows),
            "contexts": list(self.contexts),
            "linear": {level: list(curve) for level, curve in self.linear.items()},
            "attention": [list(row) for row in self.attention],
            "drafts": {level: [d.first, d.further] for level, d in self.drafts.items()},
            "spread": self.spread,
        }

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `as_dict`; ValueError, TypeError, KeyError or AttributeError if not."""
        drafts = {str(k): DraftCost(*map(float, v)) for k, v in values["drafts"].items()}
        linear = {str(k): tuple(map(float, v)) for k, v in values["linear"].items()}
        return cls(
            rows=tuple(int(m) for m in values["rows"]),
            contexts=tuple(int(c) for c in values["contexts"]),
            linear=linear,
            attention=tuple(tuple(map(float, row)) for row in values["attention"]),
            drafts=drafts,
            spread=float(values["spread"]),
        )


def rising(seconds: Seq[float]) -> tuple[float, ...]:
    """The curve without falls: noise only adds time, so M rows cost at most what more rows did."""
    return tuple(accumulate(reversed(seconds), min))[::-1]


def interpolated(grid: Seq[int], curve: Seq[float], at: float) -> float:
    """Linear between grid points; past the last one, the slope of the last stretch goes on."""
    i = bisect_left(grid, at)
    if i < len(grid) and grid[i] == at:
        return curve[i]
    i = min(max(i, 1), len(grid) - 1)
    if i == 0:
        return curve[0]
    low, high = grid[i - 1], grid[i]
    return curve[i - 1] + (curve[i] - curve[i - 1]) * (at - low) / (high - low)


def _place(grid: Seq[int], at: float) -> tuple[int, float]:
    """The grid point at or below `at` (or the first) and how far towards the next it lies."""
    i = bisect_left(grid, at)
    if i < len(grid) and grid[i] == at:
        return i, 0.0
    if i == 0:
        return 0, 0.0
    if i == len(grid):
        return len(grid) - 1, math.inf
    return i - 1, (at - grid[i - 1]) / (grid[i] - grid[i - 1])
