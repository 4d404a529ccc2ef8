"""What a cycle would bring and cost: the planner's arithmetic.

For a batch, with proposals of length k_b by one candidate for each sequence b:

    tokens   = sum over b of  1 + g_b1 + … + g_bk        g: chance that a proposed token is output
    seconds  = drafting passes + T(target, sum over b of 1 + k_b, contexts) + host

and the best cycle has the most tokens per second. For one sequence that is SpecMQuant's equation 1
(arXiv 2505.22179): speedup = tau / (d * T_draft / T_target + T_verify / T_target).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

from halfbyte.cascade.cycle import CycleReport
from halfbyte.planner.candidates import Candidate
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.drift import Drift, HostTime

PLAIN = -1  # in the place of a candidate
MOST_MORE = 192  # rows: proposals of 12 tokens for 16 sequences

# Candidate -> [B] seconds to read what it has not, tokens that are still to come.
Unread = Mapping[int, Seq[tuple[float, float]]]
Gains = Seq[Seq[float] | None]  # [B] chance by position; None: nothing to propose


class Cycle(NamedTuple):
    """One way to run a cycle, and what it promises."""

    candidate: int  # PLAIN, or its number
    lengths: tuple[int, ...]  # [B] tokens proposed
    tokens: float  # expected
    draft_seconds: float
    rows: int
    attention_seconds: float  # of the verify, by the table
    verify_seconds: float
    other_seconds: float  # outside the runtime; a share of what a model has yet to read

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.draft_seconds + self.verify_seconds + self.other_seconds

    @property
    def rate(self) -> float:
        """Expected tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences [B] that decode together."""

    contexts: Seq[int]
    waits: Seq[bool]  # whether it is ahead of others that it has to wait for
    unread: Unread  # what models offered have to read
    plain: Cycle


class Forecaster:
    """Prices cycles with a cost table and drift; remembers what it has looked up."""

    def __init__(
        self,
        target: str,
        table: CostTable,
        candidates: Seq[Candidate],
        drift: Drift,
        host: HostTime,
    ) -> None:
        """`table` has the target."""
        self.target, self._table, self._candidates = target, table, candidates
        self._drift, self._host = drift, host
        self._linear: list[float] = [0.0]
        self._prices: dict[int, float] = {}
        # Seconds per token of context: of one row, and of each row more.
        self._one, five = (table.attention_seconds(rows, 1.0) for rows in (1, 5))
        self._more = (five - self._one) / 4

    def batch(
        self, contexts: Seq[int], waits: Seq[bool] = (), unread: Unread | None = None
    ) -> Batch:
        """With what plain decoding brings it."""
        rows, attention = len(contexts), self._one * sum(contexts)
        verify = (self.linear_seconds(rows) + attention) * self._drift.factor(-rows)
        nothing = PLAIN, (0,) * rows, float(rows), 0.0, rows
        plain = Cycle(*nothing, attention, verify, self._host.plain)
        return Batch(contexts, waits or (False,) * rows, unread or {}, plain)

    def proposing(self, batch: Batch, index: int, gains: Gains, *, forced: bool = False) -> Cycle:
        """The batch's best cycle with one candidate's proposals, or its plain one.

        Tokens are taken pass by pass, and in the order of their chances where passes cost nothing,
        as many as make the best cycle: T is a staircase, so one more can be worse and two better.
        `forced`: some are proposed, whether that is better or not.
        """
        candidate, plain = self._candidates[index], batch.plain
        cost, depth, factor = candidate.cost, candidate.depth, self._drift.factor(index)
        by_pass = cost.token_seconds(0, first=False) > 0.0
        rate = 0.0 if forced else plain.rate
        price = rate * self.row_price(plain.rows)
        offers = [
            (step * by_pass, -gain, b)
            for b, own in enumerate(gains)
            if own is not None
            for step, gain in enumerate(own[: candidate.max_length])
            if gain >= price
        ]
        offers.sort()  # gains never rise, so those of a sequence stay in order
        unread = batch.unread.get(index)
        lengths, together = [0] * plain.rows, [0] * candidate.max_length
        tokens, draft, attention = plain.tokens, 0.0, plain.attention_seconds
        other, best = max(plain.other_seconds, self._host.proposing), plain
        for rows, (_, loss, b) in enumerate(offers, plain.rows + 1):
            gain, step = -loss, lengths[b]
            lengths[b] += 1
            if step < depth:
                more = cost.token_seconds(together[step], first=step == 0)
                together[step] += 1
                draft += (more + cost.attention * batch.contexts[b]) * factor
            if unread is not None:  # a share of the reading with each token
                other += unread[b][0] / unread[b][1] * (gain + (step == 0))
            tokens += gain
            attention += self._more * batch.contexts[b]
            verify = (self.linear_seconds(rows) + attention) * self._drift.factor(-rows)
            if tokens > rate * (draft + verify + other):
                totals = tokens, draft, rows, attention, verify, other
                best = Cycle(index, tuple(lengths), *totals)
                rate = best.rate
        return best

    def linear_seconds(self, rows: int) -> float:
        """The target's weights over `rows` rows."""
        while len(self._linear) <= rows:
            self._linear.append(self._table.linear_seconds(self.target, len(self._linear)))
        return self._linear[rows]

    def row_price(self, rows: int) -> float:
        """Seconds of each row beyond `rows`, of as many as make it least: T is a staircase."""
        if rows not in self._prices:
            linear, more = self.linear_seconds, range(1, MOST_MORE + 1)
            self._prices[rows] = min((linear(rows + n) - linear(rows)) / n for n in more)
        return self._prices[rows]

    def correct(self, batch: Batch, cycle: Cycle, report: CycleReport) -> None:
        """Learn from what the cycle took."""
        rows = len(report.outcomes)
        if report.links:
            rows += sum([outcome.rows or outcome.proposed for outcome in report.outcomes])
        if report.rows > rows:  # prompts or other cascades ran along: whose time is it?
            return
        attention = cycle.attention_seconds * rows / cycle.rows
        verify = report.verify_seconds / report.target_forwards
        self._drift.observe(-rows, verify, self.linear_seconds(rows) + attention)
        if report.links and not any(s for s, _ in batch.unread.get(cycle.candidate, ())):
            drafting = cycle.draft_seconds / self._drift.factor(cycle.candidate)
            self._drift.observe(cycle.candidate, report.draft_seconds, drafting)
