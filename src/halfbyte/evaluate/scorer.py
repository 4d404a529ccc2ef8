"""Log-likelihoods of given tokens at one level, in bounded memory.

A scorer feeds one sequence at a time through its own KV pages and remembers what they hold: the
next sequence only runs from where it parts from the last one. So the answers of a multiple choice
share the work of their question, and a few-shot prompt is read once. That cannot change a result:
a row does not depend on how its context was cut into forwards (docs/exactness.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from halfbyte.api.loading import LoadedModel
from halfbyte.config import Level
from halfbyte.engine.pages import PageTable
from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import Batch

LOGIT_BYTES = 64 << 20  # of one chunk: 110 rows of a vocabulary of 151,936
_NO_ROWS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of n tokens: natural log-probabilities, and whether each was the likeliest (lowest id)."""

    logprobs: NDArray[np.float64]  # [n]
    greedy: NDArray[np.bool_]  # [n]


class Scorer:
    """Holds KV pages until closed; use it in a `with` block."""

    def __init__(self, model: LoadedModel, level: Level, *, max_tokens: int | None = None) -> None:
        """`max_tokens`: longest sequence, at most (and by default) what the model can hold."""
        self._runtime = model.runtime
        self._level = level
        self.max_tokens = min(max_tokens or model.context, model.context)
        self._table = PageTable(model.pool, self.max_tokens)
        if not self._table.can_grow(self.max_tokens):
            raise ArgumentError(
                "KV pool",
                got=f"{model.pool.num_free} free pages of {model.pool.page_size} tokens",
                expected=f"room for {self.max_tokens} tokens",
                fix="give num_tokens a larger number",
            )
        self._table.grow(self.max_tokens)
        self._held: list[int] = []  # tokens whose KV stands in the pages

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the pages back."""
        self._table.shrink(0)
        self._held = []

    def logits(
        self, tokens: Sequence[int], first: int
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(row, logits [R, V]) in chunks that cover rows first .. len(tokens) - 1.

        Row i's logits are about token i + 1. A chunk is only valid until the next one is asked for.
        """
        if not 0 <= first < len(tokens) <= self.max_tokens:
            raise ArgumentError(
                "tokens",
                got=f"rows from {first} of {len(tokens)} tokens",
                expected=f"1 to {self.max_tokens} tokens and a row among them",
                fix="shorten the text, or raise num_tokens where the model's context is longer",
            )
        at = self._shared_len(tokens, first)
        del self._held[at:]
        while at < first:
            chunk = tokens[at : min(first, at + self._runtime.max_rows)]
            self._forward(chunk, at, _NO_ROWS)
            at += len(chunk)
        vocab = self._runtime.config.vocab_size
        size = max(1, min(self._runtime.max_rows, LOGIT_BYTES // (4 * vocab)))
        while at < len(tokens):
            chunk = tokens[at : at + size]
            logits = self._forward(chunk, at, np.arange(len(chunk), dtype=np.int32))
            yield at, logits
            at += len(chunk)

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> Scores:
        """How likely `continuation` is after `context` (at least one token)."""
        tokens = [*context, *continuation]
        logprobs = np.empty(len(continuation), dtype=np.float64)
        greedy = np.empty(len(continuation), dtype=np.bool_)
        wanted = np.asarray(continuation, dtype=np.int64)
        begin = len(context) - 1
        # The last token predicts nothing that is asked for.
        for row, logits in self.logits(tokens[:-1], begin) if len(continuation) else ():
            part = slice(row - begin, row - begin + len(logits))
            logprobs[part] = log_probabilities(logits, wanted[part])
            greedy[part] = logits.argmax(axis=1) == wanted[part]
        return Scores(logprobs, greedy)

    def _shared_len(self, tokens: Sequence[int], most: int) -> int:
        """How many leading tokens already stand in the pages; row `most` has to run again."""
        for i, (held, token) in enumerate(zip(self._held[:most], tokens, strict=False)):
            if held != token:
                return i
        return min(len(self._held), most)

    def _forward(
        self, tokens: Sequence[int], at: int, rows: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        batch = Batch(
            tokens=np.array(tokens, dtype=np.int32),
            row_starts=np.array([0, len(tokens)], dtype=np.int32),
            first_positions=np.array([at], dtype=np.int32),
            page_tables=self._table.row[None],
        )
        logits = self._runtime.forward(batch, self._level, rows)
        self._held += tokens
        return logits


def log_probabilities(
    logits: NDArray[np.float32], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log-softmax of [R, V] at one token per row: logit - max - log(sum of exp(logit - max))."""
    top = logits.max(axis=1)
    mass = np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(tokens)), tokens].astype(np.float64)
    result: NDArray[np.float64] = chosen - top - np.log(mass)
    return result
