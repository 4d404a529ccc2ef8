from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from benchmarks.measure.arguments import alias, renamed
from benchmarks.measure.paired import Ratio
from benchmarks.measure.queues import AUTO, Runs, agree, measure, num_prompts
from benchmarks.measure.workloads import KINDS, load
from benchmarks.planner.auto import predicted_speedup

from halfbyte.api.llm import LLM
from halfbyte.cascade.statistics import LinkStatistics, Statistics
from halfbyte.config import Level
from halfbyte.errors import SourceError
from halfbyte.planner.cost_table import CostTable, DraftCost

TARGET = Level.parse("w8a16")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four rows of every file."""
    for name, row in (
        ("mt_bench_4.jsonl", {"turns": ["hello {}", "again"]}),
        ("humaneval_4.jsonl", {"prompt": "def f{}():"}),
        ("gsm8k_4.jsonl", {"question": "1 + {}?"}),
        ("text_by_source_4.jsonl", {"text": "once {} " * 9}),
    ):
        lines = [json.dumps(row).replace("{}", str(i)) for i in range(4)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_every_kind_of_work_has_its_prompts(data: Path) -> None:
    work = load(data, KINDS, 2)
    assert {kind: len(prompts) for kind, prompts in work.items()} == dict.fromkeys(KINDS, 2)
    assert [kind for kind in KINDS if not work[kind][0].is_chat] == ["free"]
    copied, continued = work["copy"][0].text, work["free"][0].text
    assert copied.endswith("once 0 " * 9)
    assert "0" not in continued, "free text must not be what copying repeats"


def test_missing_and_broken_texts_are_named(data: Path) -> None:
    with pytest.raises(SourceError, match="4 texts"):
        load(data, ["chat"], 5)
    (data / "gsm8k_4.jsonl").write_text('{"answer": 1}')
    with pytest.raises(SourceError, match="KeyError"):
        load(data, ["maths"], 1)
    with pytest.raises(SourceError, match=r"mt_bench\*"):
        load(data / "nowhere", ["chat"], 1)


def test_a_round_has_whole_queues() -> None:
    assert [num_prompts(batch, 4) for batch in (1, 2, 3, 4, 16)] == [4, 4, 6, 8, 32]


def test_a_ratio_lies_between_order_statistics() -> None:
    few = Ratio.of([1.0, 4.0, 3.0], [1.0, 2.0, 1.0])
    assert (few.median, few.interval) == (2.0, [1.0, 3.0])
    # Of 8 tosses fewer than 2 heads: 9 in 256, twice that is 7%; fewer than 3 are too likely.
    eight = Ratio.of([float(i) for i in range(1, 9)], [1.0] * 8)
    assert (eight.median, eight.interval) == (4.5, [2.0, 7.0])


def test_outputs_agree_as_far_as_both_came() -> None:
    assert agree([[1, 2, 3], [], [4]], [[1, 2], [7], [4, 5]])
    assert not agree([[1, 2, 3], [5]], [[1, 2], [4, 5]])
    assert not agree([[], [4]], [[1], []]), "nothing was compared"


def test_rows_have_names_in_the_place_of_paths() -> None:
    assert alias("/a/b.gguf=b") == ("/a/b.gguf", "b")
    assert renamed("auto | model:/a/b.gguf@w4a8 > w8a16", {"/a/b.gguf": "b"}) == (
        "auto | model:b@w4a8 > w8a16"
    )
    with pytest.raises(argparse.ArgumentTypeError):
        alias("=b")


def test_the_prediction_is_equation_1() -> None:
    table = CostTable(
        (1, 5), (100,), {"w8a16": (1.0, 1.4), "w4a8": (0.5, 0.7)}, ((0.0,), (0.0,)),
        {"w4a8": DraftCost(0.6, 0.5)},
    )  # fmt: skip
    total = Statistics(emitted_tokens=39, target_forwards=10)
    total.outcomes[4, 4] = 5
    total.outcomes[4, 2] = 4
    total.outcomes[4, 0] = 1
    total.links["w4a8 > w8a16"] = LinkStatistics(forwards=40)
    runs = Runs(total=total, contexts=[100.0], cycles=Counter({(1, 4): 10}))
    plain = Runs(total=Statistics(target_forwards=20))
    got = predicted_speedup(table, TARGET, 1, "w4a8", runs, plain)
    assert got == pytest.approx(3.8 / ((0.6 + 3 * 0.5) + 1.4))
    assert predicted_speedup(table, TARGET, 1, "w4a8", Runs(), plain) is None
    total.host_seconds, plain.total.host_seconds = 1.0, 4.0
    got = predicted_speedup(table, TARGET, 1, "w4a8", runs, plain)
    assert got == pytest.approx(3.8 * 1.2 / ((0.6 + 3 * 0.5) + 1.4 + 0.1))


def test_all_variants_decode_the_same_tokens(talking_llm: LLM, data: Path) -> None:
    auto = talking_llm.with_cascade("auto > w8a16")
    prompts = load(data, ["chat"], 2)["chat"]
    variants = ["w8a16", AUTO, "ngram > w4a8 > w8a16 @6"]
    calls: list[str] = []
    before, between = partial(calls.append, "before"), partial(calls.append, "between")
    found = measure(auto, variants, prompts, 1, tokens=12, rounds=2, before=before, between=between)
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
    found = measure(auto, ["w8a16", AUTO, "ngram > w8a16 @4"], prompts, 2, tokens=12, rounds=1)
    for runs in found.values():
        assert agree(runs.outputs, found["w8a16"].outputs)
        assert len(runs.queues) == 1
        decoded = runs.total.emitted_tokens - runs.total.prefill_emitted
        assert decoded >= 4 * 11
        alone = sum(n for (size, _), n in runs.cycles.items() if size == 1)
        # A sequence is alone only while another's prompt runs.
        assert alone <= runs.total.prefill_emitted
