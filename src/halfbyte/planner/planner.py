"""The planner: which proposer and how many tokens, for each sequence, in every cycle.

It asks the `optimiser` for the cycle with the most expected tokens per second; plain decoding is
always among what is compared. Candidates without evidence are compared in a *review*, every
`REVIEW` cycles. In between, a cycle is the best one for the n-gram matches there are. Choices
depend on timings; the output does not depend on choices.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as Seq
from time import perf_counter
from typing import NamedTuple

from halfbyte.cascade.cycle import PLAIN as PLAIN_TURN
from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.config import Level
from halfbyte.planner.acceptance import Acceptance
from halfbyte.planner.candidates import Candidate
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.drift import Drift, HostTime
from halfbyte.planner.exploration import Exploration
from halfbyte.planner.forecast import PLAIN, Cycle, Forecaster
from halfbyte.planner.optimiser import Optimiser
from halfbyte.planner.remaining_length import RemainingLength

REVIEW = 16  # cycles
EXPLORE = 32  # cycles between looks for something worth a trial
LOOK = 4  # cycles that a look for matches may be late: it ends a burst of plain cycles
IDLE = 2  # or an IDLE-th of those since anything was proposed
UNMATCHED, BEGUN_FADE = 16.0, 0.98  # tokens taken to have come without a match; per cycle


class Choice(NamedTuple):
    """What a cycle does."""

    cycle: Cycle
    turns: list[Turn]
    ranges: Seq[int]  # [B] of the evidence it goes by
    given_up: float = 0.0  # of a trial: tokens per second of what it takes the place of
    reading: float = 0.0  # of a trial: seconds that it takes beside


class CostPlanner:
    """A `planning.Planner` that maximises expected tokens per second of the running batch.

    It outlives the engines it serves: acceptance, drift and budget carry over.
    """

    def __init__(self, target: Level, table: CostTable, candidates: Seq[Candidate]) -> None:
        """`table` has the target and every level that a candidate's cost names."""
        self.candidates = tuple(candidates)
        self.target, self.host, self._drift = str(target), HostTime(), Drift()
        self._forecaster = Forecaster(self.target, table, candidates, self._drift, self.host)
        self.optimiser = Optimiser(self._forecaster, candidates, Acceptance())
        self._exploration = Exploration(self._forecaster.linear_seconds(1))
        self._remaining = RemainingLength()
        lookup = None if self.optimiser.lookup is None else candidates[self.optimiser.lookup]
        self._evidence = (lookup and lookup.evidence) or (lambda sequences: [0] * len(sequences))
        self._starts = [source.evidence for source in lookup.sources] if lookup else []
        self._cycle = self._review_at = self._explore_at = self._proposed_at = 0
        self._members: list[Decoding] = []
        self._batch = self._forecaster.batch([])
        self._usual = self._batch.plain  # the best without evidence, as of the last review
        self._matches: list[int] = []  # [B] tokens
        self._least_match = 0  # tokens of the shortest that may pay
        self._choices: dict[tuple[int, ...], Choice] = {}  # by ranges, until the next review
        self._choice: Choice | None = None
        self._begun, self._unmatched = 0.0, UNMATCHED  # matches that pay, tokens without one; faded
        self._learned_at = 0.0
        self._last: CycleReport | None = None

    def begin(self, sequence: Decoding) -> None:
        """Tell every proposer."""
        for candidate in self.candidates:
            candidate.proposer.begin(sequence)
        self._remaining.begin(sequence)

    def release(self, sequence: Decoding) -> None:
        """Tell every proposer; what the sequence showed stays."""
        for candidate in self.candidates:
            candidate.proposer.release(sequence)
        self._remaining.end(sequence)

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The best cycle known, or a trial."""
        if not sequences:
            return []
        self._cycle += 1
        changed = sequences != self._members
        # What others than plain decoding bring is compared now if none of these ran before, or if
        # one of them is in use.
        is_used = self._usual.candidate != PLAIN
        if changed and (is_used or not set(sequences) & set(self._members)):
            self._review_at = self._cycle
        self._members = list(sequences) if changed else self._members
        if self._cycle >= self._review_at:
            self._review()
        elif changed:
            self._enter()
        self._matches = self._evidence(self._members)
        ranges = self._ranges(self._least_match)
        choice = self._choices.get(ranges)
        if choice is None:
            cycle = self.optimiser.best(self._batch, self._usual, ranges)
            choice = self._choices[ranges] = Choice(cycle, self._turns(cycle), ranges)
        last = self._choice.cycle.candidate if self._choice else PLAIN
        if choice.cycle.candidate == self.optimiser.lookup != last:
            self._begun += len(sequences) - choice.cycle.lengths.count(0)
        if self._cycle >= self._explore_at:
            self._explore_at = self._cycle + EXPLORE
            choice = self._explored(choice)
        self._choice = choice
        return choice.turns

    def force(self, sequences: Seq[Decoding], index: int, length: int) -> list[Turn]:
        """In the place of `plan`: proposals of one candidate wherever it has any."""
        self.plan(sequences)
        ranges = self._ranges(1) if self.candidates[index].evidence else [0] * len(sequences)
        sure = [None if found < 0 else [1.0] * length for found in ranges]
        cycle = self._forecaster.proposing(self._batch, index, sure, forced=True)
        self._choice = Choice(cycle, self._turns(cycle), ranges)
        return self._choice.turns

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        """Until the next review, or until a match may pay, which grows by one token per cycle."""
        if self._choice is None or self._choice.given_up or sequences != self._members:
            return 1
        due = self._least_match - max(self._matches, default=0)
        return max(1, min(max(due, LOOK, self._idle), self._review_at - self._cycle))

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        """Count what was accepted, correct the costs, settle what a trial cost."""
        now, choice = perf_counter(), self._choice
        self._cycle += report.target_forwards - 1  # a burst is as many cycles
        seconds = report.draft_seconds + report.verify_seconds
        if self._last is not None:  # most of the host's time comes after the runtime's
            host = (now - self._learned_at - seconds) / self._last.target_forwards
            self.host.observe(host, is_plain=not self._last.links)
        self._learned_at, self._last = now, report
        if report.links:
            self._proposed_at = self._cycle
        tokens = report.target_forwards * len(sequences)
        proposing = enumerate(zip(plan, report.outcomes, strict=True)) if report.links else ()
        for b, (turn, outcome) in proposing:
            if turn.length and choice is not None:
                candidate = self.candidates[choice.cycle.candidate]
                source = candidate.sources[choice.ranges[b] if candidate.evidence else 0]
                seen = turn.length, outcome.accepted, outcome.tree or (), self._cycle
                self.optimiser.acceptance.observe(source, *seen)
                tokens += outcome.accepted
        if choice is not None and choice.cycle.candidate != self.optimiser.lookup:
            self._unmatched = self._unmatched * BEGUN_FADE + tokens
            self._begun *= BEGUN_FADE
        if choice is None or report.prompt_rows:  # prompts ran along: whose time is it?
            return
        if plan == choice.turns:
            self._forecaster.correct(self._batch, choice.cycle, report)
        if choice.given_up:
            self._review_at = self._cycle  # what a trial showed and has read counts at once
        decoding = max(0.0, seconds / self._drift.common - choice.reading)
        if self._exploration.settle(decoding, tokens, choice.given_up, choice.reading):
            self._explore_at = self._cycle

    @property
    def _idle(self) -> int:
        """Cycles that a decision may be late."""
        return (self._cycle - self._proposed_at) // IDLE

    def _enter(self) -> None:
        """A batch that decodes plainly, but for evidence."""
        self._choices = {}
        contexts, left = [s.committed_len for s in self._members], self._remaining.of
        unread = {
            number: [(candidate.unread(each), left(each)) for each in self._members]
            for number, candidate in enumerate(self.candidates)
            if candidate.unread is not None
        }
        waits = self._remaining.waits(self._members)
        self._batch = self._forecaster.batch(contexts, waits, unread)
        self._usual = self._batch.plain
        self._least_match = self.optimiser.least_evidence(self._batch)

    def _review(self) -> None:
        """Compare what the candidates without evidence bring."""
        self._review_at, in_use = self._cycle + max(REVIEW, self._idle), self._usual.candidate
        self._enter()
        begins = min(1.0, self._begun / self._unmatched)
        self._usual = self.optimiser.usual(self._batch, in_use, begins)

    def _ranges(self, least: int) -> tuple[int, ...]:
        """[B] of matches of at least so many tokens. A batch that waits for its last sequences
        gains by what all of them propose, and nothing by what some do."""
        pairs = zip(self._matches, self._batch.waits, strict=True)
        ranges = [
            -1 if length < least or waits else bisect_right(self._starts, length) - 1
            for length, waits in pairs
        ]
        if self._remaining.is_closed and ranges.count(-1) > sum(self._batch.waits):
            return (-1,) * len(ranges)
        return tuple(ranges)

    def _explored(self, choice: Choice) -> Choice:
        """The same, or a trial of something else."""
        ranges = self._ranges(1)
        hopes = self.optimiser.hopes(self._batch, choice.cycle, ranges, self._cycle)
        trial = self._exploration.choose(choice.cycle, hopes)
        if trial is None:
            return choice
        return Choice(trial[0], self._turns(trial[0]), ranges, choice.cycle.rate, trial[1])

    def _turns(self, cycle: Cycle) -> list[Turn]:
        if cycle.candidate == PLAIN:
            return [PLAIN_TURN] * len(cycle.lengths)
        proposer = self.candidates[cycle.candidate].proposer
        return [Turn(proposer, length) if length else PLAIN_TURN for length in cycle.lengths]
