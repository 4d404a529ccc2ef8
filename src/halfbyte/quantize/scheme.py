"""What a quantization scheme is: up to four parts, each of which leaves the others alone.

    rewrite   the whole dense model, without data: rotations, folded norms      Weights -> Weights
    fold      one dense layer, by what calibration saw at its linears             Layer -> Layer
    reorder   the inputs of one dense layer's linears, by the same                  Layer -> Layer
    rounder   one matrix, by the statistics of its inputs                          rows -> planes

Rewrites and folds keep the function the model computes. Where that takes work at run time (an
online rotation, a gather of inputs), a rewrite carries it in the `Weights` it returns and a fold
as extra arrays of its layer; both end in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.names import SITES
from halfbyte.formats.transforms import Gather
from halfbyte.formats.weights import Planes, Weights
from halfbyte.quantize.scales import ScaleForm

F32 = NDArray[np.float32]

# A dense layer: names below `layers.i.` (attn.q, attn.q.bias, norm.attn, mlp.up …) -> [N, K] or [n]
Layer = dict[str, F32]

# Inputs of a layer's linears, in the order of a forward, and the matrices that read each.
LINEAR_INPUTS: tuple[tuple[str, tuple[str, ...]], ...] = tuple(SITES.items())
HEAD_INPUT = "head"  # the normed residual that the output head reads


class InputDetail(IntEnum):
    """What a part wants to know of the inputs of a linear; each includes those before it."""

    NONE = 0
    CHANNELS = 1  # per input channel
    SECOND_MOMENTS = 2  # every pair of channels: [K, K]


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """What calibration saw at one linear's input."""

    rows: int
    largest: F32  # [K] max |x|
    mean_abs: F32  # [K] mean |x|
    mean_square: F32  # [K] mean x^2, of rows weighed as the caller sees fit
    second_moments: F32 | None  # [K, K] mean x x^T, of rows weighed likewise


@dataclass(frozen=True, slots=True)
class Grid:
    """What the codes of a matrix may be."""

    planes: int  # 8: hi and lo; 4: hi alone
    group_size: int
    wide_groups: int = 0  # the last groups of a row, which have both planes whatever `planes` says
    scales: ScaleForm = "f16"
    lo_bits: int = 4  # 2: of 8 planes six bits are stored, and no level reads `hi` alone


RoundRows = Callable[[str, F32], Planes]  # rows [n, K] of the matrix named


class Rounder(Protocol):
    """Turns dense matrices into planes."""

    @property
    def detail(self) -> InputDetail:
        """What `fit` needs of the inputs."""

    def fit(self, inputs: InputStatistics | None, grid: Grid) -> RoundRows:
        """Prepare for the matrices that read these inputs (None: nothing is known of them).

        Rows are independent: the caller may hand any block of them to the function returned.
        """


class Fold(Protocol):
    """Rewrites one dense layer by what calibration saw."""

    @property
    def detail(self) -> InputDetail:
        """What a call needs of the inputs."""

    def __call__(
        self,
        config: ModelConfig,
        layer: Layer,
        inputs: Mapping[str, InputStatistics],  # by the names of LINEAR_INPUTS
        grid: Grid,
    ) -> Layer:
        """The same function with other weights; `layer` is left as it was."""


@dataclass(frozen=True, slots=True)
class Reordered:
    """A layer whose matrices read their inputs in another order."""

    layer: Layer
    inputs: Mapping[str, InputStatistics]  # in the new order
    gathers: Mapping[str, Gather]  # what is reordered at run time, by the names of LINEAR_INPUTS


class Reorder(Protocol):
    """Sorts the inputs of a layer's linears; may keep the last at 8 bits."""

    @property
    def gathered(self) -> tuple[str, ...]:
        """The inputs that are reordered at run time, of LINEAR_INPUTS."""

    def wide_groups(self, config: ModelConfig, group_size: int) -> Mapping[str, int]:
        """Site -> groups, the last of a row, that are to be wide."""

    def __call__(
        self, layer: Layer, inputs: Mapping[str, InputStatistics], wide_inputs: Mapping[str, int]
    ) -> Reordered:
        """The same function, the wide inputs last; `layer` is left as it was."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A named combination of parts."""

    name: str
    rounder: Rounder
    rewrite: Callable[[Weights], Weights] | None = None
    fold: Fold | None = None
    reorder: Reorder | None = None

    @property
    def needs_calibration(self) -> bool:
        """Whether any part looks at inputs."""
        if self.reorder is not None:
            return True
        folds = self.fold is not None and self.fold.detail > InputDetail.NONE
        return folds or self.rounder.detail > InputDetail.NONE


def input_of(name: str) -> str:
    """The linear input that a matrix of a layer (`attn.q` …) reads; else its own name."""
    return next((source for source, readers in LINEAR_INPUTS if name in readers), name)


def row_blocks(rows: int, inputs: int, most: int = 1 << 24) -> Iterator[tuple[int, int]]:
    """(begin, end) of blocks of at most `most` weights: 64 MB of float32."""
    size = max(1, most // inputs)
    for begin in range(0, rows, size):
        yield begin, min(begin + size, rows)
