"""A result: one metric of one task, on what, of which model, and where it was computed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from halfbyte.errors import HalfbyteError, SourceError, reraise_machine_fault, told
from halfbyte.evaluate.data_file import read_lines


@dataclass(frozen=True, slots=True)
class ResultRow:
    """`limit` None: every item the data has. `run` names the journal with the records behind it."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    unit: str  # what n counts: items, tokens
    items: int  # items run
    total: int  # items the data has
    limit: int | None
    model: str
    cascade: str
    level: str  # the cascade's target
    settings: dict[str, Any]
    details: dict[str, Any]
    fingerprint: str  # of the weights
    run: str
    commit: str
    version: str
    date: str  # UTC, ISO 8601
    machine: dict[str, Any]
    remark: str = ""  # what a reader has to know: where the weights come from

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse; raises TypeError or ValueError for anything else."""
        row = cls(**values)
        if not (math.isfinite(row.value) and isinstance(row.details, dict)):
            raise ValueError("not a result row")
        return row

    @property
    def identity(self) -> tuple[str, str, int]:
        """Rows that are equal here are the same result."""
        return self.run, self.metric, self.items


def append(path: Path, rows: Iterable[ResultRow]) -> None:
    """Add rows to a JSON lines file in one write, making it if need be."""
    text = "".join(row.to_json() + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        reraise_machine_fault(f"writing {path}", error)
        raise HalfbyteError(
            f"writing {path}", got=told(error), expected="a writable file", fix="check --output"
        ) from error


def read(path: Path) -> list[ResultRow]:
    """Every row of a file, in its order."""
    known = {f.name for f in fields(ResultRow)}
    rows = []
    for number, values in enumerate(read_lines(path), 1):
        try:
            rows.append(ResultRow.from_dict(values))
        except (TypeError, ValueError) as error:
            missing = sorted(known - set(values) - {"remark"})
            raise SourceError(
                f"{path.name}, row {number}",
                got=f"no {missing[0]!r}" if missing else str(error)[:100],
                expected="a row that halfbyte eval wrote",
                fix="name a rows.jsonl of halfbyte eval",
            ) from error
    return rows
