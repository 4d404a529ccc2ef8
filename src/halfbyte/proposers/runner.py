"""What runs a stage's rows: weights at a level, and the KV those rows are written to.

`SharedRunner` is a level of the target's own weights: it writes into the sequence's pages, from the
root on, and the target overwrites what it wrote. `ModelRunner` is a model with pages of its own.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.place import Place
from halfbyte.cascade.proposer import Ask
from halfbyte.cascade.tree import TokenTree, tokens_of
from halfbyte.config import Level
from halfbyte.runtime.protocol import Runtime

DraftT = TypeVar("DraftT", list[int], TokenTree, list[int] | TokenTree)


class Runner(Protocol):
    """See the module."""

    @property
    def name(self) -> str:
        """Its stage in the cascade string."""

    @property
    def runtime(self) -> Runtime:
        """The weights."""

    @property
    def level(self) -> Level:
        """Which planes of them, in which precision."""

    @property
    def vocab_size(self) -> int:
        """Ids below it mean the same here and to the target."""

    @property
    def head(self) -> int:
        """The output head of its drafts (`Runtime.reduce_head`); 0: the whole one."""

    def begin(self, sequence: Decoding) -> None:
        """Make room for a sequence."""

    @property
    def has_pages(self) -> bool:
        """Whether it takes pages of its own, as many as it needs."""

    def pages_before(self, ask: Ask) -> NDArray[np.int32] | None:
        """[P] the pages of what stands before the ask's root, and of the root.

        None: part of it was not run here yet, or the root has no page or cannot be read.
        """

    def enter(self, asks: Seq[Ask], rows: Seq[int]) -> dict[int, Place]:
        """Where the rows of asks[i] go, with pages for `rows[i]` of them from its root on.

        An ask is left out when it has 0 rows, when there is no room, or when the text has a token
        this model cannot read. What a place's tokens lack of the context has been run on return.
        """

    def left(self, ask: Ask, place: Place, tokens: Seq[int]) -> None:
        """Record that the KV of `place.tokens` and then of `tokens` is written."""

    def release(self, sequence: Decoding) -> None:
        """Give back what a sequence holds."""


def readable(draft: DraftT, vocab_size: int) -> DraftT:
    """The tokens, or nodes, before the first whose id is not below `vocab_size`."""
    for i, token in enumerate(tokens_of(draft)):
        if token >= vocab_size:
            return draft[:i]
    return draft


class SharedRunner:
    """A level of the target's weights, in the target's KV."""

    has_pages = False

    def __init__(self, runtime: Runtime, level: Level, head: int = 0) -> None:
        self.runtime = runtime
        self.level = level
        self.head = head
        self.name = str(level)
        self.vocab_size = runtime.config.vocab_size

    def begin(self, sequence: Decoding) -> None:
        """Nothing: the sequence has its pages already."""

    def pages_before(self, ask: Ask) -> NDArray[np.int32] | None:
        """The sequence's own: everything before a root has been run."""
        return ask.sequence.page_row

    def enter(self, asks: Seq[Ask], rows: Seq[int]) -> dict[int, Place]:
        """Always at the root."""
        return {
            i: Place([ask.root], ask.root_position, ask.sequence.page_row, ask.sequence.sampler)
            for i, (ask, count) in enumerate(zip(asks, rows, strict=True))
            if count > 0
        }

    def left(self, ask: Ask, place: Place, tokens: Seq[int]) -> None:
        """Nothing: the target writes the same positions again."""

    def release(self, sequence: Decoding) -> None:
        """Nothing is held."""
