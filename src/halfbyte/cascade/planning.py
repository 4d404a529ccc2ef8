"""What decides what each sequence does in the next cycle: the protocol, and the fixed plan."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Proposer

EVER = 1 << 30  # cycles


class Planner(Protocol):
    """Chooses a turn for every sequence of a cycle; nothing it does changes the output."""

    def begin(self, sequence: Decoding) -> None:
        """A sequence starts, or starts again after it lost its pages."""

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """What each would best do; the engine shortens a turn where room or need is smaller."""

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        """Cycles, this one included, that may pass before `plan`, which has just proposed nothing
        for these, need be asked again."""

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        """See what the turns taken brought and what they cost."""

    def release(self, sequence: Decoding) -> None:
        """A sequence is over, or loses its pages."""


class FixedPlan:
    """The same turn for every sequence in every cycle: what an explicit cascade string asks for."""

    def __init__(self, proposer: Proposer | None, length: int, inner_length: int = 0) -> None:
        self._proposer = proposer
        self._turn = Turn(proposer, length if proposer else 0, inner_length)

    def begin(self, sequence: Decoding) -> None:
        """Tell the proposer."""
        if self._proposer is not None:
            self._proposer.begin(sequence)

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The one turn for all."""
        return [self._turn] * len(sequences)

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        """Unlimited if nothing is ever proposed."""
        return 1 if self._turn.length else EVER

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        """Nothing."""

    def release(self, sequence: Decoding) -> None:
        """Tell the proposer."""
        if self._proposer is not None:
            self._proposer.release(sequence)
