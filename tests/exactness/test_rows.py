"""A row's logits depend on its own context only: not on other rows, chunks or threads."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.config import LEVEL_NAMES, Level
from halfbyte.runtime.protocol import Batch, Runtime
from tests.support.runtimes import every_runtime, every_tier, prefix_batch, random_tokens, shared
from tests.support.tiny_models import DENSE_LAYERED_MODELS, DENSE_MODELS, MODELS

F32 = NDArray[np.float32]


def _levels(runtime: Runtime) -> list[Level]:
    return [x for x in map(Level.parse, LEVEL_NAMES) if runtime.supports(x)]


def _one_by_one(runtime: Runtime, tokens: NDArray[np.int32], level: Level) -> F32:
    last = np.zeros(1, np.int32)
    rows = [
        runtime.forward(prefix_batch(tokens[i : i + 1], runtime.page_size, i), level, last)
        for i in range(len(tokens))
    ]
    return np.concatenate(rows)


def _in_chunks(runtime: Runtime, tokens: NDArray[np.int32], level: Level, chunk: int) -> F32:
    parts = []
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        rows = np.arange(len(part), dtype=np.int32)
        parts.append(runtime.forward(prefix_batch(part, runtime.page_size, start), level, rows))
    return np.concatenate(parts)


@every_runtime
@pytest.mark.parametrize("model", [*MODELS, *DENSE_MODELS, *DENSE_LAYERED_MODELS])
def test_m_rows_together_equal_m_rows_alone(kind: str, model: str) -> None:
    runtime = shared(kind, model)
    tokens = random_tokens(33)
    for level in _levels(runtime):
        alone = _one_by_one(runtime, tokens, level)
        slow = kind in ("reference", "native-scalar")
        every = not slow and model in ("llama", "wide-g128", "llama-f32")
        counts = range(1, 34) if every else (2, 3, 5, 8, 17, 33)
        for rows in counts:
            together = _in_chunks(runtime, tokens, level, rows)
            assert together.tobytes() == alone.tobytes(), f"{rows} rows at {level}"


@every_tier
@pytest.mark.parametrize(
    "model", ["wide-g128", "mistral-window", "llama-f32", "layers-sinks-experts", "layers-heads"]
)
def test_long_prefills_equal_decoding_token_by_token(kind: str, model: str) -> None:
    runtime = shared(kind, model, page_size=64)
    tokens = random_tokens(320)
    for level in [x for x in _levels(runtime) if str(x) in ("w4a8", "w8a16", "f32")]:
        alone = _one_by_one(runtime, tokens, level)
        for chunk in (320, 257, 129, 50):
            assert _in_chunks(runtime, tokens, level, chunk).tobytes() == alone.tobytes()


@every_tier
@pytest.mark.parametrize("model", [*MODELS, *DENSE_MODELS, *DENSE_LAYERED_MODELS])
def test_thread_count_changes_no_bit(kind: str, model: str) -> None:
    tokens = random_tokens(300)
    levels = _levels(shared(kind, model))
    if kind == "native-scalar":  # slow, and one kernel serves every level
        levels = [x for x in levels if str(x) in ("w4a16", "w8a16", "f32")]
    for level in levels:
        one = _in_chunks(shared(kind, model, threads=1), tokens, level, 300)
        for threads in (2, 3, 5):
            runtime = shared(kind, model, threads=threads)
            assert _in_chunks(runtime, tokens, level, 300).tobytes() == one.tobytes()
            tail = prefix_batch(tokens[290:294], 16, 290)  # few rows over a long context
            few = runtime.forward(tail, level, np.arange(4, dtype=np.int32))
            assert few.tobytes() == one[290:294].tobytes()


@every_runtime
@pytest.mark.parametrize(
    "model",
    [
        "llama",
        "mistral-window",
        "qwen2-bias-tied-offsets",
        "layers-sinks-experts",
        "layers-shared-experts",
    ],
)
def test_company_changes_no_bit(kind: str, model: str) -> None:
    """Decode rows, verify rows and prefill chunks of seven sequences in one forward."""
    runtime = shared(kind, model)
    level = Level.parse("w8a16")
    counts, firsts = [1, 5, 33, 1, 2, 16, 9], [40, 17, 0, 270, 15, 16, 31]
    tables = np.arange(7 * 18, dtype=np.int32).reshape(7, 18)[:, ::-1].copy()
    texts = [
        random_tokens(n + first, seed=b)
        for b, (n, first) in enumerate(zip(counts, firsts, strict=True))
    ]
    alone = []
    for text, n, first, table in zip(texts, counts, firsts, tables, strict=True):
        if first:
            runtime.forward(_batch([text[:first]], [0], table[None]), level, np.zeros(1, np.int32))
        rows = np.arange(n, dtype=np.int32)
        alone.append(runtime.forward(_batch([text[first:]], [first], table[None]), level, rows))
    together = _batch([t[f:] for t, f in zip(texts, firsts, strict=True)], firsts, tables)
    logits = runtime.forward(together, level, np.arange(sum(counts), dtype=np.int32))
    assert logits.tobytes() == np.concatenate(alone).tobytes()
    backwards = np.arange(sum(counts), dtype=np.int32)[::-1].copy()
    assert (runtime.forward(together, level, backwards)[::-1] == logits).all()


def _batch(texts: list[NDArray[np.int32]], firsts: list[int], tables: NDArray[np.int32]) -> Batch:
    return Batch(
        tokens=np.concatenate(texts),
        row_starts=np.cumsum([0, *map(len, texts)]).astype(np.int32),
        first_positions=np.array(firsts, np.int32),
        page_tables=tables,
    )
