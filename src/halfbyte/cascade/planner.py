"""The planner: which proposer and how many tokens, for each sequence, in every cycle.

It looks for the cycle with the most expected tokens per second (`forecast`), from the measured cost
table (`costs`), what the calls really take (`drift`) and what was accepted (`acceptance`).

Never slower than plain: plain decoding is always among what is compared, and what is not in use
must beat what is by `HYSTERESIS`. What has not been tried lately may have become better, so it is
tried now and then, but only if it could win at the hopeful end of what is known, and on a budget:
`EXPLORATION` of the time spent, charged with what trials really lost. Choices depend on timings;
the output does not depend on choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from time import perf_counter

from halfbyte.cascade.acceptance import Acceptance, Source
from halfbyte.cascade.arms import Arm
from halfbyte.cascade.costs import CostTable
from halfbyte.cascade.cycle import PLAIN, CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.drift import Drift
from halfbyte.cascade.forecast import PLAIN_ARM, Cycle, Forecaster, Gains, verify_key
from halfbyte.config import Level

HYSTERESIS = 0.01  # share by which another arm must be better than the one in use
EXPLORATION = 0.01  # share of the time that trials may lose
SAVED_TRIALS = 6.0  # one-row steps that the budget may be saved up to
TRIAL_LENGTH = 2  # tokens a trial proposes at most
TRIAL_EVERY = 8  # cycles between looks at whether a trial is worth it
STALE_COST = 512  # cycles after which a cost not seen may have changed
HOPED_COST = 0.9  # of it, then
HOST_START, HOST_STEP = 5e-5, 1.02


@dataclass(frozen=True, slots=True)
class _Trial:
    """What was given up for a trial: seconds at most, and what the best cycle would have made."""

    charged: float
    rate: float


class CostPlanner:
    """A `planning.Planner` that maximises expected tokens per second of the running batch.

    It outlives the engines it serves: acceptance, drift and budget carry over.
    """

    def __init__(self, target: Level, table: CostTable, arms: Seq[Arm]) -> None:
        """`table` has the target and every level that an arm's cost names."""
        self.target = target
        self.arms = tuple(arms)
        self.acceptance = Acceptance()
        self._drift = Drift()
        self.forecaster = Forecaster(str(target), table, self.arms, self._drift.factor)
        self._step = 0
        self._in_use = PLAIN_ARM
        # Seconds that trials may lose; what nobody has tried yet may be tried at once.
        self._budget = SAVED_TRIALS * self.forecaster.linear_seconds(1)
        self._trial: _Trial | None = None
        self._sources: list[list[Source | None]] = []  # [B][arms] of the cycle being planned
        self._rate = 0.0
        self._learned_at = 0.0

    def begin(self, sequence: Decoding) -> None:
        """Tell every proposer."""
        for arm in self.arms:
            arm.proposer.begin(sequence)

    def release(self, sequence: Decoding) -> None:
        """Tell every proposer; what the sequence showed stays."""
        for arm in self.arms:
            arm.proposer.release(sequence)
        self.acceptance.forget(sequence)

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The best cycle known, or a trial."""
        if not sequences:
            return []
        self._step += 1
        contexts = [s.committed_len for s in sequences]
        self._sources = [[arm.source(s) for arm in self.arms] for s in sequences]
        gains = self._gains(sequences)
        best = self.best(contexts, gains)
        self._in_use = next((a for a in best.arms if a != PLAIN_ARM), PLAIN_ARM)
        self._rate = best.rate
        self._trial = None
        if self._step % TRIAL_EVERY == 0:
            best = self._tried(sequences, contexts, gains, best)
        return [
            PLAIN
            if arm == PLAIN_ARM
            else Turn(self.arms[arm].proposer, length, self.arms[arm].inner_length)
            for arm, length in zip(best.arms, best.lengths, strict=True)
        ]

    def best(self, contexts: Seq[int], gains: Seq[Gains]) -> Cycle:
        """The cycle with the most expected tokens per second; `gains[arm][b]` by position.

        Each arm for all sequences, and each for those to which one that costs no forward promises
        less.
        """
        forecaster, everyone = self.forecaster, range(len(contexts))
        plain = forecaster.plain(contexts)
        rate = max(plain.rate, self._rate)
        found, margin = plain, plain.rate * (1 + HYSTERESIS * (self._in_use == PLAIN_ARM))
        lookups = plain
        for arm in range(len(self.arms)):
            cycle = forecaster.extended(plain, arm, everyone, gains[arm], contexts, rate)
            worth = cycle.rate * (1 + HYSTERESIS * (self._in_use == arm))
            if cycle is not plain and worth > margin:
                found, margin = cycle, worth
            if not self.arms[arm].cost.reads_context and cycle.rate > lookups.rate:
                lookups = cycle
        if len(contexts) > 1 and lookups is not plain:
            rest = [b for b in everyone if lookups.arms[b] == PLAIN_ARM]
            for arm in range(len(self.arms)):
                cycle = forecaster.extended(lookups, arm, rest, gains[arm], contexts, rate)
                if cycle.rate > margin:
                    found, margin = cycle, cycle.rate
        return found

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        """Count what was accepted, correct the costs, settle what a trial cost."""
        by_proposer: dict[int, list[int]] = {}
        for b, (turn, outcome) in enumerate(zip(plan, report.outcomes, strict=True)):
            if turn.proposer is None or turn.length < 1:
                continue
            arm = self._index(turn)
            source = self._sources[b][arm]
            if source is not None:
                self.acceptance.observe(
                    source, sequences[b], turn.length, outcome.accepted, self._step
                )
            by_proposer.setdefault(arm, []).append(b)
        self._learn_costs(sequences, plan, report, by_proposer)
        self._learn_host(perf_counter(), report)
        seconds = (report.draft_seconds + report.verify_seconds) / self._drift.common
        self._budget += EXPLORATION * seconds
        if self._trial is not None:
            tokens = sum(outcome.accepted + 1 for outcome in report.outcomes)
            lost = max(0.0, seconds - tokens / self._trial.rate)
            self._budget += self._trial.charged - min(lost, self._trial.charged)
            self._trial = None
        most = SAVED_TRIALS * self.forecaster.linear_seconds(len(sequences))
        self._budget = min(self._budget, most)
        self._learned_at = perf_counter()

    def _learn_costs(
        self,
        sequences: Seq[Decoding],
        plan: Seq[Turn],
        report: CycleReport,
        by_proposer: dict[int, list[int]],
    ) -> None:
        forecaster, step = self.forecaster, self._step
        # `learn` runs after the commit: the context was shorter by what came out.
        contexts = [
            s.committed_len - len(o.tokens) for s, o in zip(sequences, report.outcomes, strict=True)
        ]
        rows, attention = 0, 0.0
        for context, outcome in zip(contexts, report.outcomes, strict=True):
            one, more = forecaster.attention(context)
            rows += outcome.proposed + 1
            attention += one + more * outcome.proposed
        if report.rows > rows:  # prompts or other cascades ran along: whose time is it?
            return
        predicted = forecaster.linear_seconds(rows) + attention
        self._drift.observe(verify_key(rows), report.verify_seconds, predicted, step)
        for arm, members in by_proposer.items():
            name = f"{self.arms[arm].proposer.name} > {self.target}"
            seconds = sum(link.seconds for link in report.links if link.name == name)
            if len(by_proposer) == 1:  # then all of it is this arm's, the stages before it too
                seconds = report.draft_seconds
            lengths = [plan[b].length for b in members]
            predicted = forecaster.draft_seconds(arm, lengths, [contexts[b] for b in members])
            self._drift.observe(arm, seconds, predicted, step)
            self.arms[arm].cost.learn(seconds, lengths)

    def _learn_host(self, now: float, report: CycleReport) -> None:
        """Time of a cycle outside the runtime, from one `learn` to the next: its median, about.

        Prefills and slow readers of a stream lie between some cycles, so the size of a surprise
        does not count, only its sign.
        """
        if self._learned_at:
            host = now - self._learned_at - report.draft_seconds - report.verify_seconds
            known = self.forecaster.host_seconds or HOST_START
            self.forecaster.host_seconds = known * (HOST_STEP if host > known else 1 / HOST_STEP)

    def _gains(self, sequences: Seq[Decoding]) -> list[Gains]:
        """[arms][B] chance that each position becomes output."""
        gains = self.acceptance.gains
        return [
            [
                None if source is None else gains(source, sequence)
                for sequence, source in zip(sequences, column, strict=True)
            ]
            for column in zip(*self._sources, strict=True)
        ]

    def _tried(
        self, sequences: Seq[Decoding], contexts: Seq[int], gains: Seq[Gains], best: Cycle
    ) -> Cycle:
        """`best`, or what was not tried lately and may be better, if the budget allows it."""
        found, hope = best, best.rate
        for cycle, hoped_rate, sure_tokens in self._hopes(sequences, contexts, gains, best):
            charge = max(cycle.seconds - sure_tokens / best.rate, 0.0)
            if hoped_rate > hope and charge <= self._budget:
                found, hope = cycle, hoped_rate
                self._trial = _Trial(charge, best.rate)
        if self._trial is not None:
            self._budget -= self._trial.charged
        return found

    def _hopes(
        self, sequences: Seq[Decoding], contexts: Seq[int], gains: Seq[Gains], best: Cycle
    ) -> Iterator[tuple[Cycle, float, float]]:
        """Other cycles, the rate each has if all that may be good is, and what it surely emits."""
        if PLAIN_ARM not in best.arms:
            plain = self.forecaster.plain(contexts)
            yield plain, plain.rate / self._hoped_cost(verify_key(plain.rows)), plain.tokens
        for arm in range(len(self.arms)):
            hopes: list[Seq[float] | None] = [None] * len(sequences)
            for b, sources in enumerate(self._sources):
                source = sources[arm]
                if source is not None and best.arms[b] != arm:
                    hopes[b] = self.acceptance.hopeful_gains(source, sequences[b], self._step)
            members = [b for b, hope in enumerate(hopes) if hope is not None]
            base = self.forecaster.without(best, members, gains, contexts)
            hoped = self.forecaster.extended(base, arm, members, hopes, contexts, base.rate)
            if hoped is not base:
                # Its first tokens tell about as much as all of them, and cost less.
                short = [None if hope is None else hope[:TRIAL_LENGTH] for hope in hopes]
                trial = self.forecaster.extended(base, arm, members, short, contexts, base.rate)
                cycle = hoped if trial is base else trial
                yield cycle, hoped.rate / self._hoped_cost(arm), base.tokens

    def _hoped_cost(self, key: int) -> float:
        """What a call may cost now, as a share of what it is thought to."""
        return HOPED_COST if self._drift.age(key, self._step) > STALE_COST else 1.0

    def _index(self, turn: Turn) -> int:
        return next(i for i, arm in enumerate(self.arms) if arm.proposer is turn.proposer)
