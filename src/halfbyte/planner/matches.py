"""Which sequences of a batch match earlier text, where that might pay, and when to look again.

Looking costs time, so it is done when a match could have become long enough to matter. A match of
m tokens grows by one a token at most: where it must be 6 long to pay and is 2, no look is due for 4
tokens. What was seen of a sequence is kept while it runs, whatever comes or leaves beside it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as Seq

from halfbyte.cascade.decoding import Decoding
from halfbyte.planner.acceptance import Acceptance
from halfbyte.planner.candidates import Arm

NEVER = 1 << 62  # tokens


class _Seen:
    """Of one sequence."""

    __slots__ = ("at", "least", "length", "look_at", "pays", "step")

    def __init__(self) -> None:
        self.at = -1  # tokens of the text when it was looked at
        self.length = 0  # of its match then
        self.step = -1  # of the evidence, -1: none
        self.pays: list[bool] = []  # [steps] whether a match might pay
        self.least = NEVER  # tokens of the shortest that might
        self.look_at = 0  # tokens from which on one might


class Matches:
    """What arms that go by evidence go by, for the sequences of a batch."""

    def __init__(self, arms: Seq[Arm], acceptance: Acceptance) -> None:
        """Arms that go by the same evidence, the first of them the cheapest; or none."""
        self.sources = arms[0].sources if arms else ()
        self.evidence = arms[0].evidence if arms else None
        self._steps = [source.evidence for source in self.sources]
        for arm in arms:
            if [source.evidence for source in arm.sources] != self._steps:
                raise ValueError("arms that go by evidence of different kinds")
        self._acceptance = acceptance
        self._seen: dict[Decoding, _Seen] = {}
        self._members: Seq[Decoding] = ()
        self._batch: list[_Seen] = []  # [B]
        self.told: list[int] = []  # [B] step of the evidence; -1: none, or none that could pay

    @property
    def steps(self) -> list[int]:
        """[B] step of the evidence last seen, whether it pays or not; -1: none."""
        return [seen.step for seen in self._batch]

    def forget(self, sequence: Decoding) -> None:
        """It is over."""
        self._seen.pop(sequence, None)

    def weigh(self, members: Seq[Decoding], weights: Seq[float], price: float) -> None:
        """For each of these sequences, which evidence might pay: a token of it must bring `price`;
        `weights` is what a token of each counts."""
        self._members = members
        self._batch = [self._seen.setdefault(sequence, _Seen()) for sequence in members]
        self.told = [-1] * len(members)
        if self.evidence is None:
            return
        acceptance, sources = self._acceptance, self.sources
        usual = self._paying(acceptance.first_gains(sources, None), 1.0, price)
        for b, (sequence, weight, seen) in enumerate(
            zip(members, weights, self._batch, strict=True)
        ):
            if weight == 1.0 and not acceptance.shown(sequence):
                seen.pays, seen.least = usual
            else:
                gains = acceptance.first_gains(sources, sequence)
                seen.pays, seen.least = self._paying(gains, weight, price)
            self._tell(b)

    def _paying(self, gains: Seq[float], weight: float, price: float) -> tuple[list[bool], int]:
        """[steps] whether a match pays, and tokens of the shortest that does."""
        pays = [gain * weight > price for gain in gains]
        return pays, self._steps[pays.index(True)] if True in pays else NEVER

    def look(self, *, at_all: bool = False) -> None:
        """Bring up to date what might have come to matter, or all."""
        members = self._members
        due = [
            b
            for b, (sequence, seen) in enumerate(zip(members, self._batch, strict=True))
            if at_all or len(sequence.tokens) >= seen.look_at
        ]
        if not due or self.evidence is None:
            return
        for b, length in zip(due, self.evidence([members[b] for b in due]), strict=True):
            seen = self._batch[b]
            seen.at, seen.length = len(members[b].tokens), length
            seen.step = bisect_right(self._steps, length) - 1
            self._tell(b)

    def until_next(self) -> int:
        """Tokens that may come before any sequence should be looked at again."""
        if self.evidence is None:
            return NEVER
        batch = zip(self._batch, self._members, strict=True)
        return min(seen.look_at - len(sequence.tokens) for seen, sequence in batch)

    def _tell(self, b: int) -> None:
        """What was seen of a sequence, in the light of what pays; when to look again."""
        seen = self._batch[b]
        useful = seen.step >= 0 and seen.pays[seen.step]
        self.told[b] = seen.step if useful else -1
        if seen.at < 0:
            seen.look_at = 0
            return
        seen.look_at = seen.at + max(1, seen.least - seen.length)
