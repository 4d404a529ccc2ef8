"""What a layer does to its input before the product: a fixed rotation, or a reordering.

A matrix that carries a transform T stands for x -> W T(x). docs/numerics.md says how T rounds,
docs/format.md how a checkpoint names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import ModelError
from halfbyte.formats import orthogonal

MAX_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Rotation:
    """Input viewed as [.., core, block, stride], times (C (x) H_block) / norm along the middle two.

        input   c = 0            c = 1                        C is core x core, by the rule `kind`;
        [ block * stride ][ block * stride ] ...              H_block is Sylvester's

    Either stride is 1 and block at least 16 (a row of the MLP), or block is 1 and stride a
    multiple of 16 (heads of `stride` dimensions).
    """

    core: int
    kind: str  # orthogonal.KINDS
    block: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        whole = all(type(x) is int and x > 0 for x in (self.core, self.block, self.stride))
        if not (whole and isinstance(self.kind, str) and orthogonal.exists(self.kind, self.core)):
            raise _bad(self, f"a core of {', '.join(orthogonal.KINDS)} that exists")
        along_row = self.stride == 1 and 16 <= self.block <= MAX_BLOCK
        across_heads = self.block == 1 and self.stride % 16 == 0 and self.stride <= 1 << 20
        if not (along_row or across_heads) or self.block & (self.block - 1):
            expected = (
                f"a block of 16, 32, … {MAX_BLOCK} with stride 1, or block 1 and stride 16, 32, …"
            )
            raise _bad(self, expected)

    @property
    def order(self) -> int:
        """Inputs that are mixed with each other."""
        return self.core * self.block

    @property
    def span(self) -> int:
        """Inputs that an application covers; it must divide the inputs of the matrix."""
        return self.order * self.stride

    @property
    def matrix(self) -> NDArray[np.float32]:
        """C: [core, core], its entries +-1 unless `kind` is dct."""
        return orthogonal.matrix(self.kind, self.core)

    @property
    def scale(self) -> np.float32:
        """1 / norm: what the mixed values are multiplied by at the end."""
        return np.float32(1 / sqrt(self.block * (1 if self.kind == "dct" else self.core)))


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Input j of the product is input `indices[j]` of the layer; a permutation."""

    indices: NDArray[np.int32]  # [K]

    def __post_init__(self) -> None:
        if not is_permutation(self.indices):
            raise ModelError(
                "reordering of a layer's inputs",
                got="indices that repeat or leave the inputs",
                expected="a permutation",
                fix="quantize the model again",
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gather) and np.array_equal(self.indices, other.indices)

    __hash__ = None  # type: ignore[assignment]


Transform = Rotation | Gather


def is_permutation(indices: NDArray[np.int32]) -> bool:
    """Whether [K] indices name each of 0 .. K - 1 once."""
    seen = np.zeros(len(indices), dtype=bool)
    inside = indices[(indices >= 0) & (indices < len(indices))]
    seen[inside] = True
    return bool(seen.all())


def _bad(rotation: Rotation, expected: str) -> ModelError:
    r = rotation
    return ModelError(
        "rotation of a layer's inputs",
        got=f"core {r.core!r} ({r.kind!r}), block {r.block!r}, stride {r.stride!r}",
        expected=expected,
        fix="quantize the model again, or update halfbyte",
    )
