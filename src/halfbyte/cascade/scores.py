"""What rows are asked for besides a token: the logprobs of a prompt, the most likely tokens.

A place's scored rows are those of its own tokens but the last; each is held to the token that
follows. With a shaper the rows from the root on have changed logits.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from halfbyte.cascade.place import Place
from halfbyte.cascade.tree import Draft
from halfbyte.runtime.protocol import Sampled, Sampling
from halfbyte.sampling.shaping import Changes, adjustments_of

Tops = list[tuple[int, float]]  # (token, logprob), best first


def add_scores(
    sampling: Sampling, places: Seq[Place], proposals: Seq[Draft], counts: list[int]
) -> None:
    """Add what shapers change, the tokens that scored rows are held to, and the tops wanted.

    `counts[b]` rows are those of place b, scored ones first.
    """
    changes: list[Changes | None] = []
    forced: list[int] = []
    for place, proposed, count in zip(places, proposals, counts, strict=True):
        forced += [*place.expected, *[-1] * (count - len(place.expected))]
        shaped: list[Changes] = []
        if place.shaper is not None and place.samples:
            assert isinstance(proposed, list), "a shaped sequence proposes no tree"
            shaped = place.shaper.changes(proposed)
        changes += [*[None] * (count - len(shaped)), *shaped]
    sampling.adjustments = adjustments_of(changes)
    sampling.rows["forced"] = forced
    sampling.rows["tops"] = np.repeat([place.tops for place in places], counts)


def tops_of(sampled: Sampled, rows: Seq[int], count: int) -> list[Tops]:
    """The `count` most likely tokens of some rows."""
    if count == 0 or sampled.top_ids is None or sampled.top_logprobs is None:
        return []
    ids = sampled.top_ids[list(rows), :count].tolist()
    logprobs = sampled.top_logprobs[list(rows), :count].tolist()
    return [list(zip(i, x, strict=True)) for i, x in zip(ids, logprobs, strict=True)]
