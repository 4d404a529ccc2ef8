"""The planner goes by what calls take and what was accepted; the output is plain all the same."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte.api.candidates import HeadOffer, ModelOffer, Offer, candidates, planner_for
from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.stages import Eagle
from halfbyte.cascade.statistics import Statistics
from halfbyte.config import Level
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.planner import CostPlanner
from tests.exactness.heads import STAGE, World
from tests.exactness.runs import SAMPLERS, plain, run, runtime_of, state
from tests.planner.simulation import Text
from tests.support.proposers import proposers
from tests.support.runtimes import every_runtime

TARGET = Level.parse("w8a16")


def _table(draft: float, row: float) -> CostTable:
    """A forward costs 1 and `row` for each row after the first, a drafted token `draft`."""
    rows = (1, 64)
    curve = (1.0, 1.0 + 63 * row)
    levels = {level: curve for level in ("w8a16", "w4a8", "w4a16")}
    drafts = {level: (draft, draft) for level in ("w4a8", "w4a16")}
    return CostTable(rows, levels, (0.0, 0.0), drafts)


MODEL = ModelOffer(STAGE, _table(0.05, 0.01))
HEAD = HeadOffer(Eagle("h"), weight_bytes=100)


class Restless(CostPlanner):
    """Is told random times: it changes its mind all the time."""

    rounds = 0

    def learn(self, sequences: list[object], plan: list[Turn], report: CycleReport) -> None:  # type: ignore[override]
        self.rounds += 1
        rng = np.random.default_rng(self.rounds)
        draft, verify = rng.exponential(1.0, 2).tolist()
        told = CycleReport(report.outcomes, report.links, draft, verify)
        for link in told.links:
            link.seconds = float(rng.exponential(1.0))
        super().learn(sequences, plan, told)  # type: ignore[arg-type]


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("draft", "row"), [(0.05, 0.01), (0.3, 0.05)])
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
    assert [arm.name for arm in arms] == ["ngram", "w4a8", "w4a16"]
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
    names = ["ngram", "w4a8", "w4a16", "model:m@w4a8"]
    assert [arm.name for arm in arms] == [*names, "eagle:h", "eagle:h", "eagle:h"]
    assert [arm.depth for arm in arms[-3:]] == [2, 4, 6]
    planner = Restless(TARGET, table, arms)
    sequences = run(world.target, planner, SAMPLERS[sampler])
    assert [state(world.target, s) for s in sequences] == plain(kind, sampler)
    assert len({name for s in sequences for name in s.statistics.links}) >= 2


def test_what_a_level_of_a_tree_reads_decides_its_cost() -> None:
    """A head of half the target's bytes takes half of its time for one row."""
    world, table = World("reference", "oracle"), _table(0.3, 0.05)
    offer = HeadOffer(Eagle("h"), world.target.weight_bytes(TARGET) // 2)
    made = candidates(world.target, world.source, TARGET, table, [offer])
    for candidate in made[-3:]:
        cost, one_row = candidate.cost, table.linear_seconds("w8a16", 1)
        assert cost.token_seconds(0, first=True) == pytest.approx(one_row / 2, rel=1e-3)
        assert cost.token_seconds(0, first=False) == pytest.approx(one_row / 2, rel=1e-3)
        assert 0.0 < cost.token_seconds(1, first=True) < one_row / 4


def test_a_model_that_has_only_the_latest_tokens_to_read_pays_nothing_for_them() -> None:
    world = World("reference", "oracle")
    made = candidates(world.target, world.source, TARGET, _table(0.3, 0.05), [MODEL])
    (model,) = [candidate for candidate in made if candidate.unread is not None]
    assert model.unread is not None
    seconds = [model.unread(Text({}, committed_len=tokens)) for tokens in (8, 40)]
    assert seconds[0] == 0.0 < seconds[1] <= MODEL.table.linear_seconds("w4a8", 40)
