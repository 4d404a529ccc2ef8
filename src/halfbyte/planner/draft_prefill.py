"""What models must run of a text before they can draft for it, and who pays for that.

Nobody knows how long an answer will be, so what is unread is charged in equal parts to the tokens
still to come: it is read once the tokens saved may be worth it, never for a short answer.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from halfbyte.cascade.cycle import Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.planner.candidates import Arm
from halfbyte.planner.remaining_length import Answers

MUCH_UNREAD = 16  # tokens: a call that runs so many first says nothing of what a draft costs


class Reading:
    """Of the arms whose models have KV of their own."""

    def __init__(self, arms: Seq[Arm]) -> None:
        self._readers = [
            (i, arm.proposer, arm.unread) for i, arm in enumerate(arms) if arm.unread is not None
        ]
        self.now: set[int] = set()  # arms whose call in the cycle planned runs much first

    def charges(self, sequences: Seq[Decoding], answers: Answers) -> dict[int, Seq[float]]:
        """Of each arm that reads [B] seconds for what is unread, with each token to come."""
        return {
            arm: [unread.seconds(unread.tokens(s)) / answers.to_come(s) for s in sequences]
            for arm, _, unread in self._readers
        }

    def see(self, sequences: Seq[Decoding], turns: Seq[Turn]) -> None:
        """What the cycle planned has to read."""
        if self._readers:
            self.now = {
                arm
                for arm, proposer, unread in self._readers
                for sequence, turn in zip(sequences, turns, strict=True)
                if turn.proposer is proposer and unread.tokens(sequence) > MUCH_UNREAD
            }
