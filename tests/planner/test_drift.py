from __future__ import annotations

import pytest

from halfbyte.planner.drift import HOST_STEP, Drift, HostTime


def test_drift_parts_what_is_common_from_what_is_not() -> None:
    drift = Drift()
    for step in range(6000):
        drift.observe((-1, 0, 1)[step % 3], (3.0, 3.0, 1.5)[step % 3], 1.0)
    assert drift.common == pytest.approx(3.0, rel=0.05)
    assert drift.factor(0) == pytest.approx(1.0, rel=0.05)
    assert drift.factor(1) == pytest.approx(0.5, rel=0.05)
    assert drift.factor(-2) == drift.factor(-1), "a verify never seen is as slow as its neighbour"
    assert drift.factor(2) == 1.0
    before = drift.factor(0)
    drift.observe(0, 1e9, 1.0)
    assert drift.factor(0) < before * 1.01, "one interrupted call says little"
    known = drift.factor(0)
    drift.observe(0, float("nan"), 1.0)
    drift.observe(0, 1.0, 0.0)
    assert drift.factor(0) == known


def test_a_machine_that_slows_down_is_no_reason_to_change() -> None:
    drift = Drift()
    for step in range(400):
        drift.observe(-8 if step % 20 == 0 else -4, 1.0, 1.0)
    for _ in range(200):  # three times as slow, and only one key is seen
        drift.observe(-4, 3.0, 1.0)
    assert drift.common == pytest.approx(3.0, rel=0.1)
    assert drift.factor(-4) / drift.factor(-8) == pytest.approx(1.0, rel=0.05)
    for step in range(1500):  # a rare verify's surprise is its own
        drift.observe(-8 if step % 10 == 0 else -4, 6.0 if step % 10 == 0 else 3.0, 1.0)
    assert drift.factor(-8) / drift.factor(-4) == pytest.approx(2.0, rel=0.2)


def test_rows_seen_to_be_dear_make_others_like_them_dear_until_they_are_seen() -> None:
    drift = Drift()
    for step in range(200):
        drift.observe(-4 if step % 2 else -8, 1.0 if step % 2 else 1.5, 1.0)
    assert drift.factor(-9) == drift.factor(-10) == drift.factor(-8) > 1.2 * drift.factor(-5)
    for _ in range(50):
        drift.observe(-9, 1.0, 1.0)
    assert drift.factor(-9) < drift.factor(-8)
    assert drift.factor(-10) == drift.factor(-9), "the nearest one by now"


@pytest.mark.parametrize("is_plain", [True, False])
def test_of_the_hosts_time_a_surprise_counts_by_its_sign_alone(is_plain: bool) -> None:
    """Between cycles lie prefills and slow readers too: seconds, where the host takes 1e-4."""
    known = []
    for pause in (2e-4, 20.0):
        host = HostTime()
        for cycle in range(2000):
            host.observe(pause if cycle % 5 == 0 else 1e-4, is_plain=is_plain)
        known.append(host.plain if is_plain else host.proposing)
    assert known == [pytest.approx(1e-4, rel=3 * (HOST_STEP - 1))] * 2 or not is_plain
    assert known[0] == known[1]


def test_a_cycle_with_proposals_takes_no_less_of_the_host_than_a_plain_one() -> None:
    host = HostTime()
    for _ in range(500):
        host.observe(5e-4, is_plain=True)
        host.observe(1e-4, is_plain=False)
    assert host.proposing == host.plain == pytest.approx(5e-4, rel=2 * (HOST_STEP - 1))
