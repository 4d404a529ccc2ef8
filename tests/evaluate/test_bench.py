"""What the benchmark loop reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte import LLM, SamplingParams
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.bench import bench, spread
from halfbyte.evaluate.exactness import identical


def test_every_cascade_gets_a_row_held_against_its_own_target(talking_llm: LLM) -> None:
    steps: list[str] = []
    rows = bench(
        talking_llm,
        ["w4a8 > w8a16", "w8a16", "w4a8 > w4a16"],
        max_tokens=12,
        rounds=2,
        bandwidth_gbs=10.0,
        report=steps.append,
    )
    assert [r.cascade for r in rows] == ["w4a8 > w8a16", "w8a16", "w4a8 > w4a16"]
    pair, plain, equal_bytes = rows
    assert all(r.identical for r in rows)
    assert (plain.tau, plain.alpha, plain.speedup) == (1.0, [], 1.0)
    assert pair.tau > 1.0
    assert len(pair.alpha) == talking_llm.options.draft_length
    runtime = talking_llm.model.runtime
    assert plain.bytes_per_token == runtime.weight_bytes(talking_llm.cascade.target)
    assert equal_bytes.bytes_per_token > 0
    assert {r.weight_bytes for r in rows} == {runtime.memory_bytes()}
    for row in rows:
        speed = row.tokens_per_second
        assert 0 < speed.p20 <= speed.median <= speed.p80
        share = row.bytes_per_token * speed.median / 10e9
        assert row.share_of_bandwidth == pytest.approx(share)
    # Interleaved: a round goes through all cascades, the plain w4a16 run included.
    assert [s for s in steps if s.startswith("round 1")] == [
        f"round 1 of 2: {c}" for c in ("w8a16", "w4a16", "w4a8 > w8a16", "w4a8 > w4a16")
    ]


def test_auto_alone_has_the_best_target_of_the_weights(talking_llm: LLM) -> None:
    (row,) = bench(talking_llm, ["auto"], max_tokens=6, rounds=1)
    assert row.cascade == "auto > w8a16"
    assert row.identical


def test_a_changed_token_or_logprob_bit_is_a_difference(talking_llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    a = talking_llm.generate("the", params)
    assert identical(a, a)
    token = replace(a[0], token_ids=[*a[0].token_ids[:-1], 1 + a[0].token_ids[-1]])
    nudged = replace(a[0], logprobs=[*a[0].logprobs[:-1], a[0].logprobs[-1] + 1e-12])
    short = replace(a[0], token_ids=a[0].token_ids[:-1], logprobs=a[0].logprobs[:-1])
    for changed in (token, nudged, short):
        assert not identical([changed], a)
    assert not identical([], a)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_spread_is_ordered_and_inside_the_values(values: list[float]) -> None:
    s = spread(values)
    assert min(values) <= s.p20 <= s.median <= s.p80 <= max(values)


def test_spread_of_known_values() -> None:
    s = spread([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert (s.p20, s.median, s.p80) == (2.0, 3.5, 5.0)


def test_no_rounds_are_refused(talking_llm: LLM) -> None:
    with pytest.raises(ArgumentError, match="rounds"):
        bench(talking_llm, ["w8a16"], rounds=0)
