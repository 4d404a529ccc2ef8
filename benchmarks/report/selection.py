"""Which rows a table shows, what it calls them, and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.measure.rows import Row, machine_name
from benchmarks.measure.workloads import KINDS, REPETITIVE

OURS = "halfbyte"
NAMES = {
    "smollm2-135m": "SmolLM2-135M",
    "qwen2.5-coder-0.5b": "Qwen2.5-Coder-0.5B",
    "qwen2.5-coder-1.5b": "Qwen2.5-Coder-1.5B",
}


def model_name(model: str) -> str:
    """As readers know it; a suffix such as `-off-grid` stays."""
    for known, name in NAMES.items():
        if model.startswith(known):
            return name + model.removeprefix(known).replace("-off-grid", ", off its grid")
    return model


def models(rows: Iterable[Row]) -> list[str]:
    """Small ones first, as far as they are known."""
    return sorted({row.model for row in rows}, key=model_order)


def model_order(model: str) -> tuple[int, str]:
    """Where a model stands among those of NAMES, a variant of it right after it."""
    places = [i for i, name in enumerate(NAMES) if model.startswith(name)]
    return (places or [len(NAMES)])[0], model


def machines(rows: Iterable[Row]) -> list[str]:
    """Measured last first."""
    dates: dict[str, str] = {}
    for row in rows:
        name = machine_name(row)
        dates[name] = max(row.date, dates.get(name, ""))
    return sorted(dates, key=lambda name: dates[name], reverse=True)


def last_machine(rows: Sequence[Row]) -> list[Row]:
    """The rows of the machine measured last: a table never mixes machines."""
    return [row for row in rows if machine_name(row) == machines(rows)[0]] if rows else []


def bits(row: Row) -> int:
    """Of the weights that an output is made of, by the name of the level or of the file's type."""
    level = row.cascade.rpartition(">")[2].partition("@")[0].strip() or row.format
    found = re.search(r"(?:^w|Q|int)(\d+)", level)
    return int(found[1]) if found else 0


def weights(row: Row) -> str:
    """The column of that name: our level or cascade, a peer's file type."""
    return f"`{row.cascade}`" if row.cascade else row.format


def subject_order(row: Row) -> tuple[int, bool, str, str]:
    """Equal bits beside each other, ours first."""
    return bits(row), row.engine != OURS, row.engine, weights(row)


def subjects(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """(engine, format, cascade) of each line of a table."""
    ordered = sorted(rows, key=subject_order)
    return list(dict.fromkeys(subject(row) for row in ordered))


def subject(row: Row) -> tuple[str, str, str]:
    """What a line of a table is about."""
    return row.engine, row.format, row.cascade


def kind_order(kind: str) -> int:
    """Kinds of work as benchmarks list them."""
    known = (*KINDS, *REPETITIVE)
    return known.index(kind) if kind in known else len(known)
