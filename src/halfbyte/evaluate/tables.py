"""Result rows as markdown tables: one of metrics, one of acceptance."""

from __future__ import annotations

from collections.abc import Sequence

from halfbyte.evaluate.result_rows import ResultRow

Line = tuple[str, str]  # model, cascade
# Acceptance metrics are NAME@DRAFT_LENGTH.
KINDS = ("prefix", "position", "tau")


def report(rows: Sequence[ResultRow]) -> str:
    """All tables; of rows that say the same thing, the last counts."""
    latest = list({(line_of(row), column_of(row)): row for row in rows}.values())
    metrics = [row for row in latest if row.task != "acceptance"]
    acceptance = [row for row in latest if row.task == "acceptance"]
    parts = [metric_table(metrics), acceptance_table(acceptance), remarks(latest)]
    return "\n\n".join(part for part in parts if part)


def line_of(row: ResultRow) -> Line:
    """What a line of a table is about."""
    return row.model, row.cascade


def column_of(row: ResultRow) -> tuple[str, str, str]:
    """Task, metric and how much of the data: numbers of other subsets are not comparable."""
    part = "" if row.items == row.total else f"{row.items} of {row.total}"
    return row.task, row.metric, part


def metric_table(rows: Sequence[ResultRow]) -> str:
    """One line per model and cascade, one column per metric, with standard errors.

    Likelihoods of a cascade are its target's, and are shown so. Where cascades wrote something, the
    last column says whether it is what their targets alone wrote.
    """
    if not rows:
        return ""
    cells = {(line_of(row), column_of(row)): row for row in rows}
    columns = list(dict.fromkeys(column_of(row) for row in rows))
    lines = _ordered(rows)
    said = {line: _identity(rows, *line) for line in lines}
    is_said = any(said.values())
    head = ["model", "cascade", *(_heading(column) for column in columns)]
    head += ["= target"] if is_said else []
    text = [_line(head), _line(["---"] * len(head))]
    for model, cascade in lines:
        shown = []
        for column in columns:
            row = cells.get(((model, cascade), column))
            if row is None:
                plain = cells.get(((model, _target(cascade)), column))
                row = plain if plain is not None and "output" not in plain.details else None
            shown.append("" if row is None else _value(row))
        shown += [said[model, cascade]] if is_said else []
        text.append(_line([model, f"`{cascade}`", *shown]))
    return "\n".join(text)


def acceptance_table(rows: Sequence[ResultRow]) -> str:
    """By draft length: prefix rate, rate of positions on their own, tokens per target forward."""
    if not rows:
        return ""
    lengths = sorted({int(row.metric.partition("@")[2]) for row in rows})
    head = ["model", "cascade", "prompts", *(f"γ = {length}" for length in lengths)]
    text = [
        "Acceptance by draft length: prefix rate, rate of positions on their own, τ",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for model, cascade in _ordered(rows):
        own = {row.metric: row for row in rows if line_of(row) == (model, cascade)}
        cells = []
        for length in lengths:
            found = [own.get(f"{kind}@{length}") for kind in KINDS]
            cells.append(" · ".join("" if row is None else f"{row.value:.2f}" for row in found))
        prompts = str(next(iter(own.values())).items)
        text.append(_line([model, f"`{cascade}`", prompts, *cells]))
    return "\n".join(text)


def remarks(rows: Sequence[ResultRow]) -> str:
    """What a reader has to know, once; then machines and commits."""
    about: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.remark:
            about.setdefault(row.remark, {})[row.model] = None
    said = [f"{', '.join(models)}: {remark}." for remark, models in about.items()]
    machines = dict.fromkeys(
        f"{row.machine.get('cpu', '?')}, tier {row.machine.get('tier', '?')}" for row in rows
    )
    commits = dict.fromkeys(row.commit or row.version for row in rows)
    if not rows:
        return ""
    places = f"Computed on {'; '.join(machines)}. Commits {', '.join(commits)}."
    return "\n\n".join(["  \n".join(said), places] if said else [places])


def same_output(rows: Sequence[ResultRow], model: str, cascade: str, target: str) -> bool | None:
    """Whether all that a cascade wrote is its target's; None: nothing to compare.

    The task `identity` compares every bit; of other tasks the texts are compared.
    """
    own = [r for r in rows if r.task == "identity" and line_of(r) == (model, cascade)]
    if own:
        return all(row.value == 1.0 for row in own)
    outputs = {
        (row.cascade, row.task, row.items): row.details["output"]
        for row in rows
        if row.model == model and "output" in row.details
    }
    pairs = [
        (output, outputs[target, task, items])
        for (name, task, items), output in outputs.items()
        if name == cascade and (target, task, items) in outputs
    ]
    return all(ours == theirs for ours, theirs in pairs) if pairs else None


def _identity(rows: Sequence[ResultRow], model: str, cascade: str) -> str:
    if cascade == _target(cascade):
        return ""
    same = same_output(rows, model, cascade, _target(cascade))
    return "" if same is None else ("yes" if same else "**no**")


def _target(cascade: str) -> str:
    return cascade.rpartition(">")[2].strip()


def _ordered(rows: Sequence[ResultRow]) -> list[Line]:
    """Models in the order they came, their cascades beside each other."""
    models = dict.fromkeys(row.model for row in rows)
    return [
        line for model in models for line in dict.fromkeys(map(line_of, rows)) if line[0] == model
    ]


def _heading(column: tuple[str, str, str]) -> str:
    task, metric, part = column
    name = task if task == metric else f"{task} {metric}"
    return f"{name} ({part})" if part else name


def _value(row: ResultRow) -> str:
    digits = 4 if row.metric in ("kl", "nll_difference") else 3
    if row.value >= 10:
        digits = 2
    value = f"{row.value:.{digits}f}"
    return value if row.stderr is None else f"{value} ± {row.stderr:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
