"""Scales of groups: which ones to try, how they are stored, which weights they can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import HalfbyteError

F32 = NDArray[np.float32]

_TINIEST = np.float32(2.0**-24)  # smallest positive f16
_LARGEST = np.float32(65504.0)


def fitting(top: F32, bottom: F32) -> tuple[F32, F32]:
    """The smallest scales of either sign whose 8-bit codes reach both extremes of a group.

    `top` is the largest weight or 0, `bottom` the size of the most negative or 0. Codes reach
    7.4375 scales on the side of the scale's sign and 8.5 against it.
    """
    along, against = np.float32(1 / 7.4375), np.float32(1 / 8.5)
    positive: F32 = np.maximum(top * along, bottom * against)
    negative: F32 = -np.maximum(bottom * along, top * against)
    return positive, negative


def round_to_f16(scale: F32) -> F32:
    """The f16 a scale is stored as; not zero unless the whole group is."""
    size = np.abs(scale)
    size = np.where(size == 0, size, np.clip(size, _TINIEST, _LARGEST))
    return np.copysign(size, scale).astype(np.float16).astype(np.float32)


def sixteenths(scale: F32) -> F32:
    """16 / scale, what turns a weight into a code; 0 for a scale of 0."""
    safe = np.where(scale == 0, np.float32(1), scale)
    inverse: F32 = np.where(scale == 0, np.float32(0), np.float32(16) / safe)
    return inverse


def check_range(name: str, top: F32, bottom: F32) -> None:
    """Raise HalfbyteError where the extremes of groups are NaN, infinite or beyond an f16 scale."""
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        fix = "the model file is damaged; download it again"
        raise HalfbyteError(
            f"matrix {name}", got="NaN or infinity", expected="finite weights", fix=fix
        )
    largest = max(float(top.max(initial=0)), -float(bottom.min(initial=0)))
    if largest > 7 * float(_LARGEST):
        raise HalfbyteError(
            f"matrix {name}",
            got=f"a weight of magnitude {largest:.3g}",
            expected=f"at most {7 * float(_LARGEST):.3g}, so that its scale is an f16",
            fix="the model file is probably damaged; download it again",
        )
