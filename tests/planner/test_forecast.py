from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.cascade.cycle import CycleReport
from halfbyte.cascade.proposer import Link
from halfbyte.cascade.verify import Outcome
from halfbyte.planner.candidates import Candidate
from halfbyte.planner.drift import Drift, HostTime
from halfbyte.planner.forecast import PLAIN, Forecaster
from tests.planner.simulation import candidates, table

chances = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(lambda each: sorted(each)[::-1])


def _forecaster(*offered: Candidate, drift: Drift | None = None) -> Forecaster:
    return Forecaster("w8a16", table(), offered, drift or Drift(), HostTime())


def _seconds(candidate: Candidate, lengths: list[int], contexts: list[int]) -> float:
    """By the table, with the constant host's time of a start."""
    drafting = 0.0
    for step in range(max(lengths)):
        active = [b for b, length in enumerate(lengths) if length > step]
        for together, b in enumerate(active):
            drafting += candidate.cost.token_seconds(together, first=step == 0)
            drafting += candidate.cost.attention * contexts[b]
    verify = table().linear_seconds("w8a16", len(lengths) + sum(lengths))
    for length, context in zip(lengths, contexts, strict=True):
        # Rows further than one are alike.
        one, five = (table().attention_seconds(rows, context) for rows in (1, 5))
        verify += one + length * (five - one) / 4
    return drafting + verify + HostTime().proposing


def test_a_plain_cycle_is_a_row_for_each_sequence() -> None:
    forecaster, contexts = _forecaster(), [600, 1200]
    plain = forecaster.batch(contexts).plain
    seconds = table().linear_seconds("w8a16", 2) + table().attention_seconds(1, sum(contexts))
    assert plain.candidate == PLAIN
    assert (plain.lengths, plain.tokens, plain.rows) == ((0, 0), 2.0, 2)
    assert plain.seconds == pytest.approx(seconds + HostTime().plain)
    assert plain.rate == pytest.approx(2 / plain.seconds)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["w4a8", "ngram"]), st.integers(0, 4000), chances)
def test_for_one_sequence_the_best_length_is_found(
    name: str, context: int, gains: list[float]
) -> None:
    """Against brute force over every length."""
    [candidate] = candidates(name)
    forecaster = _forecaster(candidate)
    batch = forecaster.batch([context])
    got = forecaster.proposing(batch, 0, [gains])
    rates = [
        (1 + sum(gains[:length])) / _seconds(candidate, [length], [context])
        for length in range(1, 5)
    ]
    assert got.rate == pytest.approx(max([batch.plain.rate, *rates]))
    forced = forecaster.proposing(batch, 0, [gains], forced=True)
    assert forced.candidate == 0
    assert forced.rate == pytest.approx(max(rates))


@settings(max_examples=40, deadline=None)
@given(st.lists(chances, min_size=2, max_size=3))
def test_matches_of_a_batch_make_the_best_cycle_of_all(batch: list[list[float]]) -> None:
    """Against brute force over every length of every sequence; looking costs all the same."""
    [lookup] = candidates("ngram")
    forecaster, contexts = _forecaster(lookup), [600] * len(batch)
    known = forecaster.batch(contexts)
    got = forecaster.proposing(known, 0, batch)
    best = known.plain.rate
    for lengths in product(range(5), repeat=len(batch)):
        if any(lengths):
            tokens = sum(1 + sum(own[:n]) for own, n in zip(batch, lengths, strict=True))
            best = max(best, tokens / _seconds(lookup, list(lengths), contexts))
    assert got.rate == pytest.approx(best, rel=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3000), chances), min_size=1, max_size=6))
def test_what_a_cycle_promises_is_what_its_parts_add_up_to(
    batch: list[tuple[int, list[float]]],
) -> None:
    contexts, gains = [c for c, _ in batch], [g for _, g in batch]
    for candidate in candidates("w4a8", "ngram"):
        forecaster = _forecaster(candidate)
        cycle = forecaster.proposing(forecaster.batch(contexts), 0, gains, forced=True)
        assert cycle.candidate == 0
        assert any(cycle.lengths)
        tokens = [1 + sum(g[:n]) for g, n in zip(gains, cycle.lengths, strict=True)]
        assert cycle.tokens == pytest.approx(sum(tokens))
        assert cycle.rows == len(batch) + sum(cycle.lengths)
        assert cycle.seconds == pytest.approx(_seconds(candidate, [*cycle.lengths], contexts))


def test_sequences_without_a_chance_stay_plain() -> None:
    [lookup] = candidates("ngram")
    forecaster = _forecaster(lookup)
    batch = forecaster.batch([600] * 4)
    cycle = forecaster.proposing(batch, 0, [None, [0.9, 0.8], None, [0.9]])
    assert cycle.candidate == 0
    assert cycle.lengths == (0, 2, 0, 1)
    assert forecaster.proposing(batch, 0, [None] * 4, forced=True) is batch.plain


def test_passes_beyond_the_depth_of_a_tree_cost_nothing() -> None:
    deep = candidates("w4a8")[0]
    forecaster = _forecaster(deep, replace(deep, depth=2))
    cycle = forecaster.proposing(forecaster.batch([600]), 1, [[0.9**j for j in range(1, 9)]])
    assert cycle.lengths[0] > 2
    two = [deep.cost.token_seconds(0, first=first) for first in (True, False)]
    assert cycle.draft_seconds == pytest.approx(sum(two) + 2 * deep.cost.attention * 600)


def test_what_is_unread_is_charged_with_each_token() -> None:
    [draft] = candidates("w4a8")
    forecaster, gains = _forecaster(draft), [[0.9, 0.8]]
    batches = [forecaster.batch([600], (), {0: [(s, 100.0)]}) for s in (0.0, 1e-2, 100.0)]
    free, charged = (forecaster.proposing(b, 0, gains, forced=True) for b in batches[:2])
    assert charged.other_seconds == pytest.approx(free.other_seconds + 1e-4 * free.tokens)
    assert forecaster.proposing(batches[2], 0, gains) is batches[2].plain


def test_forecasts_are_corrected_by_what_cycles_take() -> None:
    [draft] = candidates("w4a8")
    drift = Drift()
    forecaster = _forecaster(draft, drift=drift)
    for _ in range(300):
        batch = forecaster.batch([600])
        cycle = forecaster.proposing(batch, 0, [[0.9, 0.8, 0.7]], forced=True)
        verify, link = 2 * cycle.verify_seconds / drift.factor(-cycle.rows), Link("w4a8 > w8a16")
        drafting = 3 * cycle.draft_seconds / drift.factor(0)
        outcome = Outcome([1, 2], [0.0, 0.0], cycle.lengths[0], 1)
        forecaster.correct(batch, cycle, CycleReport([outcome], [link], drafting, verify))
    assert drift.common == pytest.approx(2.0, rel=0.05)
    assert drift.common * drift.factor(-cycle.rows) == pytest.approx(2.0, rel=0.01)
    assert drift.common * drift.factor(0) == pytest.approx(3.0, rel=0.01)
    before = drift.common
    report = CycleReport([outcome], [], 0.0, 1.0, prompt_rows=7, rows=9)
    forecaster.correct(batch, batch.plain, report)
    assert drift.common == before, "prompts ran along"


def test_what_a_model_read_is_no_part_of_what_its_drafts_cost() -> None:
    [draft] = candidates("w4a8")
    drift = Drift()
    forecaster = _forecaster(draft, drift=drift)
    cycle = forecaster.proposing(forecaster.batch([600]), 0, [[0.9]], forced=True)
    outcome, link = Outcome([1, 2], [0.0, 0.0], 1, 1), Link("w4a8 > w8a16")
    report = CycleReport([outcome], [link], 5.0, cycle.verify_seconds)
    forecaster.correct(forecaster.batch([600], (), {0: [(1.0, 100.0)]}), cycle, report)
    assert drift.factor(0) == 1.0
    forecaster.correct(forecaster.batch([600], (), {0: [(0.0, 100.0)]}), cycle, report)
    assert drift.factor(0) > 1.0
