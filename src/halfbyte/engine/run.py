"""Runs sequences to their end: admit, prefill, cycle, finish. It sees integers, no tensor."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cycle import Turn, run_cycle
from halfbyte.cascade.planning import FixedPlan, Planner
from halfbyte.cascade.proposers import Proposers
from halfbyte.cascade.statistics import Statistics, record_cycle
from halfbyte.engine.pages import PagePool
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import Batch, Runtime


@dataclass(frozen=True)
class EngineOptions:
    """What does not change the output, only the speed."""

    # Most tokens proposed per cycle. Where a draft step costs about half of the target's, the
    # best fixed length is 3 for agreement around .85 and 3 or 4 around .95.
    draft_length: int = 3
    min_confidence: float = 0.0  # a draft stops where its token is less likely than this
    max_batch: int = 8  # sequences decoded together
    # Of A > B > C, most tokens that A proposes to B at a time; B stops at draft_length less this.
    inner_length: int = 4

    def __post_init__(self) -> None:
        if not _is_count(self.draft_length, 0, 64):
            raise ArgumentError(
                "draft_length",
                got=repr(self.draft_length),
                expected="an integer, 0 to 64",
                fix="3 suits most models",
            )
        if not _is_count(self.inner_length, 0, 64):
            raise ArgumentError(
                "inner_length",
                got=repr(self.inner_length),
                expected="an integer, 0 to 64",
                fix="4 suits most stages",
            )
        if not (isinstance(self.min_confidence, int | float) and 0.0 <= self.min_confidence < 1.0):
            raise ArgumentError(
                "min_confidence",
                got=repr(self.min_confidence),
                expected="a number, 0 <= x < 1",
                fix="0 never stops a draft early",
            )
        if not _is_count(self.max_batch, 1, 1024):
            raise ArgumentError(
                "max_batch",
                got=repr(self.max_batch),
                expected="an integer, 1 to 1024",
                fix="use a small number such as 8",
            )


class Engine:
    """Sequences on their way through one runtime and one pool of pages."""

    def __init__(
        self,
        runtime: Runtime,
        pool: PagePool,
        cascade: Cascade,
        options: EngineOptions,
        planner: Planner | None = None,
    ) -> None:
        """`planner` None: the cascade as it stands, with the options' lengths."""
        self._runtime = runtime
        self._pool = pool
        self._target = cascade.target
        self._planner = planner or fixed_plan(
            Proposers(runtime, options.min_confidence), cascade, options
        )
        # A cycle has at least one row a sequence, and a forward takes at most max_rows.
        self._max_batch = min(options.max_batch, runtime.max_rows)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # oldest first
        self.statistics = Statistics()
        self.last_choices: Counter[tuple[str, int]] = Counter()  # of the last step

    @property
    def has_work(self) -> bool:
        """Whether a sequence is waiting or running."""
        return bool(self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence whose table is empty."""
        self.statistics.prompt_tokens += sequence.prompt_len
        self._waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running, and give back its pages at once."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        self._release(sequence)

    def close(self) -> None:
        """Give back every page, finished or not."""
        for sequence in self._running:
            self._release(sequence)
        self._running.clear()
        self._waiting.clear()

    def step(self) -> list[Sequence]:
        """One prefill forward, if due, and one cycle. Returns the sequences that got tokens."""
        self._admit()
        self._prefill()
        return self._decode()

    def _admit(self) -> None:
        """Take waiting sequences in order while there are places, and pages for their tokens."""
        while self._waiting and len(self._running) < self._max_batch:
            sequence = self._waiting[0]
            if not sequence.table.can_grow(len(sequence.tokens)):
                break
            sequence.table.grow(len(sequence.tokens))
            self._planner.begin(sequence)
            self._running.append(self._waiting.popleft())
        if not self._running and self._waiting:
            first = self._waiting[0]
            raise ArgumentError(
                "KV pool",
                got=f"{self._pool.num_free} free pages of {self._pool.num_pages}",
                expected=f"{first.table.missing(len(first.tokens))} for the next prompt",
                fix="finish or close the streams still open, or give num_tokens a larger number",
            )

    def _prefill(self) -> None:
        """One forward over chunks of prompts, oldest first; it writes KV and samples nothing."""
        room = self._runtime.max_rows
        chunks: list[tuple[Sequence, int]] = []
        for sequence in self._running:
            rows = min(room, len(sequence.tokens) - 1 - sequence.committed_len)
            if rows > 0:
                chunks.append((sequence, rows))
                room -= rows
        if not chunks:
            return
        started = perf_counter()
        tokens: list[int] = []
        starts = [0]
        for sequence, rows in chunks:
            tokens += sequence.tokens[sequence.committed_len : sequence.committed_len + rows]
            starts.append(len(tokens))
        batch = Batch(
            tokens=np.array(tokens, dtype=np.int32),
            row_starts=np.array(starts, dtype=np.int32),
            first_positions=np.array([s.committed_len for s, _ in chunks], dtype=np.int32),
            page_tables=np.stack([s.page_row for s, _ in chunks]),
        )
        self._runtime.forward(batch, self._target, np.empty(0, dtype=np.int32))
        elapsed = perf_counter() - started
        self.statistics.prefill_seconds += elapsed
        for sequence, rows in chunks:
            sequence.committed_len += rows
            sequence.statistics.prefill_seconds += elapsed

    def _decode(self) -> list[Sequence]:
        """One cycle over every sequence whose prompt is in."""
        started = perf_counter()
        batch, plan = self._plan()
        self.last_choices = Counter((turn.cascade(self._target), turn.length) for turn in plan)
        if not batch:
            return []
        report = run_cycle(self._runtime, self._target, batch, plan)
        self._planner.learn(batch, plan, report)
        each = [sequence.statistics for sequence in batch]
        record_cycle(report, self.statistics, each)
        finished = False
        for sequence, outcome in zip(batch, report.outcomes, strict=True):
            kept = sequence.settle(outcome)
            sequence.statistics.emitted_tokens += kept
            self.statistics.emitted_tokens += kept
            # Pages that only rejected proposals reached are free again.
            sequence.table.shrink(sequence.committed_len)
            if sequence.finish_reason is not None:
                self._release(sequence)
                finished = True
        if finished:
            self._running = [s for s in self._running if s.finish_reason is None]
        host = perf_counter() - started - report.draft_seconds - report.verify_seconds
        for statistics in (self.statistics, *each):
            statistics.host_seconds += host
        return batch

    def _release(self, sequence: Sequence) -> None:
        """Give back what a sequence holds, here and in the stages."""
        self._planner.release(sequence)
        sequence.release()

    def _plan(self) -> tuple[list[Sequence], list[Turn]]:
        """Who takes part in the next cycle and how much each may propose, with pages for both.

        Every sequence needs a place for its pending token; when pages are short the youngest
        gives its own back and waits. Proposals only take what is left over.
        """
        batch = [s for s in self._running if s.is_prefilled]
        i = 0
        while i < len(batch):
            sequence = batch[i]
            if sequence.table.can_grow(sequence.committed_len + 1):
                sequence.table.grow(sequence.committed_len + 1)
                i += 1
                continue
            victim = self._running.pop()
            self._release(victim)
            self._waiting.appendleft(victim)
            if victim in batch:
                batch.remove(victim)
        spare_rows = self._runtime.max_rows - len(batch)
        plan = []
        for sequence, turn in zip(batch, self._planner.plan(batch), strict=True):
            length = min(turn.length, sequence.remaining - 1, spare_rows)
            while length > 0 and not sequence.table.can_grow(sequence.committed_len + length + 1):
                length -= 1
            sequence.table.grow(sequence.committed_len + length + 1)
            spare_rows -= length
            plan.append(turn if length == turn.length else replace(turn, length=length))
        return batch, plan


def fixed_plan(proposers: Proposers, cascade: Cascade, options: EngineOptions) -> FixedPlan:
    """What an explicit cascade does in every cycle."""
    return FixedPlan(proposers.of(cascade), options.draft_length, options.inner_length)


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
