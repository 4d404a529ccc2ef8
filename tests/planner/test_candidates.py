from __future__ import annotations

import random

import pytest

from halfbyte.planner.candidates import LearnedCost


def test_a_learned_cost_finds_the_call_and_the_pass() -> None:
    rng, cost = random.Random(3), LearnedCost(1e-3, 1e-3)
    for _ in range(300):
        length = rng.randint(1, 6)
        cost.learn(4e-3 + 7e-4 * (length - 1) + rng.random() * 1e-4, [length])
    assert cost.pass_seconds(1, first=True) == pytest.approx(4e-3, rel=0.1)
    assert cost.pass_seconds(1, first=False) == pytest.approx(7e-4, rel=0.1)
    cost.learn(float("nan"), [2])
    cost.learn(1.0, [])
    assert cost.pass_seconds(1, first=True) == pytest.approx(4e-3, rel=0.1)
