"""Tables of offline decoding and of processes; their rows are of one model and machine."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure.rows import Row
from benchmarks.report.markdown import NO_DIFFERENCE, leads, overlap, ratio, speed, table
from benchmarks.report.selection import bits, kind_order, subject, subjects, weights

# Metrics of `startup` and their headings.
PROCESS = {
    "start generate": "`generate`: one token",
    "start serve": "`serve`: first answer",
    "resident serve": "resident, weights and a full KV pool included",
}


def plain_table(rows: Sequence[Row]) -> str:
    """One line per engine and format; bold: ahead of all others of its bits beyond the spread."""
    metrics = sorted(dict.fromkeys(row.metric for row in rows), key=_plain_order)
    head = ["weights", "engine", "MB per token", *(f"{_heading(m)}, tokens/s" for m in metrics)]
    lines = []
    for name in subjects(rows):
        own = {row.metric: row for row in rows if subject(row) == name}
        first = next(iter(own.values()))
        cells = []
        for metric in metrics:
            row = own.get(metric)
            if row is None:
                cells.append("")
                continue
            rivals = [
                other.spread
                for other in rows
                if other.metric == metric and bits(other) == bits(row) and other is not row
            ]
            shown = speed(row.spread)
            cells.append(f"**{shown}**" if leads(row.spread, rivals) else shown)
        lines.append([weights(first), first.engine, f"{first.bytes / 1e6:.0f}", *cells])
    return table(head, lines)


def cost_table(rows: Sequence[Row]) -> str:
    """One line per engine and level: milliseconds by rows, and against one row."""
    counts = sorted({rows_of(row) for row in rows if row.metric.startswith("forward")})
    head = ["weights", "engine", *(f"M = {count}" for count in counts), "per drafted token"]
    lines = []
    for name in subjects(rows):
        own = [row for row in rows if subject(row) == name]
        curve = {rows_of(r): r.spread.median for r in own if r.metric.startswith("forward")}
        draft = [r.spread.median for r in own if r.metric.startswith("draft")]
        cells = [
            f"{curve[n]:.2f} ({curve[n] / curve[1]:.2f})" if n in curve and 1 in curve else ""
            for n in counts
        ]
        drafted = f"{draft[0]:.2f}" if draft else ""
        lines.append([weights(own[0]), own[0].engine, *cells, drafted])
    return table(head, lines)


def cascade_table(rows: Sequence[Row]) -> str:
    """One line per kind of work and cascade, plain decoding at its target first."""
    head = ["prompts", "cascade", "tokens/s", "against plain", "predicted", "tokens per cycle"]
    head += ["MB per token", "resident MB", "identical"]
    lines = []
    for row in sorted(rows, key=_cascade_order):
        told = row.details or {}
        is_plain = not told["draft_length"]
        predicted = told.get("predicted_speedup")
        read, resident = (
            f"{told[name] / 1e6:.0f}" if name in told else ""
            for name in ("bytes_per_token", "resident_bytes")
        )
        gain = ratio(told["speedup"], told.get("speedup_interval"))
        if any(_is_plain_of(other, row) and overlap(other.spread, row.spread) for other in rows):
            gain = NO_DIFFERENCE
        lines.append(
            [
                row.metric.split()[-1],
                f"`{row.cascade}`",
                speed(row.spread),
                "" if is_plain else gain,
                "" if is_plain or predicted is None else f"{predicted:.2f}x",
                "" if is_plain else f"{told['tau']:.2f}",
                read,
                resident,
                "" if is_plain else ("yes" if told["identical"] else "**no**"),
            ]
        )
    return table(head, lines)


def batches_table(rows: Sequence[Row]) -> str:
    """One line per engine: tokens per second by prompts given at once."""
    counts = sorted({int(row.metric.split()[-1]) for row in rows})
    head = ["weights", "engine", *(counted(n, "prompt") for n in counts)]
    lines = []
    for name in subjects(rows):
        own = {int(row.metric.split()[-1]): row for row in rows if subject(row) == name}
        first = next(iter(own.values()))
        cells = [speed(own[n].spread) if n in own else "" for n in counts]
        lines.append([weights(first), first.engine, *cells])
    return table(head, lines)


def process_table(rows: Sequence[Row]) -> str:
    """One line per cascade: seconds to the first token, megabytes resident."""
    lines = []
    for name in subjects(rows):
        own = {row.metric: row for row in rows if subject(row) == name}
        first = next(iter(own.values()))
        cells = [f"{own[m].spread.median:.3g} {own[m].unit}" if m in own else "" for m in PROCESS]
        lines.append([weights(first), *cells])
    return table(["cascade", *PROCESS.values()], lines)


def linear_table(rows: Sequence[Row]) -> str:
    """One line per level: what linear layers read, beside plain reading."""
    lines = []
    for level in dict.fromkeys(row.cascade for row in sorted(rows, key=lambda row: row.cascade)):
        own = {row.metric: row.spread.median for row in rows if row.cascade == level}
        gbs, plain = own["linear gbs"], own["linear bandwidth_gbs"]
        lines.append([f"`{level}`", f"{gbs:.1f}", f"{plain:.1f}", f"{own['linear share']:.0%}"])
    return table(["level", "GB/s of linear layers", "GB/s of plain reading", "share"], lines)


def counted(number: int, noun: str) -> str:
    """1 prompt, 8 prompts."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rows_of(row: Row) -> int:
    """M of `forward M @ context`; 0 for another metric."""
    return int(row.metric.split()[1]) if row.metric.startswith("forward") else 0


def _plain_order(metric: str) -> tuple[bool, int]:
    kind, _, _, depth = metric.split()
    return kind == "prefill", int(depth)


def _heading(metric: str) -> str:
    kind, count, _, depth = metric.split()
    return f"{kind} {count}" + (f" after {depth}" if depth != "0" else "")


def _is_plain_of(row: Row, other: Row) -> bool:
    """Plain decoding at the target of the other, in the same run."""
    same = (row.date, row.metric) == (other.date, other.metric)
    return same and row.cascade == _target(other)


def _target(row: Row) -> str:
    return row.cascade.partition(" @")[0].rpartition(">")[2].strip()


def _cascade_order(row: Row) -> tuple[int, str, bool, str]:
    kind = row.metric.split()[-1]
    return kind_order(kind), _target(row), bool((row.details or {})["draft_length"]), row.cascade
