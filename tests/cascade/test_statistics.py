"""What the outcomes of cycles say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.cascade.statistics import Statistics

outcome = st.integers(0, 6).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p)))


def _of(outcomes: list[tuple[int, int]]) -> Statistics:
    statistics = Statistics()
    for proposed, accepted in outcomes:
        statistics.outcomes[proposed, accepted] += 1
        statistics.emitted_tokens += accepted + 1
        statistics.target_forwards += 1
    return statistics


@given(st.lists(outcome, max_size=40))
def test_counts_by_position_add_up(outcomes: list[tuple[int, int]]) -> None:
    s = _of(outcomes)
    assert sum(s.proposed_by_position) == s.draft_tokens == sum(p for p, _ in outcomes)
    assert sum(s.accepted_by_position) == s.accepted_tokens == sum(a for _, a in outcomes)
    assert s.accepted_by_position == sorted(s.accepted_by_position, reverse=True)
    assert all(0.0 <= a <= 1.0 for a in s.alpha)


def test_alpha_counts_only_positions_with_a_correct_prefix() -> None:
    s = _of([(3, 3), (3, 1), (3, 0), (1, 1)])
    assert s.proposed_by_position == [4, 3, 3]
    assert s.accepted_by_position == [3, 1, 1]
    # Position 1 was judged in (3, 3) and (3, 1) only; position 2 in (3, 3) only.
    assert s.alpha == [3 / 4, 1 / 2, 1.0]
    assert s.tau == 9 / 4


def test_plain_decoding_has_tau_one_and_no_alpha() -> None:
    s = _of([(0, 0)] * 5)
    assert (s.tau, s.alpha, s.accepted_by_position) == (1.0, [], [])


@given(st.lists(outcome, max_size=20), st.lists(outcome, max_size=20))
def test_adding_runs_equals_one_run_over_both(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    total = _of(first)
    total.add(_of(second))
    assert total == _of(first + second)


def test_bytes_per_token_weighs_draft_and_target_forwards() -> None:
    s = Statistics(emitted_tokens=10, target_forwards=4, draft_forwards=12)
    assert s.bytes_per_token(100, 50) == pytest.approx((4 * 100 + 12 * 50) / 10)
    assert Statistics().bytes_per_token(100, 50) == 0.0
