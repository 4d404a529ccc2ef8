"""Second moments of a linear's inputs -> how later weights make good what rounding did to earlier.

With H = U D U^T (U unit upper triangular, D diagonal) and e_j = w_j - q_j the rounding errors of a
row, the layer's mean squared output error is

    e H e^T = sum over k of D_k (t_k - q_k)^2,    t_k = w_k + sum over j < k of e_j U_jk

so rounding t_k instead of w_k is the greedy optimum, input by input. This is LDLQ (QuIP, arXiv
2307.13304, section 3), shown there to equal GPTQ (arXiv 2210.17323); it needs no inverse of H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import HalfbyteError
from halfbyte.quantize.scheme import InputStatistics

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Feedback:
    """The factors above for inputs taken in `order`."""

    order: NDArray[np.int64]  # [K] position in the factors -> input
    weights: F32  # [K, K] U less its unit diagonal, upper triangular
    costs: F32  # [K] D


def feedback_of(
    inputs: InputStatistics, *, shrinkage: float, damping: float, by_size: bool
) -> Feedback:
    """Factor H whose correlations are `shrinkage` smaller, + damping * mean(diag H) * I.

    Shrinking towards the diagonal (Ledoit and Wolf, 2004) doubts what little text says of any two
    inputs, large or small, alike; damping alone takes all feedback from inputs far below the mean.
    `by_size` takes the inputs of largest second moment first ("act-order"). Inputs that calibration
    never saw move nothing and are moved by nothing. Raises HalfbyteError if it saw none move.
    """
    moments = inputs.second_moments
    assert moments is not None, "the rounder asked for second moments"
    diagonal = np.diagonal(moments).astype(np.float64)
    if not np.isfinite(diagonal).all() or not diagonal.any():
        raise HalfbyteError(
            "calibration of a linear layer",
            got="inputs that are all zero" if not diagonal.any() else "NaN or infinite inputs",
            expected="inputs that vary",
            fix="check the model's weights, or use --scheme rtn, which needs no calibration",
        )
    order = np.argsort(-diagonal, kind="stable") if by_size else np.arange(len(diagonal))
    # H = U D U^T is the Cholesky factorization of H with its inputs in reverse.
    backwards = order[::-1]
    work = moments[np.ix_(backwards, backwards)].astype(np.float64)
    work *= 1 - shrinkage
    work[np.diag_indices_from(work)] = diagonal[backwards] + damping * diagonal.mean()
    lower = np.linalg.cholesky(work)
    upper = lower[::-1, ::-1]
    scale = np.diagonal(upper).copy()
    weights = (upper / scale).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return Feedback(order, weights, np.square(scale).astype(np.float32))
