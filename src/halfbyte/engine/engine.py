"""Runs sequences to their end: schedule, cycle, finish. It sees integers, no tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cycle import PLAIN, CycleReport, Turn, run_cycle
from halfbyte.cascade.planning import Planner
from halfbyte.cascade.statistics import Statistics, record_cycle
from halfbyte.config import Level
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool
from halfbyte.engine.prefix import PrefixCache
from halfbyte.engine.scheduler import Limits, Scheduler, Step
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import Runtime

MOST_BURST = 16  # cycles: what a call costs besides its forwards hardly shows any more


class Engine:
    """Sequences on their way through one runtime and one pool of pages."""

    def __init__(
        self,
        runtime: Runtime,
        pool: PagePool,
        cascade: Cascade,
        options: EngineOptions,
        planners: Callable[[Cascade], Planner],
    ) -> None:
        """`cascade`: of sequences that name none. `planners` makes what decides for a cascade, once
        for each."""
        self._runtime = runtime
        self._pool = pool
        self._cascade = cascade
        self._options = options
        self._make_planner = planners
        self._planners: dict[Cascade, Planner] = {}
        self._planner_of: dict[Sequence, Planner] = {}
        self._cache = PrefixCache(pool) if options.prefix_cache else None
        limits = Limits(
            max_rows=runtime.max_rows,
            # A cycle has at least one row a sequence.
            max_running=min(options.max_batch, runtime.max_rows),
            prefill_rows=options.prefill_rows,
        )
        self._scheduler = Scheduler(pool, limits, self._cache)
        self.statistics = Statistics()
        self.preemptions = 0
        self._last: tuple[Level | None, list[Turn]] = (None, [])  # of the last step
        # Of the last plain forward without prompts: target, sequences, seconds.
        self._plain: tuple[Level | None, int, float] = (None, 0, 0.0)

    @property
    def has_work(self) -> bool:
        """Whether a sequence is waiting or running."""
        return bool(self._scheduler.waiting or self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._scheduler.waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold pages."""
        return len(self._scheduler.running)

    @property
    def last_choices(self) -> Counter[tuple[str, int]]:
        """How many sequences took each turn of the last step, by its cascade and length."""
        target, plan = self._last
        return _choices(target, plan) if target is not None else Counter()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence whose table is empty."""
        if sequence.cascade is None:
            sequence.cascade = self._cascade
        self.statistics.prompt_tokens += sequence.prompt_len
        self._scheduler.add(sequence)

    def cancel(self, sequence: Sequence, reason: str = "cancelled") -> None:
        """End a sequence, waiting or running, and give back its pages at once."""
        if sequence.finish_reason is None:
            sequence.finish_reason = reason
            self._drop(sequence)

    def expire(self, now: float) -> list[Sequence]:
        """End those whose deadline has passed, with reason `deadline`."""
        late = self._scheduler.expired(now)
        for sequence in late:
            self.cancel(sequence, "deadline")
        return late

    def close(self) -> None:
        """Give back every page, finished or not."""
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            self._drop(sequence)

    def step(self) -> list[Sequence]:
        """One cycle, with chunks of prompts beside it. Returns the sequences that got tokens."""
        started = perf_counter()
        step = self._scheduler.next()
        self._enter(step)
        if step.target is None:
            self._check_stuck()
            return []
        closed = self._drop_closed(step)
        if not step.decode and not step.prefill:
            return closed
        by_planner = self._by_planner(step.decode)
        plan = self._plan(step, by_planner)
        self._last = step.target, plan
        batch, parts = step.decode, []
        if step.prefill:
            # The end of a prompt takes part in the cycle with nothing proposed; the rest rides
            # along.
            ends = [s for s, rows in step.prefill if s.committed_len + rows == len(s.tokens)]
            parts = [(s, n) for s, n in step.prefill if s.committed_len + n < len(s.tokens)]
            batch = step.decode + ends
        firsts = {s: s.committed_len for s, _ in step.prefill if s.choice.scores_prompt}
        burst = self._burst(step, plan, by_planner)
        report = run_cycle(
            self._runtime,
            step.target,
            batch,
            plan + [PLAIN] * (len(batch) - len(plan)),
            parts,
            burst,
        )
        if not step.prefill and not report.links:
            seconds = report.verify_seconds / report.target_forwards
            self._plain = step.target, len(batch), seconds
        for sequence, rows in parts:
            sequence.committed_len += rows
            self._seal(sequence)
        if firsts:
            outcomes = [*report.outcomes, *report.chunk_outcomes]
            for sequence, outcome in zip([*batch, *(s for s, _ in parts)], outcomes, strict=True):
                if sequence in firsts:
                    sequence.score(firsts[sequence], outcome)
        decoding = report.of(range(len(step.decode)))
        self._learn(step, plan, decoding, by_planner)
        self._settle(batch, report, len(step.decode))
        if step.decode:
            record_cycle(decoding, self.statistics, [s.statistics for s in step.decode])
        self._clock(step, report, perf_counter() - started)
        return closed + batch

    def _enter(self, step: Step) -> None:
        """Tell the planners who came and who had to go."""
        for sequence in step.admitted:
            self._planner(sequence).begin(sequence)
            if sequence.emitted_len == 0:
                sequence.statistics.cached_tokens = sequence.cached_len
                self.statistics.cached_tokens += sequence.cached_len
        for sequence in step.preempted:
            self._planner(sequence).release(sequence)
        self.preemptions += len(step.preempted)

    def _drop_closed(self, step: Step) -> list[Sequence]:
        """End those whose grammar can no longer be followed within its limits: `grammar`."""
        members = [*step.decode, *(s for s, _ in step.prefill)]
        closed = [s for s in members if s.shaper is not None and not s.shaper.open()]
        if closed:
            step.decode = [s for s in step.decode if s not in closed]
            step.prefill = [(s, rows) for s, rows in step.prefill if s not in closed]
        for sequence in closed:
            self.cancel(sequence, "grammar")
        return closed

    def _plan(self, step: Step, by_planner: dict[Planner, list[Sequence]]) -> list[Turn]:
        """What each planner wants, cut to what rows, pages and need leave room for."""
        turns: dict[Sequence, Turn] = {}
        for planner, members in by_planner.items():
            turns |= zip(members, planner.plan(members), strict=True)
        spare = self._runtime.max_rows - len(step.decode) - step.prefill_rows
        plan = []
        for sequence in step.decode:
            turn = turns[sequence]
            if turn.length > 0:
                turn = self._cut(turn, sequence, spare)
                spare -= turn.length
            plan.append(turn)
        return plan

    def _burst(
        self, step: Step, plan: list[Turn], by_planner: dict[Planner, list[Sequence]]
    ) -> int:
        """Plain cycles for one call of the runtime, with pages taken for them."""
        target, count, seconds = self._plain
        if target != step.target or count != len(plan) or step.prefill or self.num_waiting:
            return 1
        burst = min(int(self._options.burst_seconds / max(seconds, 1e-9)), MOST_BURST)
        if burst < 2 or any(turn.length for turn in plan):
            return 1
        burst = min(burst, *(p.plain_for(members) for p, members in by_planner.items()))
        for sequence in step.decode:
            if sequence.choice.is_special:
                return 1
            burst = min(burst, sequence.remaining)
        for sequence in step.decode:
            if burst < 2 or not sequence.table.can_grow(sequence.committed_len + burst):
                return 1
            sequence.table.grow(sequence.committed_len + burst)
        return burst

    def _cut(self, turn: Turn, sequence: Sequence, spare: int) -> Turn:
        """A turn as long as rows, pages and need allow, with pages taken for it."""
        length = min(turn.length, sequence.remaining - 1, spare)
        while length > 0 and not sequence.table.can_grow(sequence.committed_len + length + 1):
            length -= 1
        sequence.table.grow(sequence.committed_len + length + 1)
        return turn if length == turn.length else replace(turn, length=length)

    def _learn(
        self,
        step: Step,
        plan: list[Turn],
        decoding: CycleReport,
        by_planner: dict[Planner, list[Sequence]],
    ) -> None:
        """Let the planners of those that decode see their cycle."""
        for planner, members in by_planner.items():
            if len(by_planner) == 1:
                planner.learn(members, plan, decoding)
                continue
            mine = [i for i, s in enumerate(step.decode) if self._planner(s) is planner]
            planner.learn(members, [plan[i] for i in mine], decoding.of(mine))

    def _settle(self, batch: list[Sequence], report: CycleReport, decoding: int) -> None:
        """Keep what each got, name its full pages, free the rest, and end those that are done."""
        for i, (sequence, outcome) in enumerate(zip(batch, report.outcomes, strict=True)):
            kept = sequence.settle(outcome)
            for statistics in (self.statistics, sequence.statistics):
                statistics.emitted_tokens += kept
                statistics.prefill_emitted += kept if i >= decoding else 0
            self._seal(sequence)
            # Pages that only rejected proposals reached are free again.
            sequence.table.shrink(sequence.committed_len)
            if sequence.finish_reason is not None:
                self._drop(sequence)

    def _clock(self, step: Step, report: CycleReport, seconds: float) -> None:
        """Time of the run, once, and of each sequence that waited for it.

        The forward's is shared between prompts and cycles by rows; without a cycle all is prefill.
        """
        host = seconds - report.draft_seconds - report.verify_seconds
        prefill = report.verify_seconds * report.prompt_rows / report.rows
        if not step.decode:
            prefill, host = seconds, 0.0
        self.statistics.prefill_seconds += prefill
        self.statistics.host_seconds += host
        if step.decode:
            self.statistics.verify_seconds -= prefill
        for sequence in step.decode:
            sequence.statistics.verify_seconds -= prefill
            sequence.statistics.host_seconds += host
        for sequence, _ in step.prefill:
            sequence.statistics.prefill_seconds += prefill

    def _planner(self, sequence: Sequence) -> Planner:
        found = self._planner_of.get(sequence)
        if found is None:
            cascade = sequence.cascade
            assert cascade is not None
            if cascade not in self._planners:
                self._planners[cascade] = self._make_planner(cascade)
            found = self._planner_of[sequence] = self._planners[cascade]
        return found

    def _by_planner(self, sequences: list[Sequence]) -> dict[Planner, list[Sequence]]:
        members: dict[Planner, list[Sequence]] = {}
        for sequence in sequences:
            members.setdefault(self._planner(sequence), []).append(sequence)
        return members

    def _seal(self, sequence: Sequence) -> None:
        if self._cache is not None:
            self._cache.seal(sequence)

    def _drop(self, sequence: Sequence) -> None:
        """Forget a sequence; what it holds, here and in the stages, is free."""
        if self._scheduler.remove(sequence):
            self._planner(sequence).release(sequence)
        self._planner_of.pop(sequence, None)

    def _check_stuck(self) -> None:
        """Nothing runs and nothing could be admitted: someone else has the pages."""
        if not self._scheduler.waiting:
            return
        first = self._scheduler.waiting[0]
        raise ArgumentError(
            "KV pool",
            got=f"{self._pool.num_free} free pages of {self._pool.num_pages}",
            expected=f"{first.table.missing(len(first.tokens))} for the next prompt",
            fix="finish or close the streams still open, or give num_tokens a larger number",
        )


def _choices(target: Level, plan: list[Turn]) -> Counter[tuple[str, int]]:
    """How many sequences take each turn, by its cascade and length."""
    if plan and all(turn is plan[0] for turn in plan):  # as a fixed plan's are
        return Counter({(plan[0].cascade(target), plan[0].length): len(plan)})
    choices: Counter[tuple[str, int]] = Counter()
    for (proposer, length), count in Counter([(t.proposer, t.length) for t in plan]).items():
        choices[Turn(proposer, length).cascade(target), length] += count
    return choices
