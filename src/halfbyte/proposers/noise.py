"""What a judge that samples would draw, guessed from a head's logprobs and the judge's own noise.

The judge draws argmax of logit / T + g, and g is a pure function of (seed, position, id). So the
head's likely tokens are ranked by that sum, and a tree under sampling is as good a guess as under
greedy decoding. It stays a guess: nothing depends on it but speed.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.runtime.noise import mix, noise_of
from halfbyte.sampling.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Guesses:
    """R rows of likely tokens, best first."""

    tokens: NDArray[np.int32]  # [R, k]
    logprobs: NDArray[np.float32]  # [R, k]


def as_drawn(guesses: Guesses, samplers: Seq[Sampler], positions: Seq[int]) -> Guesses:
    """The same rows as their sequences would draw from them; `positions` of the tokens drawn."""
    if all(sampler.row.temperature <= 0 for sampler in samplers):
        return guesses
    temperatures = np.array([sampler.row.temperature for sampler in samplers])[:, None]
    seeds = np.array([sampler.row.seed for sampler in samplers], dtype=np.uint64)
    tops = np.array([sampler.row.top_k for sampler in samplers])[:, None]
    sampled = temperatures > 0
    scores = guesses.logprobs.astype(np.float64)
    shaped = scores / np.where(sampled, temperatures, 1.0)
    shaped += np.where(sampled, _noise(seeds, positions, guesses.tokens), 0.0)
    places = np.arange(scores.shape[1])
    shaped = np.where(sampled & (tops > 0) & (places >= tops), -np.inf, shaped)
    with np.errstate(invalid="ignore"):
        top = shaped.max(axis=1, keepdims=True)
        total = np.log(np.exp(shaped - top).sum(axis=1, keepdims=True))
        shaped = np.where(sampled, shaped - top - total, scores)
    order = np.argsort(-shaped, axis=1, kind="stable")
    return Guesses(
        np.take_along_axis(guesses.tokens, order, axis=1),
        np.take_along_axis(shaped, order, axis=1).astype(np.float32),
    )


def _noise(
    seeds: NDArray[np.uint64], positions: Seq[int], ids: NDArray[np.int32]
) -> NDArray[np.float64]:
    """docs/numerics.md, Sampling, step 4: [R, k]."""
    with np.errstate(over="ignore"):
        base = mix(mix(seeds) + np.array(positions, dtype=np.uint64))
        h = mix(base[:, None] + ids.astype(np.uint64))
    return noise_of(h)
