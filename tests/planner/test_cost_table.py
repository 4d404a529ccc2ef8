from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.planner.cost_probe import ProbeOptions, measure, pages_wanted
from halfbyte.planner.cost_table import CostTable, DraftCost, rising
from tests.planner.timed_runtime import TimedRuntime, attention_seconds, linear_seconds

TARGET, DRAFTS = Level.parse("w8a16"), [Level.parse("w4a8"), Level.parse("w4a16")]


def _probed(**options: float) -> CostTable:
    runtime = TimedRuntime(**options)  # type: ignore[arg-type]
    pages = range(runtime.num_pages)
    return measure(runtime, TARGET, DRAFTS, pages, ProbeOptions(), runtime.clock)


TABLE = _probed()
seconds = st.floats(1e-6, 1.0)
batches = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9000)), min_size=1, max_size=16)


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 40, 64, 100])
@pytest.mark.parametrize("context", [1, 100, 700, 4096, 8000])
def test_a_probed_table_says_what_the_runtime_takes(rows: int, context: int) -> None:
    got = TABLE.forward_seconds("w8a16", [rows], [context])
    assert got == pytest.approx(
        linear_seconds("w8a16", rows) + attention_seconds(rows, context), rel=0.03
    )


def test_rows_of_a_batch_share_the_weights_and_each_sequence_reads_its_own_context() -> None:
    rows, contexts = [4, 1, 3], [100.0, 2000.0, 512.0]
    expected = linear_seconds("w8a16", 8) + sum(map(attention_seconds, rows, contexts))
    assert TABLE.forward_seconds("w8a16", rows, contexts) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("lengths", [[1], [3], [8], [0], [4, 1, 0, 2]])
def test_a_probed_table_says_what_a_ragged_draft_takes(lengths: list[int]) -> None:
    contexts = [300.0 * (b + 1) for b in range(len(lengths))]
    expected = sum(
        linear_seconds("w4a8", sum(n > step for n in lengths))
        + sum(
            attention_seconds(1, c + step)
            for n, c in zip(lengths, contexts, strict=True)
            if n > step
        )
        for step in range(max(lengths))
    )
    assert TABLE.draft_seconds("w4a8", lengths, contexts) == pytest.approx(expected, rel=0.05)


def test_noise_that_only_adds_time_hardly_moves_the_table() -> None:
    disturbed = _probed(noise=4e-3)
    for rows in (1, 2, 4, 8, 16):
        assert disturbed.linear_seconds("w8a16", rows) == pytest.approx(
            TABLE.linear_seconds("w8a16", rows), rel=0.06
        )


def test_a_probe_touches_only_the_pages_it_was_given() -> None:
    runtime = TimedRuntime()
    given_pages = list(range(3, 100, 2))
    measure(runtime, TARGET, DRAFTS, given_pages, ProbeOptions(max_rounds=2), runtime.clock)
    assert runtime.touched <= set(given_pages)


def test_a_probe_with_little_room_measures_what_fits() -> None:
    runtime = TimedRuntime()
    table = measure(runtime, TARGET, DRAFTS, [5], ProbeOptions(), runtime.clock)
    assert table.contexts == (32,)
    assert table.rows[-1] == 32
    with pytest.raises(ArgumentError, match="KV pool"):
        measure(runtime, TARGET, DRAFTS, [], ProbeOptions(), runtime.clock)


def test_a_probe_keeps_to_its_budget() -> None:
    runtime = TimedRuntime()
    options = ProbeOptions(seconds=0.5, max_rounds=1000)
    measure(runtime, TARGET, DRAFTS, range(pages_wanted(64)), options, runtime.clock)
    assert runtime.now < 3 * options.seconds


@given(batches, st.integers(0, 15))
def test_a_forward_never_costs_less_with_another_row(
    batch: list[tuple[int, int]], which: int
) -> None:
    rows, contexts = [m for m, _ in batch], [float(c) for _, c in batch]
    before = TABLE.forward_seconds("w8a16", rows, contexts)
    rows[which % len(rows)] += 1
    assert TABLE.forward_seconds("w8a16", rows, contexts) >= before


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


def test_a_table_survives_json_and_nothing_else_is_a_table() -> None:
    values = TABLE.as_dict()
    assert CostTable.from_dict(values) == TABLE
    for key, bad in (
        ("rows", [1, 1]),
        ("rows", [2, 3]),
        ("rows", list(range(1, 1000))),
        ("contexts", []),
        ("linear", {}),
        ("linear", {"w8a16": [1.0]}),
        ("linear", {"w8a16": [float("nan")] * len(TABLE.rows)}),
        ("linear", {"w8a16": [2.0 - i for i in range(len(TABLE.rows))]}),
        ("attention", [[0.0]]),
        ("drafts", {"w4a8": [1.0]}),
        ("drafts", {"w4a8": [-1.0, 2.0]}),
        ("drafts", None),
        ("spread", 0.5),
        ("spread", float("nan")),
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            CostTable.from_dict(values | {key: bad})


def test_draft_cost_is_a_call_and_tokens() -> None:
    table = CostTable((1,), (128,), {"w8a16": (1.0,)}, ((0.0,),), {"w4a8": DraftCost(0.6, 0.5)})
    assert table.draft_seconds("w4a8", [0], [10.0]) == 0.0
    with pytest.raises(KeyError):
        table.linear_seconds("w4a8", 1)
