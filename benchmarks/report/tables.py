"""Result rows as the markdown tables that documents include.

    python -m benchmarks.report                                 # the README's, to stdout
    python -m benchmarks.report --write README.md docs/X.md     # between the markers there
    python -m benchmarks.report --check README.md docs/X.md     # status 1 if one is stale

A document names what it includes: `<!-- benchmarks: … -->` the tables here, `<!-- quality: … -->`
those of schemes, `<!-- transforms: … -->` and `<!-- fidelity: … -->` theirs. Of several rows about
the same thing the last one counts. A table never mixes machines: it shows the rows of the machine
measured last, and says which when they are not all one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.rows import RESULTS, Row, Spread, read
from benchmarks.quality.transforms import table as transforms_table
from benchmarks.report.quality_tables import report as quality_report
from halfbyte.errors import SourceError
from halfbyte.evaluate import result_rows, tables
from halfbyte.evaluate.result_rows import ResultRow

PARTS: Mapping[str, Callable[[], str]] = {
    "benchmarks": lambda: report(read(sorted(RESULTS.glob("*.jsonl")))),
    "quality": lambda: quality_report(read([RESULTS / "quality" / "schemes.jsonl"])),
    "transforms": lambda: transforms_table(read([RESULTS / "quality" / "transforms.jsonl"])),
    "fidelity": lambda: fidelity_report(result_rows.read(RESULTS / "fidelity" / "rows.jsonl")),
}


# Metrics of `startup` and their headings.
PROCESS = {
    "start generate": "`generate`: one token",
    "start serve": "`serve`: first answer",
    "resident serve": "resident, weights and a full KV pool included",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", type=Path, nargs="+", metavar="FILE", default=[])
    choice.add_argument("--check", type=Path, nargs="+", metavar="FILE", default=[])
    arguments = parser.parse_args()
    for path in arguments.write:
        path.write_text(regenerated(path), encoding="utf-8")
    for path in arguments.check:
        if regenerated(path) != path.read_text(encoding="utf-8"):
            raise SystemExit(f"{path} is stale: python -m benchmarks.report --write {path}")
    if not (arguments.write or arguments.check):
        print(PARTS["benchmarks"]())


def regenerated(path: Path, parts: Mapping[str, Callable[[], str]] = PARTS) -> str:
    """The file's text with what stands between its markers exchanged."""
    text = path.read_text(encoding="utf-8")
    found = False
    for name, make in parts.items():
        before, begin, rest = text.partition(f"<!-- {name}: generated")
        said, closing, rest = rest.partition(" -->")
        _, end, after = rest.partition(f"<!-- {name}: end -->")
        if begin and closing and end:
            found = True
            text = f"{before}{begin}{said}{closing}\n\n{make()}\n\n{end}{after}"
    if not found:
        raise SourceError(
            str(path),
            got="no markers",
            expected=" or ".join(f"<!-- {name}: generated … --> and its end" for name in parts),
            fix="put them where it goes",
        )
    return text


def fidelity_report(rows: Sequence[ResultRow]) -> str:
    """Tables of each source model: perplexities of two vocabularies are not comparable."""
    models = dict.fromkeys(row.model.rpartition(" ")[0] for row in rows)
    parts = [
        tables.report([row for row in rows if row.model.rpartition(" ")[0] == model])
        for model in models
    ]
    return "\n\n".join(parts)


def report(rows: Sequence[Row]) -> str:
    """All tables; a table without rows is left out."""
    latest = list({_identity(row): row for row in rows}.values())
    tables: list[tuple[str, list[Row]]] = []
    for model in dict.fromkeys(row.model for row in latest):
        own = [row for row in latest if row.model == model]
        for table, belongs in TABLES:
            chosen = _one_machine([row for row in own if belongs(row)])
            if chosen:
                tables.append((table(model, chosen), chosen))
    shown = [row for _, chosen in tables for row in chosen]
    several = len({_cpu(row) for row in shown}) > 1
    parts = [f"{text}\n\nOn {_cpu(own[0])}." if several else text for text, own in tables]
    return "\n\n".join([*parts, _origin(shown)])


def _one_machine(rows: Sequence[Row]) -> list[Row]:
    newest = max(rows, key=lambda row: row.date, default=None)
    return [row for row in rows if newest and _cpu(row) == _cpu(newest)]


def _cpu(row: Row) -> str:
    return f"{row.machine.get('cpu')} {row.machine.get('family_model')}"


def _identity(row: Row) -> tuple[str, ...]:
    length = str((row.details or {}).get("draft_length", ""))
    metric = row.metric
    if metric.startswith("generate"):  # a longer or shorter run is still about the same prompts
        metric = metric.split()[-1]
    return row.model, row.engine, row.format, row.cascade, metric, length


def _plain_table(model: str, rows: Sequence[Row]) -> str:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines = _head(["engine", "weights", "MB read", *map(_heading, metrics)])
    for name in dict.fromkeys((row.engine, row.format, row.cascade) for row in rows):
        own = {r.metric: r for r in rows if (r.engine, r.format, r.cascade) == name}
        first = next(iter(own.values()))
        cells = [_speed(own[m].spread) if m in own else "" for m in metrics]
        label = name[2] or name[1]
        lines.append(_line([name[0], label, f"{first.bytes / 1e6:.0f}", *cells]))
    return f"**{model}**, plain, tokens/s: median (20th to 80th percentile)\n\n" + "\n".join(lines)


def _speculation_table(model: str, rows: Sequence[Row]) -> str:
    head = ["prompts", "cascade", "draft length", "tokens/s", "against plain", "τ"]
    head += ["α by position", "MB a token", "resident MB", "identical"]
    lines = _head(head)
    for row in rows:
        told = row.details or {}
        is_plain = not told["draft_length"]
        lines.append(
            _line(
                [
                    row.metric.split()[-1],
                    f"`{row.cascade}`",
                    "" if is_plain else str(told["draft_length"]),
                    _speed(row.spread),
                    "" if is_plain else f"{told['speedup']:.2f}x",
                    "" if is_plain else f"{told['tau']:.2f}",
                    " ".join(f"{alpha:.2f}" for alpha in told["alpha"]),
                    f"{told['bytes_per_token'] / 1e6:.0f}",
                    f"{told['resident_bytes'] / 1e6:.0f}",
                    "" if is_plain else ("yes" if told["identical"] else "**no**"),
                ]
            )
        )
    return f"**{model}**, cascades against plain decoding\n\n" + "\n".join(lines)


def _planner_table(model: str, rows: Sequence[Row]) -> str:
    return f"**{model}**, the planner, tokens/s\n\n" + _planned(rows)


def _offered_table(model: str, rows: Sequence[Row]) -> str:
    """The last run beside a peer in which anything was offered."""
    last = max(rows, key=lambda row: row.date)
    own = [row for row in rows if row.date == last.date]
    autos = dict.fromkeys(row.cascade for row in own if row.cascade.startswith("auto"))
    offers = " and ".join(f"`{name}`" for name in autos)
    return f"**{model}**, the planner as {offers}, tokens/s\n\n" + _planned(own)


def _planned(rows: Sequence[Row]) -> str:
    """One line a kind of work and batch: plain, the planner's choice, the best fixed cascade."""
    head = ["prompts", "batch", "plain", "`auto`", "against plain", "best fixed cascade"]
    head += ["`auto` against it", "identical"]
    peers = {(row.metric, row.date): row for row in rows if row.engine != "halfbyte"}
    if peers:
        head.append("against a plain peer")
    rows = [row for row in rows if row.engine == "halfbyte"]
    lines = _head(head)
    for metric in dict.fromkeys(row.metric for row in rows):
        _, kind, batch = metric.split()
        own = [row for row in rows if row.metric == metric]
        auto = [row for row in own if row.cascade.startswith("auto")]
        if not auto:
            continue
        beside = [r for r in own if r not in auto and r.date == auto[0].date]
        fixed = sorted(beside, key=lambda r: r.spread.median)
        plain = [row for row in fixed if ">" not in row.cascade]
        if not plain:
            continue
        best, told = fixed[-1], auto[0].details or {}
        length = (best.details or {}).get("draft_length")
        name = f"`{best.cascade}`" + (f" {length}" if length else "")
        speedup = _ratio(told, "speedup", "x")
        speeds = [_speed(plain[0].spread), _speed(auto[0].spread), speedup]
        best_speed = f"{name}: {_speed(best.spread)}"
        same = "yes" if told["identical"] else "**no**"
        against = _ratio(told, "of_best_fixed")
        cells = [kind, batch.lstrip("x"), *speeds, best_speed, against, same]
        if peers:
            peer = peers.get((metric, auto[0].date))
            cells.append("" if peer is None else f"{_ratio(told, 'of_peer', 'x')} of {_peer(peer)}")
        lines.append(_line(cells))
    return "\n".join(lines)


def _peer(row: Row) -> str:
    return f"{row.engine} {row.format}: {_speed(row.spread)}"


def _ratio(told: Mapping[str, Any], name: str, unit: str = "") -> str:
    """A ratio of a row's details, and between what it lies where the row says so."""
    text, interval = f"{told[name]:.2f}{unit}", told.get(f"{name}_interval")
    return f"{text} ({interval[0]:.2f}-{interval[1]:.2f})" if interval else text


def _cost_table(model: str, rows: Sequence[Row]) -> str:
    """One line an engine and level: milliseconds by rows, and what each costs against one row."""
    counts = sorted({_rows_of(row) for row in rows if row.metric.startswith("forward")})
    lines = _head(["engine", "weights", *(f"M = {count}" for count in counts), "drafting"])
    for name in dict.fromkeys((row.engine, row.format, row.cascade) for row in rows):
        own = [r for r in rows if (r.engine, r.format, r.cascade) == name]
        curve = {_rows_of(r): r.spread.median for r in own if r.metric.startswith("forward")}
        draft = [r.spread.median for r in own if r.metric.startswith("draft")]
        cells = [
            f"{curve[n]:.2f} ({curve[n] / curve[1]:.2f})" if n in curve and 1 in curve else ""
            for n in counts
        ]
        cells.append(f"{draft[0]:.2f}" if draft else "")
        lines.append(_line([name[0], name[2] or name[1], *cells]))
    title = f"**{model}**, one forward of M rows in ms (and against one row); drafting: ms a token"
    return title + "\n\n" + "\n".join(lines)


def _serving_table(model: str, rows: Sequence[Row]) -> str:
    """One line an engine: tokens a second, and milliseconds to the first token, by streams."""
    counts = sorted({int(row.metric.split()[-1]) for row in rows})
    lines = _head(["engine", "weights", *(f"{count} streams" for count in counts)])
    for name in dict.fromkeys((row.engine, row.format, row.cascade) for row in rows):
        own = {r.metric: r.spread.median for r in rows if (r.engine, r.format, r.cascade) == name}
        cells = [
            f"{own[f'serve streams {n}']:.0f} ({own[f'serve first token {n}'] * 1e3:.0f} ms)"
            if f"serve streams {n}" in own
            else ""
            for n in counts
        ]
        lines.append(_line([name[0], f"`{name[2]}`" if name[2] else name[1], *cells]))
    title = f"**{model}** served: tokens/s of all streams together (and time to the first token)"
    return title + "\n\n" + "\n".join(lines)


def _batches_table(model: str, rows: Sequence[Row]) -> str:
    """One line an engine of the last run: tokens a second by prompts given at once."""
    last = max(row.date for row in rows)
    rows = [row for row in rows if row.date == last]
    counts = sorted({int(row.metric.split()[-1]) for row in rows})
    lines = _head(["engine", "weights", *(f"{count} prompts" for count in counts)])
    for name in dict.fromkeys((row.engine, row.format, row.cascade) for row in rows):
        own = {r.metric: r for r in rows if (r.engine, r.format, r.cascade) == name}
        cells = [
            _speed(own[f"offline batch {n}"].spread) if f"offline batch {n}" in own else ""
            for n in counts
        ]
        lines.append(_line([name[0], f"`{name[2]}`" if name[2] else name[1], *cells]))
    return f"**{model}**, offline batches, tokens/s with their prompts\n\n" + "\n".join(lines)


def _process_table(model: str, rows: Sequence[Row]) -> str:
    """One line an engine and cascade: seconds to the first token, megabytes resident."""
    lines = _head(["engine", "cascade", *PROCESS.values()])
    for name in dict.fromkeys((row.engine, row.cascade) for row in rows):
        own = {r.metric: r for r in rows if (r.engine, r.cascade) == name}
        cells = [f"{own[m].spread.median:.3g} {own[m].unit}" if m in own else "" for m in PROCESS]
        lines.append(_line([name[0], f"`{name[1]}`", *cells]))
    return f"**{model}**, from the command on\n\n" + "\n".join(lines)


def _linear_table(model: str, rows: Sequence[Row]) -> str:
    lines = _head(["level", "GB/s read by linear layers", "GB/s of plain reading", "share"])
    for level in dict.fromkeys(row.cascade for row in rows):
        own = {row.metric: row.spread.median for row in rows if row.cascade == level}
        share = f"{own['linear share']:.0%}"
        gbs, plain = own["linear gbs"], own["linear bandwidth_gbs"]
        lines.append(_line([level, f"{gbs:.1f}", f"{plain:.1f}", share]))
    return f"**{model}**, one row\n\n" + "\n".join(lines)


def _origin(rows: Sequence[Row]) -> str:
    """Where the numbers come from: one sentence a machine."""
    told = []
    for cpu, machine in {_cpu(row): row.machine for row in rows}.items():
        own = [row for row in rows if _cpu(row) == cpu]
        versions = dict.fromkeys(f"{r.engine} {r.version}" for r in own if r.engine != "halfbyte")
        told.append(
            f"Machine: {machine['cpu']} (family/model {machine['family_model']}), "
            f"{machine['threads']} threads on {machine['cores']} cores, "
            f"{machine['read_gbs']:.0f} GB/s measured, {', '.join(machine['flags'])}. "
            f"Commits {', '.join(dict.fromkeys(row.commit for row in own))}; "
            f"{min(row.date for row in own)[:10]} to {max(row.date for row in own)[:10]}; "
            f"{min(r.spread.n for r in own)} or more runs a number. "
            f"Peers: {', '.join(versions) or 'none'}."
        )
    return "\n\n".join(told)


def _is_offered_beside_peer(row: Row) -> bool:
    is_ours = row.engine == "halfbyte"
    return row.metric.startswith("offered") and (not is_ours or "of_peer" in (row.details or {}))


def _rows_of(row: Row) -> int:
    return int(row.metric.split()[1]) if row.metric.startswith("forward") else 0


def _heading(metric: str) -> str:
    kind, count, _, depth = metric.split()
    return f"{kind} {count}" + (f" after {depth}" if depth != "0" else "")


def _speed(spread: Spread) -> str:
    digits = 0 if spread.median >= 100 else 1
    if spread.n == 1:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.p20:.{digits}f}-{spread.p80:.{digits}f})"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line("---" for _ in names)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


TABLES: tuple[tuple[Callable[[str, Sequence[Row]], str], Callable[[Row], bool]], ...] = (
    (_plain_table, lambda row: row.unit == "tok/s" and " @ " in row.metric),
    (_speculation_table, lambda row: row.metric.startswith("generate")),
    (_planner_table, lambda row: row.metric.startswith("workload")),
    (_offered_table, _is_offered_beside_peer),
    (_cost_table, lambda row: row.unit == "ms"),
    (_serving_table, lambda row: row.metric.startswith("serve")),
    (_batches_table, lambda row: row.metric.startswith("offline batch")),
    (_process_table, lambda row: row.metric in PROCESS),
    (_linear_table, lambda row: row.metric.startswith("linear")),
)
