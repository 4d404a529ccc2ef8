"""How far the running sequences' answers have come, and how many tokens are still to come."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from halfbyte.cascade.decoding import Decoding

LEAST_HORIZON = 32  # tokens
LENGTHS_FADE = 1 / 8  # of the usual length of an answer, with each


class RemainingLength:
    """Of the sequences that have begun, and those that have ended."""

    def __init__(self) -> None:
        self._begun_at: dict[Decoding, int] = {}  # tokens
        self._usual = float(LEAST_HORIZON)  # tokens of an answer
        self._has_left = False  # since no sequence ran
        self._is_joined = False  # since then one has begun after one had left

    def begin(self, sequence: Decoding) -> None:
        """All tokens it has are the prompt's."""
        self._begun_at[sequence] = len(sequence.tokens)
        self._is_joined |= self._has_left

    def end(self, sequence: Decoding) -> None:
        """Its length tells of others; after the last one begins a batch of its own."""
        begun = self._begun_at.pop(sequence, None)
        if begun is not None:
            self._usual += LENGTHS_FADE * (len(sequence.tokens) - begun - self._usual)
        self._has_left = bool(self._begun_at)
        self._is_joined &= self._has_left

    def of(self, sequence: Decoding) -> float:
        """Tokens: as many as have come, or as answers usually have beyond that; `LEAST_HORIZON` at
        least, and no more than are wanted."""
        come = self._come(sequence)
        return min(max(LEAST_HORIZON, come, self._usual - come), max(1, sequence.remaining))

    @property
    def is_closed(self) -> bool:
        """Whether several run that no other has joined."""
        return not self._is_joined and len(self._begun_at) > 1

    def waits(self, sequences: Seq[Decoding]) -> list[bool]:
        """[B] whether it is ahead in a batch that no other sequence joins.

        Such a batch ends with its last sequence. A token for one that is ahead only lets it leave
        sooner, which spares the others' forwards a row and no forward.
        """
        if not self.is_closed:
            return [False] * len(sequences)
        come = [self._come(sequence) for sequence in sequences]
        return [each > min(come) for each in come]

    def _come(self, sequence: Decoding) -> int:
        length = len(sequence.tokens)
        return length - self._begun_at.get(sequence, length)
