"""Atom (arXiv 2310.19102): inputs sorted by how much they carry, the heaviest kept at 8 bits.

A layer's input channels are reordered by their mean square, the diagonal of the Hessian (section
4.1), so that a group holds channels of one size and the few large ones end in the last groups,
which run with 8 bits at every level. The order of the hidden row before `down` is folded into the
rows of gate and up; the other inputs are gathered at run time, for their order is not the order of
what writes them: the residual stream has one for every layer, and heads share their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.names import SITES, site_inputs
from halfbyte.formats.transforms import Gather
from halfbyte.quantize.scheme import Grid, InputStatistics, Layer, Reordered

F32 = NDArray[np.float32]
_FOLDED = "mlp.down"


@dataclass(frozen=True, slots=True)
class BySize:
    """Sort inputs by mean square; keep the last `wide_inputs` (in whole groups) at 8 bits."""

    wide_inputs: int = 128

    @property
    def gathered(self) -> tuple[str, ...]:
        """All inputs but the hidden row's."""
        return tuple(site for site in SITES if site != _FOLDED)

    def grid(self, config: ModelConfig, grid: Grid) -> Grid:
        """With wide groups: at most a quarter of the narrowest matrix, at least one group."""
        groups = -(-self.wide_inputs // grid.group_size)
        narrowest = min(site_inputs(config).values()) // grid.group_size
        return replace(grid, wide_groups=min(groups, max(1, narrowest // 4)))

    def __call__(self, layer: Layer, inputs: Mapping[str, InputStatistics]) -> Reordered:
        """The same function with its inputs sorted; `layer` is left as it was."""
        layer, orders = dict(layer), {}
        for site, names in SITES.items():
            order = np.argsort(inputs[site].mean_square, kind="stable").astype(np.int32)
            for name in names:
                layer[name] = np.ascontiguousarray(layer[name][:, order])
            orders[site] = order
        for name in SITES["mlp.gate_up"]:
            layer[name] = np.ascontiguousarray(layer[name][orders[_FOLDED]])
        return Reordered(
            layer,
            {site: _taken(inputs[site], order) for site, order in orders.items()},
            {site: Gather(orders[site]) for site in self.gathered},
        )


def _taken(inputs: InputStatistics, order: NDArray[np.int32]) -> InputStatistics:
    moments = inputs.second_moments
    return InputStatistics(
        rows=inputs.rows,
        largest=inputs.largest[order],
        mean_abs=inputs.mean_abs[order],
        mean_square=inputs.mean_square[order],
        second_moments=None if moments is None else moments[np.ix_(order, order)],
    )
