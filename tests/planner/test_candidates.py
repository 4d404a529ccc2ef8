from __future__ import annotations

import pytest
from benchmarks.replay.recorded_runtime import draft_seconds

from halfbyte.planner.candidates import Cost, level_cost
from tests.planner.simulation import table


@pytest.mark.parametrize("lengths", [[1], [3], [4, 1, 0, 2], [2, 2, 2, 2, 2]])
def test_tokens_of_a_level_add_up_to_what_its_table_says_of_a_draft(lengths: list[int]) -> None:
    cost, seconds = level_cost(table(), "w4a8"), 0.0
    for step in range(max(lengths)):
        for together in range(sum(length > step for length in lengths)):
            seconds += cost.token_seconds(together, first=step == 0) + cost.attention * step
    assert seconds == pytest.approx(draft_seconds(table(), "w4a8", lengths, [0.0] * len(lengths)))


def test_a_levels_pass_attends_to_each_context() -> None:
    cost = level_cost(table(), "w4a8")
    for context in (10, 700, 4000):
        assert cost.attention * context == pytest.approx(table().attention_seconds(1, context))


def test_what_no_table_covers_costs_so_much_per_pass_and_a_share_for_each_sequence_more() -> None:
    cost = Cost(4e-3, 1e-3, growth=lambda together: together * 1e-4)
    assert [cost.token_seconds(n, first=True) for n in range(3)] == [4e-3, 1e-4, 2e-4]
    assert [cost.token_seconds(n, first=False) for n in range(2)] == [1e-3, 1e-4]
    assert cost.attention == 0.0
