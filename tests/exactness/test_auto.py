"""The planner goes by what calls take and what was accepted; the output is plain all the same."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte.api.candidates import HeadOffer, ModelOffer, Offer, candidates, planner_for
from halfbyte.cascade.cycle import CycleReport, Turn, run_cycle
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.stages import Eagle
from halfbyte.cascade.statistics import Statistics
from halfbyte.config import Level
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.planner.cost_table import CostTable, DraftCost
from halfbyte.planner.planner import CostPlanner
from halfbyte.sampling.sampler import GREEDY
from tests.exactness.heads import STAGE, World
from tests.exactness.runs import SAMPLERS, plain, run, runtime_of, state
from tests.support.fake_runtime import FakeRuntime
from tests.support.proposers import proposers
from tests.support.runtimes import every_runtime

TARGET = Level.parse("w8a16")


def _table(draft: float, row: float) -> CostTable:
    """A forward costs 1 and `row` for each row after the first, a drafted token `draft`."""
    rows = (1, 64)
    curve = (1.0, 1.0 + 63 * row)
    levels = {level: curve for level in ("w8a16", "w4a8", "w4a16")}
    drafts = {level: DraftCost(draft, draft) for level in ("w4a8", "w4a16")}
    return CostTable(rows, (128,), levels, ((0.0,), (0.0,)), drafts)


MODEL = ModelOffer(STAGE, _table(0.05, 0.01))
HEAD = HeadOffer(Eagle("h"), level_seconds=0.05)


class Restless(CostPlanner):
    """Is told random times: it changes its mind all the time."""

    def learn(self, sequences: list[object], plan: list[Turn], report: CycleReport) -> None:  # type: ignore[override]
        rng = np.random.default_rng(self._step)
        draft, verify = rng.exponential(1.0, 2).tolist()
        told = CycleReport(report.outcomes, report.links, draft, verify)
        for link in told.links:
            link.seconds = float(rng.exponential(1.0))
        super().learn(sequences, plan, told)  # type: ignore[arg-type]


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("draft", "row"), [(0.05, 0.01), (0.6, 0.1)])
def test_auto_decodes_as_plain_to_the_last_bit(
    kind: str, sampler: str, draft: float, row: float
) -> None:
    runtime = runtime_of(kind)
    planner = planner_for(runtime, proposers(runtime), TARGET, _table(draft, row))
    sequences = run(runtime, planner, SAMPLERS[sampler])
    assert [state(runtime, s) for s in sequences] == plain(kind, sampler)
    total = Statistics()
    for sequence in sequences:
        total.add(sequence.statistics)
    assert total.accepted_tokens > 0


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_planner_told_random_times_decodes_as_plain(kind: str, sampler: str) -> None:
    runtime, table = runtime_of(kind), _table(0.3, 0.05)
    arms = candidates(runtime, proposers(runtime), TARGET, table)
    assert [arm.name for arm in arms] == ["ngram", "w4a8", "w4a16", "ngram > w4a8"]
    planner = Restless(TARGET, table, arms)
    sequences = run(runtime, planner, SAMPLERS[sampler])
    assert [state(runtime, s) for s in sequences] == plain(kind, sampler)
    assert len({name for s in sequences for name in s.statistics.links}) >= 2


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("offer", [MODEL, HEAD], ids=["model", "head"])
def test_auto_uses_what_it_is_offered_and_decodes_as_plain(
    kind: str, offer: Offer, sampler: str
) -> None:
    world, table = World(kind, "oracle"), _table(0.9, 0.01)
    planner = planner_for(world.target, world.source, TARGET, table, [offer])
    sequences = run(world.target, planner, SAMPLERS[sampler])
    assert [state(world.target, s) for s in sequences] == plain(kind, sampler)
    total = Statistics()
    for sequence in sequences:
        total.add(sequence.statistics)
    assert total.links[f"{offer.stage} > w8a16"].accepted_tokens > 0


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("head", ["oracle", "adversarial"])
def test_offers_and_random_times_decode_as_plain(kind: str, head: str, sampler: str) -> None:
    world, table = World(kind, head), _table(0.3, 0.05)
    arms = candidates(world.target, world.source, TARGET, table, [MODEL, HEAD])
    names = ["ngram", "w4a8", "w4a16", "ngram > w4a8", "model:m@w4a8", "ngram > model:m@w4a8"]
    assert [arm.name for arm in arms] == [*names, "eagle:h", "eagle:h", "eagle:h"]
    assert [arm.depth for arm in arms[-3:]] == [2, 4, 6]
    planner = Restless(TARGET, table, arms)
    sequences = run(world.target, planner, SAMPLERS[sampler])
    assert [state(world.target, s) for s in sequences] == plain(kind, sampler)
    assert len({name for s in sequences for name in s.statistics.links}) >= 3


def test_a_stack_means_the_same_explicitly_and_under_auto() -> None:
    """What n-grams are sure of goes to the target unjudged, explicit or chosen by `auto`."""
    runtime, table = FakeRuntime(num_pages=64), _table(0.3, 0.01)
    arms = candidates(runtime, proposers(runtime), TARGET, table)
    (stack,) = [arm for arm in arms if arm.name == "ngram > w4a8"]
    pages = PageTable(PagePool(runtime.num_pages, runtime.page_size), 200)
    pages.grow(200)
    text = [5, 1, 2, 7, 3, 9] * 6
    sequence = Sequence(text, table=pages, sampler=GREEDY, limit=99, stop_ids=frozenset())
    planner = CostPlanner(TARGET, table, [stack])
    planner.begin(sequence)
    (chosen,) = planner.plan([sequence])
    assert chosen.length > 3
    (explicit,) = FixedPlan(stack.proposer, chosen.length, chosen.inner_length).plan([sequence])
    assert chosen == explicit
    report = run_cycle(runtime, TARGET, [sequence], [chosen])
    assert [(link.name, link.forwards) for link in report.links] == [
        ("w4a8 > w8a16", 0),
        ("ngram > w4a8", 0),
    ]
    assert report.outcomes[0].proposed == chosen.length


def test_an_arm_that_loses_even_when_always_right_is_left_out() -> None:
    runtime = runtime_of("reference")
    planner = planner_for(runtime, proposers(runtime), TARGET, _table(1.05, 0.0))
    assert "w4a8" not in [arm.name for arm in planner.arms]
    assert "ngram" in [arm.name for arm in planner.arms]
