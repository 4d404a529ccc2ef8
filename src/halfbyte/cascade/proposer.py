"""The protocol of everything that proposes tokens: a level, an n-gram index, a model, a stack.

A proposer is shared by every sequence of a runtime and keeps what it must remember by sequence,
from `begin` to `release`. It reads `sequence.tokens` whenever it is asked, so it need not be told
of tokens that another proposer brought: a plan may change the proposer of a sequence every step.
What it proposes decides how fast the output comes, never what it is.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.tree import Draft
from halfbyte.cascade.verify import Outcome
from halfbyte.config import Level
from halfbyte.runtime.protocol import DraftRun, Runtime


@dataclass(slots=True)
class Ask:
    """At most `depth` tokens in a row are wanted after `sequence.tokens` and then `ahead`.

    `ahead` is what the stage that asks has itself proposed in this cycle and not yet seen judged.
    A proposer with a stage before it asks that stage for at most `inner_length` tokens per round.
    A tree has at most `depth` levels and `nodes` nodes (0: as many as levels).
    `sure_depth`: the limit of a proposal that its proposer is `sure` of, if larger.
    """

    sequence: Decoding
    depth: int
    inner_length: int = 0
    ahead: Seq[int] = ()
    nodes: int = 0
    sure_depth: int = 0

    @property
    def size(self) -> int:
        """Most tokens in all: rows of the judge that the proposal may take."""
        return self.nodes or self.depth

    @property
    def root(self) -> int:
        """The token that proposals follow; its KV is not written."""
        return self.ahead[-1] if self.ahead else self.sequence.pending

    @property
    def root_position(self) -> int:
        """Where it stands."""
        return self.sequence.committed_len + len(self.ahead)


@dataclass(slots=True)
class Link:
    """What one stage did for the stage that judges it, in one cycle.

    `rounds`: (which of the sequences asked for, proposed, accepted), one for each time a judge
    looked at proposals.
    """

    name: str  # "ngram > w4a8": the proposer and its judge
    forwards: int = 0
    bytes_read: int = 0  # weights
    seconds: float = 0.0  # its own, without the stage before it
    rounds: list[tuple[int, int, int]] = field(default_factory=list)

    def renumbered(self, members: Seq[int]) -> Link:
        """The same, where sequence i of the asks is sequence `members[i]` of a cycle."""
        rounds = [(members[i], proposed, accepted) for i, proposed, accepted in self.rounds]
        return Link(self.name, self.forwards, self.bytes_read, self.seconds, rounds)


@dataclass(slots=True)
class Proposals:
    """The answer to some asks."""

    tokens: Seq[Draft]  # one per ask, within its depth and nodes
    forwards: int = 0  # over the proposer's own weights
    bytes_read: int = 0  # of them
    seconds: float = 0.0  # the proposer's own, without the stages before it
    inner: list[Link] = field(default_factory=list)  # the stages before it
    sure: Seq[bool] = ()  # one per ask, or none: whether it needs no judge before the target


@dataclass(frozen=True, slots=True)
class Fused:
    """How the runtime that judges drafts what a proposer would propose, in the one call.

    It holds for sequences that have nothing to run but their roots, and want tokens and their
    logprobs only. What is drafted in this way is not observed.
    """

    runtime: Runtime
    level: Level
    min_confidence: float
    head: int
    forward_bytes: int  # weights that a forward reads

    def run(self, lengths: Seq[int]) -> DraftRun:
        """At most so many tokens of each sequence."""
        return DraftRun(
            self.level, np.array(lengths, dtype=np.int32), self.min_confidence, self.head
        )


class Proposer(Protocol):
    """See the module."""

    @property
    def name(self) -> str:
        """Its stage in the cascade string: `w4a8`."""

    @property
    def stack(self) -> str:
        """Its stage and those before it: `ngram > w4a8`."""

    @property
    def deepest(self) -> int | None:
        """Most tokens that can be accepted of a tree it proposes; None: it proposes sequences."""

    @property
    def fused(self) -> Fused | None:
        """How a judge's own runtime drafts for it; None: it has to be asked."""

    def begin(self, sequence: Decoding) -> None:
        """Make room for a sequence, before the first `propose`; again is harmless."""

    def propose(self, asks: Seq[Ask]) -> Proposals:
        """Propose for several sequences in one call; lengths may differ and may be 0."""

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        """See what the judge made of the last proposals, before the sequences are moved on."""

    def release(self, sequence: Decoding) -> None:
        """Forget a sequence, if it was begun: it ended, or lost its pages and may begin again."""
