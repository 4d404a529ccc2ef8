"""Ways to nest a 4-bit level in an 8-bit one that halfbyte does not use, and why: rows decide.

    rtn-plain      one positive scale that reaches the largest weight: what nested drafts begin with
    rtn-offset     a scale and an offset a group, so that codes span its smallest to largest weight
    NAME+scale     the draft level of scheme NAME with scales of its own, fitted to the weights

`benchmarks.quality` takes them as schemes. They run on the kernels as they are: planes may have
offsets, and a draft with its own scales is a second set of planes with the same `hi`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.planes import MAX_CODE, MIN_CODE, dequantize, pack, split, unpack
from halfbyte.formats.weights import Dense, Planes, Weights
from halfbyte.quantize.rtn import LO_WEIGHT
from halfbyte.quantize.scales import round_to_f16, sixteenths
from halfbyte.quantize.scheme import Grid, InputStatistics, RoundRows, Scheme, Statistics

F32 = NDArray[np.float32]
# Steps of hi that a group's range is laid over: 15 put the extremes on codes of the draft, 15.9 is
# all that 8-bit codes span.
_SPANS = (15.0, 15.3, 15.6, 15.9)


@dataclass(frozen=True, slots=True)
class PlainNearest:
    """Round to nearest, symmetric, nothing tried."""

    statistics: Statistics = Statistics.NONE

    def fit(self, inputs: InputStatistics | None, grid: Grid) -> RoundRows:
        """Nothing to prepare."""

        def round_rows(name: str, rows: F32) -> Planes:
            groups = rows.reshape(len(rows), -1, grid.group_size)
            scale = round_to_f16(np.abs(groups).max(axis=2) * np.float32(1 / 7.4375))
            return _planes(groups, scale, None, grid)

        return round_rows


@dataclass(frozen=True, slots=True)
class OffsetNearest:
    """Round to nearest from a group's smallest weight to its largest."""

    statistics: Statistics = Statistics.NONE

    def fit(self, inputs: InputStatistics | None, grid: Grid) -> RoundRows:
        """Nothing to prepare."""

        def round_rows(name: str, rows: F32) -> Planes:
            groups = rows.reshape(len(rows), -1, grid.group_size)
            top, bottom = groups.max(axis=2), groups.min(axis=2)
            best = np.full(top.shape, np.inf, dtype=np.float32)
            scale, offset = np.zeros_like(best), np.zeros_like(best)
            for span in _SPANS:
                own = round_to_f16((top - bottom) * np.float32(1 / span))
                # Codes -8.5 .. 7.4375 of hi's steps: their middle lies on the range's.
                middle = (top + bottom) * np.float32(0.5) + own * np.float32(0.53125)
                error = _error(groups, own, middle)
                better = error < best
                best = np.where(better, error, best)
                scale, offset = np.where(better, own, scale), np.where(better, middle, offset)
            return _planes(groups, scale, offset, grid)

        return round_rows


CANDIDATES = {
    "rtn-plain": Scheme("rtn-plain", PlainNearest()),
    "rtn-offset": Scheme("rtn-offset", OffsetNearest()),
}


@dataclass(frozen=True, slots=True)
class OwnDraftScales:
    """Implements `Weights`: `hi` of other weights with the scales that fit it best."""

    weights: Weights

    @property
    def config(self) -> ModelConfig:
        """That of the weights."""
        return self.weights.config

    @property
    def head_bits(self) -> dict[int, int]:
        """That of the weights."""
        return self.weights.head_bits

    def matrix(self, name: str) -> Planes | Dense:
        """Least squares a group, to the weights that both planes stand for."""
        planes = self.weights.matrix(name)
        assert isinstance(planes, Planes), "schemes make planes"
        shape = (planes.hi.shape[0], -1, planes.group_size)
        wanted = dequantize(planes, 8).reshape(shape)
        upper = unpack(planes.hi).astype(np.float32).reshape(shape)
        products = np.einsum("ngk,ngk->ng", wanted, upper)
        squares = np.einsum("ngk,ngk->ng", upper, upper)
        fitted = np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
        scale = round_to_f16(fitted).astype(np.float16)
        return Planes(planes.hi, None, scale, None, planes.group_size)

    def vector(self, name: str) -> F32:
        """That of the weights."""
        return self.weights.vector(name)


def _codes(groups: F32, scale: F32, offset: F32 | None) -> F32:
    shifted = groups if offset is None else groups - offset[:, :, None]
    codes: F32 = np.clip(np.rint(shifted * sixteenths(scale)[:, :, None]), MIN_CODE, MAX_CODE)
    return codes


def _error(groups: F32, scale: F32, offset: F32) -> F32:
    """What both levels miss, squared, as `rtn` weighs them: [n, groups]."""
    codes, step = _codes(groups, scale, offset), (scale * np.float32(1 / 16))[:, :, None]
    goal = groups - offset[:, :, None]
    upper = np.floor((codes + 8) * np.float32(1 / 16)) * np.float32(16)
    draft = np.square(goal - upper * step).sum(axis=2)
    error: F32 = draft + np.float32(LO_WEIGHT) * np.square(goal - codes * step).sum(axis=2)
    return error


def _planes(groups: F32, scale: F32, offset: F32 | None, grid: Grid) -> Planes:
    codes = _codes(groups, scale, offset).astype(np.int16).reshape(len(groups), -1)
    hi, lo = split(codes)
    lower = pack(lo) if grid.planes == 8 else None
    return Planes(pack(hi), lower, scale.astype(np.float16), offset, grid.group_size)
