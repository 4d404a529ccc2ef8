"""Atom (arXiv 2310.19102): inputs sorted by how much they carry, the heaviest kept at 8 bits.

A layer's input channels are reordered by their mean square, the diagonal of the Hessian (section
4.1), so that a group holds channels of one size and the few large ones end in the last groups,
which run with 8 bits at every level. The others descend: error feedback makes good of an input what
those after it can, so the large go first ("act-order"), and the wide groups, which have next to no
errors of their own, take up what is left.

The order of the hidden row before `down` is folded into the rows of gate and up; the other inputs
are gathered at run time, for their order is not the order of what writes them: the residual stream
has one for every layer, and heads share their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.names import SITES, site_inputs
from halfbyte.formats.transforms import Gather
from halfbyte.quantize.scheme import InputStatistics, Layer, Reordered

F32 = NDArray[np.float32]
Share = float | Mapping[str, float]  # of inputs that are wide: at every site, or site by site
_FOLDED = "mlp.down"
_WIDE_INPUTS = 128


@dataclass(frozen=True, slots=True)
class BySize:
    """Sort inputs by mean square; keep the largest (in whole groups) at 8 bits.

    `share` of inputs, one for all sites or one each, or where it is None the paper's 128, but at
    most a quarter.
    """

    share: Share | None = None

    @property
    def gathered(self) -> tuple[str, ...]:
        """All inputs but the hidden row's."""
        return tuple(site for site in SITES if site != _FOLDED)

    def wide_groups(self, config: ModelConfig, group_size: int) -> Mapping[str, int]:
        """Of each site, at least one."""
        groups = {site: inputs // group_size for site, inputs in site_inputs(config).items()}
        if self.share is not None:
            shares = share_by_site(self.share)
            return {site: max(1, round(shares[site] * count)) for site, count in groups.items()}
        alike = min(-(-_WIDE_INPUTS // group_size), max(1, min(groups.values()) // 4))
        return dict.fromkeys(groups, alike)

    def __call__(
        self, layer: Layer, inputs: Mapping[str, InputStatistics], wide_inputs: Mapping[str, int]
    ) -> Reordered:
        """The same function with its inputs sorted; `layer` is left as it was."""
        layer, orders = dict(layer), {}
        for site, names in SITES.items():
            order = np.argsort(inputs[site].mean_square, kind="stable").astype(np.int32)
            narrow = len(order) - wide_inputs[site]
            order[:narrow] = order[:narrow][::-1].copy()
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


def share_by_site(share: Share) -> Mapping[str, float]:
    """The share of each site."""
    return share if isinstance(share, Mapping) else dict.fromkeys(SITES, share)


def _taken(inputs: InputStatistics, order: NDArray[np.int32]) -> InputStatistics:
    moments = inputs.second_moments
    return InputStatistics(
        rows=inputs.rows,
        largest=inputs.largest[order],
        mean_abs=inputs.mean_abs[order],
        mean_square=inputs.mean_square[order],
        second_moments=None if moments is None else moments[np.ix_(order, order)],
    )
