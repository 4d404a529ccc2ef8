"""How a sequence's tokens are drawn from logits: the engine's form of a request's parameters."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfbyte.runtime.protocol import SAMPLING_ROW, Sampling, SamplingRow
from halfbyte.sampling.shaping import Shaper

_GREEDY_ROW = SamplingRow()


@dataclass(frozen=True, slots=True)
class Sampler:
    """How a sequence's tokens are drawn from logits."""

    row: SamplingRow = _GREEDY_ROW  # of any position
    tops: int = 0  # most likely tokens to report at every position
    scores_prompt: bool = False  # the prompt's own logprobs (and tops) are wanted
    shaper: Shaper | None = field(default=None, compare=False)
    # Made once, not for every row. Whether more is wanted than a token and its logprob.
    is_special: bool = field(init=False, compare=False, repr=False)
    packed: bytes = field(init=False, compare=False, repr=False)  # `row`, as a record

    def __post_init__(self) -> None:
        # The one place where a frozen sampler is written to.
        object.__setattr__(self, "is_special", bool(self.tops or self.shaper))
        object.__setattr__(self, "packed", self.row.packed())


GREEDY = Sampler()


def sampling_of(
    samplers: Seq[Sampler], positions: Seq[int] | NDArray[np.int32], counts: Seq[int]
) -> Sampling:
    """`counts[b]` rows drawn by `samplers[b]`; one position per row, of the token drawn."""
    packed = [sampler.packed * count for sampler, count in zip(samplers, counts, strict=True)]
    rows = np.frombuffer(bytearray().join(packed), dtype=SAMPLING_ROW)
    rows["position"] = positions
    return Sampling(rows)
