"""The output of a sequence is a function of its prompt and sampler alone."""

from __future__ import annotations

from time import sleep

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from halfbyte.cascade.verify import Fate
from halfbyte.config import Level
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import Batch, Decoded, Sampled, Sampling, SamplingRow
from halfbyte.sampling.sampler import GREEDY, Sampler
from tests.support.engines import engine_of
from tests.support.fake_runtime import VOCAB, FakeRuntime

prompts = st.lists(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30), min_size=1, max_size=5
)
samplers = st.builds(
    Sampler,
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.sampled_from([0.0, 0.8]),
        st.sampled_from([0, 5]),
        st.sampled_from([1.0, 0.9]),
        st.sampled_from([0.0, 0.1]),
    ).map(lambda values: SamplingRow(*values)),
)


def _sequence(
    pool: PagePool,
    prompt: list[int],
    sampler: Sampler,
    limit: int,
    stops: frozenset[int] = frozenset(),
) -> Sequence:
    table = PageTable(pool, pool.num_pages * pool.page_size)
    return Sequence(prompt, table=table, sampler=sampler, limit=limit, stop_ids=stops)


def _run(
    runtime: FakeRuntime,
    cascade: str,
    options: EngineOptions,
    requests: list[tuple[list[int], Sampler, int]],
    stops: frozenset[int] = frozenset(),
) -> list[Sequence]:
    pool = PagePool(runtime.num_pages, runtime.page_size)
    engine = engine_of(runtime, pool, cascade, options)
    sequences = [_sequence(pool, p, c, n, stops) for p, c, n in requests]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    assert pool.num_free == pool.num_pages
    return sequences


def _alone(prompt: list[int], sampler: Sampler, limit: int) -> Sequence:
    options = EngineOptions(draft_length=0, max_batch=1, burst_seconds=0)
    return _run(FakeRuntime(num_pages=99), "w8a16", options, [(prompt, sampler, limit)])[0]


@settings(max_examples=60, deadline=None)
@given(
    prompts,
    st.data(),
    st.integers(0, 8),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 5),
    st.sampled_from([5, 9, 64]),
    st.sampled_from([1, 3, 4, 16]),
    st.integers(0, 30),
)
def test_output_is_plain_decoding_whatever_the_schedule(
    texts: list[list[int]],
    data: st.DataObject,
    draft_length: int,
    min_confidence: float,
    max_batch: int,
    max_rows: int,
    page_size: int,
    spare_pages: int,
) -> None:
    requests = [(p, data.draw(samplers), data.draw(st.integers(1, 20))) for p in texts]
    longest = max(len(p) + n for p, _, n in requests)
    runtime = FakeRuntime(
        # From just enough for one sequence (so others wait or are preempted) to plenty.
        num_pages=-(-longest // page_size) + spare_pages,
        page_size=page_size,
        max_rows=max_rows,
    )
    options = EngineOptions(draft_length, min_confidence, max_batch)
    for sequence, request in zip(
        _run(runtime, "w4a8 > w8a16", options, requests), requests, strict=True
    ):
        plain = _alone(*request)
        assert sequence.emitted == plain.emitted
        assert sequence.output.logprobs == plain.output.logprobs
        assert sequence.finish_reason == plain.finish_reason == "length"
        assert len(sequence.emitted) == request[2] == len(sequence.output.fates)


@settings(max_examples=40, deadline=None)
@given(st.frozensets(st.integers(0, VOCAB - 1), min_size=8, max_size=20), st.integers(0, 8))
def test_a_stop_token_inside_a_cycle_ends_the_sequence_there(
    stops: frozenset[int], draft_length: int
) -> None:
    request = ([3, 1, 4], GREEDY, 60)
    options = EngineOptions(draft_length=draft_length)
    plain = _alone(*request)
    cut = next((i for i, t in enumerate(plain.emitted) if t in stops), None)
    expected = plain.emitted if cut is None else plain.emitted[: cut + 1]
    got = _run(FakeRuntime(), "w4a8 > w8a16", options, [request], stops)[0]
    assert got.emitted == expected
    assert got.output.logprobs == plain.output.logprobs[: len(expected)]
    assert got.finish_reason == ("length" if cut is None else "stop")


def test_every_emitted_token_has_a_fate_and_they_match_the_statistics() -> None:
    options = EngineOptions(draft_length=4)
    request = ([3, 1, 4], GREEDY, 50)
    sequence = _run(FakeRuntime(), "w4a8 > w8a16", options, [request])[0]
    assert sequence.output.fates.count(Fate.ACCEPTED) == sequence.statistics.accepted_tokens > 0
    assert sequence.statistics.emitted_tokens == 50
    assert sequence.statistics.prefill_emitted == 1
    assert sequence.statistics.tau == 49 / sequence.statistics.cycles > 1.0


def test_short_pages_make_sequences_wait_and_none_is_lost() -> None:
    runtime = FakeRuntime(num_pages=6, page_size=4)
    requests = [([i] * 8, GREEDY, 12) for i in range(6)]
    sequences = _run(runtime, "w4a8 > w8a16", EngineOptions(max_batch=6), requests)
    assert [s.finish_reason for s in sequences] == ["length"] * 6


def test_between_steps_a_sequence_holds_pages_for_its_committed_positions_only() -> None:
    runtime = FakeRuntime(num_pages=64, page_size=2)
    pool = PagePool(runtime.num_pages, runtime.page_size)
    engine = engine_of(runtime, pool, "w4a8 > w8a16", EngineOptions(draft_length=8))
    sequences = [_sequence(pool, [i, 2], GREEDY, 30) for i in range(3)]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
        held = [pool.pages_for(s.committed_len) for s in sequences]
        assert [s.table.num_pages for s in sequences] == held
        assert pool.num_free == pool.num_pages - sum(held)


def test_several_prompts_share_one_forward_and_get_their_first_token_from_it() -> None:
    runtime = FakeRuntime(max_rows=64)
    requests = [([i] * 9, GREEDY, 2) for i in range(4)]
    _run(runtime, "w8a16", EngineOptions(max_batch=4), requests)
    assert runtime.calls == [("forward_sample", 36), ("decode", 4), ("forward_sample", 4)]


def test_a_long_prompt_is_cut_into_chunks_beside_those_who_decode() -> None:
    runtime = FakeRuntime(max_rows=64, num_pages=99)
    pool = PagePool(runtime.num_pages, runtime.page_size)
    options = EngineOptions(draft_length=0, prefill_rows=10)
    engine = engine_of(runtime, pool, "w8a16", options)
    engine.add(_sequence(pool, [1, 2], GREEDY, 20))
    engine.step()
    engine.add(_sequence(pool, [3] * 35, GREEDY, 2))
    runtime.calls.clear()
    for _ in range(5):
        engine.step()
    rows = [rows for verb, rows in runtime.calls if verb == "forward_sample"]
    assert rows == [11, 11, 11, 6, 2]


class SlowRuntime(FakeRuntime):
    """A forward takes 4 ms; notes of each burst its limit, its tokens and its sequences."""

    def __init__(self) -> None:
        super().__init__(num_pages=99)
        self.bursts: list[tuple[int, int, int]] = []

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        sleep(0.004)
        return super().forward_sample(batch, level, logit_rows, sampling)

    def decode(self, batch: Batch, level: Level, length: int, sampling: Sampling) -> Decoded:
        decoded = super().decode(batch, level, length, sampling)
        if length > 1:
            self.bursts.append((length, decoded.tokens.shape[1], len(batch.tokens)))
        return decoded


PLAIN = GREEDY


@pytest.mark.parametrize("seconds", [0.0, 0.003, 0.013, 1.0])
def test_a_burst_takes_no_longer_than_it_may(seconds: float) -> None:
    runtime = SlowRuntime()
    options = EngineOptions(burst_seconds=seconds)
    (sequence,) = _run(runtime, "w8a16", options, [([1, 2], PLAIN, 40)])
    assert all(length * 0.004 <= seconds for length, _, _ in runtime.bursts)
    assert bool(runtime.bursts) == (seconds > 0.012)
    assert sequence.emitted == _alone([1, 2], PLAIN, 40).emitted
    assert sequence.statistics.target_forwards + 1 == sequence.statistics.emitted_tokens == 40
    assert sequence.statistics.tau == 1


def test_nobody_who_waits_or_wants_more_is_kept_by_a_burst() -> None:
    for sampler, count in ((PLAIN, 3), (Sampler(tops=2), 1)):
        runtime = SlowRuntime()
        options = EngineOptions(burst_seconds=1.0, max_batch=2)
        # Two run, of the same length, and with three the last one waits until they are done.
        _run(runtime, "w8a16", options, [([i], sampler, 12) for i in range(count)])
        rows = [rows for _, _, rows in runtime.bursts]
        assert rows == ([1] if count == 3 else [])


def test_an_interrupted_burst_goes_on_in_the_next_step() -> None:
    runtime = SlowRuntime()
    runtime.interrupt(wanted=True)
    options = EngineOptions(burst_seconds=1.0)
    (sequence,) = _run(runtime, "w8a16", options, [([1, 2], PLAIN, 10)])
    assert len(runtime.bursts) > 2
    assert {count for _, count, _ in runtime.bursts} == {1}
    assert sequence.emitted == _alone([1, 2], PLAIN, 10).emitted


def test_what_a_burst_decodes_past_a_stop_is_nobodys() -> None:
    alone = _alone([1, 2], PLAIN, 40).emitted
    stop = alone[8]
    options = EngineOptions(burst_seconds=1.0)
    stops = frozenset([stop])
    (sequence,) = _run(FakeRuntime(num_pages=99), "w8a16", options, [([1, 2], PLAIN, 40)], stops)
    kept = alone[: alone.index(stop) + 1]
    assert sequence.emitted == kept
    assert sequence.finish_reason == "stop"
    assert len(sequence.output.logprobs) == len(sequence.output.fates) == len(kept)
    assert sequence.statistics.cycles == len(kept) - 1


def test_a_closed_engine_holds_no_pages() -> None:
    runtime = FakeRuntime()
    pool = PagePool(runtime.num_pages, runtime.page_size)
    engine = engine_of(runtime, pool, "w4a8 > w8a16")
    engine.add(_sequence(pool, [1] * 20, GREEDY, 40))
    engine.step()
    assert pool.num_free < pool.num_pages
    engine.close()
    assert pool.num_free == pool.num_pages
    assert not engine.has_work


def test_pages_held_elsewhere_are_a_named_error_not_a_hang() -> None:
    runtime = FakeRuntime(num_pages=4)
    pool = PagePool(4, 4)
    PageTable(pool, 16).grow(13)
    engine = engine_of(runtime, pool, "w8a16")
    engine.add(_sequence(pool, [1, 2], GREEDY, 4))
    with pytest.raises(ArgumentError, match="KV pool"):
        engine.step()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("draft_length", -1),
        ("draft_length", 1.5),
        ("min_confidence", 1.0),
        ("max_batch", 0),
        ("burst_seconds", 2.0),
        ("burst_seconds", "1"),
    ],
)
def test_engine_options_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=field):
        EngineOptions(**{field: value})  # type: ignore[arg-type]
