from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.remaining_length import LEAST_HORIZON, RemainingLength
from tests.planner.simulation import Text


def _running(lengths: RemainingLength, *come: int, remaining: int = 1 << 30) -> list[Text]:
    """Texts of 600 tokens of which so many have come since."""
    texts = [Text({}, remaining=remaining) for _ in come]
    for text, tokens in zip(texts, come, strict=True):
        lengths.begin(text)
        text.commit([0] * tokens)
    return texts


@given(st.lists(st.integers(0, 4000), min_size=2, max_size=8))
def test_in_a_closed_batch_all_wait_but_those_that_end_last(come: list[int]) -> None:
    lengths = RemainingLength()
    texts = _running(lengths, *come)
    assert lengths.waits(texts) == [tokens > min(come) for tokens in come]
    assert lengths.waits(texts[:1]) == [False], "alone it is ahead of none"


def test_where_others_join_no_sequence_waits() -> None:
    lengths = RemainingLength()
    *others, last = _running(lengths, 0, 40, 80)
    lengths.end(last)
    assert any(lengths.waits(others)), "one has left, none has come"
    others += _running(lengths, 0)
    assert lengths.waits(others) == [False] * 3
    for text in others:
        lengths.end(text)
    assert any(lengths.waits(_running(lengths, 0, 1))), "the next batch is one of its own"


def test_a_batch_is_closed_while_several_run_that_no_other_has_joined() -> None:
    lengths = RemainingLength()
    assert not lengths.is_closed
    first, second = _running(lengths, 0, 0)
    assert lengths.is_closed
    lengths.end(second)
    assert not lengths.is_closed, "it is alone"
    [third] = _running(lengths, 0)
    assert not lengths.is_closed
    for text in (first, third):
        lengths.end(text)
    _running(lengths, 0)
    assert not lengths.is_closed
    _running(lengths, 0)
    assert lengths.is_closed, "one that begins before any has left joins none"


def test_as_much_is_still_to_come_as_has_come_or_as_is_usual() -> None:
    lengths = RemainingLength()
    fresh, long = _running(lengths, 0, 500)
    assert lengths.of(fresh) == LEAST_HORIZON
    assert lengths.of(long) == 500
    long.remaining = 20
    assert lengths.of(long) == 20
    for text in _running(lengths, *[300] * 60):
        lengths.end(text)
    assert lengths.of(fresh) == pytest.approx(300, abs=0.5)
    fresh.commit([0] * 100)
    assert lengths.of(fresh) == pytest.approx(200, abs=0.5)


def test_what_never_began_is_ahead_of_none_and_ends_unseen() -> None:
    lengths = RemainingLength()
    unknown = Text({})
    assert lengths.of(unknown) == LEAST_HORIZON
    lengths.end(unknown)
    assert lengths.of(Text({})) == LEAST_HORIZON
