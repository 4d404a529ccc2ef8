from __future__ import annotations

import pytest

from halfbyte.planner.drift import Drift


def test_drift_parts_what_is_common_from_what_is_not() -> None:
    drift = Drift()
    for step in range(6000):
        drift.observe((-1, 0, 1)[step % 3], (3.0, 3.0, 1.5)[step % 3], 1.0, step)
    assert drift.common == pytest.approx(3.0, rel=0.05)
    assert drift.factor(0) == pytest.approx(1.0, rel=0.05)
    assert drift.factor(1) == pytest.approx(0.5, rel=0.05)
    assert drift.factor(-2) == drift.factor(-1), "a verify never seen is as slow as its neighbour"
    before = drift.factor(0)
    drift.observe(0, 1e9, 1.0, 6001)
    assert drift.factor(0) < before * 1.01, "one interrupted call says little"
    drift.observe(0, float("nan"), 1.0, 6002)
    drift.observe(0, 1.0, 0.0, 6003)
    assert drift.age(0, 6101) == 100


def test_a_machine_that_slows_down_is_no_reason_to_change() -> None:
    drift = Drift()
    for step in range(400):
        drift.observe(-8 if step % 20 == 0 else -4, 1.0, 1.0, step)
    for step in range(200):  # three times as slow, and only one key is seen
        drift.observe(-4, 3.0, 1.0, step)
    assert drift.common == pytest.approx(3.0, rel=0.1)
    assert drift.factor(-4) / drift.factor(-8) == pytest.approx(1.0, rel=0.05)
    for step in range(1500):  # a rare verify's surprise is its own
        drift.observe(-8 if step % 10 == 0 else -4, 6.0 if step % 10 == 0 else 3.0, 1.0, step)
    assert drift.factor(-8) / drift.factor(-4) == pytest.approx(2.0, rel=0.2)
