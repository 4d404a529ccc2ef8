"""What a draft head offers: one forward from tokens and features to likely next tokens.

A head reads the features its target kept (`Runtime.keep_features`). It holds KV of its own: pages
0 .. num_pages - 1 of the target, so that a sequence has one page table for both, and scratch pages
after them for what is drafted and thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level, ModelConfig
from halfbyte.errors import ArgumentError, ModelError
from halfbyte.formats.draft_head import HeadConfig, HeadWeights
from halfbyte.formats.weights import Dense, Planes, Weights
from halfbyte.runtime.protocol import Batch

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What R rows of a head gave."""

    tokens: NDArray[np.int32]  # [R, k] the target's ids, best first
    logprobs: F32  # [R, k] over the tokens the head scores
    hidden: F32  # [R, hidden] the feature of the next position, as the head guesses it


class DraftHead(Protocol):
    """Not thread-safe: one caller at a time, the target's."""

    @property
    def config(self) -> HeadConfig:
        """Its shape."""

    @property
    def level(self) -> Level:
        """The level to run it at: 8-bit weights where it has them, 8-bit activations."""

    @property
    def page_size(self) -> int:
        """Positions a KV page holds: the target's."""

    @property
    def scratch_pages(self) -> range:
        """Pages no sequence of the target has."""

    @property
    def max_rows(self) -> int:
        """Most rows of one forward."""

    def forward(
        self, batch: Batch, level: Level, features: F32, rows: NDArray[np.int32], k: int
    ) -> HeadOutput:
        """Run M rows and return the k best of those named.

        Row m has the token at position p + 1 and in `features` [M, W] what precedes it, at p: the
        target's (W: taps * hidden) or what the head made of it (W: hidden). Its own position is p.
        """

    def weight_bytes(self, level: Level) -> int:
        """Bytes of weights one forward reads."""


def check_target(head: HeadConfig, target: ModelConfig) -> tuple[int, ...]:
    """The taps a target has to keep for a head; ModelError if the two do not fit together."""
    for name in ("vocab_size", "hidden_size"):
        if getattr(head.model, name) != getattr(target, name):
            raise ModelError(
                f"draft head {name}",
                got=getattr(head.model, name),
                expected=f"{getattr(target, name)}, the target's",
                fix="use a head that was trained for this model",
            )
    return head.taps_of(target.num_layers)


def scoring_matrix(head: HeadWeights, target: Weights) -> Planes | Dense:
    """[scored, hidden]: the head's own, or its rows of the target's."""
    if head.config.own_head:
        return head.matrix("head")
    whole = target.matrix("embed" if target.config.tied_head else "head")
    ids = head.draft_ids
    if ids is None:
        return whole
    if isinstance(whole, Dense):
        return replace(whole, values=whole.values[ids])
    return whole.rows(ids)


def other_taps(kept: tuple[int, ...], asked: tuple[int, ...]) -> ArgumentError:
    """A runtime keeps one set of features."""
    return ArgumentError(
        "features of the target",
        got=f"taps {asked} beside {kept}",
        expected="one set for all draft heads",
        fix="use heads that read the same layers",
    )
