"""One sequence over the runtime protocol: what an engine does, with nothing beside it."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, DraftRun, Runtime, Sampling
from halfbyte.sampling.sampler import GREEDY, sampling_of

_NO_ROWS = np.empty(0, dtype=np.int32)


class Session:
    """A sequence that owns all pages of the runtime's pool; positions are written again at will."""

    def __init__(self, runtime: Runtime, seed: int = 1) -> None:
        self.runtime = runtime
        self._table = np.arange(runtime.num_pages, dtype=np.int32)[None, :]
        self._random = np.random.default_rng(seed)

    def tokens(self, count: int) -> NDArray[np.int32]:
        """Ids drawn evenly from the vocabulary: [count]."""
        return self._random.integers(0, self.runtime.config.vocab_size, count, dtype=np.int32)

    def prefill(self, tokens: NDArray[np.int32], level: Level, start: int = 0) -> float:
        """Run a prompt in chunks at positions from `start`; seconds, last logits included."""
        began = time.perf_counter()
        for at in range(0, len(tokens), self.runtime.max_rows):
            chunk = tokens[at : at + self.runtime.max_rows]
            is_last = at + len(chunk) == len(tokens)
            rows = np.array([len(chunk) - 1], dtype=np.int32) if is_last else _NO_ROWS
            self.runtime.forward(self._batch(chunk, start + at), level, rows)
        return time.perf_counter() - began

    def decode(self, level: Level, token: int, position: int, count: int) -> float:
        """Emit `count` greedy tokens, one forward each, from `token` at `position`; seconds."""
        began = time.perf_counter()
        first = np.zeros(1, dtype=np.int32)
        for at in range(position, position + count):
            batch = self._batch(np.array([token], dtype=np.int32), at)
            sampled = self.runtime.forward_sample(batch, level, first, _greedy(at + 1, 1))
            token = int(sampled.tokens[0])
        return time.perf_counter() - began

    def verify(self, level: Level, tokens: NDArray[np.int32], position: int) -> float:
        """One forward over M rows, each sampled, as a verification does; seconds."""
        batch = self._batch(tokens, position)
        count = len(tokens)
        rows = np.arange(count, dtype=np.int32)
        sampling = _greedy(position + 1, count)
        began = time.perf_counter()
        self.runtime.forward_sample(batch, level, rows, sampling)
        return time.perf_counter() - began

    def draft(self, level: Level, token: int, position: int, count: int) -> float:
        """Draft `count` greedy tokens in one native call; seconds."""
        batch = self._batch(np.array([token], dtype=np.int32), position)
        run = DraftRun(level, np.array([count], dtype=np.int32))
        sampling = _greedy(position + 1, 1)
        began = time.perf_counter()
        self.runtime.draft(batch, run, sampling)
        return time.perf_counter() - began

    def _batch(self, tokens: NDArray[np.int32], position: int) -> Batch:
        return Batch(
            tokens=tokens,
            row_starts=np.array([0, len(tokens)], dtype=np.int32),
            first_positions=np.array([position], dtype=np.int32),
            page_tables=self._table,
        )


def _greedy(position: int, count: int) -> Sampling:
    positions = np.arange(position, position + count, dtype=np.int32)
    return sampling_of([GREEDY], positions, [count])
