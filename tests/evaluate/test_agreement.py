"""Levels against references, and proposals against the target."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from halfbyte.api.llm import LLM
from halfbyte.cascade.cascade import Cascade
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.reference import Reference, require_reference
from halfbyte.evaluate.run import evaluate
from halfbyte.evaluate.scorer import Scorer
from halfbyte.evaluate.subject import Subject, load_subject
from halfbyte.evaluate.tasks.acceptance import Acceptance, Agreements
from halfbyte.evaluate.tasks.agreement import Agreement, log_softmax
from halfbyte.sampling.params import SamplingParams

TEXT = "the thin theme in the inn, then another theme of the thing in there. " * 4


@pytest.fixture
def subject(talking_llm: LLM) -> Subject:
    return Subject(talking_llm, "tiny", "fingerprint")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def _agreement(text: Path, reference: str) -> Agreement:
    found = Reference(reference, num_tokens=512, threads=2)
    return Agreement(text, require_reference(found), reference, 32)


def test_a_level_agrees_with_itself_entirely(tmp_path: Path, subject: Subject, text: Path) -> None:
    kl, top, difference = evaluate(_agreement(text, "w8a16"), subject, tmp_path)
    assert (kl.value, top.value, difference.value) == (0.0, 1.0, 0.0)


def test_divergence_is_that_of_the_two_softmaxes(
    tmp_path: Path, subject: Subject, text: Path
) -> None:
    plain = subject.under(Cascade.parse("w4a4"))
    kl, top, difference = evaluate(_agreement(text, "w8a16"), plain, tmp_path)
    total, agreed, gap, count = 0.0, 0, 0.0, 0
    for item in _agreement(text, "w8a16").items(subject):
        tokens = item.data["tokens"]
        rows = []
        for each in (plain, subject):
            with Scorer(each.llm.model, each.level, max_tokens=32) as scorer:
                parts = [p.astype(np.float64) for _, p in scorer.logits(tokens[:-1], 0)]
                logits = np.concatenate(parts)
                shifted = logits - logits.max(axis=1, keepdims=True)
                rows.append(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
        ours, theirs = rows
        total += float((np.exp(theirs) * (theirs - ours)).sum())
        agreed += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        at = np.arange(31), tokens[1:]
        gap += float((theirs[at] - ours[at]).sum())
        count += 31
    assert kl.value == pytest.approx(total / count, rel=1e-4)
    assert top.value == agreed / count
    assert difference.value == pytest.approx(gap / count, rel=1e-4, abs=1e-6)
    assert 0.2 < top.value < 1
    assert (kl.n, kl.unit) == (count, "tokens")


def test_another_model_can_be_the_reference(
    tmp_path: Path, subject: Subject, text: Path, talking_model: Path
) -> None:
    kl, top, _ = evaluate(_agreement(text, f"{talking_model}@w8a16"), subject, tmp_path)
    assert (kl.value, top.value) == (0.0, 1.0)


def test_agreement_without_a_reference_is_refused() -> None:
    with pytest.raises(ArgumentError, match="--reference"):
        require_reference(None)


def test_log_softmax_sums_to_one() -> None:
    logits = np.random.default_rng(0).normal(0, 20, (8, 5000)).astype(np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(axis=1), 1, rtol=1e-5)


def test_both_metrics_of_one_verify() -> None:
    counts = Agreements()
    counts.note([1, 2, 3, 4], [1, 9, 3, 9])
    counts.note([1, 2], [1, 2])
    counts.note([], [])
    assert counts.proposed == [2, 2, 1, 1]
    assert counts.prefix == [2, 1, 0, 0]
    assert counts.position == [2, 1, 1, 0]
    assert counts.forwards == 3


def _prompts(path: Path) -> Path:
    rows = [{"prompt": f"the thin {i}"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_acceptance_counts_what_the_cycles_did(tmp_path: Path, subject: Subject) -> None:
    rows = evaluate(Acceptance(_prompts(tmp_path / "p.jsonl"), 24), subject, tmp_path)
    found = {row.metric: row for row in rows}
    params = SamplingParams(temperature=0.0, max_tokens=24)
    for length in (2, 3, 4, 5, 6):
        llm = subject.llm.with_cascade("w4a8 > w8a16", draft_length=length)
        messages = [[{"role": "user", "content": f"the thin {i}"}] for i in range(3)]
        done = [llm.chat(m, params)[0].statistics for m in messages]
        proposed = sum(s.draft_tokens for s in done)
        accepted = sum(s.accepted_tokens for s in done)
        prefix, position = found[f"prefix@{length}"], found[f"position@{length}"]
        assert (prefix.n, prefix.value) == (proposed, accepted / proposed)
        assert prefix.value <= position.value < 1
        by_position = prefix.details
        assert by_position["proposed"][0] >= by_position["proposed"][-1] > 0
        assert by_position["prefix"] == sorted(by_position["prefix"], reverse=True)
        assert 1 <= found[f"tau@{length}"].value <= length + 1


def test_acceptance_needs_a_draft(tmp_path: Path, subject: Subject) -> None:
    task = Acceptance(_prompts(tmp_path / "p.jsonl"))
    with pytest.raises(ArgumentError, match="drafts nothing"):
        task.items(subject.under(Cascade.parse("w8a16")))


def test_a_subject_is_loaded_with_its_fingerprint(talking_model: Path) -> None:
    cascade = Cascade.parse("w8a16")
    one = load_subject(str(talking_model), cascade, num_tokens=256, threads=2)
    assert (
        one.fingerprint
        == load_subject(str(talking_model), cascade, num_tokens=256, threads=2).fingerprint
    )
    assert one.remark == ""
