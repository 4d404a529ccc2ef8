"""Penalties, biases, masks, forced tokens and top logprobs: the native core against its twin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.runtime.protocol import Adjustments, Batch, DraftRun, Sampling, SamplingRow
from halfbyte.runtime.reference_sampling import adjusted, sample_rows, sample_token
from tests.support.runtimes import (
    KINDS,
    NATIVE_KINDS,
    every_tier,
    prefix_batch,
    random_tokens,
    shared,
)
from tests.support.sampling import sampling

LEVEL = Level.parse("w8a8")
ROWS = 8


def words_of(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Bits of a [V] array of booleans."""
    padded = np.zeros(-(-len(allowed) // 32) * 32, dtype=np.uint32)
    padded[: len(allowed)] = allowed
    shifted = padded.reshape(-1, 32) << np.arange(32, dtype=np.uint32)
    return np.bitwise_or.reduce(shifted, axis=1).astype(np.uint32)


def random_adjustments(rng: np.random.Generator, rows: int, vocab: int) -> Adjustments:
    """Some rows with entries, some with a mask, some with both or none."""
    ids = [
        rng.choice(vocab, int(rng.integers(0, vocab // 2)), replace=False)
        if rng.random() < 0.7
        else np.empty(0, np.int64)
        for _ in range(rows)
    ]
    count = sum(map(len, ids))
    adds = rng.normal(0, 3, count).astype(np.float32)
    adds[rng.random(count) < 0.1] = -np.inf
    masks = rng.random((3, vocab)) < np.array([[0.5], [0.02], [0.9]])
    masks[:, 7] = True
    return Adjustments(
        starts=np.cumsum([0, *map(len, ids)]).astype(np.int32),
        ids=np.concatenate(ids).astype(np.int32),
        adds=adds,
        factors=rng.choice([1.0, 1.1, 1.7, 0.5], count).astype(np.float32),
        subtracts=rng.choice([0.0, 0.4, 2.5, -1.0], count).astype(np.float32),
        mask_rows=rng.integers(-1, 3, rows).astype(np.int32),
        masks=np.stack([words_of(m) for m in masks]),
    )


def random_sampling(
    rng: np.random.Generator, rows: int, adjustments: Adjustments, **fields: Any
) -> Sampling:
    return sampling(
        rows,
        adjustments,
        temperature=rng.choice([0.0, 0.0, 0.7, 1.5], rows),
        top_k=rng.choice([0, 0, 1, 5, 200], rows),
        top_p=rng.choice([1.0, 0.8, 0.3], rows),
        min_p=rng.choice([0.0, 0.05], rows),
        seed=rng.integers(0, 2**64, rows, dtype=np.uint64),
        position=rng.integers(0, 2**31 - 1, rows),
        **fields,
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NATIVE_KINDS), st.sampled_from(["llama", "llama-2500-words"]), st.data())
def test_adjusted_tokens_and_tops_equal_the_twin_s(
    kind: str, model: str, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    runtime = shared(kind, model)
    vocab = runtime.config.vocab_size
    batch = prefix_batch(random_tokens(ROWS, seed=int(rng.integers(9))), runtime.page_size)
    rows = np.arange(ROWS, dtype=np.int32)
    how = random_sampling(
        rng,
        ROWS,
        random_adjustments(rng, ROWS, vocab),
        forced=np.where(rng.random(ROWS) < 0.2, rng.integers(0, vocab, ROWS), -1),
        tops=rng.choice([0, 1, 5, 20, vocab], ROWS),
    )
    expected = sample_rows(runtime.forward(batch, LEVEL, rows), how)
    got = runtime.forward_sample(batch, LEVEL, rows, how)
    assert got.tokens.tolist() == expected.tokens.tolist()
    assert np.allclose(got.logprobs, expected.logprobs, rtol=1e-6, atol=1e-6)
    assert got.top_ids is not None
    assert got.top_logprobs is not None
    assert expected.top_ids is not None
    assert expected.top_logprobs is not None
    for r, count in enumerate(how.rows["tops"].tolist()):
        assert got.top_ids[r, :count].tolist() == expected.top_ids[r, :count].tolist()
        assert np.allclose(
            got.top_logprobs[r, :count], expected.top_logprobs[r, :count], rtol=1e-6, atol=1e-6
        )


@given(st.integers(0, 2**32))
def test_no_token_outside_its_mask_is_ever_drawn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = random_adjustments(rng, ROWS, 131)
    how = random_sampling(rng, ROWS, a)
    logits = rng.normal(0, 4, (ROWS, 131)).astype(np.float32)
    for r, token in enumerate(sample_rows(logits, how).tokens.tolist()):
        if a.mask_rows[r] >= 0:
            assert a.masks[a.mask_rows[r], token // 32] >> (token % 32) & 1


def test_adjustments_follow_the_documented_order() -> None:
    logits = np.array([1.0, -1.0, 2.0, 0.5], dtype=np.float32)
    a = Adjustments(
        starts=np.array([0, 3], np.int32),
        ids=np.array([0, 1, 2], np.int32),
        adds=np.array([1.0, 0.0, -3.0], np.float32),
        factors=np.array([2.0, 2.0, 4.0], np.float32),
        subtracts=np.array([0.25, 0.5, 1.0], np.float32),
        mask_rows=np.array([0], np.int32),
        masks=np.array([[0b0111]], np.uint32),
    )
    out = adjusted(logits, a, 0)
    # (1 + 1) / 2 - .25, -1 * 2 - .5, (2 - 3) * 4 - 1, forbidden
    assert out[:3].tolist() == [0.75, -2.5, -5.0]
    assert np.isnan(out[3])
    assert sample_token(out, SamplingRow()) == 0


def test_a_token_forbidden_by_an_add_stays_when_nothing_else_remains() -> None:
    logits = np.array([np.nan, -np.inf, np.nan], dtype=np.float32)
    assert sample_token(logits, SamplingRow(3, 0.8, 0, 0.9, 0.1, 4)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_takes_entries_for_every_token_and_the_mask_for_its_first(kind: str) -> None:
    runtime = shared(kind, "llama")
    vocab = runtime.config.vocab_size
    prompt = random_tokens(9)
    runtime.forward(prefix_batch(prompt[:8], 16), LEVEL, np.empty(0, np.int32))
    batch = Batch(
        tokens=prompt[8:9],
        row_starts=np.array([0, 1], np.int32),
        first_positions=np.array([8], np.int32),
        page_tables=np.arange(2, dtype=np.int32)[None],
    )
    only = np.zeros(vocab, dtype=bool)
    only[50] = True
    banned = np.arange(100, dtype=np.int32)
    how = sampling(
        1,
        position=9,
        adjustments=Adjustments(
            starts=np.array([0, 100], np.int32),
            ids=banned,
            adds=np.full(100, -np.inf, np.float32),
            factors=np.ones(100, np.float32),
            subtracts=np.zeros(100, np.float32),
            mask_rows=np.zeros(1, np.int32),
            masks=words_of(only)[None],
        ),
    )
    drafted = runtime.draft(batch, DraftRun(LEVEL, np.array([6], np.int32)), how)
    first, *rest = drafted.tokens[0].tolist()
    assert first == 50
    assert all(t >= 100 for t in rest)


@every_tier
@pytest.mark.parametrize(
    "fault", ["id", "factor", "starts", "mask row", "empty mask", "mask width", "forced", "tops"]
)
def test_arrays_that_do_not_fit_are_refused(kind: str, fault: str) -> None:
    runtime = shared(kind, "llama")
    rng = np.random.default_rng(1)
    a = random_adjustments(rng, ROWS, 131)
    a.mask_rows[:] = 0
    how = random_sampling(rng, ROWS, a)
    if fault == "id":
        a.ids[-1] = 131
    elif fault == "factor":
        a.factors[0] = 0
    elif fault == "starts":
        a.starts[3] = a.starts[5] + 1
    elif fault == "mask row":
        a.mask_rows[2] = 3
    elif fault == "empty mask":
        a.masks[0] = 0
        a.masks[0, -1] = 1 << 31  # a bit past the vocabulary is none
    elif fault == "mask width":
        how.adjustments = replace(a, masks=a.masks[:, :-1].copy())
    elif fault == "forced":
        how.rows["forced"] = 131
    else:
        how.rows["tops"] = 132
    batch = prefix_batch(random_tokens(ROWS), runtime.page_size)
    with pytest.raises(ValueError, match=r"."):
        runtime.forward_sample(batch, LEVEL, np.arange(ROWS, dtype=np.int32), how)
