"""The definition of sampling: the right distribution, and noise that is a pure function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halfbyte.runtime.protocol import SamplingRow
from halfbyte.runtime.reference_sampling import (
    gumbel_noise,
    kept_ids,
    mix,
    sample_token,
    token_logprob,
)

V = 24
LOGITS = np.random.default_rng(0).normal(0, 2, V).astype(np.float32)
DRAWS = 4000
# The 1 - 1e-4 quantiles of chi-square with 1 .. 23 degrees of freedom.
CHI_SQUARE_LIMIT = [
    15.1, 18.4, 21.1, 23.5, 25.7, 27.9, 29.9, 31.8, 33.7, 35.6, 37.4, 39.1,
    40.9, 42.6, 44.3, 45.9, 47.6, 49.2, 50.8, 52.4, 54.0, 55.5, 57.1,
]  # fmt: skip


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e: NDArray[np.float64] = np.exp(x - x.max())
    e /= e.sum()
    return e


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.8, 0.0), (0, 1.0, 0.1), (12, 0.9, 0.05)],
)
@pytest.mark.parametrize("vary", ["position", "seed"])
def test_draws_follow_the_filtered_softmax(
    temperature: float, top_k: int, top_p: float, min_p: float, vary: str
) -> None:
    scaled = LOGITS.astype(np.float64) / temperature
    kept = kept_ids(scaled, top_k, top_p, min_p)
    probability = _softmax(scaled[kept])
    counts = np.zeros(V)
    for i in range(DRAWS):
        seed, position = (7, i) if vary == "position" else (i, 7)
        counts[
            sample_token(LOGITS, SamplingRow(seed, temperature, top_k, top_p, min_p, position))
        ] += 1
    assert counts[kept].sum() == DRAWS
    # Cells expecting under 5 draws are pooled, as the test's approximation asks.
    expected, observed = probability * DRAWS, counts[kept]
    rare = expected < 5
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        observed = np.append(observed[~rare], observed[rare].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic <= CHI_SQUARE_LIMIT[max(len(expected) - 2, 0)]


def test_mix_is_splitmix64() -> None:
    # The generator's published outputs for the state 1234567.
    golden = 0x9E3779B97F4A7C15
    states = np.array([1234567 + i * golden for i in range(2)], dtype=object) % 2**64
    assert [int(x) for x in mix(states.astype(np.uint64))] == [
        6457827717110365317,
        3203168211198807973,
    ]


@given(
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**31 - 1),
    ids=st.lists(st.integers(0, 2**24), min_size=1, max_size=20),
)
def test_noise_is_a_pure_function_of_seed_position_and_id(
    seed: int, position: int, ids: list[int]
) -> None:
    together = gumbel_noise(seed, position, np.array(ids, np.int64))
    alone = [gumbel_noise(seed, position, np.array([i], np.int64))[0] for i in ids]
    assert together.tolist() == alone
    assert np.isfinite(together).all()


def test_noise_differs_between_seeds_positions_and_ids() -> None:
    ids = np.arange(1000)
    draws = np.stack([gumbel_noise(s, p, ids) for s in (0, 1, 2**64 - 1) for p in (0, 1, 2)])
    assert len(np.unique(draws)) > 0.999 * draws.size
    assert np.abs(np.corrcoef(draws) - np.eye(len(draws))).max() < 0.15


logit_arrays = st.lists(
    st.floats(-30, 30, width=32), min_size=1, max_size=40
).map(lambda x: np.array(x, np.float32))  # fmt: skip
settings = {
    "temperature": st.floats(0.1, 3),
    "top_k": st.integers(0, 50),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
}


@given(logits=logit_arrays, **settings)
def test_filters_keep_a_prefix_of_the_ranking(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    scaled = logits.astype(np.float64) / temperature
    ranking = sorted(range(len(logits)), key=lambda i: (-scaled[i], i))
    kept = kept_ids(scaled, top_k, top_p, min_p).tolist()
    assert kept == ranking[: len(kept)]
    assert 1 <= len(kept) <= (top_k or len(logits))
    if top_k == 0 and min_p == 0 and len(kept) < len(logits):
        mass = _softmax(scaled)[kept]
        assert mass.sum() >= top_p - 1e-9
        assert mass[:-1].sum() <= top_p + 1e-9
    assert scaled[kept[-1]] >= scaled[kept[0]] + (np.log(min_p) if min_p else -np.inf)


@given(logits=logit_arrays, seed=st.integers(0, 1000), temperature=st.floats(0.1, 3))
def test_one_kept_token_is_greedy(
    logits: NDArray[np.float32], seed: int, temperature: float
) -> None:
    greedy = sample_token(logits, SamplingRow(seed, position=5))
    assert greedy == int(np.argmax(logits))
    assert sample_token(logits, SamplingRow(seed, temperature, top_k=1, position=5)) == greedy
    assert sample_token(logits, SamplingRow(seed, temperature, top_p=0.0, position=5)) == greedy


@given(logits=logit_arrays, **settings, seed=st.integers(0, 1000))
def test_sampled_token_is_one_of_the_kept(
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
) -> None:
    token = sample_token(logits, SamplingRow(seed, temperature, top_k, top_p, min_p, 3))
    assert token in kept_ids(logits.astype(np.float64) / temperature, top_k, top_p, min_p)


def test_equal_logits_go_to_the_lower_id() -> None:
    flat = np.zeros(6, np.float32)
    assert sample_token(flat, SamplingRow()) == 0
    assert kept_ids(flat.astype(np.float64), 3, 1.0, 0.0).tolist() == [0, 1, 2]
    assert kept_ids(flat.astype(np.float64), 0, 0.5, 0.0).tolist() == [0, 1, 2]


def test_small_temperatures_do_not_overflow() -> None:
    peaked = np.array([10, 80, 3], np.float32)
    assert sample_token(peaked, SamplingRow(1, 1e-38, 0, 0.9, 0.1, 1)) == 1


@given(logits=logit_arrays)
def test_logprobs_are_those_of_the_raw_softmax(logits: NDArray[np.float32]) -> None:
    expected = np.log(_softmax(logits.astype(np.float64)))
    got = [token_logprob(logits, t) for t in range(len(logits))]
    assert np.allclose(got, expected, rtol=1e-6, atol=1e-6)
