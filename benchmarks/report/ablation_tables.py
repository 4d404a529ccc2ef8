"""Tables of `benchmarks.replay.ablation`: what changes of the planner do to its speed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.measure.rows import Row
from benchmarks.report import markdown
from benchmarks.report.selection import model_name

PREFIX, VALUE = "auto without ", ": "  # a constant is `NAME = ours: another`


def mechanisms(rows: Sequence[Row]) -> str:
    """A line per mechanism switched off: of all kinds of work on a machine and batch the geometric
    mean, and the least."""
    own = [row for row in rows if VALUE not in row.cascade]
    places = list(dict.fromkeys((row.model, row.metric) for row in own))
    found = {(row.cascade, row.model, row.metric): row for row in own}
    lines = [
        [name.removeprefix(PREFIX), *(_cell(found.get((name, *place))) for place in places)]
        for name in dict.fromkeys(row.cascade for row in own)
    ]
    first = own[0].model
    head = ["" if model == first else f"{model_name(model)}, " for model, _ in places]
    head = [
        f"{of}{metric.removeprefix('ablation ')}"
        for of, (_, metric) in zip(head, places, strict=True)
    ]
    return f"{markdown.table(['without', *head], lines)}\n\n{_told(own)}"


def constants(rows: Sequence[Row]) -> str:
    """A line per constant: the mean over all machines, batches and kinds with another value."""
    own = [row for row in rows if VALUE in row.cascade]
    tried: dict[str, dict[str, list[float]]] = {}
    for row in own:
        name, value = row.cascade.removeprefix(PREFIX).split(VALUE, 1)
        speeds = tried.setdefault(name, {}).setdefault(value, [])
        speeds += (row.details or {})["kinds"].values()
    lines = [
        [
            f"`{name}`",
            ", ".join(f"{value}: {_mean(each):.3f}" for value, each in values.items()),
            f"{min(map(min, values.values())):.3f}",
        ]
        for name, values in tried.items()
    ]
    head = ["constant", "other values: mean", "least"]
    return f"{markdown.table(head, lines)}\n\n{_told(own)}"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    values = list((row.details or {})["kinds"].values())
    return f"{_mean(values):.3f} ({min(values):.3f})"


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _told(rows: Sequence[Row]) -> str:
    models, commits = ({getattr(row, name) for row in rows} for name in ("model", "commit"))
    return f"Replayed texts of {', '.join(sorted(models))}. Commits {', '.join(sorted(commits))}."
