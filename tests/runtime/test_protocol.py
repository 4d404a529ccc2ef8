"""What every runtime promises, the twin and the native tiers alike (runtime/protocol.py)."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, DraftRun, Sampling
from tests.support.runtimes import (
    all_logits,
    build,
    every_runtime,
    prefix_batch,
    random_tokens,
    shared,
)
from tests.support.sampling import sampling
from tests.support.tiny_models import DENSE_MODELS, MODELS, tiny

W4A8, W4A16, W8A16, F32 = (Level.parse(x) for x in ("w4a8", "w4a16", "w8a16", "f32"))


def _sampling(rows: int, position: int, *, temperature: float = 0.0, seed: int = 0) -> Sampling:
    return sampling(rows, position=position, temperature=temperature, seed=seed)


@every_runtime
def test_levels_supported_are_those_the_weights_hold(kind: str) -> None:
    planes = shared(kind, "llama")
    assert all(planes.supports(Level.parse(x)) for x in ("w4a4", "w4a8", "w4a16", "w8a8", "w8a16"))
    assert not planes.supports(F32)
    half = shared(kind, "llama-4-planes")
    assert half.supports(W4A8)
    assert not half.supports(W8A16)
    dense = shared(kind, "llama-f32")
    assert dense.supports(F32)
    assert not dense.supports(W4A8)


@every_runtime
@pytest.mark.parametrize("kv_dtype", ["f16", "bf16"])
def test_rows_are_written_to_the_slots_their_page_table_names(kind: str, kv_dtype: str) -> None:
    model = tiny("llama")
    runtime = build(kind, model, num_tokens=96, page_size=16, kv_dtype=kv_dtype)
    other = build(kind, model, num_tokens=64, page_size=64, kv_dtype=kv_dtype)
    tokens = random_tokens(40)
    table = np.array([[5, 0, 3]], np.int32)
    batch = Batch(tokens, np.array([0, 40], np.int32), np.array([0], np.int32), table)
    runtime.forward(batch, W8A16, np.array([39], np.int32))
    other.forward(prefix_batch(tokens, 64), W8A16, np.array([39], np.int32))
    for layer in range(model.config.num_layers):
        keys, values = other.read_kv(layer, 0)
        assert keys.shape == (2, 16, 64)
        assert values.shape == (2, 64, 16)
        assert keys.dtype == values.dtype == np.uint16
        for index, page in enumerate(table[0]):
            used = slice(16 * index, min(16 * index + 16, 40))
            count = used.stop - used.start
            k, v = runtime.read_kv(layer, int(page))
            assert (k[:, :, :count] == keys[:, :, used]).all()
            assert (v[:, :count] == values[:, used]).all()
        for page in (1, 2, 4):
            k, v = runtime.read_kv(layer, page)
            assert not k.any()
            assert not v.any()


@every_runtime
def test_sampling_in_the_runtime_is_sampling_of_its_logits(kind: str) -> None:
    runtime = shared(kind, "qwen3-qk-norm")
    tokens = random_tokens(12)
    rows = np.array([11, 3], np.int32)
    logits = runtime.forward(prefix_batch(tokens, 16), W8A16, rows)
    sampled = runtime.forward_sample(prefix_batch(tokens, 16), W8A16, rows, _sampling(2, 12))
    assert logits.shape == (2, 131)
    assert sampled.tokens.tolist() == logits.argmax(axis=1).tolist()
    wide = logits.astype(np.float64)
    logprobs = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    expected = logprobs[np.arange(2), sampled.tokens]
    assert np.allclose(sampled.logprobs, expected, rtol=2e-6, atol=1e-6)


@every_runtime
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_drafting_run_is_decoding_one_token_at_a_time(kind: str, temperature: float) -> None:
    runtime = shared(kind, "llama")
    prompts = [random_tokens(9, seed=1), random_tokens(17, seed=2), random_tokens(4, seed=3)]
    tables = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.int32)
    lengths = np.array([4, 0, 7], np.int32)
    for prompt, table in zip(prompts, tables, strict=True):
        batch = Batch(
            prompt, np.array([0, len(prompt)], np.int32), np.array([0], np.int32), table[None]
        )
        runtime.forward(batch, W8A16, np.array([len(prompt) - 1], np.int32))
    ends = np.array([len(p) for p in prompts], np.int32)
    pending = np.array([7, 8, 9], np.int32)
    many = Batch(pending, np.arange(4, dtype=np.int32), ends, tables)
    how = sampling(3, position=ends + 1, temperature=temperature, seed=11)
    drafted = runtime.draft(many, DraftRun(W4A8, lengths), how)
    assert drafted.tokens.shape == (3, 7)
    assert drafted.counts.tolist() == lengths.tolist()
    for b, length in enumerate(lengths):
        token = int(pending[b])
        for step in range(length):
            one = Batch(
                np.array([token], np.int32),
                np.array([0, 1], np.int32),
                np.array([ends[b] + step], np.int32),
                tables[b : b + 1],
            )
            how = _sampling(1, int(ends[b]) + 1 + step, temperature=temperature, seed=11)
            token = int(runtime.forward_sample(one, W4A8, np.zeros(1, np.int32), how).tokens[0])
            assert drafted.tokens[b, step] == token


@every_runtime
def test_a_draft_needs_pages_for_its_own_length_only(kind: str) -> None:
    """A sequence with a short draft, or none, needs no pages for its neighbour's long one."""
    runtime = shared(kind, "llama")
    batch = Batch(
        np.array([1, 2, 3], np.int32),
        np.arange(4, dtype=np.int32),
        np.array([15, 14, 15], np.int32),
        np.array([[0, -1], [1, -1], [2, 3]], np.int32),
    )
    drafted = runtime.draft(batch, DraftRun(W4A8, np.array([0, 2, 8], np.int32)), _sampling(3, 16))
    assert drafted.counts.tolist() == [0, 2, 8]


@every_runtime
def test_a_draft_stops_before_the_first_token_it_is_unsure_of(kind: str) -> None:
    runtime = shared(kind, "llama")
    prompt = random_tokens(10, seed=4)
    runtime.forward(prefix_batch(prompt, 16), W8A16, np.array([9], np.int32))
    pending = Batch(
        np.array([5], np.int32),
        np.array([0, 1], np.int32),
        np.array([10], np.int32),
        np.array([[0, 1]], np.int32),
    )
    length = np.array([12], np.int32)
    all_of_it = runtime.draft(pending, DraftRun(W4A8, length), _sampling(1, 11))
    chosen = [int(t) for t in all_of_it.tokens[0]]
    replay = prefix_batch(np.array([5, *chosen[:-1]], np.int32), 16, first=10)
    rows = np.arange(12, dtype=np.int32)
    logits = runtime.forward(replay, W4A8, rows).astype(np.float64)
    confidence = np.exp(logits.max(axis=1)) / np.exp(logits).sum(axis=1)
    for threshold in (0.2, 0.5, float(np.sort(confidence)[3]) * 1.01, 1.1):
        drafted = runtime.draft(pending, DraftRun(W4A8, length, threshold), _sampling(1, 11))
        unsure = np.flatnonzero(confidence < threshold)
        count = int(unsure[0]) if len(unsure) else 12
        assert drafted.counts[0] == count
        assert drafted.tokens[0, :count].tolist() == chosen[:count]


@every_runtime
@pytest.mark.parametrize("model", MODELS)
def test_bytes_read_follow_the_planes_read(kind: str, model: str) -> None:
    runtime = shared(kind, model)
    four = runtime.weight_bytes(W4A8)
    assert 0 < four <= runtime.memory_bytes()
    assert runtime.weight_bytes(W4A16) == four
    if runtime.supports(W8A16):
        assert four < runtime.weight_bytes(Level.parse("w4a8+h8")) < runtime.weight_bytes(W8A16)
        assert runtime.weight_bytes(W8A16) <= runtime.memory_bytes()


@every_runtime
def test_the_head_s_planes_can_be_chosen_apart(kind: str) -> None:
    runtime = shared(kind, "llama")
    tokens = random_tokens(6)
    plain, eight, full = (
        all_logits(runtime, tokens, Level.parse(x)) for x in ("w4a8", "w4a8+h8", "w4a8+h4")
    )
    assert (plain == full).all()
    assert (plain != eight).any(axis=1).all()


@every_runtime
@pytest.mark.parametrize("model", [*MODELS, *DENSE_MODELS])
def test_every_level_is_its_own_function(kind: str, model: str) -> None:
    runtime = shared(kind, model)
    tokens = random_tokens(5)
    levels = [x for x in ("w4a4", "w4a8", "w4a16", "w8a8", "w8a16", "f32")]
    logits = [
        all_logits(runtime, tokens, Level.parse(x))
        for x in levels
        if runtime.supports(Level.parse(x))
    ]
    assert all(np.isfinite(x).all() for x in logits)
    assert len({x.tobytes() for x in logits}) == len(logits)
