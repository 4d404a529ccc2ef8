"""`Runtime.decode` by its definition: `forward_sample` a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, Decoded, Sampled, Sampling


class Stepping(Protocol):
    """What is stepped."""

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        """See `protocol.Runtime`."""


def decode_stepwise(
    runtime: Stepping,
    batch: Batch,
    level: Level,
    length: int,
    sampling: Sampling,
    interrupted: Callable[[], bool],
) -> Decoded:
    """See `protocol.Runtime.decode`."""
    rows = np.arange(len(batch.tokens), dtype=np.int32)
    tokens, logprobs = [batch.tokens], []
    for step in range(length):
        one = replace(
            batch, tokens=tokens[-1], first_positions=batch.first_positions + np.int32(step)
        )
        at = replace(sampling, positions=sampling.positions + np.int32(step))
        sampled = runtime.forward_sample(one, level, rows, at)
        tokens.append(sampled.tokens)
        logprobs.append(sampled.logprobs)
        if interrupted():
            break
    return Decoded(np.stack(tokens[1:], axis=1), np.stack(logprobs, axis=1))
