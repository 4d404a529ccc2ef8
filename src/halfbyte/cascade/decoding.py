"""What a cascade sees of a request: its tokens, its place in the KV pages, how it draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

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
    _rows: dict[int, Rows] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def is_special(self) -> bool:
        """Whether more is wanted of a position than a token and its logprob."""
        return bool(self.tops or self.shaper)

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


class Decoding(Protocol):
    """One sequence; compared and hashed by identity. `commit` moves it on, nothing else does.

    Its last token is *pending*: it is known, its KV is not written. Tokens are only ever added,
    until the sequence ends.
    """

    @property
    def tokens(self) -> list[int]:
        """Prompt and emitted tokens: `committed_len` committed ones, then the pending one."""

    @property
    def pending(self) -> int:
        """The last token, known but without KV."""

    @property
    def committed_len(self) -> int:
        """Positions whose KV was written at the target level."""

    @property
    def is_prefilled(self) -> bool:
        """Whether everything before the pending token is committed."""

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted."""

    @property
    def page_row(self) -> NDArray[np.int32]:
        """[P], with pages for every position up to committed_len + proposed tokens."""

    @property
    def choice(self) -> Choice:
        """How its tokens are drawn."""

    def commit(self, tokens: list[int]) -> None:
        """Take a cycle's tokens: the last becomes pending, what stood before it committed."""
