"""What a runtime loads: matrices, as planes or dense, and vectors (names: docs/format.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.transforms import Transform


@dataclass(frozen=True, slots=True)
class Planes:
    """A quantized [N, K] matrix: w = scale * (hi + lo/16) + offset, nibbles stored as code + 8.

    The last `wide_groups` groups of a row run with both planes at every level; a matrix that is
    otherwise 4-bit stores `lo` for them alone.
    """

    hi: NDArray[np.uint8]  # [N, K/2]
    lo: NDArray[np.uint8] | None  # [N, K/2], or [N, wide_groups * G/2]
    scale: NDArray[np.float16]  # [N, K/G]
    offset: NDArray[np.float32] | None  # [N, K/G]
    group_size: int
    wide_groups: int = 0
    transform: Transform | None = None  # of the input, before the product

    @property
    def has_full_lo(self) -> bool:
        """Whether every group has `lo`."""
        return self.lo is not None and self.lo.shape == self.hi.shape


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
