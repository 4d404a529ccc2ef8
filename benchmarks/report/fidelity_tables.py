"""The table of `benchmarks.quality.fidelity`."""

from __future__ import annotations

from collections.abc import Sequence

from halfbyte.evaluate import tables
from halfbyte.evaluate.result_rows import ResultRow


def report(rows: Sequence[ResultRow]) -> str:
    """Tables per source model: perplexities of two vocabularies are not comparable."""
    models = dict.fromkeys(row.model.rpartition(" ")[0] for row in rows)
    parts = [
        tables.report([row for row in rows if row.model.rpartition(" ")[0] == model])
        for model in models
    ]
    return "\n\n".join(parts)
