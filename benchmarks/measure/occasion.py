"""What the rows of one run have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.measure.machine import commit, describe
from benchmarks.measure.rows import Row, Spread
from halfbyte import __version__
from halfbyte.evaluate.provenance import now


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine with a model in one format, as its rows name it."""

    engine: str
    version: str
    format: str
    num_bytes: int
    cascade: str = ""

    @classmethod
    def ours(cls, layout: str, num_bytes: int, cascade: str) -> Self:
        """halfbyte as it is here."""
        return cls("halfbyte", __version__, layout, num_bytes, cascade)


@dataclass(frozen=True, slots=True)
class Occasion:
    """The source, the moment, the machine, and what the model is called."""

    commit: str
    date: str
    machine: Mapping[str, Any]
    model: str

    @classmethod
    def begin(cls, model: str, threads: int) -> Self:
        """Now and here; measures the read bandwidth of `threads` pinned threads."""
        return cls(commit(), now(), describe(threads), model)

    def row(
        self,
        subject: Subject,
        metric: str,
        unit: str,
        values: Sequence[float],
        *,
        foreign: float = 0.0,
        details: dict[str, Any] | None = None,
    ) -> Row:
        """One metric of one subject; `values` must not be empty."""
        return Row(
            commit=self.commit,
            date=self.date,
            machine=dict(self.machine),
            engine=subject.engine,
            version=subject.version,
            model=self.model,
            format=subject.format,
            bytes=subject.num_bytes,
            cascade=subject.cascade,
            metric=metric,
            unit=unit,
            spread=Spread.of(values),
            foreign=foreign,
            details=details,
        )
