from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from benchmarks.measure.loop import Runs, agree, measure, num_prompts
from benchmarks.measure.variants import AUTO, decoders
from benchmarks.measure.workloads import load

from halfbyte.api.llm import LLM
from halfbyte.cascade.statistics import Statistics


def test_a_round_has_whole_queues() -> None:
    assert [num_prompts(batch, 4) for batch in (1, 2, 3, 4, 16)] == [4, 4, 6, 8, 32]


def test_the_speed_of_a_round_is_that_of_its_queues_one_after_another() -> None:
    runs = Runs(rounds=[Statistics(), Statistics()], queues=[1.0, 3.0, 2.0, 2.0])
    assert runs.speeds == pytest.approx([1.5, 2.0])


def test_outputs_agree_as_far_as_both_came() -> None:
    assert agree([[1, 2, 3], [], [4]], [[1, 2], [7], [4, 5]])
    assert not agree([[1, 2, 3], [5]], [[1, 2], [4, 5]])
    assert not agree([[], [4]], [[1], []]), "nothing was compared"


def test_a_logprob_that_differs_is_another_output() -> None:
    assert not agree([[(1, -0.5), (2, -0.25)]], [[(1, -0.5), (2, -0.26)]])


def test_all_variants_decode_the_same_tokens(talking_llm: LLM, data: Path) -> None:
    auto = talking_llm.with_cascade("auto > w8a16")
    prompts = load(data, ["chat"], 2)["chat"]
    variants = ["w8a16", AUTO, "ngram > w4a8 > w8a16 @6"]
    calls: list[str] = []
    found = measure(
        decoders(auto, variants),
        prompts,
        1,
        tokens=12,
        rounds=2,
        warming=variants[:2],
        before=partial(calls.append, "before"),
        between=partial(calls.append, "between"),
    )
    assert calls.count("before") == 4, "two rounds of two"
    assert calls[0] == "before"
    assert {b for a, b in pairwise(calls) if a == "before"} == {"between"}
    assert calls[-1] == "between"
    for runs in found.values():
        assert runs.outputs == found["w8a16"].outputs
        assert len(runs.outputs) == 2
        assert all(size == 1 for size, _ in runs.cycles)
        assert sum(runs.cycles.values()) == runs.total.target_forwards
        assert sum(p * n for (_, p), n in runs.cycles.items()) == runs.total.draft_tokens
        assert len(runs.speeds) == 2
        assert all(speed > 0 for speed in runs.speeds)


def test_a_batch_stays_full_until_as_many_tokens_have_come_as_its_queue_has(
    talking_llm: LLM, data: Path
) -> None:
    auto = talking_llm.with_cascade("auto > w8a16")
    prompts = load(data, ["chat"], 4)["chat"]
    names = ["w8a16", AUTO, "ngram > w8a16 @4"]
    subjects = decoders(auto, names)
    found = measure(subjects, prompts, 2, tokens=12, rounds=1, warming=names[:2])
    for runs in found.values():
        assert agree(runs.outputs, found["w8a16"].outputs)
        assert len(runs.queues) == 1
        decoded = runs.total.emitted_tokens - runs.total.prefill_emitted
        assert decoded >= 4 * 11
        alone = sum(n for (size, _), n in runs.cycles.items() if size == 1)
        # A sequence is alone only while another's prompt runs.
        assert alone <= runs.total.prefill_emitted
