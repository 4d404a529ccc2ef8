"""Runs sequences to their end: schedule, cycle, finish. It sees integers, no tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cycle import PLAIN, CycleReport, Turn, run_cycle
from halfbyte.cascade.planning import Planner
from halfbyte.cascade.statistics import Statistics, record_step
from halfbyte.config import Level
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool
from halfbyte.engine.prefix import PrefixCache
from halfbyte.engine.scheduler import Limits, Part, Scheduler, Step
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
            # A cycle has at least one row per sequence.
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
    def last_turns(self) -> Counter[tuple[str, int]]:
        """How many sequences took each turn of the last step, by its cascade and length."""
        target, plan = self._last
        return _counted(target, plan) if target is not None else Counter()

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
        """One cycle, with parts of prompts beside it. Returns the sequences that got tokens."""
        started = perf_counter()
        step = self._scheduler.next()
        self._enter(step)
        if step.target is None:
            self._check_stuck()
            return []
        closed = self._drop_closed(step)
        if not step.parts:
            return closed
        decoding = [part.sequence for part in step.parts if part.decodes]
        by_planner = self._by_planner(decoding)
        plan = self._plan(step, decoding, by_planner)
        self._last = step.target, plan
        prompts = step.parts[len(decoding) :]
        if prompts:
            report, members = self._run_with_prompts(step.target, decoding, plan, prompts)
        else:
            burst = self._burst(step.target, decoding, plan, by_planner)
            report = run_cycle(self._runtime, step.target, decoding, plan, burst=burst)
            members = decoding
            if not report.links:
                seconds = report.verify_seconds / report.target_forwards
                self._plain = step.target, len(members), seconds
        self._learn(decoding, plan, report, by_planner)
        kept = self._settle(members, report)
        each = [sequence.statistics for sequence in decoding]
        waited = [part.sequence.statistics for part in prompts]
        record_step(report, kept, perf_counter() - started, self.statistics, each, waited)
        return closed + members if closed else members

    def _run_with_prompts(
        self, target: Level, decoding: list[Sequence], plan: list[Turn], prompts: list[Part]
    ) -> tuple[CycleReport, list[Sequence]]:
        """A cycle with parts of prompts beside it, and the sequences that got tokens: the end of a
        prompt takes part with nothing proposed, the rest rides along."""
        firsts = [part.sequence.committed_len for part in prompts]
        members = decoding + [part.sequence for part in prompts if part.is_end]
        chunks = [(part.sequence, part.rows) for part in prompts if not part.is_end]
        turns = plan + [PLAIN] * (len(members) - len(decoding))
        report = run_cycle(self._runtime, target, members, turns, chunks)
        for sequence, rows in chunks:
            sequence.committed_len += rows
            self._seal(sequence)
        outcomes = [*report.outcomes[len(decoding) :], *report.chunk_outcomes]
        for part, first, outcome in zip(prompts, firsts, outcomes, strict=True):
            if outcome.scores:
                part.sequence.output.add_scores(outcome, first, part.sequence.prompt_len)
        return report, members

    def _enter(self, step: Step) -> None:
        """Tell the planners which sequences were admitted and which were preempted."""
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
        members = [part.sequence for part in step.parts]
        closed = [s for s in members if s.shaper is not None and not s.shaper.open()]
        if closed:
            step.parts = [part for part in step.parts if part.sequence not in closed]
        for sequence in closed:
            self.cancel(sequence, "grammar")
        return closed

    def _plan(
        self, step: Step, decoding: list[Sequence], by_planner: dict[Planner, list[Sequence]]
    ) -> list[Turn]:
        """What each planner wants, cut to what rows, pages and need leave room for."""
        turns: dict[Sequence, Turn] = {}
        for planner, members in by_planner.items():
            turns |= zip(members, planner.plan(members), strict=True)
        spare = self._runtime.max_rows - sum([part.rows for part in step.parts])
        plan = []
        for sequence in decoding:
            turn = turns[sequence]
            if turn.length > 0:
                turn = self._cut(turn, sequence, spare)
                spare -= turn.length
            plan.append(turn)
        return plan

    def _burst(
        self,
        target: Level,
        decoding: list[Sequence],
        plan: list[Turn],
        by_planner: dict[Planner, list[Sequence]],
    ) -> int:
        """Plain cycles for one call of the runtime, with pages taken for them."""
        before, count, seconds = self._plain
        if before != target or count != len(plan) or self.num_waiting:
            return 1
        burst = min(int(self._options.burst_seconds / max(seconds, 1e-9)), MOST_BURST)
        if burst < 2 or any(turn.length for turn in plan):
            return 1
        burst = min(burst, *(p.plain_for(members) for p, members in by_planner.items()))
        for sequence in decoding:
            if sequence.sampler.is_special:
                return 1
            burst = min(burst, sequence.remaining)
        for sequence in decoding:
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
        decoding: list[Sequence],
        plan: list[Turn],
        report: CycleReport,
        by_planner: dict[Planner, list[Sequence]],
    ) -> None:
        """Let the planners of those that decode see their cycle."""
        for planner, members in by_planner.items():
            if len(members) == len(report.outcomes):
                planner.learn(members, plan, report)
                continue
            mine = [i for i, s in enumerate(decoding) if self._planner(s) is planner]
            planner.learn(members, [plan[i] for i in mine], report.of(mine))

    def _settle(self, members: list[Sequence], report: CycleReport) -> list[int]:
        """Keep what each got, name its full pages, free the rest, and end those that are done.

        Returns how many tokens each kept.
        """
        kept = []
        for sequence, outcome in zip(members, report.outcomes, strict=True):
            kept.append(sequence.settle(outcome))
            self._seal(sequence)
            # Pages that only rejected proposals reached are free again.
            sequence.table.shrink(sequence.committed_len)
            if sequence.finish_reason is not None:
                self._drop(sequence)
        return kept

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
        """Nothing runs and nothing could be admitted: another user of the pool has the pages."""
        if not self._scheduler.waiting:
            return
        first = self._scheduler.waiting[0]
        raise ArgumentError(
            "KV pool",
            got=f"{self._pool.num_free} free pages of {self._pool.num_pages}",
            expected=f"{first.table.missing(len(first.tokens))} for the next prompt",
            fix="finish or close the streams still open, or give num_tokens a larger number",
        )


def _counted(target: Level, plan: list[Turn]) -> Counter[tuple[str, int]]:
    """How many sequences take each turn, by its cascade and length."""
    if plan and all(turn is plan[0] for turn in plan):  # as a fixed plan's are
        return Counter({(plan[0].cascade(target), plan[0].length): len(plan)})
    turns: Counter[tuple[str, int]] = Counter()
    for (proposer, length), count in Counter([(t.proposer, t.length) for t in plan]).items():
        turns[Turn(proposer, length).cascade(target), length] += count
    return turns
