"""The planner: which proposer and how many tokens, for each sequence, in every cycle.

It looks for the cycle with the most expected tokens per second (`forecast`), from the measured cost
table (`costs`), what the calls really take (`drift`) and what was accepted (`acceptance`).

Never slower than plain: plain decoding is always among what is compared, and what is not in use
must beat what is by `HYSTERESIS`. What has not been tried lately may have become better, so it is
tried now and then, but only if it could win at the hopeful end of what is known, and on a budget:
`EXPLORATION` of the time spent, charged with what trials really lost. Choices depend on timings;
the output does not depend on choices.

In a batch that nobody joins, all wait for the last: a token of a sequence that is ahead of others
only lets it leave sooner, which spares forwards a row each, not forwards. So there it counts less,
the more it is ahead. Where others come in the place of those who leave, tokens count alike.

Choosing costs time too. What is known changes slowly, so it is looked over in a *review*, after
`REVIEW_FIRST`, twice that … `REVIEW_AFTER` cycles; in between a cycle does what the review, or a
cycle after it with the same matches, found best. A match is looked for when it could have become
long enough to pay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from halfbyte.cascade.acceptance import Acceptance, Source
from halfbyte.cascade.arms import Arm
from halfbyte.cascade.costs import CostTable
from halfbyte.cascade.cycle import PLAIN, CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.drift import Drift
from halfbyte.cascade.forecast import PLAIN_ARM, Cycle, Forecaster, Gains, verify_key
from halfbyte.config import Level

HYSTERESIS = 0.01  # share by which another arm must be better than the one in use
REVIEW_FIRST, REVIEW_AFTER = 4, 32  # cycles between two, after a change and at most
EXPLORATION = 0.003  # share of the time that trials may lose
SAVED_TRIALS = 4.0  # one-row steps that the budget may be saved up to
TRIAL_LENGTH = 2  # tokens a trial proposes at most
TRIAL_FIRST, TRIAL_AFTER = 16, 128  # cycles between looks at whether a trial is worth it
LATE_LOOK = 1 / 4  # of the cycles since something was proposed: a look for matches may be so late
COSTS_EVERY = 4  # cycles
STALE_COST = 512  # cycles after which a cost not seen may have changed
HOPED_COST = 0.9  # of it, then
HOST_START, HOST_STEP = 5e-5, 1.02
NEVER = 1 << 62  # tokens
# What a model has not read of a text is paid for by the tokens still to come: as many as have come,
# or as answers usually have beyond that; this many at least, and no more than are wanted.
LEAST_HORIZON = 32
LENGTHS_FADE = 1 / 8  # of the usual length of an answer, with each
# In a batch that nobody joins, a token counts by how many have come to the last sequence and to its
# own, `HEAD_START` more each: their ratio to a power, so that a lead of an eighth halves it.
HEAD_START, LEAD_POWER = 16, 6
MUCH_UNREAD = 16  # tokens: a call that runs so many first says nothing of what a draft costs


@dataclass(frozen=True, slots=True)
class _Trial:
    """What was given up for a trial: seconds at most, and what the best cycle would have made."""

    charged: float
    rate: float


class _Note(NamedTuple):
    """What `learn` was told of a cycle, and how things stood."""

    at: float  # seconds of the clock
    step: int
    trial: _Trial | None
    matches: Seq[int]
    reading: set[int]  # arms whose call ran much that was unread
    sequences: Seq[Decoding]
    plan: Seq[Turn]
    report: CycleReport


class CostPlanner:
    """A `planning.Planner` that maximises expected tokens per second of the running batch.

    It outlives the engines it serves: acceptance, drift and budget carry over.
    """

    def __init__(self, target: Level, table: CostTable, arms: Seq[Arm]) -> None:
        """`table` has the target and every level that an arm's cost names. Arms that go by
        evidence go by the same, with the same steps."""
        self.target = target
        self.arms = tuple(arms)
        self.acceptance = Acceptance()
        self._drift = Drift()
        self.forecaster = Forecaster(str(target), table, self.arms, self._drift.factor)
        self._lookups = [i for i, arm in enumerate(self.arms) if arm.evidence is not None]
        self._levels = [i for i, arm in enumerate(self.arms) if arm.evidence is None]
        self._number = {id(arm.proposer): i for i, arm in enumerate(self.arms)}
        self._evidence = self.arms[self._lookups[0]].evidence if self._lookups else None
        self._steps = [s.evidence for i in self._lookups[:1] for s in self.arms[i].sources]
        for arm in self._lookups:
            if [s.evidence for s in self.arms[arm].sources] != self._steps:
                raise ValueError("arms that go by evidence of different kinds")
        self._readers = [i for i, arm in enumerate(self.arms) if arm.unread is not None]
        self._begun_at: dict[Decoding, int] = {}  # tokens
        self._has_left = self._is_joined = False  # since nobody ran: one has left, one came then
        self._weights: list[float] = []  # [B] what a token counts
        self._usual_length, self._answers = 0.0, 0  # tokens of an answer
        self._reading: set[int] = set()  # arms whose next call runs much that is unread
        self._step = 0
        self._in_use = PLAIN_ARM
        # Seconds that trials may lose; what nobody has tried yet may be tried at once.
        self._budget = SAVED_TRIALS * self.forecaster.linear_seconds(1)
        self._trial: _Trial | None = None
        self._notes: list[_Note] = []
        self._learned_at = 0.0
        self._was_plain = True
        self._last_forwards = 1
        self._costs_at = 0
        # What the last review found, for the sequences [B] it was made for.
        self._members: list[Decoding] = []
        self._contexts: list[int] = []
        self._gains: list[Gains] = []  # [arms][B]; of arms that go by evidence, of its present step
        self._usual = self._plain = self.forecaster.plain([])  # where nothing matches
        self._rate = 0.0  # of the cycle chosen then
        self._patience = REVIEW_FIRST
        self._proposed_at = 0
        self._review_at = 0
        self._tries_at, self._between_tries = 0, TRIAL_FIRST
        self._matches: list[int] = []  # [B] step of the evidence, -1: none
        self._told: list[int] = []  # [B] the same, -1 where it could not pay
        self._pays: list[list[bool]] = []  # [B][steps] whether a match might pay
        self._look_at: list[int] = []  # [B] tokens from which on a match might
        self._price = 0.0  # tokens that a row must bring
        self._kept: dict[tuple[int, ...], list[Turn]] = {}  # by `_told`

    def begin(self, sequence: Decoding) -> None:
        """Tell every proposer."""
        for arm in self.arms:
            arm.proposer.begin(sequence)
        self._begun_at[sequence] = len(sequence.tokens)
        self._is_joined |= self._has_left

    def release(self, sequence: Decoding) -> None:
        """Tell every proposer; what the sequence showed stays."""
        self._digest()
        for arm in self.arms:
            arm.proposer.release(sequence)
        self.acceptance.forget(sequence)
        begun = self._begun_at.pop(sequence, None)
        if begun is not None:
            self._answers += 1
            share = max(LENGTHS_FADE, 1 / self._answers)
            self._usual_length += share * (len(sequence.tokens) - begun - self._usual_length)
        self._review_at = min(self._review_at, self._step + REVIEW_FIRST)
        self._has_left = bool(self._begun_at)
        if not self._has_left:
            self._members = []
        self._is_joined &= self._has_left

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The best cycle known, or a trial."""
        turns = self._next(sequences)
        if self._readers:
            self._reading = {
                arm
                for arm in self._readers
                for sequence, turn in zip(sequences, turns, strict=True)
                if turn.proposer is self.arms[arm].proposer
                and self._unread(arm, sequence)[0] > MUCH_UNREAD
            }
        return turns

    def _unread(self, arm: int, sequence: Decoding) -> tuple[int, float]:
        """Tokens that an arm's model has not read yet, and the seconds that takes."""
        unread = self.arms[arm].unread
        assert unread is not None
        tokens = unread.tokens(sequence)
        return tokens, unread.seconds(tokens)

    def _charge(self, arm: int, sequence: Decoding) -> float:
        """Seconds for what is unread, with each token that may still come."""
        length = len(sequence.tokens)
        come = length - self._begun_at.get(sequence, length)
        expected = max(LEAST_HORIZON, come, self._usual_length - come)
        return self._unread(arm, sequence)[1] / min(expected, max(1, sequence.remaining))

    def _next(self, sequences: Seq[Decoding]) -> list[Turn]:
        self._step += 1
        self._trial = None
        if self._step >= self._review_at or self._members != sequences:
            if not sequences:
                return []
            is_idle = self._proposed_at < self._step - 1
            if is_idle and self._step < self._review_at and set(sequences) < set(self._members):
                return [PLAIN] * len(sequences)  # one left; most often another comes at once
            return self._review(list(sequences))
        self._look()
        told = tuple(self._told)
        turns = self._kept.get(told)
        if turns is None:
            is_simple = len(told) > 1 and self._usual is self._plain
            turns = self._looked_up() if is_simple else self._turns(self._chosen())
            self._kept[told] = turns
        return turns

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        """Until the next review, or until a match might pay; where nothing did for long, a little
        longer, since a look costs more than a match found a token late."""
        if self._trial is not None or self._members != sequences:
            return 1
        look = min(at - len(s.tokens) for at, s in zip(self._look_at, sequences, strict=True))
        look = max(look, int(LATE_LOOK * (self._step - self._proposed_at)))
        return max(1, min(look, self._review_at - self._step))

    def _review(self, sequences: list[Decoding]) -> list[Turn]:
        """Look everything over; the best cycle, or a trial."""
        self._digest()
        self._kept = {}
        if sequences != self._members:
            if not set(sequences) & set(self._members):
                self._patience, self._between_tries = REVIEW_FIRST, TRIAL_FIRST
            self._members, self._rate = sequences, 0.0
        self._contexts = [s.committed_len for s in sequences]
        self._weights = self._weighed(sequences)
        everyone = range(len(sequences))
        self._gains = [
            [self._worth(arm.sources[0], b) for b in everyone]
            if arm.evidence is None
            else [None] * len(sequences)
            for arm in self.arms
        ]
        self.forecaster.charges = {
            arm: [self._charge(arm, sequence) for sequence in sequences] for arm in self._readers
        }
        self._plain = self.forecaster.plain(self._contexts)
        self._usual = self._best_level(self._plain, self._gains, self._contexts)
        used = _arm_of(self._usual)
        is_steady = used == self._in_use
        self._patience = min(2 * self._patience, REVIEW_AFTER) if is_steady else REVIEW_FIRST
        self._in_use = used
        self._review_at = self._step + self._patience
        self._weigh_matches()
        self._look()
        best = self._chosen()
        self._rate = best.rate
        self._kept[tuple(self._told)] = turns = self._turns(best)
        if self._step < self._tries_at:
            return turns
        self._tries_at = self._step + self._between_tries
        tried = self._tried(best)
        is_tried = tried is not best
        self._between_tries = TRIAL_FIRST if is_tried else min(2 * self._between_tries, TRIAL_AFTER)
        return self._turns(tried) if is_tried else turns

    def _weighed(self, sequences: Seq[Decoding]) -> list[float]:
        """What a token of each counts: 1, or less for those that are ahead (see above)."""
        if self._is_joined or len(sequences) == 1:
            return [1.0] * len(sequences)
        lengths = [(s, len(s.tokens)) for s in sequences]
        come = [HEAD_START + now - self._begun_at.get(s, now) for s, now in lengths]
        least = min(come)
        return [(least / each) ** LEAD_POWER for each in come]

    def _worth(self, source: Source, b: int) -> Seq[float]:
        """What the token at each position of a proposal for a sequence is expected to count."""
        gains, weight = self.acceptance.gains(source, self._members[b]), self._weights[b]
        return gains if weight == 1.0 else [gain * weight for gain in gains]

    def _weigh_matches(self) -> None:
        """For each sequence, which steps of evidence might pay at all."""
        if self._lookups:
            arm = self.arms[self._lookups[0]]
            self._price = price = self._plain.rate * self.forecaster.row_seconds(self._plain.rows)
            self._pays = [
                [self._worth(source, b)[0] > price for source in arm.sources]
                for b in range(len(self._members))
            ]
        self._matches = [-1] * len(self._members)
        self._told = self._matches[:]
        self._look_at = [0 if self._steps else NEVER for _ in self._members]

    def _look(self) -> None:
        """Bring the matches up to date where they might have come to matter."""
        members, look_at = self._members, self._look_at
        due = [b for b, s in enumerate(members) if len(s.tokens) >= look_at[b]]
        if not due:
            return
        assert self._evidence is not None
        for b, match in zip(due, self._evidence([members[b] for b in due]), strict=True):
            pays = self._pays[b]
            self._matches[b] = step = bisect_right(self._steps, match) - 1
            useful = step >= 0 and pays[step]
            self._told[b] = step if useful else -1
            # A match grows by at most one a token.
            least = self._steps[pays.index(True)] if True in pays else NEVER
            look_at[b] = len(members[b].tokens) + max(1, least - match)

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
        told = self._told
        if max(told) < 0:
            return self._usual
        for arm in self._lookups:
            sources = self.arms[arm].sources
            self._gains[arm] = [
                None if step < 0 else self._worth(sources[step], b) for b, step in enumerate(told)
            ]
        return self._with_matches(self._plain, self._usual, self._gains, self._contexts)

    def _looked_up(self) -> list[Turn]:
        """As `_turns(_chosen())` for a batch that is plain but for matches: the likeliest tokens of
        all of them, as many as are best."""
        arm, forecaster, plain = self.arms[self._lookups[0]], self.forecaster, self._plain
        offers = [
            (gain, b)
            for b, step in enumerate(self._told)
            if step >= 0
            for gain in self._worth(arm.sources[step], b)[: arm.max_length]
            if gain > self._price
        ]
        offers.sort(reverse=True)  # gains of a sequence never rise, so its first tokens come first
        looking = arm.cost.pass_seconds(len(self._told), first=True)
        looking *= self._drift.factor(self._lookups[0])
        looking += forecaster.proposing_host_seconds
        tokens, rows, attention = plain.tokens, plain.rows, plain.attention_seconds
        best, count = plain.rate * (1 + HYSTERESIS), 0
        for n, (gain, b) in enumerate(offers):
            tokens += gain
            rows += 1
            attention += forecaster.attention(self._contexts[b])[1]
            rate = tokens / (looking + forecaster.verify_seconds(rows, attention))
            if rate > best:
                best, count = rate, n + 1
        lengths = Counter(b for _, b in offers[:count])
        return [
            Turn(arm.proposer, lengths[b]) if b in lengths else PLAIN
            for b in range(len(self._told))
        ]

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
            matches, self._proposed_at = self._matches[:], self._step
            if not self._is_joined and len(sequences) > 1:  # some may have come ahead
                self._review_at = min(self._review_at, self._step + REVIEW_FIRST)
        now, reading = perf_counter(), self._reading
        self._notes.append(
            _Note(now, self._step, self._trial, matches, reading, sequences, plan, report)
        )

    def _digest(self) -> None:
        """Look into what was noted."""
        notes, self._notes = self._notes, []
        for note in notes:
            self._look_into(note)

    def _look_into(self, note: _Note) -> None:
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
                source = self._source(arm, b, note.matches)
                if source is not None:
                    self.acceptance.observe(
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
            self._learn_costs(note, by_arm)
        seconds /= self._drift.common
        self._budget += EXPLORATION * seconds
        if note.trial is not None:
            tokens = sum(outcome.accepted + 1 for outcome in report.outcomes)
            lost = max(0.0, seconds - tokens / note.trial.rate)
            self._budget += note.trial.charged - min(lost, note.trial.charged)
        most = SAVED_TRIALS * self.forecaster.linear_seconds(len(sequences))
        self._budget = min(self._budget, most)

    def _learn_costs(self, note: _Note, by_arm: dict[int, list[int]]) -> None:
        forecaster, step, plan, report = self.forecaster, note.step, note.plan, note.report
        contexts, rows, attention = self._contexts, 0, 0.0
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
            name = f"{self.arms[arm].proposer.name} > {self.target}"
            seconds = sum(link.seconds for link in report.links if link.name == name)
            if len(by_arm) == 1:  # then all of it is this arm's, the stages before it too
                seconds = report.draft_seconds
            lengths = [plan[b].length for b in members]
            predicted = forecaster.draft_seconds(arm, lengths, [contexts[b] for b in members])
            self._drift.observe(arm, seconds, predicted, step)
            self.arms[arm].cost.learn(seconds, [min(n, self.arms[arm].depth) for n in lengths])

    def _learn_host(self, seconds: float) -> None:
        """Time outside the runtime from one `learn` to the next: its median, about, of plain cycles
        and of others. The larger part comes after the runtime's, so it is that of the cycle before.

        Prefills and slow readers of a stream lie between some cycles, so the size of a surprise
        does not count, only its sign.
        """
        if not self._learned_at:
            return
        forecaster = self.forecaster
        known = forecaster.host_seconds if self._was_plain else forecaster.proposing_host_seconds
        known = (known or HOST_START) * (HOST_STEP if seconds > known else 1 / HOST_STEP)
        if self._was_plain:
            forecaster.host_seconds = known
        else:
            forecaster.proposing_host_seconds = known
        forecaster.proposing_host_seconds = max(
            forecaster.host_seconds, forecaster.proposing_host_seconds
        )

    def _source(self, arm: int, b: int, matches: Seq[int]) -> Source | None:
        """Where a sequence's proposals by an arm are counted; None: nothing matches."""
        if self.arms[arm].evidence is None:
            return self.arms[arm].sources[0]
        return self.arms[arm].sources[matches[b]] if matches[b] >= 0 else None

    def _tried(self, best: Cycle) -> Cycle:
        """`best`, or what was not tried lately and may be better, if the budget allows it."""
        found, hope = best, best.rate
        for cycle, hoped_rate, sure_tokens in self._hopes(best):
            charge = max(cycle.seconds - sure_tokens / best.rate, 0.0)
            if hoped_rate > hope and charge <= self._budget:
                found, hope = cycle, hoped_rate
                self._trial = _Trial(charge, best.rate)
        if self._trial is not None:
            self._budget -= self._trial.charged
        return found

    def _hopes(self, best: Cycle) -> Iterator[tuple[Cycle, float, float]]:
        """Other cycles, the rate each has if all that may be good is, and what it surely emits."""
        contexts = self._contexts
        if PLAIN_ARM not in best.arms:
            plain = self._plain
            yield plain, plain.rate / self._hoped_cost(verify_key(plain.rows)), plain.tokens
        for arm, one in enumerate(self.arms):
            if one.cost.pass_seconds(1, first=True) * self._drift.factor(arm) > self._budget:
                continue  # not even one token for one sequence
            hopes: list[Seq[float] | None] = [None] * len(contexts)
            for b, sequence in enumerate(self._members):
                source = self._source(arm, b, self._matches)
                if source is not None and best.arms[b] != arm:
                    gains = self.acceptance.hopeful_gains(source, sequence, self._step)
                    hopes[b] = [gain * self._weights[b] for gain in gains]
            members = [b for b, hope in enumerate(hopes) if hope is not None]
            base = self.forecaster.without(best, members, self._gains, contexts)
            hoped = self.forecaster.extended(base, arm, members, hopes, contexts, base.rate)
            if hoped is not base:
                # Its first tokens tell about as much as all of them, and cost less.
                short = [None if hope is None else hope[:TRIAL_LENGTH] for hope in hopes]
                trial = self.forecaster.extended(base, arm, members, short, contexts, base.rate)
                cycle = hoped if trial is base else trial
                if one.unread is not None:  # a trial has to pay for all of it
                    reads = [b for b in members if cycle.arms[b] == arm]
                    unread = sum(self._unread(arm, self._members[b])[1] for b in reads)
                    cycle = cycle._replace(draft_seconds=cycle.draft_seconds + unread)
                yield cycle, hoped.rate / self._hoped_cost(arm), base.tokens

    def _hoped_cost(self, key: int) -> float:
        """What a call may cost now, as a share of what it is thought to."""
        return HOPED_COST if self._drift.age(key, self._step) > STALE_COST else 1.0


def _arm_of(cycle: Cycle) -> int:
    """The one arm of a cycle of plain and proposing sequences."""
    return max(cycle.arms)
