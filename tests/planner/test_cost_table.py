from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise

import pytest
from benchmarks.replay.recorded_runtime import forward_seconds
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.cost_table import CostTable, interpolated, rising
from tests.planner.simulation import table

TABLE = table()
seconds = st.floats(1e-6, 1.0)
batches = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9000)), min_size=1, max_size=16)


@given(batches, st.integers(0, 15))
def test_a_forward_never_costs_less_with_another_row(
    batch: list[tuple[int, int]], which: int
) -> None:
    rows, contexts = [m for m, _ in batch], [float(c) for _, c in batch]
    before = forward_seconds(TABLE, "w8a16", rows, contexts)
    rows[which % len(rows)] += 1
    assert forward_seconds(TABLE, "w8a16", rows, contexts) >= before


@given(st.integers(1, 40), st.integers(0, 9000), st.integers(0, 3000))
def test_attention_never_falls_with_context(rows: int, context: int, more: int) -> None:
    low = TABLE.attention_seconds(rows, context)
    assert TABLE.attention_seconds(rows, context + more) >= low * (1 - 1e-12)


@given(st.lists(seconds, min_size=1, max_size=9))
def test_a_rising_curve_never_falls_and_is_never_above_what_was_seen(curve: list[float]) -> None:
    got = rising(curve)
    assert all(a <= b for a, b in pairwise(got))
    assert all(a <= b for a, b in zip(got, curve, strict=True))
    assert got[-1] == curve[-1]


def test_between_points_and_beyond_them_a_curve_goes_on_as_it_goes_there() -> None:
    grid, curve = (1, 2, 4), (1.0, 2.0, 3.0)
    for at, expected in ((1, 1.0), (1.5, 1.5), (2, 2.0), (3, 2.5), (4, 3.0), (8, 5.0)):
        assert interpolated(grid, curve, at) == pytest.approx(expected)
    assert interpolated((1,), (7.0,), 30) == 7.0


def test_a_table_survives_json_and_nothing_else_is_a_table() -> None:
    values = json.loads(json.dumps(asdict(TABLE)))
    assert CostTable.from_dict(values) == TABLE
    for key, bad in (
        ("rows", [1, 1]),
        ("rows", [2, 3]),
        ("rows", list(range(1, 1000))),
        ("linear", {}),
        ("linear", {"w8a16": [1.0]}),
        ("linear", {"w8a16": [float("nan")] * len(TABLE.rows)}),
        ("linear", {"w8a16": [2.0 - i for i in range(len(TABLE.rows))]}),
        ("attention", [0.0]),
        ("attention", [float("nan")] * len(TABLE.rows)),
        ("attention", [-1.0] * len(TABLE.rows)),
        ("attention", [1.0 - i / 100 for i in range(len(TABLE.rows))]),
        ("drafts", {"w4a8": [1.0]}),
        ("drafts", {"w4a8": [-1.0, 2.0]}),
        ("drafts", None),
        ("spread", 0.5),
        ("spread", float("nan")),
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            CostTable.from_dict(values | {key: bad})
    for key in values:
        with pytest.raises(KeyError):
            CostTable.from_dict({name: value for name, value in values.items() if name != key})


def test_a_table_knows_only_the_levels_that_were_measured() -> None:
    alone = CostTable((1,), {"w8a16": (1.0,)}, (0.0,), {"w4a8": (0.6, 0.5)})
    with pytest.raises(KeyError):
        alone.linear_seconds("w4a8", 1)
