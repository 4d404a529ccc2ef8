"""Scales of groups: which ones to try, how they are stored, which weights they can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import HalfbyteError
from halfbyte.formats.planes import MAX_CODE, MIN_CODE
from halfbyte.formats.weights import OFFSET_STEP

F32 = NDArray[np.float32]

# f16: a scale per group. int8: the same as integers with a unit per row. int8+offset: an integer
# offset besides, so that codes span a group's smallest to largest weight (docs/numerics.md).
ScaleForm = Literal["f16", "int8", "int8+offset"]
SCALE_FORMS: tuple[ScaleForm, ...] = ("f16", "int8", "int8+offset")
DEFAULT_SCALES: ScaleForm = "int8+offset"  # docs/quantize.md has the evidence

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


# Scales that the middle of a group's codes is tried away from the middle of its weights. With them
# a group's error is a tenth smaller than with the middle alone.
SHIFTS = (-0.3, 0.0, 0.3)


def spanning(high: F32, low: F32, planes: int) -> tuple[F32, F32]:
    """The smallest scales whose codes reach from a group's least weight to its largest; middles.

    Codes of 8 planes span 255/16 scales, of 4 planes 15.
    """
    scale: F32 = (high - low) * np.float32(16 / 255 if planes == 8 else 1 / 15)
    middle: F32 = (high + low) * np.float32(0.5)
    return scale, middle


@dataclass(frozen=True, slots=True)
class StoredScales:
    """Which scales and offsets can be stored, for columns that are rows of a matrix or groups."""

    form: ScaleForm
    unit: F32 | None  # [columns]; None: scales are f16

    @classmethod
    def of(cls, rows: F32, form: ScaleForm, group_size: int) -> StoredScales:
        """For the rows of a matrix [n, K]; the largest scale gets some room for error feedback."""
        if form == "f16":
            return cls(form, None)
        groups = rows.reshape(rows.shape[0], -1, group_size)
        high, low = groups.max(axis=2), groups.min(axis=2)
        if form == "int8":
            largest = np.maximum(high, -low).max(axis=1) * np.float32(1 / 7.4375)
        else:
            largest = spanning(high, low, 4)[0].max(axis=1)
        # what is not zero has a unit, however small; one of zero is a row of zeros
        return cls(form, np.asarray(largest * np.float32(1.2 / 127), dtype=np.float32))

    def for_groups(self, count: int) -> StoredScales:
        """For columns that are the `count` groups of each row."""
        return self if self.unit is None else replace(self, unit=np.repeat(self.unit, count))

    def rows(self, which: slice) -> StoredScales:
        """Those of some of the columns."""
        return self if self.unit is None else replace(self, unit=self.unit[which])

    def nearest(self, scale: F32) -> F32:
        """The scales [.., columns] as they would be stored; not zero unless the whole group is."""
        if self.unit is None:
            return round_to_f16(scale)
        codes = np.clip(np.rint(scale * _inverse(self.unit)), -127, 127)
        codes = np.where((codes == 0) & (scale != 0), np.sign(scale), codes)
        return np.asarray(codes * self.unit, dtype=np.float32)

    def reaching(self, high: F32, low: F32, headroom: np.float32) -> tuple[F32, F32]:
        """Scale and offset [columns] whose 8-bit codes reach both extremes, with some room."""
        if self.form == "int8+offset":
            fit, middle = spanning(high, low, 8)
            scale = self._above(fit * headroom)
            return scale, self.offsets(middle + scale * np.float32(_centre(8)))
        fits = np.stack(fitting(high.clip(0), (-low).clip(0)))
        best = np.take_along_axis(fits, np.abs(fits).argmin(axis=0)[None], axis=0)[0]
        scale = self._above(best * headroom)
        return scale, np.zeros_like(scale)

    def _above(self, scale: F32) -> F32:
        """As `nearest`, but not smaller than `scale` where it can be."""
        found = self.nearest(scale)
        if self.unit is None:
            return found
        larger = np.asarray(found + np.sign(scale) * self.unit, dtype=np.float32)
        return np.where(np.abs(found) < np.abs(scale), self.nearest(larger), found)

    def offsets(self, wanted: F32) -> F32:
        """The offsets [.., columns] as they would be stored."""
        if self.unit is None or self.form == "int8":
            return np.zeros_like(wanted)
        step = self.unit * np.float32(OFFSET_STEP)
        return np.asarray(np.clip(np.rint(wanted * _inverse(step)), -127, 127) * step, np.float32)

    def tries(self, high: F32, low: F32, factors: Sequence[float], planes: int) -> tuple[F32, F32]:
        """Scales and offsets to try, [candidates, columns], for groups from `low` to `high`."""
        many = np.array(factors, np.float32)[:, None]
        if self.form == "int8+offset":
            fit, middle = spanning(high, low, planes)
            scale = np.repeat(self.nearest(fit * many), len(SHIFTS), axis=0)
            shifts = np.tile(np.array(SHIFTS, np.float32), len(many))[:, None]
            return scale, self.offsets(middle + scale * (shifts + np.float32(_centre(planes))))
        fits = np.stack(fitting(np.maximum(high, 0), np.maximum(-low, 0)))
        scale = self.nearest((fits[:, None] * many).reshape(-1, high.shape[0]))
        return scale, np.zeros_like(scale)

    def stored(
        self, scale: F32, offset: F32
    ) -> tuple[
        NDArray[np.float16] | NDArray[np.int8], NDArray[np.float32] | NDArray[np.int8] | None
    ]:
        """Scales and offsets [groups, columns] as tensors [columns, groups]."""
        if self.unit is None:
            return np.ascontiguousarray(scale.T).astype(np.float16), None
        inverse = _inverse(self.unit)
        codes = np.rint(scale * inverse).astype(np.int8)
        shifts = np.rint(offset * (inverse * np.float32(1 / OFFSET_STEP))).astype(np.int8)
        has_offset = self.form == "int8+offset"
        return np.ascontiguousarray(codes.T), np.ascontiguousarray(shifts.T) if has_offset else None


def _centre(planes: int) -> float:
    """Scales from the middle of the codes to code 0."""
    return 8.5 / 16 if planes == 8 else 0.5


def _inverse(unit: F32) -> F32:
    """1 / unit; 0 for a unit of 0."""
    safe = np.where(unit == 0, np.float32(1), unit)
    inverse: F32 = np.where(unit == 0, np.float32(0), np.float32(1) / safe)
    return inverse


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


def nearest_codes(t: F32, lo_bits: int) -> F32:
    """The nearest 8-bit codes to t = 16 (w - z) / s, as floats; of two `lo_bits` multiples of 4."""
    least = np.float32(1 << (4 - lo_bits))  # of what codes are multiples
    most = np.float32(MAX_CODE // int(least)) * least
    codes: F32 = np.clip(np.rint(t / least) * least, MIN_CODE, most)
    return codes


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
