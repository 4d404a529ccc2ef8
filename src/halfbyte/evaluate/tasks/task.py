"""A task: items, what a model did on each, and the numbers that follow.

A record is what one item gave: plain JSON with the item's `id`. Everything a metric needs is in the
records, so a run that was interrupted goes on from those already written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from halfbyte.evaluate.subject import Subject

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One question, problem or stretch of text; `id` is unique in its task."""

    id: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number over n items (or n tokens, as `unit` says), with its standard error."""

    name: str
    value: float
    stderr: float | None
    n: int
    unit: str = "items"
    details: Mapping[str, Any] | None = None


class Task(Protocol):
    """One family of items over one data file."""

    @property
    def name(self) -> str:
        """As the command line spells it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that shapes the result besides model and cascade; data by their digest."""

    @property
    def generates(self) -> bool:
        """Whether the model writes text; else only the target level's likelihoods count."""

    def items(self, subject: Subject) -> Sequence[Item]:
        """Every item, in an order of its own; raises SourceError for unusable data."""

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """A record for each item, in any order, as each is done."""

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """The numbers; `records` is not empty."""


def mean(name: str, values: Sequence[float], **more: Any) -> Metric:
    """A mean with its standard error s / sqrt(n); none for a single value."""
    n = len(values)
    average = math.fsum(values) / n
    spread = math.fsum((v - average) ** 2 for v in values)
    stderr = math.sqrt(spread / (n - 1) / n) if n > 1 else None
    return Metric(name, average, stderr, n, **more)


def ratio(name: str, totals: Sequence[float], counts: Sequence[int], **more: Any) -> Metric:
    """sum(totals) / sum(counts), each pair a cluster: tokens of one text are not independent.

    The standard error is that of a ratio estimator over the clusters.
    """
    clusters, count = len(totals), sum(counts)
    value = math.fsum(totals) / count
    residuals = math.fsum((t - value * c) ** 2 for t, c in zip(totals, counts, strict=True))
    stderr = None
    if clusters > 1:
        stderr = math.sqrt(residuals * clusters / (clusters - 1)) / count
    return Metric(name, value, stderr, count, **more)
