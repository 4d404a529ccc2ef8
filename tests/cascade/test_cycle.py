"""Accepting, and the cycle against a runtime that punishes every misplaced position."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cycle import CycleReport, Turn, run_cycle
from halfbyte.cascade.verify import Fate, Outcome
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.proposers.build import Proposers
from halfbyte.runtime.accept import accept
from halfbyte.sampling.sampler import GREEDY, Sampler
from tests.support.fake_runtime import FakeRuntime

tokens = st.lists(st.integers(0, 3), max_size=9)


@given(tokens, st.data())
def test_accepted_length_is_the_longest_common_prefix(
    draft: list[int], data: st.DataObject
) -> None:
    size = len(draft) + 1
    target = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    accepted = accept(draft, target)
    n = len(accepted)
    assert accepted == list(range(n))
    assert draft[:n] == target[:n]
    assert n == len(draft) or draft[n] != target[n]


@given(st.integers(0, 8), st.data())
def test_fates_name_every_emitted_token_once(proposed: int, data: st.DataObject) -> None:
    accepted = data.draw(st.integers(0, proposed))
    fates = Outcome([0] * (accepted + 1), [0.0] * (accepted + 1), proposed, accepted).fates()
    assert len(fates) == accepted + 1
    assert fates.count(Fate.ACCEPTED) == accepted
    last = Fate.PLAIN if proposed == 0 else Fate.BONUS if accepted == proposed else Fate.RECOVERED
    assert fates[-1] is last


def _sequence(pool: PagePool, prompt: list[int], sampler: Sampler = GREEDY) -> Sequence:
    table = PageTable(pool, 400)
    table.grow(200)
    return Sequence(prompt, table=table, sampler=sampler, limit=100, stop_ids=frozenset())


def _cycle(
    runtime: FakeRuntime,
    cascade: str,
    sequences: list[Sequence],
    lengths: list[int],
    min_confidence: float = 0.0,
) -> CycleReport:
    parsed = Cascade.parse(cascade)
    proposer = Proposers(runtime, min_confidence).of(parsed)
    return run_cycle(runtime, parsed.target, sequences, [Turn(proposer, n) for n in lengths])


def _decode(cascade: str, lengths: list[list[int]], min_confidence: float = 0.0) -> list[list[int]]:
    """Token ids of two one-token prompts after one cycle per entry of `lengths`."""
    runtime = FakeRuntime(num_pages=128, page_size=4, disagree_percent=30)
    pool = PagePool(runtime.num_pages, runtime.page_size)
    sequences = [_sequence(pool, [5]), _sequence(pool, [11])]
    for per_sequence in lengths:
        before = [s.committed_len for s in sequences]
        report = _cycle(runtime, cascade, sequences, per_sequence, min_confidence)
        for sequence, old, outcome in zip(sequences, before, report.outcomes, strict=True):
            assert sequence.committed_len == old + outcome.accepted + 1
            assert sequence.committed_len == len(sequence.tokens) - 1
            assert outcome.accepted <= outcome.proposed
    return [s.tokens for s in sequences]


PLAIN = _decode("w8a16", [[0, 0]] * 60)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.4, 0.95]),
)
def test_any_ragged_draft_lengths_emit_the_plain_tokens(
    lengths: list[tuple[int, int]], min_confidence: float
) -> None:
    got = _decode("w4a8 > w8a16", [list(pair) for pair in lengths], min_confidence)
    for tokens_, plain in zip(got, PLAIN, strict=True):
        assert tokens_ == plain[: len(tokens_)]


def test_acceptance_is_partial_so_the_property_above_is_not_vacuous() -> None:
    runtime = FakeRuntime(num_pages=128)
    sequence = _sequence(PagePool(128, 4), [5])
    outcomes = [_cycle(runtime, "w4a8 > w8a16", [sequence], [3]).outcomes[0] for _ in range(20)]
    assert {o.accepted for o in outcomes} == {0, 1, 2, 3}


def test_a_cycle_with_nothing_proposed_never_calls_the_draft() -> None:
    runtime = FakeRuntime(num_pages=128)
    sequence = _sequence(PagePool(128, 4), [5])
    for cascade, length in itertools.product(["w8a16", "w4a8 > w8a16"], [0]):
        _cycle(runtime, cascade, [sequence], [length])
    assert [verb for verb, _ in runtime.calls] == ["decode", "forward_sample"] * 2


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.sampled_from([0.0, 0.4]))
def test_one_call_for_a_draft_and_its_verify_says_what_two_say(
    lengths: list[int], min_confidence: float
) -> None:
    found = []
    for sampler in (GREEDY, replace(GREEDY, tops=1)):  # a request for more takes two calls
        runtime = FakeRuntime(num_pages=128, page_size=4, disagree_percent=30)
        sequence = _sequence(PagePool(128, 4), [5], sampler)
        reports = [
            _cycle(runtime, "w4a8 > w8a16", [sequence], [length], min_confidence)
            for length in lengths
        ]
        outcomes = [(o.tokens, o.proposed, o.accepted) for r in reports for o in r.outcomes]
        links = [(k.name, k.forwards, k.bytes_read, k.rounds) for r in reports for k in r.links]
        found.append((outcomes, links, [(r.rows, r.prompt_rows) for r in reports]))
        one_call = sum(verb == "draft_and_verify" for verb, _ in runtime.calls)
        assert one_call == (sum(n > 0 for n in lengths) if sampler is GREEDY else 0)
    assert found[0] == found[1]
