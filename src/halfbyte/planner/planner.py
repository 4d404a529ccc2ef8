"""The planner: which proposer and how many tokens, for each sequence, in every cycle.

It looks for the cycle with the most expected tokens per second (`forecast`), from the measured cost
table (`costs`), what the calls really take (`drift`) and what was accepted (`acceptance`); what
cycles teach of these is looked into by the `learner`.

Never slower than plain: plain decoding is always among what is compared, and what is not in use
must beat what is by `HYSTERESIS`. Now and then something else is tried (`trials`). Choices depend
on timings; the output does not depend on choices.

Choosing costs time too. What is known changes slowly, so it is looked over in a *review*, after
`REVIEW_FIRST`, twice that … `REVIEW_AFTER` cycles; in between a cycle does what the review, or a
cycle after it with the same matches (`matches`), found best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq
from math import sqrt
from time import perf_counter

from halfbyte.cascade.cycle import PLAIN, CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.config import Level
from halfbyte.planner.acceptance import Acceptance, Source
from halfbyte.planner.candidates import Arm
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.draft_prefill import Reading
from halfbyte.planner.drift import Drift
from halfbyte.planner.exploration import Batch, Trials
from halfbyte.planner.forecast import PLAIN_ARM, Cycle, Forecaster, Gains
from halfbyte.planner.learner import Expected, Learner, Note
from halfbyte.planner.matches import Matches
from halfbyte.planner.remaining_length import Answers

HYSTERESIS = 0.01  # share by which another arm must be better than the one in use
REVIEW_FIRST, REVIEW_AFTER = 4, 32  # cycles between two, after a change and at most
LATE_LOOK = 1 / 4  # of the cycles since something was proposed: a look for matches may be so late
FEW_CHANGED = 4  # in so many may come or go before all are looked over again
# In a batch some sequence nearly always has a match, and a look ends a burst of plain cycles. A
# match found a cycle late loses a `MATCH_LASTS`-th of what it brings.
MATCH_LASTS, MOST_LATE = 4, 8  # cycles


class CostPlanner:
    """A `planning.Planner` that maximises expected tokens per second of the running batch.

    It outlives the engines it serves: acceptance, drift and budget carry over.
    """

    def __init__(self, target: Level, table: CostTable, arms: Seq[Arm]) -> None:
        """`table` has the target and every level that an arm's cost names. Arms that go by
        evidence go by the same, with the same steps."""
        self.arms = tuple(arms)
        self.acceptance = Acceptance()
        self._drift = Drift()
        self.forecaster = Forecaster(str(target), table, self.arms, self._drift.factor)
        self._lookups = [i for i, arm in enumerate(self.arms) if arm.evidence is not None]
        self._levels = [i for i, arm in enumerate(self.arms) if arm.evidence is None]
        self._matches = Matches([self.arms[i] for i in self._lookups], self.acceptance)
        self._trials = Trials(self.forecaster, self.arms, self.acceptance, self._drift)
        self._learner = Learner(
            self.forecaster, self.arms, self.acceptance, self._drift, self._trials
        )
        self._answers = Answers()
        self._reading = Reading(self.arms)
        self._step = 0
        self._in_use = PLAIN_ARM
        self._expected: Expected = None  # of the cycle being planned
        # What the last review found, for the sequences [B] it was made for.
        self._members: list[Decoding] = []
        self._reviewed_size = self._changed = 0  # how many, and how many have come or gone since
        self._contexts: list[int] = []
        self._weights: list[float] = []  # what a token counts
        self._gains: list[Gains] = []  # [arms][B]; of arms that go by evidence, of its present step
        self._usual = self._plain = self.forecaster.plain([])  # where nothing matches
        self._rate = 0.0  # of the cycle chosen then
        self._patience = REVIEW_FIRST
        self._proposed_at = 0
        self._review_at = 0
        self._price = 0.0  # tokens that a row must bring
        self._kept: dict[tuple[int, ...], tuple[list[Turn], Expected]] = {}  # by `Matches.told`

    def begin(self, sequence: Decoding) -> None:
        """Tell every proposer."""
        for arm in self.arms:
            arm.proposer.begin(sequence)
        self._answers.begin(sequence)

    def release(self, sequence: Decoding) -> None:
        """Tell every proposer; what the sequence showed stays."""
        self._learner.digest(self._contexts, self._plain, self._usual)
        for arm in self.arms:
            arm.proposer.release(sequence)
        self.acceptance.forget(sequence)
        self._matches.forget(sequence)
        self._answers.end(sequence)
        if not self._answers.are_running:
            self._members = []

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The best cycle known, or a trial."""
        turns = self._next(sequences)
        self._reading.see(sequences, turns)
        return turns

    def _next(self, sequences: Seq[Decoding]) -> list[Turn]:
        self._step += 1
        self._trials.now = self._expected = None
        if not sequences:
            return []
        if self._step >= self._review_at:
            return self._review(list(sequences))
        if self._members != sequences and not self._goes_on_with(sequences):
            is_idle = self._proposed_at < self._step - 1
            if is_idle and set(sequences) < set(self._members):
                self._review_at = min(self._review_at, self._step + REVIEW_FIRST)
                return [PLAIN] * len(sequences)  # one left; most often another comes at once
            return self._review(list(sequences))
        self._matches.look()
        told = tuple(self._matches.told)
        kept = self._kept.get(told)
        if kept is None:
            kept = self._looked_up() if self._is_simple else (self._turns(self._chosen()), None)
            self._kept[told] = kept
        turns, self._expected = kept
        return turns

    @property
    def _is_simple(self) -> bool:
        """Whether the batch is plain but for matches."""
        return bool(self._lookups) and len(self._members) > 1 and self._usual is self._plain

    def _goes_on_with(self, sequences: Seq[Decoding]) -> bool:
        """Whether what the last review found of a batch that is plain but for matches, and that
        others join, will do for this one, of which few have changed since."""
        if self._usual is not self._plain or not self._answers.is_joined:
            return False
        changed = self._changed + len(set(sequences) ^ set(self._members))
        if changed * FEW_CHANGED > self._reviewed_size:
            return False
        self._changed, self._kept = changed, {}
        self._members = list(sequences)
        self._contexts = [s.committed_len for s in sequences]
        self._weights = [1.0] * len(sequences)
        self._usual = self._plain = self.forecaster.plain(self._contexts)
        self._matches.weigh(self._members, self._weights, self._price)
        return True

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        """Until the next review, or until a match might pay; where matches bring little or nothing
        was proposed for long, a little longer, since a look costs more than a match found late."""
        if self._trials.now is not None or self._members != sequences:
            return 1
        late = LATE_LOOK * (self._step - self._proposed_at)
        if len(sequences) > 1:
            late = max(late, self._between_looks())
        look = max(self._matches.until_next(), int(late))
        return max(1, min(look, self._review_at - self._step))

    def _between_looks(self) -> float:
        """Cycles between looks that lose least: n of them share what a call takes, and find a match
        half of n late."""
        call = 2 * MATCH_LASTS * self.forecaster.host_seconds
        return min(sqrt(call / max(self._learner.spared, 1e-9)), MOST_LATE)

    def _review(self, sequences: list[Decoding]) -> list[Turn]:
        """Look everything over; the best cycle, or a trial."""
        self._learner.digest(self._contexts, self._plain, self._usual)
        self._kept = {}
        self._changed, self._reviewed_size = 0, len(sequences)
        if sequences != self._members:
            if not set(sequences) & set(self._members):
                self._patience = REVIEW_FIRST
                self._trials.begin_anew(self._step)
            self._members, self._rate = sequences, 0.0
        self._contexts = [s.committed_len for s in sequences]
        self._weights = self._answers.weights(sequences)
        everyone = range(len(sequences))
        self._gains = [
            [self._worth(arm.sources[0], b) for b in everyone]
            if arm.evidence is None
            else [None] * len(sequences)
            for arm in self.arms
        ]
        self.forecaster.charges = self._reading.charges(sequences, self._answers)
        self._plain = self.forecaster.plain(self._contexts)
        self._usual = self._best_level(self._plain, self._gains, self._contexts)
        used = _arm_of(self._usual)
        is_steady = used == self._in_use
        self._patience = min(2 * self._patience, REVIEW_AFTER) if is_steady else REVIEW_FIRST
        self._in_use = used
        self._review_at = self._step + self._patience
        self._price = self._plain.rate * self.forecaster.row_seconds(self._plain.rows)
        self._matches.weigh(sequences, self._weights, self._price)
        is_trying = self._trials.are_due(self._step)
        self._matches.look(at_all=is_trying)
        best = self._chosen()
        self._rate = best.rate
        kept = self._looked_up() if self._is_simple else (self._turns(best), None)
        self._kept[tuple(self._matches.told)] = kept
        turns, self._expected = kept
        if not is_trying:
            return turns
        steps = self._matches.steps
        batch = Batch(sequences, self._contexts, self._weights, self._gains, self._plain, steps)
        tried = self._trials.choose(best, batch, self._step)
        if tried is best:
            return turns
        self._expected = None
        return self._turns(tried)

    def _worth(self, source: Source, b: int) -> Seq[float]:
        """What the token at each position of a proposal for a sequence is expected to count."""
        gains, weight = self.acceptance.gains(source, self._members[b]), self._weights[b]
        return gains if weight == 1.0 else [gain * weight for gain in gains]

    def best(self, contexts: Seq[int], gains: Seq[Gains]) -> Cycle:
        """The cycle with the most expected tokens per second; `gains[arm][b]` by position."""
        plain = self.forecaster.plain(contexts)
        usual = self._best_level(plain, gains, contexts)
        return self._with_matches(plain, usual, gains, contexts)

    def _best_level(self, plain: Cycle, gains: Seq[Gains], contexts: Seq[int]) -> Cycle:
        """Of plain decoding and the arms that need no evidence, each for all sequences."""
        found, margin = plain, plain.rate * (1 + HYSTERESIS * (self._in_use == PLAIN_ARM))
        rate = max(plain.rate, self._rate)
        for arm in self._levels:
            cycle = self.forecaster.extended(
                plain, arm, range(len(contexts)), gains[arm], contexts, rate
            )
            worth = cycle.rate * (1 + HYSTERESIS * (self._in_use == arm))
            if cycle is not plain and worth > margin:
                found, margin = cycle, worth
        return found

    def _with_matches(
        self, plain: Cycle, usual: Cycle, gains: Seq[Gains], contexts: Seq[int]
    ) -> Cycle:
        """`usual`, or arms that go by evidence; one that costs no forward may serve some sequences
        beside the arm of `usual` for the rest."""
        everyone, rate = range(len(contexts)), max(usual.rate, self._rate)
        found, lookups = usual, plain
        margin = usual.rate * (1 + HYSTERESIS * (self._in_use == _arm_of(usual)))
        for arm in self._lookups:
            cycle = self.forecaster.extended(plain, arm, everyone, gains[arm], contexts, rate)
            if cycle.rate > margin:
                found, margin = cycle, cycle.rate
            if not self.arms[arm].cost.reads_context and cycle.rate > lookups.rate:
                lookups = cycle
        if lookups is not plain and usual is not plain:
            arm = _arm_of(usual)
            rest = [b for b in everyone if lookups.arms[b] == PLAIN_ARM]
            cycle = self.forecaster.extended(lookups, arm, rest, gains[arm], contexts, rate)
            if cycle.rate > margin:
                found = cycle
        return found

    def _chosen(self) -> Cycle:
        """The best cycle with the matches there are."""
        told = self._matches.told
        if max(told) < 0:
            return self._usual
        for arm in self._lookups:
            sources = self.arms[arm].sources
            self._gains[arm] = [
                None if step < 0 else self._worth(sources[step], b) for b, step in enumerate(told)
            ]
        return self._with_matches(self._plain, self._usual, self._gains, self._contexts)

    def _looked_up(self) -> tuple[list[Turn], Expected]:
        """As `_turns(_chosen())` for a batch that is plain but for matches: the likeliest tokens of
        all of them, as many as are best."""
        arm, forecaster, plain = self.arms[self._lookups[0]], self.forecaster, self._plain
        price, offers = self._price, []
        for b, step in enumerate(self._matches.told):
            if step >= 0:
                gains = self._worth(arm.sources[step], b)
                offers += [(gain, b) for gain in gains[: arm.max_length] if gain > price]
        offers.sort(reverse=True)  # gains of a sequence never rise, so its first tokens come first
        looking = arm.cost.pass_seconds(len(self._matches.told), first=True)
        looking *= self._drift.factor(self._lookups[0])
        host = forecaster.proposing_host_seconds
        attention_of = [forecaster.attention(context)[1] for context in self._contexts]
        tokens, attention = plain.tokens, plain.attention_seconds
        best, count = plain.rate * (1 + HYSTERESIS) / self._learner.promises.kept, 0
        expected: Expected = None
        verifies = forecaster.verifies(plain.rows + 1, len(offers))
        for n, ((gain, b), (linear, drift)) in enumerate(zip(offers, verifies, strict=True)):
            tokens += gain
            attention += attention_of[b]
            seconds = looking + (linear + attention) * drift
            rate = tokens / (seconds + host)
            if rate > best:
                best, count, expected = rate, n + 1, (tokens, seconds)
        lengths = Counter(b for _, b in offers[:count])
        turns = [
            Turn(arm.proposer, lengths[b]) if b in lengths else PLAIN
            for b in range(len(self._matches.told))
        ]
        return turns, expected

    def _turns(self, cycle: Cycle) -> list[Turn]:
        return [
            PLAIN
            if arm == PLAIN_ARM
            else Turn(self.arms[arm].proposer, length, self.arms[arm].inner_length)
            for arm, length in zip(cycle.arms, cycle.lengths, strict=True)
        ]

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        """Take note. It is looked into before the next review: after a forward, which has emptied
        the processor's caches, the first cycle looked into takes several times as long as others.
        """
        self._step += report.target_forwards - 1  # a burst is as many cycles
        matches: Seq[int] = ()
        if report.links:
            matches, self._proposed_at = self._matches.steps, self._step
            if not self._answers.is_joined and len(sequences) > 1:  # some may have come ahead
                self._review_at = min(self._review_at, self._step + REVIEW_FIRST)
        self._learner.notes.append(
            Note(
                perf_counter(),
                self._step,
                self._trials.now,
                self._expected,
                matches,
                self._reading.now,
                sequences,
                plan,
                report,
            )
        )


def _arm_of(cycle: Cycle) -> int:
    """The one arm of a cycle of plain and proposing sequences."""
    return max(cycle.arms)
