"""The table of `benchmarks.serving`: rows of one model and machine."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure.rows import Row
from benchmarks.report.markdown import speed, table
from benchmarks.report.selection import subject, subjects, weights
from benchmarks.report.speed_tables import counted

STREAMS, FIRST = "serve streams", "serve first token"


def serving_table(rows: Sequence[Row]) -> str:
    """One line per engine: throughput of all streams, and milliseconds to the first token."""
    counts = sorted({streams_of(row) for row in rows})
    head = ["weights", "engine", *(counted(n, "stream") for n in counts)]
    lines = []
    for name in subjects(rows):
        own = {row.metric: row for row in rows if subject(row) == name}
        first = next(iter(own.values()))
        cells = []
        for n in counts:
            rate, wait = own.get(f"{STREAMS} {n}"), own.get(f"{FIRST} {n}")
            shown = speed(rate.spread) if rate else ""
            cells.append(f"{shown}, {wait.spread.median * 1e3:.0f} ms" if rate and wait else shown)
        lines.append([weights(first), first.engine, *cells])
    return table(head, lines)


def streams_of(row: Row) -> int:
    """The number at the end of a metric."""
    return int(row.metric.split()[-1])
