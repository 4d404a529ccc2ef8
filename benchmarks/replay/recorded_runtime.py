"""A runtime that answers what was recorded and takes as long as a cost table says.

Only its calls and `host.py` move the clock. So what a planner decides can be compared to the last
per cent, again and again, on a machine that does something else meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.replay.recorded import Recording
from halfbyte.config import Level, uniform_model
from halfbyte.planner.cost_table import CostTable
from halfbyte.runtime.protocol import (
    Batch,
    Decoded,
    Drafted,
    DraftRun,
    Runtime,
    Sampled,
    Sampling,
    Speculated,
)
from halfbyte.runtime.reference_mixer import own_slots, row_contexts
from halfbyte.runtime.stepwise import decode_stepwise, draft_and_verify_stepwise

START = 24  # tokens by which a text is found; those that share them are told apart one by one
# Of the shape only the longest context is asked.
SHAPE = uniform_model(
    family="llama",
    vocab_size=1 << 20,
    hidden_size=32,
    intermediate_size=32,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=32,
    max_context=8192,
    norm_eps=1e-5,
)


class Clock:
    """Seconds that pass only when a caller adds them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """Until the block ends, all of halfbyte takes its time from this clock."""
        modules = [m for name, m in sys.modules.items() if name.startswith("halfbyte.")]
        patches = [
            patch.object(module, "perf_counter", self)
            for module in modules
            if hasattr(module, "perf_counter")
        ]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()


class RecordedRuntime:
    """What of `Runtime` greedy decoding without heads calls (see the module)."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        target: str,
        table: CostTable,
        clock: Clock,
        *,
        num_pages: int,
        is_draft: bool = False,
    ) -> None:
        """`target`: the level whose answers were recorded; `is_draft`: a stage that is a model of
        its own, whose drafts were."""
        self.config, self.page_size, self.num_pages = SHAPE, 16, num_pages
        self.max_rows, self.speed_key = 512, "recorded"
        self._target, self._table, self._clock = target, table, clock
        self._is_draft = is_draft
        self._slots = np.zeros((num_pages, self.page_size), dtype=np.int32)  # tokens
        self._start = min([START, *(len(r.prompt) for r in recordings)])
        self._by_start: dict[tuple[int, ...], list[Recording]] = {}
        for recording in recordings:
            start = tuple(recording.prompt[: self._start])
            self._by_start.setdefault(start, []).append(recording)

    def supports(self, level: Level) -> bool:
        """Whether the table has it."""
        return str(level) in self._table.linear

    def forward(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Time passes; greedy decoding reads no logits."""
        self._run(batch, level)
        return np.zeros((len(logit_rows), 1), dtype=np.float32)

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        """What the level says after each row named."""
        self._run(batch, level)
        tokens = self._say(batch, level, logit_rows)
        return Sampled(tokens, np.zeros(len(tokens), dtype=np.float32))

    def draft(self, batch: Batch, run: DraftRun, sampling: Sampling) -> Drafted:
        """Token by token; confidence is not recorded."""
        if run.min_confidence or run.head:
            raise ValueError("neither confidence nor a smaller vocabulary is recorded")
        level, lengths, contexts = run.level, run.lengths, batch.first_positions.tolist()
        self._clock.now += draft_seconds(self._table, str(level), lengths.tolist(), contexts)
        tokens = np.zeros((len(lengths), int(lengths.max())), dtype=np.int32)
        for b, length in enumerate(lengths.tolist()):
            token, pages = batch.tokens[b : b + 1], batch.page_tables[b : b + 1]
            for i in range(length):
                first = batch.first_positions[b : b + 1] + np.int32(i)
                one = Batch(token, np.array([0, 1], np.int32), first, pages)
                self._write(one)
                token = self._say(one, level, np.zeros(1, dtype=np.int32))
                tokens[b, i] = token[0]
        return Drafted(tokens, lengths)

    def decode(self, batch: Batch, level: Level, length: int, sampling: Sampling) -> Decoded:
        """Step by step."""
        return decode_stepwise(cast(Runtime, self), batch, level, length, sampling, lambda: False)

    def draft_and_verify(
        self, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
    ) -> Speculated:
        """One after the other."""
        return draft_and_verify_stepwise(cast(Runtime, self), batch, run, target, sampling)

    def interrupt(self, *, wanted: bool) -> None:
        """Nothing runs long."""

    def weight_bytes(self, level: Level, head: int = 0) -> int:
        """Not known."""
        return 1

    def _run(self, batch: Batch, level: Level) -> None:
        self._write(batch)
        rows = np.diff(batch.row_starts).tolist()
        contexts = batch.first_positions.tolist()
        self._clock.now += forward_seconds(self._table, str(level), rows, contexts)

    def _write(self, batch: Batch) -> None:
        pages, slots = own_slots(batch, row_contexts(batch), self.page_size)
        self._slots[pages, slots] = batch.tokens

    def _say(self, batch: Batch, level: Level, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        owners = np.repeat(np.arange(len(batch.first_positions)), np.diff(batch.row_starts))
        said = np.zeros(len(rows), dtype=np.int32)
        texts: dict[int, list[int]] = {}
        for n, row in enumerate(rows.tolist()):
            b = int(owners[row])
            if b not in texts:
                last = int(batch.first_positions[b] + batch.row_starts[b + 1] - batch.row_starts[b])
                pages = batch.page_tables[b, : -(-last // self.page_size)]
                texts[b] = self._slots[pages].ravel()[:last].tolist()
            end = int(batch.first_positions[b]) + row - int(batch.row_starts[b]) + 1
            said[n] = self._after(texts[b][:end], str(level))
        return said

    def _after(self, text: list[int], level: str) -> int:
        recording = self._recording(text)
        if self._is_draft or level != self._target:
            return recording.continues(self._target if self._is_draft else level, text) or 0
        said, answer = text[len(recording.prompt) :], recording.answer
        is_told = len(said) < len(answer) and said == answer[: len(said)]
        return answer[len(said)] if is_told else 0

    def _recording(self, text: list[int]) -> Recording:
        for recording in self._by_start[tuple(text[: self._start])]:
            if text[: len(recording.prompt)] == recording.prompt:
                return recording
        raise AssertionError("a text that was not recorded")


def forward_seconds(
    table: CostTable, level: str, rows: Sequence[float], contexts: Sequence[float]
) -> float:
    """One forward: `rows[b]` rows of each sequence, at its context."""
    attention = sum(map(table.attention_seconds, rows, contexts))
    return table.linear_seconds(level, sum(rows)) + attention


def draft_seconds(
    table: CostTable, level: str, lengths: Sequence[int], contexts: Sequence[float]
) -> float:
    """One drafting call: `lengths[b]` tokens of each sequence."""
    total = 0.0
    for step in range(max(lengths, default=0)):
        active = [c + step for n, c in zip(lengths, contexts, strict=True) if n > step]
        total += table.drafts[level][step > 0] - table.linear_seconds(level, 1)
        total += table.linear_seconds(level, len(active))
        total += sum(table.attention_seconds(1, c) for c in active)
    return total
