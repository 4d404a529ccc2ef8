"""The smallest decoding loop over `protocol.Runtime`: plain and speculative, one sequence or many.

It exists so that exactness is shown for the runtime itself. One step is one target forward over all
sequences, prefill chunks beside verify rows; plain decoding is the same step with zero proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, DraftRun, Runtime, Sampling, SamplingRow

GREEDY = SamplingRow()


@dataclass(slots=True)
class Request:
    prompt: list[int]
    max_tokens: int
    sampling: SamplingRow = GREEDY
    draft_length: int | Callable[[int], int] = 0  # or a function of the cycle
    chunk: int = 512  # rows of a prefill step

    tokens: list[int] = field(default_factory=list)  # emitted
    logprobs: list[np.float32] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    committed_len: int = 0
    proposed: int = 0
    accepted: int = 0
    cycles: int = 0

    @property
    def done(self) -> bool:
        return len(self.tokens) >= self.max_tokens

    @property
    def prefilling(self) -> bool:
        return not self.tokens


class Driver:
    """Owns the pages of a runtime and hands them out in a shuffled order."""

    def __init__(self, runtime: Runtime, target: Level, draft: Level | None = None) -> None:
        self.runtime, self.target, self.draft_level = runtime, target, draft
        self.free = [int(p) for p in np.random.default_rng(1).permutation(runtime.num_pages)]

    def run(self, requests: Sequence[Request]) -> None:
        """Step all requests together until each has its tokens."""
        while live := [r for r in requests if not r.done]:
            self.step(live)

    def step(self, live: Sequence[Request]) -> None:
        """Draft, verify, accept, commit; a chunk of a prompt may ride in the same forward."""
        drafts = self._draft([r for r in live if not r.prefilling])
        proposals = [drafts.get(id(r), []) for r in live]
        rows = [self._rows(r, d) for r, d in zip(live, proposals, strict=True)]
        starts = np.cumsum([0, *map(len, rows)])
        logit_rows, owners, offsets = [], [], []
        for i, r in enumerate(live):
            if r.prefilling and r.committed_len + len(rows[i]) < len(r.prompt):
                continue  # a chunk that is not the last one needs no logits
            wanted = range(len(rows[i]) - 1, len(rows[i])) if r.prefilling else range(len(rows[i]))
            for row in wanted:
                logit_rows.append(int(starts[i]) + row)
                owners.append(r)
                offsets.append(r.committed_len + row + 1)
        batch = self._batch(live, rows)
        sampled = self.runtime.forward_sample(
            batch, self.target, np.array(logit_rows, np.int32), sampling_of(owners, offsets)
        )
        at = 0
        for r, fed, proposal in zip(live, rows, proposals, strict=True):
            if r.prefilling:
                r.committed_len += len(fed)
                if r.committed_len == len(r.prompt):
                    self._emit(r, sampled.tokens[at : at + 1], sampled.logprobs[at : at + 1])
                    at += 1
                continue
            answers = sampled.tokens[at : at + len(fed)]
            kept = 0
            while kept < len(proposal) and proposal[kept] == answers[kept]:
                kept += 1
            r.proposed += len(proposal)
            r.accepted += kept
            r.cycles += 1
            r.committed_len += kept + 1
            self._emit(r, answers[: kept + 1], sampled.logprobs[at : at + kept + 1])
            at += len(fed)
            self._roll_back(r)

    def _draft(self, decoding: list[Request]) -> dict[int, list[int]]:
        lengths = []
        for r in decoding:
            wanted = r.draft_length(r.cycles) if callable(r.draft_length) else r.draft_length
            lengths.append(max(0, min(wanted, r.max_tokens - len(r.tokens) - 1)))
        if self.draft_level is None or not any(lengths):
            return {}
        for r, n in zip(decoding, lengths, strict=True):
            self._reserve(r, r.committed_len + n + 1)
        drafted = self.runtime.draft(
            self._batch(decoding, [[r.tokens[-1]] for r in decoding]),
            DraftRun(self.draft_level, np.array(lengths, np.int32)),
            sampling_of(decoding, [r.committed_len + 1 for r in decoding]),
        )
        pairs = zip(drafted.tokens, drafted.counts, strict=True)
        return {
            id(r): [int(t) for t in row[:n]] for r, (row, n) in zip(decoding, pairs, strict=True)
        }

    def _rows(self, r: Request, proposal: list[int]) -> list[int]:
        if r.prefilling:
            rows = r.prompt[r.committed_len : r.committed_len + r.chunk]
        else:
            rows = [r.tokens[-1], *proposal]
        self._reserve(r, r.committed_len + len(rows))
        return rows

    def _emit(self, r: Request, tokens: NDArray[np.int32], logprobs: NDArray[np.float32]) -> None:
        room = r.max_tokens - len(r.tokens)
        r.tokens += [int(t) for t in tokens[:room]]
        r.logprobs += [np.float32(x) for x in logprobs[:room]]

    def _reserve(self, r: Request, length: int) -> None:
        while len(r.pages) * self.runtime.page_size < length:
            r.pages.append(self.free.pop())

    def _roll_back(self, r: Request) -> None:
        """Give back the pages past the committed positions, at the far end of the queue."""
        while (len(r.pages) - 1) * self.runtime.page_size >= r.committed_len:
            self.free.insert(0, r.pages.pop())

    def _batch(self, requests: Sequence[Request], rows: Sequence[Sequence[int]]) -> Batch:
        tables = np.full((len(requests), max(len(r.pages) for r in requests)), -1, np.int32)
        for table, r in zip(tables, requests, strict=True):
            table[: len(r.pages)] = r.pages
        return Batch(
            tokens=np.array([t for row in rows for t in row], np.int32),
            row_starts=np.cumsum([0, *map(len, rows)]).astype(np.int32),
            first_positions=np.array([r.committed_len for r in requests], np.int32),
            page_tables=tables,
        )


def sampling_of(requests: Sequence[Request], positions: Sequence[int]) -> Sampling:
    """One sampling row for each request named (a request may be named more than once)."""
    pairs = zip(requests, positions, strict=True)
    return Sampling.of([r.sampling._replace(position=at) for r, at in pairs])


def committed_kv(runtime: Runtime, request: Request) -> bytes:
    """Raw bits of K and V at every position before the last token's, position-major.

    The last step may commit more than `max_tokens` needs; plain decoding ends here.
    """
    length = len(request.prompt) + len(request.tokens) - 1
    parts = []
    for index, page in enumerate(request.pages):
        used = min(runtime.page_size, length - index * runtime.page_size)
        for layer in range(runtime.config.num_layers if used > 0 else 0):
            keys, values = runtime.read_kv(layer, page)
            both = np.stack(
                [keys[:, :, :used].transpose(2, 0, 1), values[:, :used].transpose(1, 0, 2)], axis=1
            )
            parts.append((layer, both))
    layers = range(runtime.config.num_layers)
    return b"".join(both.tobytes() for n in layers for layer, both in parts if layer == n)
