"""What a cascade sees of a request: its tokens, its place in the KV pages, how it draws."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.sampling.sampler import Sampler


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
    def sampler(self) -> Sampler:
        """How its tokens are drawn."""

    def commit(self, tokens: list[int]) -> None:
        """Take a cycle's tokens: the last becomes pending, what stood before it committed."""
