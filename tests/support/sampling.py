"""Rows drawn in any way, by the names of the record's fields."""

from __future__ import annotations

from typing import Any

from halfbyte.runtime.protocol import Adjustments, Sampling, SamplingRow


def sampling(rows: int, adjustments: Adjustments | None = None, **fields: Any) -> Sampling:
    """So many rows; each field is a value for all of them, or one for each."""
    how = Sampling.of([SamplingRow()] * rows)
    for name, value in fields.items():
        how.rows[name] = value
    how.adjustments = adjustments
    return how
