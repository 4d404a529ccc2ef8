from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.planner.optimism import LEAST, Promises

shares = st.floats(0.1, 10.0)


def test_promises_that_come_true_ask_for_no_more() -> None:
    promises = Promises()
    assert promises.kept == 1.0
    for _ in range(100):
        promises.plain(2, 0.02, 0.02)
        promises.proposed(5, 0.012, (5.0, 0.012))
    assert promises.kept == pytest.approx(1.0)


def test_a_slow_machine_is_no_broken_promise() -> None:
    promises = Promises()
    for _ in range(200):
        promises.plain(1, 0.015, 0.01)
        promises.proposed(5, 0.018, (5.0, 0.012))
    assert promises.kept == pytest.approx(1.0, abs=0.03)


def test_what_came_less_or_took_longer_must_be_promised_and_is_forgotten() -> None:
    fewer, longer = Promises(), Promises()
    for _ in range(400):
        fewer.proposed(4, 0.012, (5.0, 0.012))
        longer.proposed(5, 0.015, (5.0, 0.012))
    assert fewer.kept == pytest.approx(0.8, abs=0.01)
    assert longer.kept == pytest.approx(0.8, abs=0.01)
    fewer.plain(20_000, 200.0, 200.0)
    assert fewer.kept == pytest.approx(1.0, abs=0.01)


@given(st.lists(st.tuples(st.booleans(), shares, shares), max_size=40))
def test_it_stays_in_its_bounds(cycles: list[tuple[bool, float, float]]) -> None:
    promises = Promises()
    for is_plain, seconds, tokens in cycles:
        if is_plain:
            promises.plain(3, seconds, 1.0)
        else:
            promises.proposed(tokens, seconds, (1.0, 1.0))
        assert LEAST <= promises.kept <= 1.0
    before = promises.kept
    promises.plain(1, float("nan"), 1.0)
    promises.proposed(1, 0.0, (1.0, 1.0))
    assert promises.kept == before
