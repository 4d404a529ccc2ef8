"""The runtimes a test runs over: the numpy twin and every native tier this processor has."""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte import _native
from halfbyte.config import Level
from halfbyte.formats.weights import Weights
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.protocol import Batch, Runtime
from halfbyte.runtime.reference import ReferenceRuntime
from tests.support.tiny_models import tiny

TIERS = tuple(_native.tiers())
NATIVE_KINDS = tuple(f"native-{tier}" for tier in TIERS)
KINDS = ("reference", *NATIVE_KINDS)

# What a test gets that does not say how many threads it wants: `make tsan` goes through some.
THREADS = int(os.environ.get("HALFBYTE_TEST_THREADS", "2"))

every_runtime = pytest.mark.parametrize("kind", KINDS)
every_tier = pytest.mark.parametrize("kind", NATIVE_KINDS)


def build(
    kind: str,
    weights: Weights,
    *,
    threads: int = THREADS,
    num_tokens: int = 2048,
    page_size: int = 16,
    kv_dtype: str = "f16",
    max_rows: int = 512,
) -> Runtime:
    """A runtime by the name of its kind; the twin has no threads."""
    if kind == "reference":
        return ReferenceRuntime(
            weights,
            num_tokens=num_tokens,
            page_size=page_size,
            kv_dtype=kv_dtype,
            max_rows=max_rows,
        )
    return NativeRuntime(
        weights,
        threads=threads,
        tier=kind.removeprefix("native-"),
        num_tokens=num_tokens,
        page_size=page_size,
        kv_dtype=kv_dtype,
        max_rows=max_rows,
    )


@lru_cache(maxsize=24)
def shared(
    kind: str, model: str, page_size: int = 16, threads: int = THREADS, kv_dtype: str = "f16"
) -> Runtime:
    """A runtime over `tiny(model)` that tests share, with what the last one left in its KV pool."""
    return build(
        kind, tiny(model), threads=threads, page_size=page_size, kv_dtype=kv_dtype, max_rows=2048
    )


def prefix_batch(tokens: NDArray[np.int32], page_size: int, first: int = 0) -> Batch:
    """One sequence from position `first` on pages 0, 1, …"""
    pages = -(-(first + len(tokens)) // page_size)
    return Batch(
        tokens=tokens.astype(np.int32),
        row_starts=np.array([0, len(tokens)], np.int32),
        first_positions=np.array([first], np.int32),
        page_tables=np.arange(pages, dtype=np.int32)[None],
    )


def all_logits(runtime: Runtime, tokens: NDArray[np.int32], level: Level) -> NDArray[np.float32]:
    """Logits [M, V] of a whole prompt in one forward."""
    rows = np.arange(len(tokens), dtype=np.int32)
    return runtime.forward(prefix_batch(tokens, runtime.page_size), level, rows)


def random_tokens(count: int, vocab: int = 131, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, vocab, count).astype(np.int32)


def relative_error(out: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """‖out - reference‖ / ‖reference‖ in float64."""
    difference = out.astype(np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference.astype(np.float64)))
