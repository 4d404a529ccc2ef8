"""The noise of sampling (docs/numerics.md, Sampling, step 4): a pure function of bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]


def mix(z: U64) -> U64:
    """SplitMix64's step and output function, elementwise mod 2^64."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def noise_of(bits: U64) -> NDArray[np.float64]:
    """Gumbel noise from the upper half of each word, elementwise."""
    r = ((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2.0**32
    noise: NDArray[np.float64] = -np.log(-np.log(r))
    return noise
