"""Groups that run with 8 bits at every level: the last ones of a row (docs/format.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.quantize.scales import StoredScales, nearest_codes, sixteenths

F32 = NDArray[np.float32]

# Room for what feedback adds to a weight before its turn; past it codes are clipped.
_HEADROOM = np.float32(1.05)
F16_SCALES = StoredScales("f16", None)


def round_wide_group(
    w: F32,
    goals: F32,
    feed: F32,
    lo_weight: float,
    scales: StoredScales = F16_SCALES,
    lo_bits: int = 4,
) -> tuple[NDArray[np.int16], F32, F32, F32]:
    """One wide group, inputs in turn: codes [G, n], scale, offset [n], errors [levels, G, n].

    `w` [G, n]; `goals` [levels, G, n] are w with the feedback of earlier groups, at 4 bits and,
    with two planes, at 8; `feed` [G, G] is the feedback inside the group. A code stands for one
    weight at both levels, so it is nearest to their weighted mean. With two `lo_bits` codes are
    multiples of 4.
    """
    levels = len(goals)
    shares = np.array([1.0, lo_weight][:levels], dtype=np.float32)
    shares /= shares.sum()
    scale, offset = scales.reaching(goals.max(axis=(0, 1)), goals.min(axis=(0, 1)), _HEADROOM)
    inverse, step = sixteenths(scale), scale * np.float32(1 / 16)
    codes = np.empty(w.shape, dtype=np.int16)
    errors = np.zeros_like(goals)
    for k in range(len(w)):
        goal = goals[:, k] + np.einsum("j,ljn->ln", feed[:k, k], errors[:, :k])
        t = (shares @ goal - offset) * inverse
        code = nearest_codes(t, lo_bits)
        codes[k] = code.astype(np.int16)
        errors[:, k] = (w[k] - offset) - code * step
    return codes, scale, offset, errors
