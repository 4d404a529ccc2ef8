"""Every cascade gives the plain tokens, logprobs and committed KV, over real kernels."""

from __future__ import annotations

import pytest

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.statistics import Statistics
from tests.exactness.runs import SAMPLERS, other_model, plain, run, runtime_of, state
from tests.support.proposers import RandomPlanner, noise, proposers
from tests.support.runtimes import every_runtime

CASCADES = [
    "w4a4 > w8a16",
    "ngram > w8a16",
    "ngram > w4a8 > w8a16",
    "w4a4 > w4a8 > w8a16",
    "model:m@w4a8 > w8a16",
    "ngram > model:m@w4a8 > w8a16",
    "w4a8 > model:m@w8a16 > w8a16",
    "model:m@w4a4 > w4a8 > w8a16",
]


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cascade", CASCADES)
def test_every_cascade_decodes_as_plain_to_the_last_bit(
    kind: str, cascade: str, sampler: str
) -> None:
    runtime = runtime_of(kind)
    built = proposers(runtime, other_model(kind) if "model:" in cascade else None)
    proposer = built.of(Cascade.parse(cascade))
    assert proposer is not None
    sequences = run(runtime, FixedPlan(proposer, 7, 3), SAMPLERS[sampler])
    assert [state(runtime, s) for s in sequences] == plain(kind, sampler)
    total = Statistics()
    for sequence in sequences:
        total.add(sequence.statistics)
    for name, link in total.links.items():
        # Text drawn at random does not repeat itself: there n-grams propose and are refused.
        least = 0 if name.startswith("ngram") and sampler == "seeded" else 1
        assert least <= link.accepted_tokens <= link.draft_tokens > 0, name


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_planner_that_chooses_at_random_decodes_as_plain(kind: str, sampler: str) -> None:
    runtime = runtime_of(kind)
    built = proposers(runtime, other_model(kind))
    mixed = [built.of(Cascade.parse(cascade)) for cascade in CASCADES]
    planner = RandomPlanner([*mixed, noise(runtime.config.vocab_size), None], seed=3, most=7)
    sequences = run(runtime, planner, SAMPLERS[sampler])
    assert [state(runtime, s) for s in sequences] == plain(kind, sampler)
    assert len({turn.cascade(Cascade.parse("w8a16").target) for turn in planner.turns}) > 5
