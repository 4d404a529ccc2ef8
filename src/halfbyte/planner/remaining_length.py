"""How far the answers of those that run have come, and how many tokens are still to come.

In a batch that none joins, all wait for the last: a token of a sequence that is ahead of others
only lets it leave sooner, which spares forwards a row each, not forwards. So there it counts less,
the more it is ahead. Where others come in the place of those who leave, tokens count alike.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from halfbyte.cascade.decoding import Decoding

LEAST_HORIZON = 32  # tokens
LENGTHS_FADE = 1 / 8  # of the usual length of an answer, with each
# In a batch that none joins, a token counts by how many have come to the last sequence and to its
# own, `HEAD_START` more each: their ratio to a power, so that a lead of an eighth halves it.
HEAD_START, LEAD_POWER = 16, 6


class Answers:
    """Of the sequences that have begun, and those that have ended."""

    def __init__(self) -> None:
        self._begun_at: dict[Decoding, int] = {}  # tokens
        self._has_left = False  # since none ran
        self.is_joined = False  # since then one has come after one had left
        self._usual_length, self._ended = 0.0, 0  # tokens of an answer; how many there were

    @property
    def are_running(self) -> bool:
        """Whether that of any is."""
        return bool(self._begun_at)

    def begin(self, sequence: Decoding) -> None:
        """All tokens it has are the prompt's."""
        self._begun_at[sequence] = len(sequence.tokens)
        self.is_joined |= self._has_left

    def end(self, sequence: Decoding) -> None:
        """Its length tells of others; where it was the last, a batch of its own comes next."""
        begun = self._begun_at.pop(sequence, None)
        if begun is not None:
            self._ended += 1
            share = max(LENGTHS_FADE, 1 / self._ended)
            self._usual_length += share * (len(sequence.tokens) - begun - self._usual_length)
        self._has_left = self.are_running
        self.is_joined &= self._has_left

    def to_come(self, sequence: Decoding) -> float:
        """Tokens: as many as have come, or as answers usually have beyond that; `LEAST_HORIZON` at
        least, and no more than are wanted."""
        length = len(sequence.tokens)
        come = length - self._begun_at.get(sequence, length)
        expected = max(LEAST_HORIZON, come, self._usual_length - come)
        return min(expected, max(1, sequence.remaining))

    def weights(self, sequences: Seq[Decoding]) -> list[float]:
        """[B] what a token of each counts: 1, or less for those that are ahead (see above)."""
        if self.is_joined or len(sequences) == 1:
            return [1.0] * len(sequences)
        lengths = [(s, len(s.tokens)) for s in sequences]
        come = [HEAD_START + now - self._begun_at.get(s, now) for s, now in lengths]
        least = min(come)
        return [(least / each) ** LEAD_POWER for each in come]
