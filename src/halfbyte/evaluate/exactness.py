"""Whether two runs gave the same output, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfbyte.api.results import Completion


def identical(ours: Sequence[Completion], plain: Sequence[Completion]) -> bool:
    """Tokens, finish reasons and the bits of every logprob are equal."""
    return len(ours) == len(plain) and all(
        a.token_ids == b.token_ids
        and a.finish_reason == b.finish_reason
        and _bits(a.logprobs) == _bits(b.logprobs)
        for a, b in zip(ours, plain, strict=True)
    )


def _bits(logprobs: Sequence[float]) -> bytes:
    return np.asarray(logprobs, dtype=np.float64).tobytes()
