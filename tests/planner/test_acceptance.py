from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.acceptance import POSITIONS, Acceptance, Source

events = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=60)


def _accepted(rng: random.Random, alphas: list[float], asked: int) -> int:
    for i in range(asked):
        if rng.random() > alphas[min(i, len(alphas) - 1)]:
            return i
    return asked


@given(events)
def test_gains_are_chances_that_never_rise(seen: list[tuple[int, int]]) -> None:
    acceptance, source = Acceptance(), Source("w4a8")
    for step, (asked, accepted) in enumerate(seen):
        acceptance.observe(source, "a", asked, accepted, step)
    for request in ("a", "another"):
        for gains in (
            acceptance.gains(source, request),
            acceptance.hopeful_gains(source, request, len(seen)),
        ):
            assert len(gains) == POSITIONS
            assert all(0.0 <= g <= 1.0 for g in gains)
            assert all(a >= b for a, b in pairwise(gains))


@given(events, st.integers(0, 2))
def test_the_first_gains_are_the_first_of_the_gains(
    seen: list[tuple[int, int]], asking: int
) -> None:
    acceptance, sources = Acceptance(), [Source("ngram", 1), Source("ngram", 4)]
    for step, (asked, accepted) in enumerate(seen):
        acceptance.observe(sources[step % 2], "ab"[step % 3 == 0], asked, accepted, step)
        if step % 5 == asking:
            acceptance.first_gains(sources, "a")
    for request in ("a", "b", None):
        gains = [acceptance.gains(source, request)[0] for source in sources]
        assert acceptance.first_gains(sources, request) == gains


def test_of_a_tree_each_node_is_counted_by_itself() -> None:
    """A node may be output where the one before it is not: its chance is no product."""
    rng, acceptance = random.Random(2), Acceptance()
    source = Source("eagle", prior=0.6, is_tree=True)
    before = acceptance.gains(source, "a")
    assert before[:3] == pytest.approx((0.6, 0.36, 0.216))
    for step in range(3000):
        # Nodes 0 and 2 are siblings, 1 is the child of 0; of six asked three were never proposed.
        path = rng.choices([[0, 1], [0], [2], []], [0.4, 0.2, 0.3, 0.1])[0]
        acceptance.observe(source, "a", 6, len(path), step, path)
    gains = acceptance.gains(source, "a")
    assert gains[:3] == pytest.approx((0.6, 0.4, 0.3), abs=0.12)
    assert max(gains[3:6]) < 0.05
    for of in (gains, acceptance.hopeful_gains(source, "a", 3000)):
        assert len(of) == POSITIONS
        assert all(a >= b for a, b in pairwise(of))


@pytest.mark.parametrize("alphas", [[0.95], [0.5], [0.9, 0.8, 0.6, 0.3], [0.05]])
def test_estimates_come_to_the_true_alphas(alphas: list[float]) -> None:
    rng, acceptance, source = random.Random(1), Acceptance(), Source("w4a8")
    for step in range(3000):
        # A request that changes every 40 steps: what all showed has to carry.
        accepted = _accepted(rng, alphas, 4)
        acceptance.observe(source, step // 40, 4, accepted, step)
    for got, true in zip(acceptance.alphas(source)[:4], (alphas * 4)[:4], strict=True):
        assert got == pytest.approx(true, abs=0.1)


def test_a_new_request_starts_from_what_others_showed() -> None:
    acceptance, source = Acceptance(), Source("w4a8", prior=0.8)
    before = acceptance.gains(source, "new")[0]
    for step in range(200):
        acceptance.observe(source, "old", 3, 0, step)
    assert before == pytest.approx(0.8)
    assert acceptance.gains(source, "new")[0] < 0.1
    acceptance.forget("old")
    assert acceptance.gains(source, "newer")[0] < 0.1


def test_a_request_unlike_the_others_is_seen_within_a_few_steps() -> None:
    acceptance, source = Acceptance(), Source("w4a8")
    for step in range(500):
        acceptance.observe(source, "good", 4, 4, step)
    assert acceptance.gains(source, "bad")[0] > 0.9
    for step in range(500, 515):
        acceptance.observe(source, "bad", 4, 0, step)
    assert acceptance.gains(source, "bad")[0] < 0.5
    assert acceptance.gains(source, "good")[0] > 0.8


def test_sources_are_told_apart_by_evidence() -> None:
    acceptance = Acceptance()
    short, long = Source("ngram", 1), Source("ngram", 8)
    for step in range(100):
        acceptance.observe(short, "a", 4, 0, step)
        acceptance.observe(long, "a", 4, 4, step)
    assert acceptance.gains(short, "a")[0] < 0.2 < 0.9 < acceptance.gains(long, "a")[3]


def test_a_proposal_that_stopped_early_counts_as_not_accepted_there() -> None:
    acceptance, source = Acceptance(), Source("w4a8")
    for step in range(100):
        acceptance.observe(source, "a", 8, 2, step)
    assert acceptance.gains(source, "a")[1] > 0.8
    assert acceptance.gains(source, "a")[2] < 0.2


def test_hope_fades_with_evidence_and_returns_with_time() -> None:
    acceptance, source = Acceptance(), Source("w4a8")
    unseen = acceptance.hopeful_gains(source, "a", 0)[0]
    for step in range(100):
        acceptance.observe(source, "a", 3, 0, step)
    seen = acceptance.hopeful_gains(source, "a", 100)[0]
    later = acceptance.hopeful_gains(source, "a", 5000)[0]
    assert seen < 0.25 < later <= unseen
    assert seen >= acceptance.gains(source, "a")[0]
    assert acceptance.gains(source, "a")[0] < 0.1, "what is expected does not fade with time"


def test_nothing_asked_teaches_nothing() -> None:
    acceptance, source = Acceptance(), Source("ngram")
    acceptance.observe(source, "a", 0, 0, 1)
    assert acceptance.judged(source) == 0
