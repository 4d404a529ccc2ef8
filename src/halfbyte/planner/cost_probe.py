"""Measures the cost table of a runtime, in pages that nothing else holds.

A forward costs less when the caches hold what it reads, so calls are timed in the order decoding
makes them: a draft and the verify of what it drafted; plain steps one after another. Points take
turns in rounds, so a slow moment of the machine does not fall on one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Seq
from time import perf_counter

import numpy as np

from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.planner.cost_table import CostTable, interpolated, rising
from halfbyte.runtime.protocol import Batch, DraftRun, Runtime, Sampling
from halfbyte.sampling.sampler import GREEDY, sampling_of

ROWS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 16, 17, 24, 32, 64)  # and where tiles of 4 begin
OFTEN_ROWS = 8  # up to so many are timed in every round, more in one of `TURNS`
TURNS = 4
# Where one row takes longer than this, fewer points keep the whole measurement to a few seconds.
SLOW_SECONDS, SLOW_ROWS = 0.02, (1, 2, 4, 8, 16)
NEAR, FAR = 128, 4096  # contexts between which attention is measured
FAR_ROWS = (1, 4, 16)  # where it is; other M are interpolated
TICK = 1e-7  # seconds; no forward takes less
LOW_QUANTILE = 0.25  # noise only adds time, so the low end is nearest to the cost
SECONDS, MOST_ROUNDS = 1.5, 30
ROW_BYTES = 4096  # one write in every memory page makes a KV page real


def pages_wanted(page_size: int) -> int:
    """Pages that the longest context and its rows take."""
    return -(-(FAR + ROWS[-1]) // page_size)


class CostProbe:
    """One sequence on free pages, whose KV is written over, and the times seen so far.

    The table has the target and every draft level, at the rows that pages and runtime have room
    for. Rounds may be spread over other work, to tell what calls took while it ran.
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
        """`quantile` of a point's times is what it costs. An untimed round warms caches, threads
        and page tables up."""
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
        self._runtime, self._clock, self._quantile = runtime, clock, quantile
        self._target, self._drafts = target, list(drafts)
        self._pages = np.array([list(pages)], dtype=np.int32)
        self._tokens = np.arange(most, dtype=np.int32) % runtime.config.vocab_size
        self._near, self._far = (min(context, room - most) for context in (NEAR, FAR))
        self.times: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        self._touch(self._far + most)
        for _ in range(2):
            self._forward(target, 1, self._near)
        is_slow = min(self.times[str(target), 1, self._near]) > SLOW_SECONDS
        self._rows = [m for m in (SLOW_ROWS if is_slow else ROWS) if m <= most]
        self.num_rounds = 0
        self.round()
        self.times.clear()
        self.num_rounds = 0

    def run(self, seconds: float = SECONDS, most_rounds: int = MOST_ROUNDS) -> CostTable:
        """Rounds for so long, and their table; a slow model gets `TURNS` rounds all the same."""
        started = self._clock()
        while self.num_rounds < most_rounds and self._clock() - started < seconds:
            self.round()
        return self.table()

    def round(self) -> None:
        """Every point of few rows; of many rows and the far context those that have a turn."""
        self.num_rounds += 1
        near, target = self._near, self._target
        few = [m for m in self._rows[1:] if m <= OFTEN_ROWS]
        many = self._in_turn([m for m in self._rows if m > OFTEN_ROWS])
        for draft in self._drafts:
            # The verify finds the caches as the draft leaves them, and the next draft as it does.
            for rows in few:
                self._draft_and_verify(draft, rows - 1, near)
            for rows in many:
                self._draft(draft, near)
                self._forward(target, rows, near)
            for rows in self._in_turn(self._rows[2::2]):
                self._forward(draft, rows, near)
        for rows in (*(() if self._drafts else (*few, *many)), 1, 1, 1):  # plain steps, in a row
            self._forward(target, rows, near)
        for rows in self._in_turn([m for m in FAR_ROWS if m in self._rows and near < self._far]):
            self._forward(target, rows, self._far)

    def table(self) -> CostTable:
        """What the times say, after the rounds in which every point is timed."""
        while self.num_rounds < TURNS:
            self.round()
        attention = self._attention()
        linear = {str(self._target): self._linear(self._target, attention)}
        drafts = {}
        for level in self._drafts:
            drafts[str(level)] = first, _ = self._draft_costs(level, attention[0] * self._near)
            linear[str(level)] = self._linear(level, attention, first)
        often = [seen for seen in self.times.values() if len(seen) >= TURNS]
        ratios = [np.median(seen) / max(np.quantile(seen, LOW_QUANTILE), TICK) for seen in often]
        spread = max(1.0, float(np.median(ratios)))
        return CostTable(tuple(self._rows), linear, attention, drafts, spread)

    def _in_turn(self, points: list[int]) -> list[int]:
        """One in `TURNS` of them, others the next round."""
        return points[self.num_rounds % TURNS :: TURNS]

    def _draft_costs(self, level: Level, attention: float) -> tuple[float, float]:
        """The first token and each after it, which costs no more, but never nothing; `attention`
        of one row at the context measured."""
        near, name = self._near, f"{level} draft"
        lengths = sorted(n for what, n, _ in self.times if what == name)
        low, high = (self._low(name, n, near) - attention * n for n in (lengths[0], lengths[-1]))
        first = max(low, TICK)
        further = (high - first) / (lengths[-1] - 1) if lengths[-1] > 1 else first
        return first, min(max(further, first / 4), first)

    def _attention(self) -> tuple[float, ...]:
        """[rows] seconds per token of context, never falling with rows."""
        level, near, far = str(self._target), self._near, self._far
        seen = {
            rows: max(0.0, self._low(level, rows, far) - self._low(level, rows, near))
            for rows in FAR_ROWS
            if (level, rows, far) in self.times
        }
        slopes = [slope / max(1, far - near) for slope in rising(list(seen.values()))]
        return tuple(interpolated(list(seen), slopes, rows) for rows in self._rows)

    def _linear(
        self, level: Level, attention: Seq[float], one_row: float | None = None
    ) -> tuple[float, ...]:
        """Seconds [rows] at an empty context; `one_row` stands in where it was not timed alone."""
        near = self._near
        found = {} if one_row is None else {1: one_row}
        for rows, each in zip(self._rows, attention, strict=True):
            if (str(level), rows, near) in self.times:
                found[rows] = max(self._low(str(level), rows, near) - each * near, TICK)
        curve = rising(list(found.values()))
        return tuple(interpolated(list(found), curve, rows) for rows in self._rows)

    def _low(self, what: str, size: int, context: int) -> float:
        return float(np.quantile(self.times[what, size, context], self._quantile))

    def _forward(self, level: Level, rows: int, context: int) -> None:
        batch, every = self._batch(rows, context), np.arange(rows, dtype=np.int32)
        sampling, began = _greedy(context + 1, rows), self._clock()
        self._runtime.forward_sample(batch, level, every, sampling)
        self.times[str(level), rows, context].append(self._clock() - began)

    def _draft(self, level: Level, context: int) -> None:
        """One token."""
        batch, run = self._batch(1, context), DraftRun(level, np.ones(1, dtype=np.int32))
        sampling, began = _greedy(context + 1, 1), self._clock()
        self._runtime.draft(batch, run, sampling)
        self.times[f"{level} draft", 1, context].append(self._clock() - began)

    def _draft_and_verify(self, level: Level, length: int, context: int) -> None:
        """One call, as cycles make it: the draft's time, and the rest as the verify's."""
        batch, run = self._batch(1, context), DraftRun(level, np.array([length], dtype=np.int32))
        sampling, began = _greedy(context + 1, 1), self._clock()
        done = self._runtime.draft_and_verify(batch, run, self._target, sampling)
        verify = self._clock() - began - done.draft_seconds
        self.times[f"{level} draft", length, context].append(done.draft_seconds)
        self.times[str(self._target), length + 1, context].append(verify)

    def _batch(self, rows: int, context: int) -> Batch:
        starts, firsts = np.array([0, rows], np.int32), np.array([context], np.int32)
        return Batch(self._tokens[:rows], starts, firsts, self._pages)

    def _touch(self, positions: int) -> None:
        """Write KV often enough that reading a context reads real memory: new pages are all one."""
        most = self._runtime.max_rows
        row = min(kind.mixer.head_dim for kind in self._runtime.config.layer_kinds)
        stride = max(1, min(self._runtime.page_size, ROW_BYTES // (2 * row)))
        firsts = np.arange(0, positions, stride, dtype=np.int32)
        for some in (firsts[at : at + most] for at in range(0, len(firsts), most)):
            starts = np.arange(len(some) + 1, dtype=np.int32)
            tables = np.repeat(self._pages, len(some), axis=0)
            batch = Batch(np.zeros(len(some), np.int32), starts, some, tables)
            self._runtime.forward(batch, self._target, np.empty(0, dtype=np.int32))


def _greedy(position: int, rows: int) -> Sampling:
    return sampling_of([GREEDY], np.arange(position, position + rows, dtype=np.int32), [rows])
