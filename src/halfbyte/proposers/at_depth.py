"""A head's trees of a lesser depth: a way to propose of its own, for a planner to choose."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Ask, Proposals
from halfbyte.cascade.verify import Outcome
from halfbyte.proposers.eagle import EagleProposer


class AtDepth:
    """The same head, whose trees have `length` nodes on `depth` levels at most."""

    def __init__(self, proposer: EagleProposer, depth: int) -> None:
        self._proposer = proposer
        self.deepest = min(depth, proposer.deepest)
        self.name, self.stack = proposer.name, proposer.stack

    def begin(self, sequence: Decoding) -> None:
        """Make room for a sequence."""
        self._proposer.begin(sequence)

    def propose(self, asks: Seq[Ask]) -> Proposals:
        """A tree for every ask."""
        shallow = [replace(a, length=min(a.length, self.deepest), nodes=a.size) for a in asks]
        return self._proposer.propose(shallow)

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        """As the head."""
        self._proposer.observe(asks, outcomes)

    def release(self, sequence: Decoding) -> None:
        """Forget a sequence."""
        self._proposer.release(sequence)
