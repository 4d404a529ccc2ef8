from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.exploration import SAVED, SHARES, Exploration
from halfbyte.planner.forecast import Cycle

STEP = 0.01


def _cycle(seconds: float, tokens: float = 1.0) -> Cycle:
    return Cycle(0, (1,), tokens, 0.0, 2, 0.0, seconds, 0.0)


BEST = _cycle(STEP)


def test_the_most_hopeful_is_tried_if_it_may_be_better() -> None:
    exploration = Exploration(STEP)
    worse, good, better = _cycle(STEP, 0.9), _cycle(STEP, 1.5), _cycle(STEP, 2.0)
    trials = [_cycle(0.02 + i * 1e-3) for i in range(3)]
    assert exploration.choose(BEST, [(worse, trials[0], 0.0)]) is None
    hopes = list(zip((worse, better, good), trials, (0.0, 1e-3, 0.0), strict=True))
    assert exploration.choose(BEST, hopes) == (trials[1], 1e-3)


def test_what_a_budget_does_not_cover_is_left_for_what_it_does() -> None:
    dear, cheap = _cycle(STEP * (SAVED[0] + 2)), _cycle(2 * STEP)
    best, good = _cycle(STEP, 3.0), _cycle(STEP, 2.0)
    exploration = Exploration(STEP)
    assert exploration.choose(BEST, [(best, dear, 0.0), (good, cheap, 0.0)]) == (cheap, 0.0)
    reading = STEP * (SAVED[1] - 1)
    assert exploration.choose(BEST, [(best, cheap, reading)]) == (cheap, reading)
    exploration.settle(STEP, 1, BEST.rate, reading)
    assert exploration.choose(BEST, [(best, cheap, reading)]) is None, (
        "the text was not read for nothing"
    )
    assert exploration.choose(BEST, [(best, cheap, 0.0)]), "and what is read may be tried"


def test_a_trial_that_loses_nothing_costs_nothing_and_may_be_made_again_at_once() -> None:
    exploration, trial = Exploration(STEP), _cycle(SAVED[0] * STEP)
    for _ in range(20):
        assert exploration.choose(BEST, [(_cycle(STEP, 3.0), trial, 0.0)])
        assert exploration.settle(SAVED[0] * STEP, int(SAVED[0]), BEST.rate)
    assert not exploration.settle(SAVED[0] * STEP, 1, BEST.rate), "this one lost"
    assert exploration.choose(BEST, [(_cycle(STEP, 3.0), trial, 0.0)]) is None
    assert not exploration.settle(STEP, 1, 0.0), "no trial"


def test_a_budget_that_was_spent_grows_again_by_its_share_of_the_time() -> None:
    exploration, hope = Exploration(STEP), [(_cycle(STEP, 3.0), _cycle(3 * STEP), 0.0)]
    exploration.settle(10 * STEP, 1, BEST.rate)
    cycles = 0
    while exploration.choose(BEST, hope) is None:
        exploration.settle(STEP, 1, 0.0)
        cycles += 1
    # 9 of 4 steps are lost: 5 overdrawn. The trial may lose 2.
    assert 6.5 <= cycles * SHARES[0] <= 7.5


@given(st.lists(st.tuples(st.floats(0.5, 5.0), st.integers(1, 4)), min_size=1, max_size=200))
def test_trials_never_lose_more_than_their_share(trials: list[tuple[float, int]]) -> None:
    exploration, lost, passed = Exploration(STEP), 0.0, 0.0
    for steps, tokens in trials:
        seconds = steps * STEP
        trial = exploration.choose(BEST, [(_cycle(STEP, 99.0), _cycle(seconds), 0.0)])
        if trial is None:
            seconds, tokens = STEP, 1
        exploration.settle(seconds, tokens, 0.0 if trial is None else BEST.rate)
        passed += seconds
        lost += max(0.0, seconds - tokens * STEP) if trial else 0.0
    assert lost <= SAVED[0] * STEP + SHARES[0] * passed + 1e-12
