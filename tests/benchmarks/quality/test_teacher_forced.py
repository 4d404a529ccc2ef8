from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality.teacher_forced import (
    F32_LEVEL,
    LENGTH,
    SOURCE,
    Held,
    KeptScores,
    Model,
    compare,
    mean,
    mean_difference,
    read_text,
)

from halfbyte.config import Level
from halfbyte.errors import SourceError
from tests.support.tiny_models import CONFIGS, Kind, make

W8A16, W4A8 = Level.parse("w8a16"), Level.parse("w4a8")


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    """[sequences, LENGTH] of random tokens."""
    rng = np.random.default_rng(0)
    return rng.integers(0, CONFIGS["llama"].vocab_size, (2, LENGTH)).astype(np.int32)


def test_what_is_held_to_itself_agrees_and_what_is_not_does_not(text: np.ndarray) -> None:
    dense = Model(make(CONFIGS["llama"], Kind(dense="f32")), 1)
    planes = Model(make(CONFIGS["llama"], Kind()), 1)
    held = (Held(W8A16, SOURCE), Held(W4A8, "w8a16"), Held(W8A16, "w8a16"))
    sums = compare(lambda t: dense.log_probs(t, F32_LEVEL), planes, text, held)
    metrics = {each: found.sequences() for each, found in sums.items()}
    same, draft, target = metrics[held[2]], metrics[held[1]], metrics[held[0]]
    assert same["agreement"] == [1.0, 1.0]
    assert all(0.05 < share < 1 for share in draft["agreement"])
    assert all(kl > 0 for kl in target["kl"])
    assert target["nll"] == same["nll"] != draft["nll"]

    alone = compare(
        lambda t: dense.log_probs(t, F32_LEVEL), dense, text, (Held(F32_LEVEL, SOURCE),)
    )
    (found,) = (sums.sequences() for sums in alone.values())
    assert found["agreement"] == [1.0, 1.0]
    assert found["kl"] == found["excess_nll"] == [0.0, 0.0]


def test_levels_held_to_each_other_need_no_source(text: np.ndarray) -> None:
    def source(tokens: np.ndarray) -> np.ndarray:
        raise AssertionError("the source was asked")

    pair = Held(W4A8, "w8a16")
    found = compare(source, Model(make(CONFIGS["llama"], Kind()), 1), text, [pair])[pair]
    assert set(found.sequences()) == {"nll", "agreement"}
    assert 0 < mean(found.sequences()["agreement"])[0] < 1


def test_scores_once_kept_are_read_without_the_source(text: np.ndarray, tmp_path: Path) -> None:
    opened = 0

    def source() -> Model:
        nonlocal opened
        opened += 1
        return Model(make(CONFIGS["llama"], Kind(dense="f32")), 1)

    first = KeptScores(tmp_path / "kept", source)
    made = [np.array(first(tokens)) for tokens in text]
    again = KeptScores(tmp_path / "kept", source)
    assert all(np.array_equal(again(t), m) for t, m in zip(text, made, strict=True))
    assert opened == 1


def test_documents_of_a_data_set_are_joined_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "maths.jsonl"
    records = [{"question": f"{i} + 1?", "answer": f"It is {i + 1}."} for i in range(3)]
    path.write_text("\n".join(map(json.dumps, records)))
    assert read_text(path, 10_000) == "\n\n".join(f"{i} + 1?\nIt is {i + 1}." for i in range(3))
    path.write_text(json.dumps({"prompt": "def f():", "canonical_solution": " pass"}))
    assert read_text(path, 10_000) == "def f(): pass"
    path.write_text('{"answer": 1}')
    with pytest.raises(SourceError, match="question and answer"):
        read_text(path, 10_000)


def test_paired_differences_leave_out_what_sequences_share() -> None:
    ours, theirs = [1.1, 5.1, 9.1], [1.0, 5.0, 9.0]
    assert mean_difference(ours, theirs) == pytest.approx((0.1, 0.0), abs=1e-12)
    assert mean(ours)[1] > 2
