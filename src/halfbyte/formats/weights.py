"""What a runtime loads: matrices, as planes or dense, and vectors (names: docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.transforms import Transform

OFFSET_STEP: Final = 8  # units that an integer offset counts in
PLANE_PARTS: Final = ("hi", "lo", "scale", "offset", "unit")


@dataclass(frozen=True, slots=True)
class Planes:
    """A quantized [N, K] matrix: w = scale * (hi + lo/16) + offset, nibbles stored as code + 8.

    With a `unit` scales and offsets are small integers: w = unit * (scale * (hi + lo/16)
    + OFFSET_STEP * offset). The last `wide_groups` groups of a row run with both planes at every
    level; a matrix that is otherwise 4-bit stores `lo` for them alone. One without wide groups may
    store two bits of `lo`, which is then a multiple of 4 (formats/planes.py).
    """

    hi: NDArray[np.uint8]  # [N, K/2]
    lo: NDArray[np.uint8] | None  # [N, K/2], or [N, wide_groups * G/2]; of two bits [N, K/4]
    scale: NDArray[np.float16] | NDArray[np.int8]  # [N, K/G]; int8 with a unit
    offset: NDArray[np.float32] | NDArray[np.int8] | None  # [N, K/G], alike
    group_size: int
    wide_groups: int = 0
    transform: Transform | None = None  # of the input, before the product
    unit: NDArray[np.float32] | None = None  # [N]

    @property
    def lo_bits(self) -> int:
        """Bits that a value of `lo` is stored in: 4 or 2."""
        if self.lo is None or self.wide_groups:
            return 4
        return 4 if self.lo.shape == self.hi.shape else 2

    @property
    def has_full_lo(self) -> bool:
        """Whether every group has `lo`."""
        return self.lo is not None and (self.lo_bits == 2 or self.lo.shape == self.hi.shape)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored, by the end of its tensor's name (docs/format.md)."""
        named = {name: getattr(self, name) for name in PLANE_PARTS}
        return {name: array for name, array in named.items() if array is not None}

    def rows(self, which: NDArray[np.int32] | slice) -> Planes:
        """Some rows of the matrix, as a matrix."""
        rows: dict[str, Any] = {name: array[which] for name, array in self.arrays.items()}
        return replace(self, **rows)


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense [N, K] matrix; bf16 travels as its raw uint16 bits."""

    values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]
    dtype: str  # f32 | f16 | bf16
    transform: Transform | None = None  # of the input, before the product


class Weights(Protocol):
    """A checkpoint (planes or dense), or a model source opened for the `f32` level."""

    @property
    def config(self) -> ModelConfig:
        """The model that the weights belong to."""

    @property
    def head_bits(self) -> dict[int, int]:
        """Weight bits of a level -> planes its output head reads."""

    def matrix(self, name: str) -> Planes | Dense:
        """A matrix by its checkpoint name: [N, K]."""

    def vector(self, name: str) -> NDArray[np.float32]:
        """A bias or norm by its checkpoint name: [n]."""
