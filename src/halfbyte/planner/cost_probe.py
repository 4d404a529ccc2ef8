"""Measures the cost table of a runtime, in pages that nothing else holds.

A forward costs less when the caches hold what it reads, so calls are timed in the order decoding
makes them: a draft and the verify of what it drafted; plain steps one after another. Points take
turns in rounds, so a slow moment of the machine does not fall on one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.planner.cost_table import CostTable, DraftCost, interpolated, rising
from halfbyte.runtime.protocol import Batch, DraftRun, Runtime, Sampling
from halfbyte.sampling.sampler import GREEDY, sampling_of

ROWS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 16, 17, 24, 32, 64)  # and where tiles of 4 begin
OFTEN_ROWS = 8  # up to so many are timed in every round, more in one of `TURNS`
TURNS = 4
# Where one row takes longer than this, fewer points keep the whole measurement to a few seconds.
SLOW_SECONDS = 0.02
SLOW_ROWS = (1, 2, 4, 8, 16)
CONTEXTS = (128, 1024, 4096)
CONTEXT_ROWS = (1, 4, 16)  # where attention is measured; other M are interpolated
TICK = 1e-7  # seconds; no forward takes less
LOW_QUANTILE = 0.25  # noise only adds time, so the low end is nearest to the cost
Point = TypeVar("Point")
ROW_BYTES = 4096  # one write in every memory page makes a KV page real


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How long to measure. A model too slow for the budget still gets `TURNS` rounds."""

    seconds: float = 1.5
    max_rounds: int = 30


def measure(
    runtime: Runtime,
    target: Level,
    drafts: Seq[Level],
    pages: Seq[int],
    options: ProbeOptions = ProbeOptions(),
    clock: Callable[[], float] = perf_counter,
) -> CostTable:
    """Time forwards and drafts over `pages`, which are free: their KV is written over.

    The table has the target and every draft level, at the rows and contexts that the pages and the
    runtime have room for.
    """
    probe = CostProbe(runtime, target, drafts, pages, clock)
    started = clock()
    while probe.num_rounds < options.max_rounds and clock() - started < options.seconds:
        probe.round()
    return probe.table()


def pages_wanted(page_size: int) -> int:
    """Pages that the longest context and its rows take."""
    return -(-(CONTEXTS[-1] + ROWS[-1]) // page_size)


class CostProbe:
    """One sequence on free pages, and the times seen so far.

    Rounds may be spread over other work, to tell what calls took while it ran.
    """

    def __init__(
        self,
        runtime: Runtime,
        target: Level,
        drafts: Seq[Level],
        pages: Seq[int],
        clock: Callable[[], float] = perf_counter,
        quantile: float = LOW_QUANTILE,
    ) -> None:
        """See `measure`; `quantile` of a point's times is what it costs. An untimed round warms
        caches, threads and page tables up."""
        room = min(len(pages) * runtime.page_size, runtime.config.max_context)
        if room < 2:
            raise ArgumentError(
                "KV pool",
                got=f"{len(pages)} free pages",
                expected="one or more, to measure in",
                fix="measure before requests run, or give num_tokens a larger number",
            )
        # Short pools give the rows half of their room, and the rest to the context.
        most = max(1, min(ROWS[-1], runtime.max_rows, room // 2))
        self._runtime, self._clock = runtime, clock
        self._target, self._drafts = target, list(drafts)
        self._pages = np.array([list(pages)], dtype=np.int32)
        self._tokens = np.arange(most, dtype=np.int32) % runtime.config.vocab_size
        self._contexts = [c for c in CONTEXTS if c + most <= room] or [room - most]
        self.times: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        self.num_rounds = 0
        self._quantile = quantile
        self._touch(self._contexts[-1] + most)
        for _ in range(2):
            self._forward(target, 1, self._contexts[0])
        is_slow = min(self.times[str(target), 1, self._contexts[0]]) > SLOW_SECONDS
        self._rows = [m for m in (SLOW_ROWS if is_slow else ROWS) if m <= most]
        if is_slow:
            self._contexts = [self._contexts[0], *self._contexts[1:][-1:]]
        self._context_rows = [m for m in CONTEXT_ROWS if m <= most]
        self.round()
        self.times.clear()
        self.num_rounds = 0

    def round(self) -> None:
        """Every point of few rows once, and of many rows or far contexts those that have a turn."""
        self.num_rounds += 1
        near = self._contexts[0]
        points = [m for m in self._rows[1:] if m <= OFTEN_ROWS]
        points += self._in_turn([m for m in self._rows if m > OFTEN_ROWS])
        for draft in self._drafts:
            # The verify finds the caches as the draft leaves them, and the next draft as it does.
            for rows in points:
                if rows <= OFTEN_ROWS:
                    self._draft_and_verify(draft, rows - 1, near)
                else:
                    self._draft(draft, near)
                    self._forward(self._target, rows, near)
            for rows in self._in_turn(self._rows[2::2]):
                self._forward(draft, rows, near)
        if not self._drafts:
            for rows in points:
                self._forward(self._target, rows, near)
        for _ in range(3):  # one after another, as plain decoding runs them
            self._forward(self._target, 1, near)
        far = [(m, c) for c in self._contexts[1:] for m in self._context_rows]
        for rows, context in self._in_turn(far):
            self._forward(self._target, rows, context)

    def _in_turn(self, points: list[Point]) -> list[Point]:
        """One in `TURNS` of them, others the next round."""
        return points[self.num_rounds % TURNS :: TURNS]

    def table(self) -> CostTable:
        """What the times say, after the rounds in which every point is timed."""
        while self.num_rounds < TURNS:
            self.round()
        attention = self._attention()
        linear = {str(self._target): self._linear(self._target, attention)}
        drafts = {}
        for level in self._drafts:
            drafts[str(level)] = cost = self._draft_cost(level, attention[0][0])
            linear[str(level)] = self._linear(level, attention, cost.first)
        rows, contexts = tuple(self._rows), tuple(self._contexts)
        return CostTable(rows, contexts, linear, attention, drafts, self._spread())

    def _spread(self) -> float:
        ratios = [
            np.median(seen) / max(np.quantile(seen, LOW_QUANTILE), TICK)
            for seen in self.times.values()
            if len(seen) >= TURNS  # one timed once cannot tell
        ]
        return max(1.0, float(np.median(ratios)))

    def _draft_cost(self, level: Level, attention: float) -> DraftCost:
        """`attention` of one row at the context measured."""
        near, name = self._contexts[0], f"{level} draft"
        seen = {
            n: self._low(name, n, near) - attention * n
            for what, n, context in self.times
            if (what, context) == (name, near)
        }
        first = max(seen[min(seen)], TICK)
        last = max(seen)
        further = (seen[last] - first) / (last - 1) if last > 1 else first
        # A token after the first costs no more, but never nothing.
        return DraftCost(first, min(max(further, first / 4), first))

    def _attention(self) -> tuple[tuple[float, ...], ...]:
        """[rows, contexts] seconds beyond an empty context, never falling with rows or context.

        The farthest context says most, since its share of a forward is the largest; a nearer one
        costs its part of that at most, for what fits the caches is read sooner.
        """
        level, near, far = str(self._target), self._contexts[0], self._contexts[-1]
        points = []
        for rows in self._context_rows:
            seen = [self._low(level, rows, c) for c in self._contexts]
            slope = max(0.0, seen[-1] - seen[0]) / (far - near) if far > near else 0.0
            beyond = [
                min(max(0.0, s - seen[0]), slope * (c - near))
                for s, c in zip(seen, self._contexts, strict=True)
            ]
            points.append([x + slope * near for x in rising(beyond)])
        columns = [rising(column) for column in zip(*points, strict=True)]
        return tuple(
            tuple(interpolated(self._context_rows, column, rows) for column in columns)
            for rows in self._rows
        )

    def _linear(
        self, level: Level, attention: tuple[tuple[float, ...], ...], one_row: float | None = None
    ) -> tuple[float, ...]:
        """Seconds [rows] at an empty context; `one_row` stands in where it was not timed alone."""
        near = self._contexts[0]
        grid, seen = ([], []) if one_row is None else ([1], [one_row])
        for rows, context in zip(self._rows, attention, strict=True):
            if (str(level), rows, near) in self.times:
                grid.append(rows)
                seen.append(max(self._low(str(level), rows, near) - context[0], TICK))
        curve = rising(seen)
        return tuple(interpolated(grid, curve, rows) for rows in self._rows)

    def _low(self, what: str, size: int, context: int) -> float:
        return float(np.quantile(self.times[what, size, context], self._quantile))

    def _time(self, what: str, size: int, context: int, call: Callable[[], object]) -> None:
        began = self._clock()
        call()
        self.times[what, size, context].append(self._clock() - began)

    def _forward(self, level: Level, rows: int, context: int) -> None:
        batch, every = self._batch(rows, context), np.arange(rows, dtype=np.int32)
        drawing = _greedy(context + 1, rows)
        run = partial(self._runtime.forward_sample, batch, level, every, drawing)
        self._time(str(level), rows, context, run)

    def _draft(self, level: Level, context: int) -> None:
        """One token."""
        batch, lengths = self._batch(1, context), np.ones(1, dtype=np.int32)
        draft = DraftRun(level, lengths)
        run = partial(self._runtime.draft, batch, draft, _greedy(context + 1, 1))
        self._time(f"{level} draft", 1, context, run)

    def _draft_and_verify(self, level: Level, length: int, context: int) -> None:
        """One call, as cycles make it: the draft's time, and the rest as the verify's."""
        batch, lengths = self._batch(1, context), np.array([length], dtype=np.int32)
        draft, drawing = DraftRun(level, lengths), _greedy(context + 1, 1)
        began = self._clock()
        done = self._runtime.draft_and_verify(batch, draft, self._target, drawing)
        seconds = self._clock() - began
        self.times[f"{level} draft", length, context].append(done.draft_seconds)
        verify = str(self._target), length + 1, context
        self.times[verify].append(seconds - done.draft_seconds)

    def _batch(self, rows: int, context: int) -> Batch:
        return Batch(
            tokens=self._tokens[:rows],
            row_starts=np.array([0, rows], dtype=np.int32),
            first_positions=np.array([context], dtype=np.int32),
            page_tables=self._pages,
        )

    def _touch(self, positions: int) -> None:
        """Write KV often enough that reading a context reads real memory: new pages are all one."""
        row = min(kind.mixer.head_dim for kind in self._runtime.config.layer_kinds)
        stride = max(1, min(self._runtime.page_size, ROW_BYTES // (2 * row)))
        firsts = np.arange(0, positions, stride, dtype=np.int32)
        for at in range(0, len(firsts), self._runtime.max_rows):
            some = firsts[at : at + self._runtime.max_rows]
            batch = Batch(
                tokens=np.zeros(len(some), dtype=np.int32),
                row_starts=np.arange(len(some) + 1, dtype=np.int32),
                first_positions=some,
                page_tables=np.repeat(self._pages, len(some), axis=0),
            )
            self._runtime.forward(batch, self._target, np.empty(0, dtype=np.int32))


def _greedy(position: int, rows: int) -> Sampling:
    positions: NDArray[np.int32] = np.arange(position, position + rows, dtype=np.int32)
    return sampling_of([GREEDY], positions, [rows])
