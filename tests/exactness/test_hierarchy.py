"""`eagle:h > model:m@LEVEL > w8a16`: a head drafts trees for another model, whose sequences the
target judges (SpecMQuant's hierarchy). Plain decoding to the last bit, and what the head reads."""

from __future__ import annotations

import pytest

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.proposer import Ask
from halfbyte.cascade.statistics import Statistics
from halfbyte.proposers.drafter import Drafter
from halfbyte.proposers.eagle import EagleProposer
from halfbyte.proposers.intermediate import Intermediate
from tests.exactness.heads import STAGE, World
from tests.exactness.runs import SAMPLERS, plain, run, state
from tests.support.proposers import RandomPlanner, model_runner
from tests.support.runtimes import every_runtime, every_tier

HIERARCHY = Cascade.parse("eagle:h > model:m@w4a8 > w8a16")


@every_tier
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["adversarial", "broken", "eagle-reduced", "eagle3"])
def test_no_head_before_a_model_changes_the_output(kind: str, name: str, sampler: str) -> None:
    world = World(kind, name)
    planner = FixedPlan(world.source.of(HIERARCHY), 9, 12)
    got = run(world.target, planner, SAMPLERS[sampler])
    assert [state(world.target, s) for s in got] == plain(kind, sampler)
    total = _total(got)
    assert total.links["model:m@w4a8 > w8a16"].accepted_tokens > 0
    assert total.links["eagle:h > model:m@w4a8"].draft_tokens > 0


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_good_head_shortens_the_model_s_work_and_leaves_its_agreement(
    kind: str, sampler: str
) -> None:
    """C5: the head decides how many forwards the model needs, not what the target makes of it."""
    totals = {}
    for name in ("oracle", "random"):
        world = World(kind, name)
        planner = FixedPlan(world.source.of(HIERARCHY), 9, 12)
        got = run(world.target, planner, SAMPLERS[sampler])
        assert [state(world.target, s) for s in got] == plain(kind, sampler)
        totals[name] = _total(got)
        assert (world.moves > 0) or name == "random"
    inner = {name: t.links["eagle:h > model:m@w4a8"].tau for name, t in totals.items()}
    assert inner["oracle"] > inner["random"] + 0.2
    outer = {name: t.links["model:m@w4a8 > w8a16"].alpha[0] for name, t in totals.items()}
    assert outer["oracle"] == pytest.approx(outer["random"], abs=0.25)


@every_runtime
@pytest.mark.parametrize("name", ["oracle", "eagle-reduced", "eagle3"])
def test_what_a_head_proposes_depends_on_the_text_only(kind: str, name: str) -> None:
    """C7: after any roll-back its proposals are those over KV and features written anew."""
    world = World(kind, name)
    proposer = world.source.of(HIERARCHY)
    assert isinstance(proposer, Intermediate)
    sequences = run(world.target, FixedPlan(proposer, 9, 12), SAMPLERS["greedy"])
    asks = [Ask(s, 6, nodes=12) for s in sequences]
    # What the model has not seen yet is no matter here: let it run up to the root in both.
    Drafter(world.runner).propose([Ask(s, 1) for s in sequences])
    used = proposer._inner.propose(asks).tokens
    fresh = model_runner(world.model, STAGE)
    fresh._new_pages = world.runner._new_pages
    for sequence in sequences:
        fresh.begin(sequence)
    Drafter(fresh).propose([Ask(s, 1) for s in sequences])
    head = EagleProposer("fresh", world.heads[0], world.model, pages_before=fresh.pages_before)
    assert head.propose(asks).tokens == used
    assert all(len(tree) == 12 for tree in used)


@every_tier
def test_stacks_that_share_a_model_each_go_on_where_the_text_is(kind: str) -> None:
    """A planner that changes between stacks with and without the head, at random lengths."""
    world = World(kind, "oracle")
    names = ("model:m@w4a8 > w8a16", "ngram > model:m@w4a8 > w8a16", "w4a8 > model:m@w4a8 > w8a16")
    stacks = [HIERARCHY, *map(Cascade.parse, names)]
    planner = RandomPlanner([*map(world.source.of, stacks), None], seed=11, most=9)
    got = run(world.target, planner, SAMPLERS["seeded"])
    assert [state(world.target, s) for s in got] == plain(kind, "seeded")
    assert _total(got).links["eagle:h > model:m@w4a8"].accepted_tokens > 0


@every_tier
def test_a_model_that_has_not_run_the_text_is_asked_for_its_own_token_first(kind: str) -> None:
    world = World(kind, "oracle")
    proposer = world.source.of(HIERARCHY)
    (sequence, _) = run(world.target, FixedPlan(None, 0), SAMPLERS["greedy"])
    assert proposer is not None
    proposer.begin(sequence)
    first = proposer.propose([Ask(sequence, 9, 12)]).inner[0].rounds
    assert first[0][1] == 0  # nothing proposed for the round that runs the prompt
    assert all(proposed > 0 for _, proposed, _ in first[1:])


def _total(sequences) -> Statistics:  # type: ignore[no-untyped-def]
    total = Statistics()
    for sequence in sequences:
        total.add(sequence.statistics)
    return total
