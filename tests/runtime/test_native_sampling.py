"""Native sampling against its definition, token for token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.config import Level
from halfbyte.runtime.protocol import Sampling
from halfbyte.runtime.reference_sampling import sample_rows
from tests.support.runtimes import NATIVE_KINDS, every_tier, prefix_batch, random_tokens, shared
from tests.support.sampling import sampling

LEVEL = Level.parse("w8a8")
ROWS = 24


def _check(kind: str, model: str, prompt_seed: int, how: Sampling) -> None:
    runtime = shared(kind, model)
    batch = prefix_batch(random_tokens(ROWS, seed=prompt_seed), runtime.page_size)
    rows = np.arange(ROWS, dtype=np.int32)
    logits = runtime.forward(batch, LEVEL, rows)
    expected = sample_rows(logits, how)
    sampled = runtime.forward_sample(batch, LEVEL, rows, how)
    assert sampled.tokens.tolist() == expected.tokens.tolist()
    assert np.allclose(sampled.logprobs, expected.logprobs, rtol=1e-6, atol=1e-6)


@every_tier
@pytest.mark.parametrize("model", ["llama", "llama-2500-words"])
@pytest.mark.parametrize("prompt_seed", range(4))
def test_tokens_equal_the_twin_s_over_a_grid_of_settings(
    kind: str, model: str, prompt_seed: int
) -> None:
    rng = np.random.default_rng(prompt_seed)
    how = sampling(
        ROWS,
        temperature=np.resize([0.0, 0.5, 1.0, 2.0, 5.0], ROWS),
        top_k=rng.choice([0, 0, 1, 3, 40, 130, 131, 5000], ROWS),
        top_p=rng.choice([1.0, 1.0, 0.0, 0.3, 0.9, 0.999], ROWS),
        min_p=rng.choice([0.0, 0.0, 0.01, 0.3, 1.0], ROWS),
        seed=rng.integers(0, 2**64, ROWS, dtype=np.uint64),
        position=rng.integers(0, 2**31 - 1, ROWS),
    )
    _check(kind, model, prompt_seed, how)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(NATIVE_KINDS),
    prompt_seed=st.integers(0, 3),
    temperatures=st.lists(st.floats(0, 4, width=32), min_size=1, max_size=ROWS),
    top_k=st.integers(0, 2600),
    top_p=st.floats(0, 1, width=32),
    min_p=st.floats(0, 1, width=32),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**31 - 1 - ROWS),
)
def test_tokens_equal_the_twin_s_for_any_settings(
    kind: str,
    prompt_seed: int,
    temperatures: list[float],
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    position: int,
) -> None:
    how = sampling(
        ROWS,
        temperature=np.resize(temperatures, ROWS),
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        position=position + np.arange(ROWS),
    )
    _check(kind, "llama-2500-words", prompt_seed, how)
