"""What is tried though it is not thought best: on a budget, and only where there is hope.

What has not been tried lately may have become better. It is tried if it would win at the hopeful
end of what is known, with a few tokens. A trial is charged what it may lose and repaid what it did
not, so trials lose `EXPLORATION` of the decoding time at most. What a model must read of a text
before it can be tried is hundreds of times what a trial costs otherwise, and has a budget of its
own: a model that looked poor on one kind of text would never be seen on another.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from halfbyte.cascade.decoding import Decoding
from halfbyte.planner.acceptance import Acceptance, Source
from halfbyte.planner.candidates import Arm
from halfbyte.planner.drift import Drift
from halfbyte.planner.forecast import PLAIN_ARM, Cycle, Forecaster, Gains, verify_key

EXPLORATION = 0.003  # share of the time that trials may lose
SAVED_TRIALS = 4.0  # one-row steps that the budget may be saved up to
TRIAL_LENGTH = 2  # tokens a trial proposes at most
TRIAL_FIRST, TRIAL_AFTER = 16, 128  # cycles between looks at whether a trial is worth it
READING = 0.01  # share of the time that may be spent to read texts for trials
FIRST_READING, SAVED_READING = 16.0, 32.0  # one-row steps of that, at the start and at most
READ_AT = 4  # cycles after which a new batch's texts are read for a trial: the sooner the better
STALE_COST = 512  # cycles after which a cost not seen may have changed
HOPED_COST = 0.9  # of it, then


@dataclass(frozen=True, slots=True)
class Trial:
    """What was given up for it: seconds at most, and what the best cycle would have made."""

    charged: float
    rate: float
    reading: float = 0.0  # seconds of it beside, for what is not repaid


@dataclass(frozen=True, slots=True)
class Batch:
    """What a review found of the sequences [B] that run."""

    members: Seq[Decoding]
    contexts: Seq[int]
    weights: Seq[float]  # what a token of each counts
    gains: Seq[Gains]  # [arms][B]
    plain: Cycle
    steps: Seq[int]  # of the evidence of each; -1: none


class Trials:
    """The budget, and what is worth it."""

    def __init__(
        self, forecaster: Forecaster, arms: Seq[Arm], acceptance: Acceptance, drift: Drift
    ) -> None:
        self._forecaster, self._arms = forecaster, arms
        self._acceptance, self._drift = acceptance, drift
        # Seconds that trials may lose; what has not been tried yet may be tried at once.
        self.budget = SAVED_TRIALS * forecaster.linear_seconds(1)
        self._readers = any(arm.unread is not None for arm in arms)
        self._reading = FIRST_READING * forecaster.linear_seconds(1)  # the same for what is read
        self.now: Trial | None = None  # of the cycle being planned
        self._look_at, self._pause = 0, TRIAL_FIRST

    def begin_anew(self, step: int) -> None:
        """Nobody of the batch was there before."""
        self._pause = TRIAL_FIRST
        if self._readers:
            self._look_at = min(self._look_at, step + READ_AT)

    def are_due(self, step: int) -> bool:
        """Whether to ask if anything is worth a trial."""
        return step >= self._look_at

    def choose(self, best: Cycle, batch: Batch, step: int) -> Cycle:
        """`best`, or what was not tried lately and may be better, if the budget allows it."""
        found, hope = best, best.rate
        for cycle, hoped_rate, sure_tokens, reading in self._hopes(best, batch, step):
            charge = max(cycle.seconds - sure_tokens / best.rate, 0.0)
            if hoped_rate > hope and charge <= self.budget and reading <= self._reading:
                found, hope = cycle, hoped_rate
                self.now = Trial(charge, best.rate, reading)
        self._look_at = step + self._pause
        self._pause = min(2 * self._pause, TRIAL_AFTER)
        if self.now is not None:
            self.budget -= self.now.charged
            self._reading -= self.now.reading
            self._pause = TRIAL_FIRST
        return found

    def settle(self, seconds: float, tokens: int, trial: Trial | None, sequences: int) -> None:
        """A cycle of so many sequences took so long and brought so much."""
        self.budget += EXPLORATION * seconds
        self._reading += READING * seconds
        if trial is not None:
            lost = max(0.0, seconds - trial.reading - tokens / trial.rate)
            self.budget += trial.charged - min(lost, trial.charged)
        one = self._forecaster.linear_seconds(sequences)
        self.budget = min(self.budget, SAVED_TRIALS * one)
        self._reading = min(self._reading, SAVED_READING * one)

    def _hopes(
        self, best: Cycle, batch: Batch, step: int
    ) -> Iterator[tuple[Cycle, float, float, float]]:
        """Other cycles, the rate each has if all that may be good is, what it surely emits, and the
        seconds of what is read for it."""
        contexts = batch.contexts
        if PLAIN_ARM not in best.arms:
            plain = batch.plain
            hoped_cost = self._hoped_cost(verify_key(plain.rows), step)
            yield plain, plain.rate / hoped_cost, plain.tokens, 0.0
        for arm, one in enumerate(self._arms):
            if one.cost.pass_seconds(1, first=True) * self._drift.factor(arm) > self.budget:
                continue  # not even one token for one sequence
            hopes = self._hoped_gains(arm, best, batch, step)
            members = [b for b, hope in enumerate(hopes) if hope is not None]
            base = self._forecaster.without(best, members, batch.gains, contexts)
            hoped = self._forecaster.extended(base, arm, members, hopes, contexts, base.rate)
            if hoped is not base:
                # Its first tokens tell about as much as all of them, and cost less.
                short = [None if hope is None else hope[:TRIAL_LENGTH] for hope in hopes]
                trial = self._forecaster.extended(base, arm, members, short, contexts, base.rate)
                cycle = hoped if trial is base else trial
                reading = 0.0
                if one.unread is not None:  # a trial has to pay for all of it
                    reading = sum(
                        one.unread.seconds(one.unread.tokens(batch.members[b]))
                        for b in members
                        if cycle.arms[b] == arm
                    )
                yield cycle, hoped.rate / self._hoped_cost(arm, step), base.tokens, reading

    def _hoped_gains(
        self, arm: int, best: Cycle, batch: Batch, step: int
    ) -> list[Seq[float] | None]:
        """[B] of an arm, where `best` has another and there is something to propose."""
        of_any: dict[Source, Seq[float]] = {}  # that has shown nothing of the source
        hopes: list[Seq[float] | None] = [None] * len(batch.members)
        for b, sequence in enumerate(batch.members):
            source = self._arms[arm].source_of(batch.steps[b])
            if source is None or best.arms[b] == arm:
                continue
            if source in self._acceptance.shown(sequence):
                gains: Seq[float] = self._acceptance.hopeful_gains(source, sequence, step)
            else:
                if source not in of_any:
                    of_any[source] = self._acceptance.hopeful_gains(source, None, step)
                gains = of_any[source]
            weight = batch.weights[b]
            hopes[b] = gains if weight == 1.0 else [gain * weight for gain in gains]
        return hopes

    def _hoped_cost(self, key: int, step: int) -> float:
        """What a call may cost now, as a share of what it is thought to."""
        return HOPED_COST if self._drift.age(key, step) > STALE_COST else 1.0
