"""Groups that run with 8 bits at every level: the last ones of a row (docs/format.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.planes import MAX_CODE, MIN_CODE
from halfbyte.formats.weights import Planes
from halfbyte.quantize.scales import fitting, round_to_f16, sixteenths

F32 = NDArray[np.float32]

# Room for what feedback adds to a weight before its turn; past it codes are clipped.
_HEADROOM = np.float32(1.05)


def join_wide(narrow: list[Planes], wide: Planes) -> Planes:
    """Rows [n, K]: groups as their grid has them, if there are any, then wide ones with `lo`."""
    parts = [*narrow, wide]
    return Planes(
        hi=np.concatenate([p.hi for p in parts], axis=1),
        lo=np.concatenate([p.lo for p in parts if p.lo is not None], axis=1),
        scale=np.concatenate([p.scale for p in parts], axis=1),
        offset=None,
        group_size=wide.group_size,
        wide_groups=wide.scale.shape[1],
    )


def round_wide_group(
    w: F32, goals: F32, feed: F32, lo_weight: float
) -> tuple[NDArray[np.int16], F32, F32]:
    """One wide group, inputs in turn: codes [G, n], scale [n], errors [levels, G, n].

    `w` [G, n]; `goals` [levels, G, n] are w with the feedback of earlier groups, at 4 bits and,
    with two planes, at 8; `feed` [G, G] is the feedback inside the group. A code stands for one
    weight at both levels, so it is nearest to their weighted mean.
    """
    levels = len(goals)
    shares = np.array([1.0, lo_weight][:levels], dtype=np.float32)
    shares /= shares.sum()
    fits = np.stack(fitting(goals.max(axis=(0, 1)).clip(0), (-goals.min(axis=(0, 1))).clip(0)))
    best = np.take_along_axis(fits, np.abs(fits).argmin(axis=0)[None], axis=0)[0]
    scale = round_to_f16(best * _HEADROOM)
    inverse, step = sixteenths(scale), scale * np.float32(1 / 16)
    codes = np.empty(w.shape, dtype=np.int16)
    errors = np.zeros_like(goals)
    for k in range(len(w)):
        goal = goals[:, k] + np.einsum("j,ljn->ln", feed[:k, k], errors[:, :k])
        code = np.clip(np.rint(shares @ goal * inverse), MIN_CODE, MAX_CODE)
        codes[k] = code.astype(np.int16)
        errors[:, k] = w[k] - code * step
    return codes, scale, errors
