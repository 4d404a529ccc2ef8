from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.measure.loop import Runs
from benchmarks.measure.prediction import predicted_speedup

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.statistics import LinkStatistics, Statistics
from halfbyte.planner.cost_table import CostTable

PAIR = Cascade.parse("w4a8 > w8a16")
TABLE = CostTable(
    (1, 5), {"w8a16": (1.0, 1.4), "w4a8": (0.5, 0.7)}, (0.0, 0.0), {"w4a8": (0.6, 0.5)}
)  # fmt: skip
PLAIN = Runs(rounds=[Statistics(target_forwards=20)])


def ten_cycles() -> Statistics:
    """Each with 4 tokens proposed, 28 of them accepted."""
    total = Statistics(emitted_tokens=39, target_forwards=10)
    total.outcomes[4, 4] = 5
    total.outcomes[4, 2] = 4
    total.outcomes[4, 0] = 1
    return total


def test_the_prediction_is_equation_1() -> None:
    costs = dict.fromkeys(PAIR.stages, TABLE)
    total = ten_cycles()
    total.links["w4a8 > w8a16"] = LinkStatistics(forwards=40)
    runs = Runs(rounds=[total], contexts=[100.0], cycles=Counter({(1, 4): 10}))
    got = predicted_speedup(PAIR, costs, runs, PLAIN)
    assert got == pytest.approx(3.8 / ((0.6 + 3 * 0.5) + 1.4))
    assert predicted_speedup(PAIR, costs, Runs(), PLAIN) is None
    total.host_seconds = 1.0
    slow = Runs(rounds=[Statistics(target_forwards=20, host_seconds=4.0)])
    got = predicted_speedup(PAIR, costs, runs, slow)
    assert got == pytest.approx(3.8 * 1.2 / ((0.6 + 3 * 0.5) + 1.4 + 0.1))


def test_a_stage_in_the_middle_costs_its_looks_and_ngrams_cost_nothing() -> None:
    stack = Cascade.parse("ngram > w4a8 > w8a16")
    costs = dict.fromkeys(stack.stages, TABLE)
    total = ten_cycles()
    total.links["ngram > w4a8"] = inner = LinkStatistics()
    inner.outcomes[4, 3] = 20  # looks of 5 rows
    total.links["w4a8 > w8a16"] = LinkStatistics(forwards=20)
    runs = Runs(rounds=[total], contexts=[100.0], cycles=Counter({(1, 4): 10}))
    got = predicted_speedup(stack, costs, runs, PLAIN)
    assert got == pytest.approx(3.8 / (2 * 0.7 + 1.4))


def test_a_head_without_a_table_has_no_prediction() -> None:
    head = Cascade.parse("eagle:a > w8a16")
    runs = Runs(rounds=[ten_cycles()], contexts=[100.0])
    costs = {head.stages[0]: None, head.stages[1]: TABLE}
    assert predicted_speedup(head, costs, runs, PLAIN) is None
