"""How a sequence's tokens are drawn from logits: the engine's form of a request's parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfbyte.sampling.shaping import Shaper

# How rows are drawn, as arrays [R]: the first fields of runtime.protocol.Sampling.
Rows = tuple[
    NDArray[np.float32],
    NDArray[np.int32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.uint64],
]


@dataclass(frozen=True, slots=True)
class Choice:
    """How a sequence's tokens are drawn from logits (see runtime.protocol.Sampling)."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    tops: int = 0  # most likely tokens to report at every position
    scores_prompt: bool = False  # the prompt's own logprobs (and tops) are wanted
    shaper: Shaper | None = field(default=None, compare=False)
    # Whether more is wanted of a position than a token and its logprob.
    is_special: bool = field(init=False, compare=False, repr=False)
    _rows: dict[int, Rows] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Made once, not for every row: the one place where a frozen choice is written to.
        object.__setattr__(self, "is_special", bool(self.tops or self.shaper))

    def rows(self, count: int) -> Rows:
        """So many rows drawn in this way; made once, and not to be written to."""
        found = self._rows.get(count)
        if found is None:
            found = self._rows[count] = (
                np.full(count, self.temperature, dtype=np.float32),
                np.full(count, self.top_k, dtype=np.int32),
                np.full(count, self.top_p, dtype=np.float32),
                np.full(count, self.min_p, dtype=np.float32),
                np.full(count, self.seed, dtype=np.uint64),
            )
        return found


GREEDY = Choice(0.0, 0, 1.0, 0.0, 0)
