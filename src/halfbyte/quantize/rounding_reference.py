"""The numpy twin of `_native.round_group` (csrc/host/rounding.cpp): the same codes, bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.quantize.scales import sixteenths

F32 = NDArray[np.float32]
_SIXTEENTH = np.float32(1 / 16)


def round_group(
    weights: F32,  # [G, n]
    goals: F32,  # [levels, G, n] weights and what earlier groups fed forward; 4 bits, then 8
    feed: F32,  # [G, G] row j, column k > j: share of j's error that k gets
    costs: F32,  # [G]
    scales: F32,  # [candidates, 1 or G, n]
    offsets: F32,  # the same: what code 0 stands for
    lo_weight: float,
) -> tuple[NDArray[np.int16], F32, F32, F32]:
    """Of each row's cheapest candidate: codes [G, n], scale, offset [n] of input 0, all errors."""
    weight = np.float32(lo_weight)
    trials = [
        _round(weights, goals, feed, costs, *pair, weight)
        for pair in zip(scales, offsets, strict=True)
    ]
    best = np.argmin([cost for _, _, cost in trials], axis=0)
    rows = np.arange(weights.shape[1])
    codes = np.stack([codes for codes, _, _ in trials])[best, :, rows].T
    errors = np.stack([errors for _, errors, _ in trials])[best, :, :, rows]
    chosen = scales[best, 0, rows], offsets[best, 0, rows]
    return codes.astype(np.int16), *chosen, np.moveaxis(errors, 0, 2)


def _round(
    w: F32, goals: F32, feed: F32, costs: F32, scale: F32, offset: F32, lo_weight: np.float32
) -> tuple[F32, F32, F32]:
    """One candidate, scale, offset [1 or G, n]: codes [G, n], errors [levels, G, n], cost [n]."""
    levels, group, rows = goals.shape
    codes, errors = np.empty((group, rows), np.float32), np.empty_like(goals)
    total = np.zeros(rows, np.float32)
    for k in range(group):
        own, shift = scale[k if len(scale) > 1 else 0], offset[k if len(scale) > 1 else 0]
        inverse, step = sixteenths(own), own * _SIXTEENTH
        t = goals[:, k].copy()
        for j in range(k):  # in this order, as the sums are part of the result
            t += feed[j, k] * errors[:, j]
        code, cost = _choose((t - shift) * inverse, lo_weight)
        total += cost * costs[k] * (step * step)
        codes[k] = code
        errors[0, k] = (w[k] - shift) - step * _upper(code)
        if levels == 2:
            errors[1, k] = (w[k] - shift) - step * code
    return codes, errors, total


def _choose(t: F32, lo_weight: np.float32) -> tuple[F32, F32]:
    """Goals in units of codes, t [levels, n] -> the best code and what it costs, [n]."""
    upper = np.rint(np.clip(t[0] * _SIXTEENTH, -8, 7)) * np.float32(16)
    upper_cost = np.square(t[0] - upper)
    if t.shape[0] == 1:
        return upper, upper_cost
    free = np.rint(np.clip(t[1], -136, 119))  # best at 8 bits
    confined = np.clip(free, upper - 8, upper + 7)  # best at 8 bits with the best hi
    free_cost = np.square(t[0] - _upper(free)) + lo_weight * np.square(t[1] - free)
    confined_cost = upper_cost + lo_weight * np.square(t[1] - confined)
    better = free_cost <= confined_cost
    return np.where(better, free, confined), np.where(better, free_cost, confined_cost)


def _upper(code: F32) -> F32:
    """16 * hi of a code."""
    upper: F32 = np.floor((code + 8) * _SIXTEENTH) * np.float32(16)
    return upper
