"""A runtime whose time is a formula, told by a clock that only its own calls move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, Drafted, DraftRun, Sampled, Sampling, Speculated
from tests.support.fake_runtime import FakeRuntime

LINEAR = {"w8a16": (4e-3, 3e-4), "w4a8": (2e-3, 2e-4), "w4a16": (2.2e-3, 3e-4), "f32": (9e-3, 1e-3)}
SEQUENCE, PAIR = (
    2e-7,
    5e-8,
)  # seconds per position: of a sequence, and of each of its rows


def linear_seconds(level: Level | str, rows: int) -> float:
    base, each = LINEAR[str(level)]
    return base + each * rows


def attention_seconds(rows: int, context: float) -> float:
    return context * (SEQUENCE + PAIR * rows)


class TimedRuntime(FakeRuntime):
    """Contexts count the positions before the first row. `noise` is added to some calls."""

    def __init__(self, *, noise: float = 0.0, seed: int = 0, **options: int) -> None:
        super().__init__(
            **{"num_pages": 160, "page_size": 64, "max_rows": 512, "max_context": 8192} | options  # type: ignore[arg-type]
        )
        self.now = 0.0
        self.noise = noise
        self.touched: set[int] = set()
        self._rng = np.random.default_rng(seed)

    def clock(self) -> float:
        return self.now

    def forward(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        self._spend(batch, level)
        return np.zeros((len(logit_rows), self.config.vocab_size), dtype=np.float32)

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        self._spend(batch, level)
        zeros = np.zeros(len(logit_rows), dtype=np.int32)
        return Sampled(zeros, zeros.astype(np.float32))

    def draft(self, batch: Batch, run: DraftRun, sampling: Sampling) -> Drafted:
        level, lengths = run.level, run.lengths
        for step in range(int(lengths.max())):
            active = int((lengths > step).sum())
            self.now += linear_seconds(level, active)
            self.now += sum(
                attention_seconds(1, float(c) + step)
                for c, n in zip(batch.first_positions, lengths, strict=True)
                if n > step
            )
        self._disturb()
        return Drafted(np.zeros((len(lengths), int(lengths.max())), np.int32), lengths)

    def draft_and_verify(
        self, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
    ) -> Speculated:
        lengths, began = run.lengths, self.now
        self.draft(batch, run, sampling)
        drafted = self.now
        rows = [n + 1 for n in lengths.tolist()]
        starts = np.append(0, np.cumsum(rows)).astype(np.int32)
        self._spend(replace(batch, row_starts=starts), target)
        count = len(rows)
        nothing = [[0]] * count, [[0.0]] * count, [0] * count
        return Speculated(*nothing, int(lengths.max()), drafted - began)

    def _spend(self, batch: Batch, level: Level) -> None:
        rows = np.diff(batch.row_starts)
        self.now += linear_seconds(level, int(rows.sum()))
        for count, first, pages in zip(rows, batch.first_positions, batch.page_tables, strict=True):
            self.now += attention_seconds(int(count), float(first))
            last = int(first) + int(count)
            self.touched |= set(pages[: -(-last // self.page_size)].tolist())
        self._disturb()

    def _disturb(self) -> None:
        if self.noise and self._rng.random() < 0.4:
            self.now += self.noise * self._rng.exponential()
