"""The one optimiser: of the cycles that a batch could run, the one with the most tokens per second.

`auto` asks it in every cycle, `halfbyte plan` for batches of equal sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from operator import mul

from halfbyte.planner.acceptance import POSITIONS, Acceptance
from halfbyte.planner.candidates import Candidate
from halfbyte.planner.forecast import Batch, Cycle, Forecaster, Gains

HYSTERESIS = 0.01  # share by which another candidate must be better than the one in use
TRIAL_LENGTH = 2  # tokens: the first tell about as much as all of them, and cost less
NEVER = 1 << 30  # tokens of a match


class Optimiser:
    """Of the candidates one at most goes by evidence."""

    def __init__(
        self, forecaster: Forecaster, candidates: Seq[Candidate], acceptance: Acceptance
    ) -> None:
        self.forecaster, self.acceptance, self._candidates = forecaster, acceptance, candidates
        self._levels = [i for i, c in enumerate(candidates) if c.evidence is None]
        lookups = (i for i, c in enumerate(candidates) if c.evidence is not None)
        self.lookup = next(lookups, None)  # the candidate that goes by evidence

    def usual(self, batch: Batch, in_use: int, begins: float = 0.0) -> Cycle:
        """The best without evidence, with a lead for the candidate in use.

        `begins`: chance per token that a match which pays begins. From there on the n-gram proposer
        brings the tokens sooner, so of others' tokens only those count that no match reaches.
        """
        unmatched, options = [(1.0 - begins) ** step for step in range(POSITIONS)], [batch.plain]
        for number in self._levels:
            whole = self._gains(batch, number)
            gains = [own and [*map(mul, own, unmatched)] for own in whole] if begins else whole
            options.append(self.forecaster.proposing(batch, number, gains))
        return _best(options, in_use)

    def best(self, batch: Batch, usual: Cycle, ranges: Seq[int]) -> Cycle:
        """The best with evidence of such ranges [B] (-1: none), against the `usual`."""
        if self.lookup is None or max(ranges, default=-1) < 0:
            return usual
        gains = self._gains(batch, self.lookup, ranges)
        matched = self.forecaster.proposing(batch, self.lookup, gains)
        return _best([usual, matched], usual.candidate)

    def least_evidence(self, batch: Batch) -> int:
        """Tokens of the shortest match of which a token may be worth its row."""
        if self.lookup is None:
            return NEVER
        price = batch.plain.rate * self.forecaster.row_price(batch.plain.rows)
        sources = self._candidates[self.lookup].sources
        paying = (s.evidence for s in sources if self.acceptance.gains(s)[0] > price)
        return next(paying, NEVER)

    def hopes(
        self, batch: Batch, best: Cycle, ranges: Seq[int], now: int = 0
    ) -> Iterator[tuple[Cycle, Cycle, float]]:
        """Cycles that could be better than `best`: at their best, as trials, seconds of reading."""
        if best is not batch.plain:
            yield batch.plain, batch.plain, 0.0
        for index in range(len(self._candidates)):
            if index == best.candidate:
                continue
            gains = self._gains(batch, index, ranges, now)
            hoped = self.forecaster.proposing(batch, index, gains)
            if hoped.candidate == index:
                few = [own and own[:TRIAL_LENGTH] for own in gains]
                trial = self.forecaster.proposing(batch, index, few, forced=True)
                unread = zip(batch.unread.get(index, ()), trial.lengths, strict=False)
                yield hoped, trial, sum(seconds for (seconds, _), length in unread if length)

    def _gains(
        self, batch: Batch, index: int, ranges: Seq[int] = (), now: int | None = None
    ) -> Gains:
        """[B] of a candidate, by the ranges of the evidence if it goes by any; the hopeful ones of
        cycle `now`."""
        candidate, of = self._candidates[index], self.acceptance
        found = ranges if candidate.evidence is not None else [0] * len(batch.waits)
        each = [of.gains(s) if now is None else of.hopeful_gains(s, now) for s in candidate.sources]
        pairs = zip(found, batch.waits, strict=True)
        return [None if n < 0 or waits else each[n] for n, waits in pairs]


def _best(options: Seq[Cycle], in_use: int) -> Cycle:
    """The most tokens per second, with a lead for what is in use."""
    lead = 1.0, 1.0 + HYSTERESIS
    return max(options, key=lambda cycle: cycle.rate * lead[cycle.candidate == in_use])
