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


def first_difference(ours: Sequence[Completion], plain: Sequence[Completion]) -> str | None:
    """Where two runs part, for people; None where they are identical."""
    for number, (a, b) in enumerate(zip(ours, plain, strict=True)):
        pairs = zip(a.token_ids, b.token_ids, a.logprobs, b.logprobs, strict=False)
        for position, (token, other, logprob, reference) in enumerate(pairs):
            if token != other:
                return f"prompt {number}, token {position}: {token} instead of {other}"
            if _bits([logprob]) != _bits([reference]):
                return f"prompt {number}, token {position}: logprob {logprob} is not {reference}"
        if len(a.token_ids) != len(b.token_ids):
            return f"prompt {number}: {len(a.token_ids)} tokens instead of {len(b.token_ids)}"
    return None


def _bits(logprobs: Sequence[float]) -> bytes:
    return np.asarray(logprobs, dtype=np.float64).tobytes()
