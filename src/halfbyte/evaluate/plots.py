"""Plots of result rows (extra [eval]: matplotlib), each saying what it shows of which models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfbyte.errors import ArgumentError, HalfbyteError, reraise_machine_fault, told
from halfbyte.evaluate.result_rows import ResultRow
from halfbyte.evaluate.tables import column_of, line_of

# Where less is better; everything else is a share.
_LESS_IS_BETTER = ("perplexity", "kl", "nll_difference")
# Colour-blind safe (Okabe and Ito), one per model.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def write_plots(rows: Sequence[ResultRow], directory: Path) -> list[Path]:
    """PNG files: `TASK-METRIC.png` per metric, `acceptance.png`. Raises without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError(
            "--plots",
            got="no matplotlib",
            expected="the extra that brings it",
            fix="pip install 'halfbyte[eval]'",
        ) from error
    latest = list({(line_of(row), column_of(row)): row for row in rows}.values())
    drawn: list[tuple[str, Any]] = []
    columns = dict.fromkeys(column_of(row) for row in latest if row.task != "acceptance")
    for column in columns:
        own = [row for row in latest if column_of(row) == column]
        figure = Figure(figsize=(7, 0.8 + 0.28 * len(own)), layout="constrained")
        _metric(figure.subplots(), own)
        drawn.append(("-".join(part for part in column if part), figure))
    acceptance = [row for row in latest if row.task == "acceptance"]
    if acceptance:
        figure = Figure(figsize=(9, 4), layout="constrained")
        _acceptance(figure.subplots(1, 2), acceptance)
        drawn.append(("acceptance", figure))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, figure in drawn:
            paths.append(directory / f"{name.replace(' ', '-').replace('@', '-at-')}.png")
            figure.savefig(paths[-1], dpi=150)
    except OSError as error:
        reraise_machine_fault(f"writing {directory}", error)
        raise HalfbyteError(
            f"writing {directory}", got=told(error), expected="a directory", fix="check --plots"
        ) from error
    return paths


def _metric(axes: Any, rows: Sequence[ResultRow]) -> None:
    """One point per model and cascade with its standard error, in the order of the rows."""
    models = list(dict.fromkeys(row.model for row in rows))
    for at, row in enumerate(rows):
        colour = _COLOURS[models.index(row.model) % len(_COLOURS)]
        axes.errorbar(row.value, -at, xerr=row.stderr, fmt="o", color=colour, capsize=3)
    labels = [f"{row.model}  {row.cascade}" for row in rows]
    axes.set_yticks([-at for at in range(len(rows))], labels, fontsize=8)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.grid(axis="x", alpha=0.3)
    row = rows[0]
    part = "" if row.items == row.total else f", {row.items} of {row.total} items"
    better = "less" if row.metric in _LESS_IS_BETTER else "more"
    axes.set_title(f"{row.task}: {row.metric}{part}", fontsize=10)
    axes.set_xlabel(f"{row.metric} ± one standard error ({better} is better)", fontsize=8)


def _acceptance(axes: Any, rows: Sequence[ResultRow]) -> None:
    """Left: rates by draft length. Right: by position, at the longest draft."""
    lines = list(dict.fromkeys(map(line_of, rows)))
    for number, line in enumerate(lines):
        colour, label = _COLOURS[number % len(_COLOURS)], "  ".join(line)
        own = {row.metric: row for row in rows if line_of(row) == line}
        for kind, style in (("prefix", "o-"), ("position", "s--")):
            points = sorted(
                (int(name.partition("@")[2]), row)
                for name, row in own.items()
                if name.startswith(f"{kind}@")
            )
            lengths = [length for length, _ in points]
            values = [row.value for _, row in points]
            errors = [row.stderr or 0.0 for _, row in points]
            named = {"label": label} if kind == "prefix" else {}
            axes[0].errorbar(
                lengths, values, yerr=errors, fmt=style, color=colour, capsize=3, **named
            )
            if points and points[-1][1].details.get("proposed"):
                counts = points[-1][1].details
                shares = [a / p for a, p in zip(counts[kind], counts["proposed"], strict=True)]
                axes[1].plot(range(1, len(shares) + 1), shares, style, color=colour)
    axes[0].set_xlabel("draft length γ")
    axes[0].set_xticks(sorted({int(row.metric.partition("@")[2]) for row in rows}))
    longest = max(int(row.metric.partition("@")[2]) for row in rows)
    axes[1].set_xlabel(f"draft position at γ = {longest}")
    axes[0].set_ylabel("accepted share of proposals")
    axes[0].set_title("solid: prefix   dashed: position on its own", fontsize=9)
    axes[1].set_title("the same by position", fontsize=9)
    for each in axes:
        each.set_ylim(0, 1.02)
        each.grid(alpha=0.3)
    axes[0].legend(fontsize=7, loc="lower left")
