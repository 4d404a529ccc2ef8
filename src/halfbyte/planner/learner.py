"""What cycles teach: how much is accepted, what calls take, what matches bring and trials cost."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.planner.acceptance import Acceptance
from halfbyte.planner.candidates import Arm
from halfbyte.planner.drift import Drift
from halfbyte.planner.exploration import Trial, Trials
from halfbyte.planner.forecast import Cycle, Forecaster, verify_key
from halfbyte.planner.optimism import Promises

SPARED_FADE = 1 / 128  # of what matches spare, a cycle
COSTS_EVERY = 4  # cycles
HOST_START, HOST_STEP = 5e-5, 1.02

# Of matches in a batch that is plain but for them: tokens, and seconds without the host's.
Expected = tuple[float, float] | None


class Note(NamedTuple):
    """What a cycle did, and how things stood when it was planned."""

    at: float  # seconds of the clock, after it
    step: int
    trial: Trial | None
    expected: Expected
    matches: Seq[int]  # [B] step of the evidence of each; empty where nothing was proposed
    reading: set[int]  # arms whose call ran much that was unread
    sequences: Seq[Decoding]
    plan: Seq[Turn]
    report: CycleReport


class Learner:
    """Corrects what a forecast rests on: acceptance, drift and costs of arms, the host's time, the
    budget of trials, promises."""

    def __init__(
        self,
        forecaster: Forecaster,
        arms: Seq[Arm],
        acceptance: Acceptance,
        drift: Drift,
        trials: Trials,
    ) -> None:
        self._forecaster, self._arms = forecaster, arms
        self._acceptance, self._drift, self._trials = acceptance, drift, trials
        self._number = {id(arm.proposer): i for i, arm in enumerate(arms)}
        self.promises = Promises()
        self.spared = 0.0  # seconds that matches have spared a cycle
        self.notes: list[Note] = []  # not looked into yet
        self._learned_at = 0.0
        self._was_plain = True
        self._last_forwards = 1
        self._costs_at = 0

    def digest(self, contexts: Seq[int], plain: Cycle, usual: Cycle) -> None:
        """Look into what was noted. Of the batch as it was last looked over: contexts [B], and what
        is done where nothing matches, which is `plain` itself where that is best."""
        notes, self.notes = self.notes, []
        for note in notes:
            self._look_into(note, contexts, plain, usual)

    def _look_into(self, note: Note, contexts: Seq[int], plain: Cycle, usual: Cycle) -> None:
        """Count what was accepted, correct the costs, settle what a trial cost."""
        sequences, plan, report = note.sequences, note.plan, note.report
        seconds = report.draft_seconds + report.verify_seconds
        self._learn_host((note.at - self._learned_at - seconds) / self._last_forwards)
        self._learned_at, self._was_plain = note.at, not report.links
        self._last_forwards = report.target_forwards
        by_arm: dict[int, list[int]] = {}
        if report.links:
            for b, (turn, outcome) in enumerate(zip(plan, report.outcomes, strict=True)):
                if turn.proposer is None or turn.length < 1:
                    continue
                arm = self._number[id(turn.proposer)]
                source = self._arms[arm].source_of(note.matches[b])
                if source is not None:
                    self._acceptance.observe(
                        source,
                        sequences[b],
                        turn.length,
                        outcome.accepted,
                        note.step,
                        outcome.tree,
                    )
                by_arm.setdefault(arm, []).append(b)
        if note.step >= self._costs_at:
            self._costs_at = note.step + COSTS_EVERY
            self._learn_costs(note, by_arm, contexts)
        seconds /= self._drift.common
        tokens = sum(outcome.accepted + 1 for outcome in report.outcomes) if report.links else 0
        self._compare(note, tokens, seconds, plain, usual)
        self._trials.settle(seconds, tokens, note.trial, len(sequences))

    def _compare(self, note: Note, tokens: int, seconds: float, plain: Cycle, usual: Cycle) -> None:
        """What a batch that is plain but for matches got out of them, and out of what was expected
        of them."""
        forwards = note.report.target_forwards
        self.spared *= 1 - SPARED_FADE * forwards
        if usual is not plain or len(note.sequences) != plain.rows:
            return
        if note.report.links:
            plainly = tokens / plain.rate - self._forecaster.proposing_host_seconds
            self.spared += SPARED_FADE * (plainly - seconds)
        if note.report.prompt_rows:  # whose time is it?
            return
        if not note.report.links:
            self.promises.plain(forwards, seconds, forwards * plain.verify_seconds)
        elif note.expected is not None:
            self.promises.proposed(tokens, seconds, note.expected)

    def _learn_costs(self, note: Note, by_arm: dict[int, list[int]], contexts: Seq[int]) -> None:
        forecaster, step, plan, report = self._forecaster, note.step, note.plan, note.report
        rows, attention = 0, 0.0
        if len(contexts) != len(note.sequences):
            return
        for context, outcome in zip(contexts, report.outcomes, strict=True):
            one, more = forecaster.attention(context)
            proposed = outcome.rows or outcome.proposed
            rows += proposed + 1
            attention += one + more * proposed
        if report.rows > rows:  # prompts or other cascades ran along: whose time is it?
            return
        predicted = forecaster.linear_seconds(rows) + attention
        measured = report.verify_seconds / report.target_forwards
        self._drift.observe(verify_key(rows), measured, predicted, step)
        for arm, members in by_arm.items():
            if arm in note.reading:
                continue
            name = f"{self._arms[arm].proposer.name} > {forecaster.target}"
            seconds = sum(link.seconds for link in report.links if link.name == name)
            if len(by_arm) == 1:  # then all of it is this arm's, the stages before it too
                seconds = report.draft_seconds
            lengths = [plan[b].length for b in members]
            predicted = forecaster.draft_seconds(arm, lengths, [contexts[b] for b in members])
            self._drift.observe(arm, seconds, predicted, step)
            self._arms[arm].cost.learn(seconds, [min(n, self._arms[arm].depth) for n in lengths])

    def _learn_host(self, seconds: float) -> None:
        """Time outside the runtime from one `learn` to the next: its median, about, of plain cycles
        and of others. The larger part comes after the runtime's, so it is that of the cycle before.

        Prefills and slow readers of a stream lie between some cycles, so the size of a surprise
        does not count, only its sign.
        """
        if not self._learned_at:
            return
        forecaster = self._forecaster
        known = forecaster.host_seconds if self._was_plain else forecaster.proposing_host_seconds
        known = (known or HOST_START) * (HOST_STEP if seconds > known else 1 / HOST_STEP)
        if self._was_plain:
            forecaster.host_seconds = known
        else:
            forecaster.proposing_host_seconds = known
        forecaster.proposing_host_seconds = max(
            forecaster.host_seconds, forecaster.proposing_host_seconds
        )
