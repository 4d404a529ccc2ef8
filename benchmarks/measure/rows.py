"""A result row: one metric of one engine on one machine, with its spread.

Files are JSON lines and hold the newest row of each identity; older ones are in git's history.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from halfbyte.errors import SourceError

RESULTS = Path(__file__).parent.parent / "results"
# Details that tell rows of one metric apart.
DISTINGUISHING = ("draft_length", "inner_length", "scheme", "text", "held_to")
# Metrics whose rows are one comparison: a new run takes the place of all of an older one.
COMPARISONS = ("workload", "offered", "ramp", "replay", "offline")
Identity = tuple[str, ...]


def layout(planes: int | None) -> str:
    """What rows call halfbyte's format."""
    return f"planes {planes}" if planes else "planes"


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the values of n processes; p20 and p80 are interpolated."""

    median: float
    p20: float
    p80: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """`values` must not be empty."""
        ordered = sorted(values)
        return cls(
            median=statistics.median(ordered),
            p20=_quantile(ordered, 0.2),
            p80=_quantile(ordered, 0.8),
            min=ordered[0],
            max=ordered[-1],
            n=len(ordered),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, on what, and the outcome."""

    commit: str  # of this repository; ends in "+" where files differ from it
    date: str  # UTC, ISO 8601
    machine: dict[str, Any]
    engine: str
    version: str
    model: str
    format: str  # Q4_0, Q8_0, … for a peer; planes and group for halfbyte
    bytes: int  # weights one decoded token reads, or the peer's file size
    cascade: str  # empty for a peer
    metric: str
    unit: str
    spread: Spread
    foreign: float = 0.0  # median CPU seconds of other processes per second of the run
    details: dict[str, Any] | None = None  # what one metric alone has

    def to_json(self) -> str:
        """One line; the spread's fields stand beside the others."""
        values = asdict(self)
        values.update(values.pop("spread"))
        if values["details"] is None:
            del values["details"]
        return json.dumps(_rounded(values), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Row:
        """The inverse of `to_json`."""
        values = json.loads(line)
        names = Spread.__dataclass_fields__
        spread = Spread(**{name: values.pop(name) for name in names})
        return cls(spread=spread, **values)


def identity(row: Row) -> Identity:
    """What a row is about: rows of one identity differ by when they were measured."""
    details = row.details or {}
    distinguishing = [str(details.get(name, "")) for name in DISTINGUISHING]
    return (*_place(row), row.engine, row.format, row.cascade, *distinguishing)


def comparison(row: Row) -> Identity:
    """What the rows have in common that are measured together, or else the row's identity."""
    return _place(row) if row.metric.split()[0] in COMPARISONS else identity(row)


def machine_name(row: Row) -> str:
    """A CPU, by name, family and model."""
    return f"{row.machine.get('cpu')} {row.machine.get('family_model')}"


def _place(row: Row) -> Identity:
    return machine_name(row), row.model, row.metric


def newest(rows: Iterable[Row]) -> list[Row]:
    """Of rows of one identity the last one, and of comparisons the last run."""
    dates: dict[Identity, str] = {}
    last: dict[Identity, Row] = {}
    for row in rows:
        dates[comparison(row)] = row.date
        last[identity(row)] = row
    return [
        row
        for row in last.values()
        if comparison(row) == identity(row) or row.date == dates[comparison(row)]
    ]


def keep(path: Path, rows: Iterable[Row]) -> None:
    """Write rows in the place of older ones of their identity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = newest([*(read([path]) if path.exists() else ()), *rows])
    aside = path.with_suffix(".part")
    aside.write_text("".join(f"{row.to_json()}\n" for row in kept), encoding="utf-8")
    aside.replace(path)


def read(paths: Iterable[Path]) -> list[Row]:
    """All rows of the files, in their order."""
    rows = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                rows.append(Row.from_json(line))
            except (KeyError, TypeError, ValueError) as error:
                raise SourceError(
                    f"{path.name}, line {number}",
                    got=f"{type(error).__name__}: {error}",
                    expected="a result row",
                    fix="remove the line and measure again",
                ) from error
    return rows


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _rounded(value: Any) -> Any:
    """Four significant digits tell more than any of these measurements knows."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
