"""The table of `benchmarks.quality.transforms`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.measure.rows import Row, Spread
from benchmarks.quality.transforms import KINDS
from benchmarks.report import markdown
from benchmarks.report.markdown import NO_DIFFERENCE


def table(rows: Sequence[Row]) -> str:
    """A line per shape and level: milliseconds plain, and what each kind adds by rows."""
    found = {(r.model, r.cascade, r.metric, r.format): r for r in rows}
    counts = list(dict.fromkeys(r.metric.removeprefix("layers ") for r in rows))
    head = ["layers of", "level"]
    for count in counts:
        head += [f"M = {count}, ms", *KINDS[1:]]
    lines = []
    for model, level in dict.fromkeys((r.model, r.cascade) for r in rows):
        cells = []
        for count in counts:
            plain, *others = (found[model, level, f"layers {count}", kind] for kind in KINDS)
            cells.append(f"{plain.spread.median:.2f}")
            cells += [_added(other, plain) for other in others]
        lines.append([model, f"`{level}`", *cells])
    places = dict.fromkeys(f"{r.machine['cpu']}, tier {r.machine['tier']}" for r in rows)
    threads = dict.fromkeys(str(r.machine["threads"]) for r in rows)
    commits = dict.fromkeys(r.commit for r in rows)
    told = f"{'; '.join(places)}, {', '.join(threads)} threads. Commits {', '.join(commits)}."
    return f"{markdown.table(head, lines)}\n\n{told}"


def _added(row: Row, plain: Row) -> str:
    """In per cent; what the medians' own uncertainty covers is no difference."""
    apart = abs(row.spread.median - plain.spread.median)
    if apart <= _uncertainty(row.spread) + _uncertainty(plain.spread):
        return NO_DIFFERENCE
    return f"{100 * (row.details or {})['over_plain']:+.1f}%"


def _uncertainty(spread: Spread) -> float:
    """Half of the 90% confidence interval of the median of n forwards, as of a normal sample."""
    deviation = (spread.p80 - spread.p20) / 1.683
    return 1.645 * 1.253 * deviation / math.sqrt(spread.n)
