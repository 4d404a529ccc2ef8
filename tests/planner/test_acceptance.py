from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.acceptance import POSITIONS, Acceptance, Source

events = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=60)


def _accepted(rng: random.Random, alpha: float, asked: int) -> int:
    return next((i for i in range(asked) if rng.random() > alpha), asked)


@given(events, st.booleans())
def test_gains_are_chances_that_never_rise(seen: list[tuple[int, int]], is_tree: bool) -> None:
    acceptance, source = Acceptance(), Source("w4a8", is_tree=is_tree)
    for asked, accepted in seen:
        accepted = min(asked, accepted)
        acceptance.observe(source, asked, accepted, range(accepted))
        # What is remembered is what the counts say, after each observation.
        fresh = acceptance.gains(source), acceptance.hopeful_gains(source)
        for gains in fresh:
            assert len(gains) == POSITIONS
            assert all(0.0 <= g <= 1.0 for g in gains)
            assert all(a >= b for a, b in pairwise(gains))
        assert all(hope >= gain for gain, hope in zip(*fresh, strict=True))


def test_gains_follow_each_observation() -> None:
    acceptance, source = Acceptance(), Source("w4a8")
    before = acceptance.gains(source)
    acceptance.observe(source, 4, 4)
    more = acceptance.gains(source)
    acceptance.observe(source, 4, 0)
    assert before[0] < more[0] > acceptance.gains(source)[0]


def test_of_a_tree_each_node_is_counted_by_itself() -> None:
    """A node may be output where the one before it is not: its chance is no product."""
    rng, acceptance = random.Random(2), Acceptance()
    source = Source("eagle", prior=0.6, is_tree=True)
    before = acceptance.gains(source)
    assert before[:3] == pytest.approx((0.6, 0.36, 0.216))
    for _ in range(3000):
        # Nodes 0 and 2 are siblings, 1 is the child of 0; of six asked three were never proposed.
        path = rng.choices([[0, 1], [0], [2], []], [0.4, 0.2, 0.3, 0.1])[0]
        acceptance.observe(source, 6, len(path), path)
    gains = acceptance.gains(source)
    assert gains[:3] == pytest.approx((0.6, 0.4, 0.3), abs=0.12)
    assert max(gains[3:6]) < 0.05
    for of in (gains, acceptance.hopeful_gains(source)):
        assert len(of) == POSITIONS
        assert all(a >= b for a, b in pairwise(of))


@pytest.mark.parametrize("alpha", [0.95, 0.5, 0.05])
def test_estimates_come_to_the_true_alpha(alpha: float) -> None:
    rng, acceptance, source = random.Random(1), Acceptance(), Source("w4a8")
    for _ in range(3000):
        acceptance.observe(source, 4, _accepted(rng, alpha, 4))
    assert acceptance.alphas(source) == [pytest.approx(alpha, abs=0.06)]
    gains = [alpha**n for n in range(1, POSITIONS + 1)]
    assert acceptance.gains(source) == pytest.approx(gains, abs=0.15)


def test_what_was_seen_takes_the_place_of_the_prior() -> None:
    acceptance, source = Acceptance(), Source("w4a8", prior=0.8)
    assert acceptance.gains(source)[0] == pytest.approx(0.8)
    for _ in range(200):
        acceptance.observe(source, 3, 0)
    assert acceptance.gains(source)[0] < 0.1


def test_text_unlike_that_before_it_is_seen_and_what_was_seen_before_fades() -> None:
    acceptance, source = Acceptance(), Source("w4a8")
    for _ in range(500):
        acceptance.observe(source, 4, 4)
    assert acceptance.gains(source)[0] > 0.9
    for _ in range(69):
        acceptance.observe(source, 4, 0)
    # Half of what was counted before is left: 4 of each proposal against 1 of each since.
    assert acceptance.gains(source)[0] == pytest.approx(0.8, abs=0.02)
    for _ in range(400):
        acceptance.observe(source, 4, 0)
    assert acceptance.gains(source)[0] < 0.1


def test_sources_are_told_apart_by_evidence() -> None:
    acceptance = Acceptance()
    short, long = Source("ngram", 1), Source("ngram", 8)
    for _ in range(100):
        acceptance.observe(short, 4, 0)
        acceptance.observe(long, 4, 4)
    assert acceptance.gains(short)[0] < 0.2 < 0.9 < acceptance.gains(long)[3]


def test_a_proposal_that_stopped_early_counts_as_not_accepted_there() -> None:
    acceptance, source = Acceptance(), Source("w4a8")
    for _ in range(100):
        acceptance.observe(source, 8, 2)
    assert acceptance.alphas(source)[0] == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize("is_tree", [False, True])
def test_what_is_assumed_is_not_changed_by_what_is_seen(is_tree: bool) -> None:
    acceptance, source = Acceptance(), Source("w4a8", is_tree=is_tree)
    acceptance.assume(source, 0.25)
    for _ in range(50):
        acceptance.observe(source, 4, 4, range(4))
    assert acceptance.alphas(source)[0] == pytest.approx(0.25, abs=1e-3)


def test_hope_is_less_the_more_was_seen_but_few_counts_are_believed() -> None:
    widths = []
    for proposals in (0, 2, 6, 100):
        acceptance, source = Acceptance(), Source("w4a8", prior=0.5)
        for step in range(proposals):
            acceptance.observe(source, 1, step % 2)
        widths.append(acceptance.hopeful_gains(source)[0] - acceptance.gains(source)[0])
    assert widths[0] > widths[1] > widths[2]
    assert widths[3] == pytest.approx(widths[2], rel=0.02), "it may have changed since"
    rejected = Source("w4a8")
    for _ in range(100):
        acceptance.observe(rejected, 3, 0)
    assert acceptance.gains(rejected)[0] < 0.1 < acceptance.hopeful_gains(rejected)[0] < 0.25


def test_nothing_asked_teaches_nothing() -> None:
    acceptance, source = Acceptance(), Source("ngram")
    acceptance.observe(source, 0, 0)
    assert acceptance.alphas(source) == [source.prior]
    assert acceptance.hopeful_gains(source) == Acceptance().hopeful_gains(Source("ngram"))
