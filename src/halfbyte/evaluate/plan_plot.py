"""The planner's view as a picture: costs, speed-up by draft length, speed-up by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfbyte.errors import ArgumentError
from halfbyte.evaluate.plan import PlanReport

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse a file that cannot be drawn to, before anything is measured."""
    if path.suffix.lower() not in SUFFIXES or not path.parent.is_dir():
        raise ArgumentError(
            "--plot",
            got=str(path),
            expected=f"a file ending in {', '.join(SUFFIXES)} in a directory that is there",
            fix="choose another name",
        )
    _pyplot()


def plot(report: PlanReport, path: Path) -> None:
    """Three panels in one file."""
    figure, (costs, ratios, batches) = _pyplot().subplots(1, 3, figsize=(15, 4.6))
    _costs(costs, report)
    _ratios(ratios, report)
    _batches(batches, report)
    figure.suptitle(f"{report.model}, target {report.target}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)


def _costs(axes: Any, report: PlanReport) -> None:
    table, context = report.table, report.contexts[0]
    for level, curve in table.linear.items():
        milliseconds = [
            (seconds + each * context) * 1e3
            for seconds, each in zip(curve, table.attention, strict=True)
        ]
        axes.plot(table.rows, milliseconds, marker="o", markersize=3, label=level)
    axes.set(
        xscale="log",
        xlabel="rows M",
        ylabel="ms",
        title=f"T(level, M) at {context} tokens of context",
    )
    axes.set_xticks(table.rows, labels=[str(m) for m in table.rows], fontsize=7)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _ratios(axes: Any, report: PlanReport) -> None:
    """SpecMQuant's decomposition: what a cycle costs in plain steps, against what it brings."""
    context = report.contexts[0]
    rows = [c for c in report.candidates if (c.batch, c.context) == (1, context)]
    labels = [
        c.cascade.rpartition(" > ")[0] + (f", {c.evidence}" if c.evidence else "") or "plain"
        for c in rows
    ]
    places = range(len(rows))
    drafts, verifies = [c.draft_ratio for c in rows], [c.verify_ratio for c in rows]
    axes.barh(places, drafts, color="#7aa6c2", label="draft")
    axes.barh(places, verifies, left=drafts, color="#24506b", label="verify")
    axes.plot([c.tau for c in rows], places, "D", color="#d1495b", markersize=5, label="τ")
    axes.set_yticks(places, labels=labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="plain steps, tokens", title="a cycle at batch 1: gain where τ is past the bar")
    axes.legend(frameon=False, fontsize=8)


def _batches(axes: Any, report: PlanReport) -> None:
    sizes = list(dict.fromkeys(c.batch for c in report.candidates))
    for context in report.contexts:
        speedups = [report.choice(batch, context).speedup for batch in sizes]
        axes.plot(sizes, speedups, marker="o", label=f"{context} tokens")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(
        xscale="log", xlabel="batch", ylabel="against plain", title="the choice, no n-gram match"
    )
    axes.set_xticks(sizes, labels=[str(b) for b in sizes])
    axes.minorticks_off()
    axes.legend(title="context", frameon=False)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ArgumentError(
            "--plot",
            got="no matplotlib",
            expected="the extra [eval]",
            fix="pip install 'halfbyte[eval]'",
        ) from error
    matplotlib.use("agg")
    import matplotlib.pyplot as pyplot

    return pyplot
