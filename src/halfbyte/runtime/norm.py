"""RMS normalization (docs/numerics.md), in numpy: the twin's, and calibration's between layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rms_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], eps: float
) -> NDArray[np.float32]:
    """[..., K] -> [..., K]."""
    mean = (x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True).astype(np.float32)
    out: NDArray[np.float32] = x / np.sqrt(mean + np.float32(eps)) * weight
    return out
