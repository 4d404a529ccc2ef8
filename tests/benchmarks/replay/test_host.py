from __future__ import annotations

import pytest
from benchmarks.replay.host import (
    CALL,
    CHOOSING,
    CHOOSING_SEQUENCE,
    PROPOSAL,
    SEQUENCE,
    Hosted,
)
from benchmarks.replay.recorded_runtime import Clock

from halfbyte.cascade.cycle import Turn
from halfbyte.cascade.planning import FixedPlan
from tests.planner.simulation import NamedProposer, Text, planner_of


@pytest.mark.parametrize(("size", "length"), [(1, 0), (4, 0), (1, 3), (4, 3)])
def test_a_plan_takes_so_long_per_call_sequence_and_proposal(size: int, length: int) -> None:
    clock, texts = Clock(), [Text({}) for _ in range(size)]
    fixed = FixedPlan(NamedProposer("w4a8"), length)
    hosted = Hosted(fixed, clock, chooses=False)
    assert hosted.plan(texts) == fixed.plan(texts)
    seconds = CALL + SEQUENCE * size + PROPOSAL * size * (length > 0)
    assert clock.now == pytest.approx(seconds)
    Hosted(fixed, clock, chooses=True).plan(texts)
    assert clock.now == pytest.approx(2 * seconds + CHOOSING + CHOOSING_SEQUENCE * size)


def test_all_else_is_the_planners_and_takes_no_time() -> None:
    clock, planner, text = Clock(), planner_of("w4a8"), Text({"w4a8": [0.0]})
    planner.optimiser.acceptance.assume(planner.candidates[0].sources[0], 0.0)
    hosted = Hosted(planner, clock, chooses=True)
    hosted.begin(text)
    assert hosted.plan([text]) == [Turn()]
    before = clock.now
    assert hosted.plain_for([text]) == planner.plain_for([text]) > 1
    hosted.release(text)
    assert clock.now == before
