"""A run can be interrupted, goes on, grows, and says the same as one run in one go."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from halfbyte.api.llm import LLM
from halfbyte.cascade.cascade import Cascade
from halfbyte.errors import ArgumentError, SourceError
from halfbyte.evaluate import result_rows
from halfbyte.evaluate.run import evaluate, subset
from halfbyte.evaluate.scorer import Scorer
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.identity import Identity
from halfbyte.evaluate.tasks.perplexity import Perplexity, plain_text
from halfbyte.evaluate.tasks.task import Item, Record, mean, ratio

TEXT = "the thin theme in the inn, then another theme of the thing in there. " * 12


@pytest.fixture
def subject(talking_llm: LLM) -> Subject:
    return Subject(talking_llm, "tiny", "fingerprint")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


class Interrupted(Perplexity):
    """Stops in the middle, as a kill would."""

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        for number, record in enumerate(super().run(subject, items)):
            if number == 2:
                raise KeyboardInterrupt
            yield record


def test_an_interrupted_run_goes_on_and_says_the_same(
    tmp_path: Path, subject: Subject, text: Path
) -> None:
    whole = evaluate(Perplexity(text, 32), subject, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(Interrupted(text, 32), subject, tmp_path / "parts")
    seen: list[tuple[int, int]] = []
    parts = evaluate(
        Perplexity(text, 32),
        subject,
        tmp_path / "parts",
        progress=lambda _, done, total: seen.append((done, total)),
    )
    assert seen[0] == (2, whole[0].items)
    assert [(r.metric, r.value, r.stderr, r.run) for r in parts] == [
        (r.metric, r.value, r.stderr, r.run) for r in whole
    ]


def test_a_finished_run_is_not_repeated_and_leaves_one_row(
    tmp_path: Path, subject: Subject, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(Perplexity(text, 32), subject, tmp_path)
    monkeypatch.setattr(Scorer, "score", lambda *_: pytest.fail("scored again"))
    assert evaluate(Perplexity(text, 32), subject, tmp_path)[0].value == first[0].value
    assert len(result_rows.read(tmp_path / "rows.jsonl")) == 1


def test_a_larger_limit_only_adds_items(tmp_path: Path, subject: Subject, text: Path) -> None:
    done: list[int] = []

    def watch(_: str, finished: int, total: int) -> None:
        done.append(finished)

    evaluate(Perplexity(text, 32), subject, tmp_path, limit=3)
    row = evaluate(Perplexity(text, 32), subject, tmp_path, limit=5, progress=watch)[0]
    assert done == [3, 4, 5]
    assert (row.items, row.limit) == (5, 5)
    assert row.total > 5


def test_a_subset_is_spread_over_the_data_and_grows() -> None:
    items = [Item(str(i), {}) for i in range(500)]
    few, more = subset(items, 50), subset(items, 100)
    assert more[:50] == few
    assert 150 < np.mean([int(i.id) for i in few]) < 350
    assert subset(items, None) == subset(items, 500) == items


def test_perplexity_is_that_of_the_windows_tokens(
    tmp_path: Path, subject: Subject, text: Path
) -> None:
    task = Perplexity(text, 32)
    row = evaluate(task, subject, tmp_path)[0]
    nll: list[float] = []
    for item in task.items(subject):
        tokens = item.data["tokens"]
        assert len(tokens) == 32
        assert tokens[0] == subject.llm.model.codec.bos_id
        with Scorer(subject.llm.model, subject.level, max_tokens=32) as scorer:
            nll += list(-scorer.score(tokens[:1], tokens[1:]).logprobs)
    assert row.n == len(nll)
    assert row.value == pytest.approx(math.exp(np.mean(nll)), rel=1e-12)


def test_perplexity_under_a_cascade_is_its_targets(
    tmp_path: Path, subject: Subject, text: Path
) -> None:
    plain = evaluate(Perplexity(text, 32), subject.under(Cascade.parse("w8a16")), tmp_path)
    pair = evaluate(Perplexity(text, 32), subject, tmp_path)
    other = evaluate(Perplexity(text, 32), subject.under(Cascade.parse("w4a8")), tmp_path)
    assert pair[0].run == plain[0].run != other[0].run
    assert pair[0].value == plain[0].value != other[0].value


def test_generation_under_a_cascade_equals_its_target_to_the_bit(
    tmp_path: Path, subject: Subject
) -> None:
    data = tmp_path / "test.jsonl"
    rows = [{"question": f"How many is {i}?"} for i in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = Identity(data, max_tokens=24)
    pair = evaluate(task, subject.under(Cascade.parse("w4a8 > w8a16")), tmp_path / "out")[0]
    other = evaluate(task, subject.under(Cascade.parse("w4a4 > w4a16")), tmp_path / "out")[0]
    assert (pair.metric, pair.value, pair.n) == ("identical", 1.0, 3)
    assert other.value == 1.0
    assert pair.details["output"] != other.details["output"], "of another target"
    assert pair.run != other.run
    assert 0 < sum(pair.details["accepted"]) < sum(pair.details["proposed"])
    with pytest.raises(ArgumentError, match="drafts nothing"):
        task.items(subject.under(Cascade.parse("w8a16")))


def test_an_output_that_differs_is_counted(
    tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "test.jsonl"
    data.write_text('{"question": "the"}\n{"question": "thin"}\n', encoding="utf-8")
    pair = subject.under(Cascade.parse("w4a8 > w8a16"))
    monkeypatch.setattr(Cascade, "plain", property(lambda _: Cascade.parse("w4a4")))
    assert evaluate(Identity(data, 24), pair, tmp_path)[0].value == 0.0


def test_a_text_too_short_for_a_window_is_refused(tmp_path: Path, subject: Subject) -> None:
    path = tmp_path / "short.txt"
    path.write_text("the", encoding="utf-8")
    with pytest.raises(SourceError, match="at least one window"):
        evaluate(Perplexity(path, 64), subject, tmp_path)


def test_document_marks_of_an_extracted_wikipedia_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text('<doc id="1" title="A">\nA\nsays <doc> here\n</doc>\nend\n', encoding="utf-8")
    assert plain_text(path) == "A\nsays <doc> here\nend\n"


def test_a_mean_has_the_standard_error_of_its_sample() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    metric = mean("accuracy", values)
    assert metric.value == 0.6
    assert metric.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))
    assert mean("accuracy", [1.0]).stderr is None


def test_a_ratio_weighs_clusters_by_their_tokens() -> None:
    metric = ratio("nll", [10.0, 30.0, 5.0], [5, 10, 5])
    assert metric.value == 45 / 20
    residuals = np.array([10 - 2.25 * 5, 30 - 22.5, 5 - 11.25])
    assert metric.stderr == pytest.approx(math.sqrt((residuals**2).sum() * 3 / 2) / 20)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"task": "gsm8k"}\n', encoding="utf-8")
    with pytest.raises(SourceError, match="row 1: got no"):
        result_rows.read(path)
