"""Stacks of stages over the fake runtime: exact whatever any stage proposes, of any length."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cycle import Turn
from halfbyte.cascade.planning import FixedPlan, Planner
from halfbyte.cascade.proposer import Proposer
from halfbyte.cascade.stages import Model
from halfbyte.cascade.statistics import Statistics
from halfbyte.config import Level
from halfbyte.engine.engine import Engine, EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.proposers.intermediate import Intermediate
from halfbyte.proposers.runner import SharedRunner
from halfbyte.runtime.protocol import SamplingRow
from halfbyte.sampling.sampler import GREEDY, Sampler
from tests.support.fake_runtime import VOCAB, FakeRuntime
from tests.support.proposers import (
    RandomPlanner,
    Scripted,
    knowing,
    model_runner,
    noise,
    proposers,
    sure,
)

TARGET = Cascade.parse("w8a16")
SEEDED = Sampler(SamplingRow(42, 0.8, 5, 0.9, 0.1))
PROMPTS = [[5, 1, 2, 5, 1], [11], [3] * 9]
STACKS = [
    "w4a8 > w8a16",
    "ngram > w8a16",
    "model:m@w4a8 > w8a16",
    "ngram > w4a8 > w8a16",
    "w4a4 > w4a8 > w8a16",
    "model:m@w4a8 > w4a8 > w8a16",
    "ngram > model:m@w4a8 > w8a16",
    "w4a8 > model:m@w4a8 > w8a16",
    "model:m@w4a8 > model:n@w4a8 > w8a16",
]


def _target(**changes: int) -> FakeRuntime:
    return FakeRuntime(**{"num_pages": 128, **changes}, target="w8a16")  # type: ignore[arg-type]


def _model(percent: int = 25, *, num_pages: int = 128, max_rows: int = 64) -> FakeRuntime:
    return FakeRuntime(
        num_pages=num_pages, page_size=2, max_rows=max_rows, disagree_percent=percent, target="none"
    )


def _run(
    runtime: FakeRuntime, planner: Planner, sampler: Sampler, tokens: int, max_batch: int = 3
) -> list[Sequence]:
    pool = PagePool(runtime.num_pages, runtime.page_size)
    engine = Engine(runtime, pool, TARGET, EngineOptions(max_batch=max_batch), lambda _: planner)
    sequences = []
    for prompt in PROMPTS:
        table = PageTable(pool, pool.num_pages * pool.page_size)
        stops: frozenset[int] = frozenset()
        sequences.append(
            Sequence(prompt, table=table, sampler=sampler, limit=tokens, stop_ids=stops)
        )
        engine.add(sequences[-1])
    while engine.has_work:
        engine.step()
    assert pool.num_free == pool.num_pages
    return sequences


def _plain(sampler: Sampler, tokens: int) -> list[Sequence]:
    return _run(_target(), FixedPlan(None, 0), sampler, tokens)


PLAIN = {sampler: _plain(sampler, 40) for sampler in (GREEDY, SEEDED)}


def _assert_plain(sequences: list[Sequence], sampler: Sampler) -> None:
    for got, plain in zip(sequences, PLAIN[sampler], strict=True):
        assert got.tokens == plain.tokens
        assert got.output.logprobs == plain.output.logprobs


@pytest.mark.parametrize("sampler", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_gives_the_plain_tokens_and_logprobs(stack: str, sampler: Sampler) -> None:
    runtime = _target()
    proposer = proposers(runtime, _model()).of(Cascade.parse(stack))
    assert proposer is not None
    sequences = _run(runtime, FixedPlan(proposer, 8, 3), sampler, 40)
    _assert_plain(sequences, sampler)
    assert f"{proposer.stack} > w8a16" == stack
    link = sequences[0].statistics.links[f"{proposer.name} > w8a16"]
    if stack != "ngram > w8a16":  # the fake's text does not repeat itself
        assert 0 < link.accepted_tokens < link.draft_tokens


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(STACKS), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([20, 26, 128]),
    st.sampled_from([5, 12, 64]),
    st.sampled_from([14, 40, 128]),
    st.sampled_from([GREEDY, SEEDED]),
)
def test_a_planner_that_chooses_at_random_changes_nothing(
    stacks: list[str],
    seed: int,
    confidence: float,
    num_pages: int,
    max_rows: int,
    model_pages: int,
    sampler: Sampler,
) -> None:
    runtime = _target(num_pages=num_pages, max_rows=max_rows)
    model = _model(num_pages=model_pages, max_rows=max_rows)
    built = proposers(runtime, model, confidence)
    mixed = [built.of(Cascade.parse(stack)) for stack in stacks]
    script = knowing([s.tokens for s in PLAIN[sampler]], 3, VOCAB)
    for runner in (
        SharedRunner(runtime, Level(4, 8)),
        model_runner(model, Model("k", Level(4, 8))),
    ):
        mixed.append(Intermediate(sure(script), runner, confidence))
    planner = RandomPlanner([*mixed, noise(VOCAB, seed), None], seed)
    _assert_plain(_run(runtime, planner, sampler, 40), sampler)


# Claim C1 of SpecMQuant's notes: the output does not depend on the proposer.
@pytest.mark.parametrize("under", ["the target", "a level", "a model"])
@pytest.mark.parametrize("wrong_every", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("sampler", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_claim_c1_output_is_plain_for_any_proposer(
    sampler: Sampler, wrong_every: int, under: str
) -> None:
    runtime = _target()
    known = [s.tokens for s in PLAIN[sampler]]
    script = noise(VOCAB) if wrong_every == 7 else knowing(known, wrong_every, VOCAB)
    proposer: Proposer = script
    if under == "a level":
        proposer = Intermediate(script, SharedRunner(runtime, Level(4, 8)))
    elif under == "a model":
        proposer = Intermediate(script, model_runner(_model(), Model("m", Level(4, 8))))
    sequences = _run(runtime, FixedPlan(proposer, 6, 3), sampler, 40)
    _assert_plain(sequences, sampler)
    accepted = sum(a for _, a in script.observed)
    proposed = sum(p for p, _ in script.observed)
    assert proposed > 0
    if wrong_every == 0 and under == "the target":
        assert accepted == proposed
    if wrong_every == 1 and under == "the target":
        assert accepted == 0
    assert not script.begun


# Claim C5: the stages are separable.
def _hierarchy(script: Proposer, percent: int, tokens: int = 400) -> list[Sequence]:
    runtime = _target()
    stage = Intermediate(script, model_runner(_model(percent), Model("m", Level(4, 8))))
    return _run(runtime, FixedPlan(stage, 9, 3), GREEDY, tokens, max_batch=1)


def test_claim_c5_a_random_inner_proposer_leaves_output_and_outer_agreement() -> None:
    known = [s.tokens for s in _plain(GREEDY, 400)]
    agreement, inner_tau = {}, {}
    outputs = []
    for script in (knowing(known, 0, VOCAB), noise(VOCAB)):
        sequences = _hierarchy(script, 25)
        outputs.append([s.tokens for s in sequences])
        total = Statistics()
        for sequence in sequences:
            total.add(sequence.statistics)
        outer = total.links["model:m@w4a8 > w8a16"]
        rejections = sum(n for (p, a), n in outer.outcomes.items() if a < p)
        agreement[script.name] = outer.accepted_tokens / (outer.accepted_tokens + rejections)
        inner_tau[script.name] = total.links[f"{script.name} > model:m@w4a8"].tau
    assert outputs[0] == outputs[1] == known
    # How often the intermediate is right is between it and the target.
    assert agreement["knowing"] == pytest.approx(agreement["noise"], abs=0.05)
    assert inner_tau["knowing"] > inner_tau["noise"] + 0.5


def test_claim_c5_an_intermediate_equal_to_the_target_is_always_fully_accepted() -> None:
    for sequence in _hierarchy(noise(VOCAB), 0):
        link = sequence.statistics.links["model:m@w4a8 > w8a16"]
        assert all(proposed == accepted for proposed, accepted in link.outcomes)
        assert link.cycles > 30


@pytest.mark.parametrize("inner_length", range(5))
@pytest.mark.parametrize("minimum", [1, 4, 6])
def test_claim_c5_draft_length_lies_between_minimum_and_minimum_plus_inner_length(
    minimum: int, inner_length: int
) -> None:
    runtime = _target()
    known = [s.tokens for s in PLAIN[GREEDY]]
    script = knowing(known, 3, VOCAB)
    stage = Intermediate(script, SharedRunner(runtime, Level(4, 8)))
    sequences = _run(runtime, FixedPlan(stage, minimum + inner_length, inner_length), GREEDY, 30)
    for sequence in sequences:
        proposed = [p for p, _ in sequence.statistics.links["w4a8 > w8a16"].outcomes]
        assert max(proposed) <= minimum + inner_length
        # The last cycles are cut to what is still wanted.
        short = [p for p in proposed if p < minimum]
        assert len(short) <= minimum
        assert any(p >= minimum for p in proposed)


def test_a_round_for_which_nothing_is_proposed_ends_a_draft_but_is_run_if_it_is_the_first() -> None:
    runtime = _target()
    known = [s.tokens for s in PLAIN[GREEDY]]
    right = knowing(known, 0, VOCAB)
    # Only at every seventh position of the text has it anything to say.
    script = Scripted("now and then", lambda text, n: right._script(text, n * (len(text) % 7 == 0)))
    runtime.disagree_percent = 0
    stage = Intermediate(script, SharedRunner(runtime, Level(4, 8)))
    sequences = _run(runtime, FixedPlan(stage, 9, 3), GREEDY, 40)
    _assert_plain(sequences, GREEDY)
    proposed = [p for p, _ in script.observed]
    assert proposed.count(3) > 3
    for sequence in sequences:
        # The minimum is 6. A first round without proposals brings 1, any with proposals 4.
        drafts = {p for p, _ in sequence.statistics.links["w4a8 > w8a16"].outcomes}
        assert 1 in drafts
        assert 4 <= max(drafts) <= 5


@pytest.mark.parametrize("sampler", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("under", ["a level", "a model"])
@pytest.mark.parametrize("wrong_every", [0, 3])
def test_what_a_stage_is_sure_of_goes_to_the_target_unjudged(
    wrong_every: int, under: str, sampler: Sampler
) -> None:
    runtime, model = _target(), _model()
    script = sure(knowing([s.tokens for s in PLAIN[sampler]], wrong_every, VOCAB))
    runner = SharedRunner(runtime, Level(4, 8))
    middle = runner if under == "a level" else model_runner(model, Model("m", Level(4, 8)))
    sequences = _run(runtime, FixedPlan(Intermediate(script, middle), 6, 3), sampler, 40)
    _assert_plain(sequences, sampler)
    assert not script.observed, "no stage in the middle judged"
    for sequence in sequences:
        link = sequence.statistics.links[f"{middle.name} > w8a16"]
        assert link.forwards == 0
        assert max(p for p, _ in link.outcomes) == 6
        assert link.accepted_tokens > 0
        assert (link.accepted_tokens == link.draft_tokens) == (wrong_every == 0)


def test_what_a_stage_is_sure_of_after_a_round_ends_the_draft() -> None:
    runtime = _target()
    runtime.disagree_percent = 0
    right = knowing([s.tokens for s in PLAIN[GREEDY]], 0, VOCAB)
    # It knows how to go on from every second place only: the stage in the middle bridges the gap.
    script = sure(
        Scripted("now and then", lambda text, n: right._script(text, n * (len(text) % 2)))
    )
    stage = Intermediate(script, SharedRunner(runtime, Level(4, 8)))
    sequences = _run(runtime, FixedPlan(stage, 6, 3), GREEDY, 40)
    _assert_plain(sequences, GREEDY)
    for sequence in sequences:
        link = sequence.statistics.links["w4a8 > w8a16"]
        assert link.accepted_tokens == link.draft_tokens
        # A gap of one token, and then all that there is room for.
        assert max(p for p, _ in link.outcomes) == 6
        assert 0 < link.forwards < link.cycles


def test_a_draft_the_intermediate_is_unsure_of_ends_there() -> None:
    runtime = _target()
    sure = proposers(runtime, confidence=0.9).of(Cascade.parse("w4a4 > w4a8 > w8a16"))
    any_ = proposers(runtime).of(Cascade.parse("w4a4 > w4a8 > w8a16"))
    lengths = []
    for proposer in (sure, any_):
        sequences = _run(runtime, FixedPlan(proposer, 9, 3), GREEDY, 40)
        _assert_plain(sequences, GREEDY)
        lengths.append(sequences[0].statistics.draft_tokens / sequences[0].statistics.cycles)
    assert lengths[0] < lengths[1]


def test_sequences_without_a_proposer_share_the_verify_forward() -> None:
    runtime = _target()
    proposer = proposers(runtime).of(Cascade.parse("w4a8 > w8a16"))

    class Half(FixedPlan):
        def plan(self, sequences: object) -> list[Turn]:
            return [Turn(), Turn(proposer, 4), Turn()][: len(sequences)]  # type: ignore[arg-type]

    sequences = _run(runtime, Half(proposer, 4), GREEDY, 40)
    _assert_plain(sequences, GREEDY)
    assert sequences[1].statistics.links
    assert not sequences[0].statistics.links
