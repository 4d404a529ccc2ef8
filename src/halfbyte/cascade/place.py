"""Where a sequence's rows go: tokens without KV, the positions and pages for it, how it draws."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.decoding import Decoding
from halfbyte.runtime.protocol import Batch, Sampling
from halfbyte.sampling.sampler import Sampler, sampling_of
from halfbyte.sampling.shaping import Shaper


@dataclass(slots=True)
class Place:
    """Where a sequence's rows go in the KV of the model that runs them."""

    tokens: list[int]  # what that KV has not seen yet; the root is last
    first: int  # position of tokens[0]
    page_row: NDArray[np.int32]  # [P], with pages up to the last proposal
    sampler: Sampler
    samples: bool = True  # False: a chunk of a prompt whose end is further on; no root
    expected: Seq[int] = ()  # the tokens after the first of `tokens`, to be scored: not the root's
    tops: int = 0
    shaper: Shaper | None = None  # knows the text up to the root; its proposals are a sequence

    @property
    def is_special(self) -> bool:
        """Whether it asks for more than a token and its logprob."""
        return bool(self.tops or self.shaper or self.expected)

    @property
    def is_bare(self) -> bool:
        """Whether it has its root only, and asks for a token and its logprob only."""
        special = self.tops or self.shaper or self.expected
        return not special and self.samples and len(self.tokens) == 1

    @property
    def root_position(self) -> int:
        """Position of the last of `tokens`."""
        return self.first + len(self.tokens) - 1


def place_of(sequence: Decoding, rows: int | None = None) -> Place:
    """A sequence from its first position without KV on: as a rule that of the pending token.

    `rows`: only so many, of a prompt whose end is further on.
    """
    first, sampler = sequence.committed_len, sequence.sampler
    if rows is not None:
        tokens = sequence.tokens[first : first + rows]
        expected = sequence.tokens[first + 1 : first + rows + 1] if sampler.scores_prompt else ()
        return Place(tokens, first, sequence.page_row, sampler, False, expected, sampler.tops)
    tokens = sequence.tokens[first:]
    expected = tokens[1:] if sampler.scores_prompt else ()
    return Place(
        tokens, first, sequence.page_row, sampler, True, expected, sampler.tops, sampler.shaper
    )


def batch_of(
    rows: list[int],
    starts: list[int],
    places: Seq[Place],
    paths: NDArray[np.int32] | None = None,
) -> Batch:
    """Rows of several sequences; place b has rows starts[b] .. starts[b + 1] - 1."""
    tables = [place.page_row for place in places]
    return Batch(
        tokens=np.array(rows, dtype=np.int32),
        row_starts=np.array(starts, dtype=np.int32),
        first_positions=np.array([place.first for place in places], dtype=np.int32),
        # A batch of one is a view, not a copy.
        page_tables=tables[0][None] if len(tables) == 1 else np.array(tables),
        paths=paths,
    )


def roots_of(places: Seq[Place]) -> tuple[Batch, Sampling]:
    """The rows of places that have their roots only, and how what follows these is drawn."""
    tokens, ones = [place.tokens[0] for place in places], [1] * len(places)
    positions = [place.first + 1 for place in places]
    sampling = sampling_of([place.sampler for place in places], positions, ones)
    return batch_of(tokens, list(range(len(places) + 1)), places), sampling
