"""Cells and lines of markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measure.rows import Spread

NO_DIFFERENCE = "≈"  # what differs by less than its spread


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A markdown table; columns that are empty in every line are left out."""
    kept = [list(line) for line in lines]
    shown = [i for i in range(len(head)) if any(line[i] for line in kept)]
    rows = [head, ["---"] * len(head), *kept]
    return "\n".join("| " + " | ".join(row[i] for i in shown) + " |" for row in rows)


def speed(spread: Spread) -> str:
    """A median and, of several processes, the 20th to 80th percentile."""
    digits = 0 if spread.median >= 100 else 1
    if spread.n == 1:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.p20:.{digits}f}–{spread.p80:.{digits}f})"


def ratio(value: float, interval: Sequence[float] | None) -> str:
    """A gain with its interval; one that has 1 inside is no difference."""
    if not interval:
        return f"{value:.2f}x"
    low, high = interval
    is_within = round(low, 2) <= 1.0 <= round(high, 2)  # as shown
    shown = NO_DIFFERENCE if is_within else f"{value:.2f}x"
    return f"{shown} ({low:.2f}–{high:.2f})"


def leads(one: Spread, others: Iterable[Spread]) -> bool:
    """Whether a value is above all others by more than the spreads, of more than one run."""
    rest = list(others)
    return one.n > 1 and bool(rest) and all(one.p20 > other.p80 for other in rest)


def overlap(one: Spread, other: Spread) -> bool:
    """Whether the 20th to 80th percentiles of two values of several runs meet."""
    is_spread = one.n > 1 and other.n > 1
    return is_spread and one.p20 <= other.p80 and other.p20 <= one.p80
