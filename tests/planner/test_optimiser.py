from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.planner.acceptance import Acceptance
from halfbyte.planner.drift import Drift, HostTime
from halfbyte.planner.forecast import PLAIN, Batch, Forecaster
from halfbyte.planner.optimiser import HYSTERESIS, NEVER, TRIAL_LENGTH, Optimiser
from tests.planner.simulation import candidates, table

DRAFT, LOOKUP = 0, 1


def _optimiser(draft: float, *matches: float) -> Optimiser:
    """`w4a8` accepted so often, and matches of 1, 2 … tokens."""
    offered = candidates("w4a8", *(["ngram"] if matches else []))
    if matches:
        offered[LOOKUP] = replace(offered[LOOKUP], sources=offered[LOOKUP].sources[: len(matches)])
    acceptance = Acceptance()
    acceptance.assume(offered[DRAFT].sources[0], draft)
    for source, alpha in zip(offered[-1].sources, matches, strict=False):
        acceptance.assume(source, alpha)
    return Optimiser(
        Forecaster("w8a16", table(), offered, Drift(), HostTime()), offered, acceptance
    )


def _batch(size: int, optimiser: Optimiser | None = None) -> Batch:
    return (optimiser or _optimiser(0.5)).forecaster.batch([600] * size)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 4000),
    st.floats(0, 1),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.integers(-1, 3),
)
def test_for_one_sequence_the_best_cycle_is_the_best_of_all(
    context: int, draft: float, matches: list[float], found: int
) -> None:
    """Against brute force over every candidate and length."""
    optimiser, found = _optimiser(draft, *matches), min(found, len(matches) - 1)
    batch = optimiser.forecaster.batch([context])
    usual = optimiser.usual(batch, PLAIN)
    got = optimiser.best(batch, usual, [found])
    rates = [batch.plain.rate]
    alphas = [draft] if found < 0 else [draft, matches[found]]
    for index, alpha in enumerate(alphas):
        for length in range(1, 9):
            gains = [[alpha**n for n in range(1, length + 1)]]
            rates.append(optimiser.forecaster.proposing(batch, index, gains, forced=True).rate)
    # Each of two comparisons may keep what is slower by the lead.
    assert got.rate >= max(rates) / (1 + HYSTERESIS) ** 2 * (1 - 1e-9)


def test_sequences_that_wait_propose_nothing() -> None:
    optimiser = _optimiser(0.97, 0.97)
    batch = optimiser.forecaster.batch([600] * 3, [False, True, False])
    usual = optimiser.usual(batch, PLAIN)
    assert usual.candidate == DRAFT
    best = optimiser.best(batch, batch.plain, [0] * 3)
    assert best.candidate == LOOKUP
    hopes = list(optimiser.hopes(batch, batch.plain, [0] * 3))
    assert {hoped.candidate for hoped, *_ in hopes} == {DRAFT, LOOKUP}
    for cycle in (usual, best, *(each for pair in hopes for each in pair[:2])):
        assert cycle.lengths[1] == 0
        assert cycle.lengths[0] == cycle.lengths[2] > 0


@pytest.mark.parametrize(("share", "is_kept"), [(0.5, True), (2.0, False)])
def test_what_is_in_use_is_kept_unless_another_is_better_by_the_hysteresis(
    share: float, is_kept: bool
) -> None:
    """Found by halving: an alpha with which a draft is by so much of the lead better or worse."""

    def drafting(alpha: float) -> float:
        optimiser = _optimiser(alpha)
        batch = _batch(1, optimiser)
        gains = [[alpha**n for n in range(1, 9)]]
        cycle = optimiser.forecaster.proposing(batch, DRAFT, gains, forced=True)
        return cycle.rate / batch.plain.rate

    def alpha_of(ratio: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if drafting(middle) < ratio else (low, middle)
        return high

    better = _optimiser(alpha_of(1 + share * HYSTERESIS))
    batch = _batch(1, better)
    assert (better.usual(batch, PLAIN).candidate == PLAIN) == is_kept
    assert better.usual(batch, DRAFT).candidate == DRAFT
    # A draft that is slower than plain decoding is no cycle, whatever is in use.
    worse = _optimiser(alpha_of(1 - 1e-6))
    assert worse.usual(_batch(1, worse), DRAFT).candidate == PLAIN


def test_a_match_must_beat_what_is_usual_by_the_lead() -> None:
    optimiser = _optimiser(0.97, 0.2, 0.4, 0.999)
    batch = _batch(1, optimiser)
    usual = optimiser.usual(batch, PLAIN)
    assert usual.candidate == DRAFT
    for found, candidate in ((-1, DRAFT), (0, DRAFT), (1, DRAFT), (2, LOOKUP)):
        assert optimiser.best(batch, usual, [found]).candidate == candidate


def test_only_matches_whose_first_token_may_pay_for_its_row_are_looked_for() -> None:
    assert _optimiser(0.5, 0.0, 0.0, 0.9, 0.9).least_evidence(_batch(4)) == 3
    assert _optimiser(0.5, 0.0, 0.0).least_evidence(_batch(4)) == NEVER
    assert _optimiser(0.5).least_evidence(_batch(1)) == NEVER


@pytest.mark.parametrize("size", [1, 4])
def test_hope_is_for_what_little_is_known_of(size: int) -> None:
    optimiser = _optimiser(0.1, 0.9)  # nothing is left to hope of what was assumed …
    batch = _batch(size, optimiser)
    assert not list(optimiser.hopes(batch, batch.plain, [-1] * size))
    [(hoped, trial, _)] = optimiser.hopes(batch, batch.plain, [0] * size)
    assert hoped.candidate == trial.candidate == LOOKUP
    assert max(trial.lengths) <= TRIAL_LENGTH
    unknown = Optimiser(optimiser.forecaster, candidates("w4a8"), Acceptance())
    batch = _batch(size, unknown)
    [(drafting, *_)] = unknown.hopes(batch, batch.plain, [])
    assert drafting.candidate == DRAFT
    assert (batch.plain, batch.plain, 0.0) in list(unknown.hopes(batch, drafting, []))


def test_a_trial_of_a_model_pays_for_all_that_it_has_to_read() -> None:
    optimiser = Optimiser(_optimiser(0.5).forecaster, candidates("w4a8"), Acceptance())
    batch = _batch(2, optimiser)
    [(_, free, nothing)] = optimiser.hopes(batch, batch.plain, [])
    assert min(free.lengths) > 0
    batch = replace(batch, unread={DRAFT: [(0.25, 1e9), (0.5, 1e9)]})
    [(hoped, trial, reading)] = optimiser.hopes(batch, batch.plain, [])
    assert (nothing, reading) == (0.0, 0.75)
    assert trial.seconds == pytest.approx(free.seconds)
    assert hoped.other_seconds == pytest.approx(free.other_seconds, rel=1e-3)
