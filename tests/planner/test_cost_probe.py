from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest
from benchmarks.replay.recorded_runtime import draft_seconds, forward_seconds

from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.planner.cost_probe import SECONDS, TURNS, CostProbe, pages_wanted
from halfbyte.planner.cost_table import CostTable
from tests.planner.timed_runtime import TimedRuntime, attention_seconds, linear_seconds

TARGET, DRAFTS = Level.parse("w8a16"), [Level.parse("w4a8"), Level.parse("w4a16")]


def _probe(runtime: TimedRuntime, pages: Seq[int]) -> CostProbe:
    return CostProbe(runtime, TARGET, DRAFTS, pages, runtime.clock)


def _probed(**options: float) -> CostTable:
    runtime = TimedRuntime(**options)  # type: ignore[arg-type]
    return _probe(runtime, range(runtime.num_pages)).run()


TABLE = _probed()


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 40, 64, 100])
@pytest.mark.parametrize("context", [1, 100, 700, 4096, 8000])
def test_a_probed_table_says_what_the_runtime_takes(rows: int, context: int) -> None:
    got = forward_seconds(TABLE, "w8a16", [rows], [context])
    assert got == pytest.approx(
        linear_seconds("w8a16", rows) + attention_seconds(rows, context), rel=0.03
    )


def test_rows_of_a_batch_share_the_weights_and_each_sequence_reads_its_own_context() -> None:
    rows, contexts = [4, 1, 3], [100.0, 2000.0, 512.0]
    expected = linear_seconds("w8a16", 8) + sum(map(attention_seconds, rows, contexts))
    assert forward_seconds(TABLE, "w8a16", rows, contexts) == pytest.approx(expected, rel=0.03)


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
    assert draft_seconds(TABLE, "w4a8", lengths, contexts) == pytest.approx(expected, rel=0.05)


def test_noise_that_only_adds_time_hardly_moves_the_table() -> None:
    disturbed = _probed(noise=4e-3)
    for rows in (1, 2, 4, 8, 16):
        assert disturbed.linear_seconds("w8a16", rows) == pytest.approx(
            TABLE.linear_seconds("w8a16", rows), rel=0.06
        )


def test_a_probe_touches_only_the_pages_it_was_given() -> None:
    runtime = TimedRuntime()
    given_pages = list(range(3, 100, 2))
    _probe(runtime, given_pages).run(most_rounds=2)
    assert runtime.touched <= set(given_pages)


def test_a_probe_with_little_room_measures_what_fits() -> None:
    runtime = TimedRuntime()
    table = _probe(runtime, [5]).run()
    assert table.rows[-1] == 32
    assert runtime.touched == {5}
    with pytest.raises(ArgumentError, match="KV pool"):
        _probe(runtime, [])


def test_a_probe_keeps_to_its_budget() -> None:
    runtime = TimedRuntime()
    probe, seconds = _probe(runtime, range(pages_wanted(64))), 0.5
    probe.run(seconds, most_rounds=1000)
    assert runtime.now < 3 * seconds


def test_no_more_rounds_are_made_than_allowed_and_each_point_is_timed_in_any_case() -> None:
    runtime = TimedRuntime()
    probe = _probe(runtime, range(pages_wanted(64)))
    probe.run(SECONDS, most_rounds=TURNS + 1)
    assert probe.num_rounds == TURNS + 1
    hurried = _probe(runtime, range(pages_wanted(64)))
    assert hurried.run(seconds=0.0).rows == TABLE.rows
    assert hurried.num_rounds == TURNS
