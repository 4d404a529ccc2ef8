from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.forecast import PLAIN_ARM, Cycle, Forecaster
from tests.planner.simulation import arms, table


def test_passes_beyond_the_depth_of_a_tree_cost_nothing() -> None:
    deep, flat = arms("w4a8")[0], replace(arms("w4a8")[0], depth=2)
    forecaster = Forecaster("w8a16", table(), [deep, flat])
    two = forecaster.draft_seconds(0, [2], [600])
    for length in range(1, 9):
        whole = forecaster.draft_seconds(0, [length], [600])
        assert forecaster.draft_seconds(1, [length], [600]) == pytest.approx(min(whole, two))
    gains = [[0.9**j for j in range(1, 9)]]
    plain = forecaster.plain([600])
    cycle = forecaster.extended(plain, 1, [0], gains, [600], plain.rate)
    assert cycle.draft_seconds == pytest.approx(forecaster.draft_seconds(1, cycle.lengths, [600]))
    assert cycle.lengths[0] > 2


@given(st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 1)), min_size=2, max_size=8))
def test_taking_proposals_back_gives_the_cycle_without_them(
    batch: list[tuple[int, float]],
) -> None:
    forecaster = Forecaster("w8a16", table(), arms("w4a8", "ngram"))
    contexts = [c for c, _ in batch]
    gains = [[[a**j for j in range(1, 9)] for _, a in batch] for _ in range(2)]
    plain = forecaster.plain(contexts)
    everyone = range(len(batch))
    cycle = forecaster.extended(plain, 0, everyone, gains[0], contexts, plain.rate)
    _close(forecaster.without(cycle, everyone, gains, contexts), plain)
    kept = forecaster.without(cycle, [0], gains, contexts)
    assert kept.arms[0] == PLAIN_ARM
    assert kept.lengths[1:] == cycle.lengths[1:]


def _close(a: Cycle, b: Cycle) -> None:
    assert (a.arms, a.lengths, a.rows) == (b.arms, b.lengths, b.rows)
    assert a.seconds == pytest.approx(b.seconds)
    assert a.tokens == pytest.approx(b.tokens)
