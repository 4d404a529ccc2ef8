"""GPTQ (arXiv 2210.17323) for one plane or for two that must both be good.

Inputs are rounded in turn, each after the errors of those before it were fed forward
(quantize/feedback.py). With two planes a code c stands for two weights, s*c/16 at 8 bits and s*hi
at 4, hi = round(c/16), so lo cannot pull hi anywhere: the code that is best at 8 bits fixes hi, and
the hi that is best at 4 confines c. Each has its own errors e and so its own goal t, and the code
chosen minimises, summed over inputs k of the group,

    D_k * ((t4_k - s*hi)^2 + LO_WEIGHT * (t8_k - s*c/16)^2)

which differs from 8-bit GPTQ only where t4 and t8 fall to different sides of a boundary of hi.

The scale of a group is chosen by trial: the whole group is rounded with each candidate, feedback
included, and the one of least cost is kept. (GPTQ as published fits the scale to the extremes.)
With `act_order` a group's inputs are not rounded together, so its scale is chosen beforehand by
round to nearest, each input weighted by D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte import _native
from halfbyte.errors import ModelError
from halfbyte.formats.weights import Planes
from halfbyte.quantize.assemble import to_planes
from halfbyte.quantize.feedback import Feedback, feedback_of
from halfbyte.quantize.scales import StoredScales, check_range
from halfbyte.quantize.scheme import Grid, InputDetail, InputStatistics, RoundRows
from halfbyte.quantize.wide import round_wide_group

F32 = NDArray[np.float32]

NESTED_FACTORS = (0.9, 0.96, 1.0, 1.05)
HI_FACTORS = (0.82, 0.88, 0.94, 1.0, 1.06, 1.12)
# The same of scales with offsets, where 1 spans a group exactly.
NESTED_SPANS = (0.97, 1.0, 1.04, 1.08)
HI_SPANS = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05)


@dataclass(frozen=True, slots=True)
class Gptq:
    """The rounder; see the module."""

    # How much smaller correlations count than calibration saw them, and what is added to H as a
    # share of its mean diagonal. The paper has the 1% alone, which fits the calibration text
    # closely and others badly (docs/quantize.md).
    shrinkage: float = 0.5
    damping: float = 0.01
    act_order: bool = False
    lo_weight: float = 256.0  # docs/quantize.md has the evidence
    detail: InputDetail = InputDetail.SECOND_MOMENTS

    def fit(self, inputs: InputStatistics | None, grid: Grid) -> RoundRows:
        """Factor the second moments once for every matrix that reads these inputs."""
        assert inputs is not None, "gptq needs calibration"
        assert not (self.act_order and grid.wide_groups), "inputs are in an order of their own"
        feedback = feedback_of(
            inputs, shrinkage=self.shrinkage, damping=self.damping, by_size=self.act_order
        )

        def round_rows(name: str, rows: F32) -> Planes:
            return _round(name, rows, feedback, grid, self.lo_weight)

        return round_rows


def _round(name: str, rows: F32, feedback: Feedback, grid: Grid, lo_weight: float) -> Planes:
    inputs = rows.shape[1]
    if inputs % grid.group_size:
        raise ModelError(
            f"matrix {name}",
            got=f"{inputs} inputs",
            expected=f"a multiple of the group size {grid.group_size}",
            fix="choose a group size that divides it",
        )
    check_range(name, rows.max(axis=1), rows.min(axis=1))
    scales = StoredScales.of(rows, grid.scales, grid.group_size)
    solver = _Solver(feedback, grid, scales, lo_weight)
    codes, scale, offset = solver.solve(np.ascontiguousarray(rows.T))
    return to_planes(np.ascontiguousarray(codes.T), scale, offset, grid, scales)


@dataclass(frozen=True, slots=True)
class _Solver:
    feedback: Feedback
    grid: Grid
    scales: StoredScales
    lo_weight: float

    def solve(self, w: F32) -> tuple[NDArray[np.int16], F32, F32]:
        """w [K, n], inputs down -> codes [K, n], scales and offsets [K/G, n]."""
        group, order = self.grid.group_size, self.feedback.order
        (inputs, count), factors = w.shape, self.feedback
        in_order = bool((order[:-1] < order[1:]).all())
        chosen = np.empty((2, inputs // group, count), dtype=np.float32)  # scales and offsets
        if not in_order:
            for at in range(0, inputs, group):
                chosen[:, at // group] = self._scale_alone(w, at)
        codes = np.empty((inputs, count), dtype=np.int16)
        # Errors at 4 bits, and at 8 where lo is stored: what later inputs make good.
        errors = np.zeros((self._levels, inputs, count), dtype=np.float32)
        for at in range(0, inputs, group):
            taken = slice(at, at + group)
            own = w[order[taken]]
            goals = own + np.matmul(factors.weights[:at, taken].T, errors[:, :at])
            feed, costs = factors.weights[taken, taken], factors.costs[taken]
            if at >= inputs - self._wide_inputs:
                found = round_wide_group(
                    own, goals, feed, self.lo_weight, self.scales, self.grid.lo_bits
                )
            else:
                own_scales = chosen[:, None, order[taken] // group]  # [2, 1, G, n]
                tried = self._candidates(goals) if in_order else own_scales
                found = self._round(own, goals, feed, costs, tried)
            codes[order[taken]], errors[:, taken] = found[0], found[3]
            if in_order:
                chosen[:, at // group] = found[1:3]
        return codes, chosen[0], chosen[1]

    @property
    def _levels(self) -> int:
        return 2 if self.grid.planes == 8 and self.grid.lo_bits == 4 else 1

    @property
    def _wide_inputs(self) -> int:
        """The last inputs, whose codes are read whole at every level."""
        everything = self.feedback.costs.shape[0]
        wide = self.grid.wide_groups * self.grid.group_size
        return wide if self.grid.lo_bits == 4 else everything

    def _candidates(self, goals: F32) -> F32:
        """Scales and offsets to try, [2, candidates, 1, n], for goals [levels, G, n]."""
        high, low = goals.max(axis=(0, 1)), goals.min(axis=(0, 1))
        planes = self.grid.planes
        if self.scales.form == "int8+offset":
            factors = NESTED_SPANS if planes == 8 else HI_SPANS
        else:
            factors = NESTED_FACTORS if planes == 8 else HI_FACTORS
        return np.stack(self.scales.tries(high, low, factors, planes))[:, :, None]

    def _scale_alone(self, w: F32, at: int) -> tuple[F32, F32]:
        """Scale and offset of a group rounded to nearest, each input weighted by its cost: [n]."""
        group = self.grid.group_size
        costs = np.empty_like(self.feedback.costs)
        costs[self.feedback.order] = self.feedback.costs
        goals = np.repeat(w[None, at : at + group], self._levels, axis=0)
        nothing = np.zeros((group, group), dtype=np.float32)
        tried = self._candidates(goals)
        return self._round(goals[0], goals, nothing, costs[at : at + group], tried)[1:3]

    def _round(
        self, w: F32, goals: F32, feed: F32, costs: F32, tried: F32
    ) -> tuple[NDArray[np.int16], F32, F32, F32]:
        return _native.round_group(
            np.ascontiguousarray(w),
            np.ascontiguousarray(goals),
            np.ascontiguousarray(feed),
            np.ascontiguousarray(costs),
            np.ascontiguousarray(tried[0]),
            np.ascontiguousarray(tried[1]),
            self.lo_weight,
        )
