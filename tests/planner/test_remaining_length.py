from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.remaining_length import LEAST_HORIZON, Answers
from tests.planner.simulation import Text


def _running(answers: Answers, *lengths: int, remaining: int = 1 << 30) -> list[Text]:
    """Texts of 600 tokens of which so many have come since."""
    texts = [Text({}, remaining=remaining) for _ in lengths]
    for text, come in zip(texts, lengths, strict=True):
        answers.begin(text)
        text.commit([0] * come)
    return texts


@given(st.lists(st.integers(0, 4000), min_size=2, max_size=8))
def test_in_a_batch_that_nobody_joins_who_is_ahead_counts_less(lengths: list[int]) -> None:
    answers = Answers()
    texts = _running(answers, *lengths)
    weights = answers.weights(texts)
    assert all(0 < weight <= 1 for weight in weights)
    assert weights[lengths.index(min(lengths))] == 1
    ahead = sorted(zip(lengths, weights, strict=True))
    assert [weight for _, weight in ahead] == sorted(weights, reverse=True)
    assert answers.weights(texts[:1]) == [1.0], "alone it is ahead of nobody"


def test_where_others_come_for_those_who_left_all_count_alike() -> None:
    answers = Answers()
    *others, last = _running(answers, 0, 40, 80)
    answers.end(last)
    assert not answers.is_joined
    others += _running(answers, 0)
    assert answers.is_joined
    assert answers.weights(others) == [1.0] * 3
    for text in others:
        answers.end(text)
    assert not answers.is_joined, "nobody runs: the next ones begin a batch of their own"
    assert not answers.are_running


def test_as_much_is_still_to_come_as_has_come_or_as_is_usual() -> None:
    answers = Answers()
    fresh, long = _running(answers, 0, 500)
    assert answers.to_come(fresh) == LEAST_HORIZON
    assert answers.to_come(long) == 500
    long.remaining = 20
    assert answers.to_come(long) == 20
    for text in _running(answers, *[300] * 20):
        answers.end(text)
    assert answers.to_come(fresh) == pytest.approx(300)
    fresh.commit([0] * 100)
    assert answers.to_come(fresh) == pytest.approx(200)


def test_what_never_began_is_ahead_of_nobody_and_ends_unseen() -> None:
    answers = Answers()
    stranger = Text({})
    assert answers.to_come(stranger) == LEAST_HORIZON
    answers.end(stranger)
    assert not answers.are_running
    assert not answers.is_joined
