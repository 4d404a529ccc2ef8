"""One decoding cycle: draft, verify, accept, commit. Plain decoding proposes nothing.

A sequence's last token is *pending*: it is known, its KV is not written.

    position      0 .. committed_len-1   committed_len   +1    +2    +3
    known         committed              pending
    proposed                                             d1    d2    d3
    target rows                          pending         d1    d2    d3
    they sample                          t1              t2    t3    t4     (of the next position)

With d1 = t1 and d2 = t2 but d3 != t3, two are accepted and t3 is recovered: it is emitted and
becomes pending. Had d3 matched, t4 would be the bonus token. The target's rows overwrite the
draft's KV wherever they stand; what a rejected row wrote is overwritten before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.cascade import Cascade
from halfbyte.runtime.protocol import Batch, Runtime, Sampling


class Fate(StrEnum):
    """How an emitted token came about."""

    ACCEPTED = "accepted"  # the draft proposed it and the target agreed
    RECOVERED = "recovered"  # the target's own, where it disagreed
    BONUS = "bonus"  # the target's own, after every proposal was accepted
    PLAIN = "plain"  # nothing was proposed


@dataclass(frozen=True, slots=True)
class Choice:
    """How a sequence's tokens are drawn from logits (see runtime.protocol.Sampling)."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int


class Decoding(Protocol):
    """What a cycle needs of a sequence; it advances `pending` (by `commit`) and `committed_len`."""

    @property
    def pending(self) -> int:
        """The last token, known but without KV."""

    @property
    def committed_len(self) -> int:
        """Positions whose KV was written at the target level."""

    @property
    def page_row(self) -> NDArray[np.int32]:
        """[P], with pages for every position up to committed_len + draft length."""

    @property
    def choice(self) -> Choice:
        """How its tokens are drawn."""

    def commit(self, tokens: list[int]) -> None:
        """Take a cycle's tokens: the last becomes pending, what stood before it committed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sequence got out of a cycle: `accepted` proposals and one token of the target's."""

    tokens: list[int]  # accepted + 1
    logprobs: list[float]  # accepted + 1
    proposed: int
    accepted: int

    def fates(self) -> list[Fate]:
        """One a token."""
        if self.proposed == 0:
            return [Fate.PLAIN]
        last = Fate.BONUS if self.accepted == self.proposed else Fate.RECOVERED
        return [Fate.ACCEPTED] * self.accepted + [last]


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What a cycle did and how long its two calls took."""

    outcomes: list[Outcome]  # one a sequence, in order
    draft_forwards: int
    draft_seconds: float
    verify_seconds: float


def accept(proposed: Seq[int], sampled: Seq[int]) -> int:
    """Length of the longest prefix where the draft's tokens equal the target's."""
    for i, (d, t) in enumerate(zip(proposed, sampled, strict=False)):
        if d != t:
            return i
    return min(len(proposed), len(sampled))


def run_cycle(
    runtime: Runtime,
    cascade: Cascade,
    sequences: Seq[Decoding],
    draft_lengths: list[int],
    min_confidence: float,
) -> CycleReport:
    """Advance every sequence by 1 .. draft length + 1 tokens, all of them the target's own."""
    started = perf_counter()
    pending = [s.pending for s in sequences]
    firsts = [s.committed_len for s in sequences]
    first_positions = np.array(firsts, dtype=np.int32)
    page_tables = _stack([s.page_row for s in sequences])
    draws = _Draws([s.choice for s in sequences])

    # Draft: each sequence proposes up to draft_lengths[b] tokens, in one call.
    drafts: list[list[int]] = [[] for _ in sequences]
    draft_forwards = 0
    if cascade.draft is not None and any(draft_lengths):
        tokens = np.array(pending, dtype=np.int32)
        row_starts = np.arange(len(sequences) + 1, dtype=np.int32)
        batch = Batch(tokens, row_starts, first_positions, page_tables)
        lengths = np.array(draft_lengths, dtype=np.int32)
        drawing = draws.at(first_positions + 1, None)
        drafted = runtime.draft(batch, cascade.draft, lengths, drawing, min_confidence)
        counts = drafted.counts.tolist()
        drafts = [row[:n] for row, n in zip(drafted.tokens.tolist(), counts, strict=True)]
        # A sequence that stopped early ran one forward more than it proposed.
        draft_forwards = max(min(n + 1, m) for n, m in zip(counts, draft_lengths, strict=True))
    drafted_at = perf_counter()

    # Verify: pending token and proposals, one forward at the target level, every row sampled.
    rows: list[int] = []
    positions: list[int] = []
    starts = [0]
    for token, first, draft in zip(pending, firsts, drafts, strict=True):
        rows.append(token)
        rows += draft
        positions += range(first + 1, first + len(draft) + 2)
        starts.append(len(rows))
    batch = Batch(
        np.array(rows, dtype=np.int32),
        np.array(starts, dtype=np.int32),
        first_positions,
        page_tables,
    )
    drawing = draws.at(np.array(positions, dtype=np.int32), starts)
    every_row = np.arange(len(rows), dtype=np.int32)
    sampled = runtime.forward_sample(batch, cascade.target, every_row, drawing)
    target_tokens, logprobs = sampled.tokens.tolist(), sampled.logprobs.tolist()
    verified_at = perf_counter()

    # Accept and commit: the longest agreeing prefix, then the target's own next token.
    outcomes = []
    for sequence, draft, start in zip(sequences, drafts, starts, strict=False):
        accepted = accept(draft, target_tokens[start : start + len(draft)])
        end = start + accepted + 1
        emitted = target_tokens[start:end]
        sequence.commit(emitted)
        outcomes.append(Outcome(emitted, logprobs[start:end], len(draft), accepted))
    return CycleReport(outcomes, draft_forwards, drafted_at - started, verified_at - drafted_at)


def _stack(rows: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """[B, P]; a batch of one is a view, not a copy."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


class _Draws:
    """The batch's choices as arrays, given out per sequence (draft) or per row (verify)."""

    __slots__ = ("min_ps", "seeds", "temperatures", "top_ks", "top_ps")

    def __init__(self, choices: list[Choice]) -> None:
        self.temperatures = np.array([c.temperature for c in choices], dtype=np.float32)
        self.top_ks = np.array([c.top_k for c in choices], dtype=np.int32)
        self.top_ps = np.array([c.top_p for c in choices], dtype=np.float32)
        self.min_ps = np.array([c.min_p for c in choices], dtype=np.float32)
        self.seeds = np.array([c.seed for c in choices], dtype=np.uint64)

    def at(self, positions: NDArray[np.int32], starts: list[int] | None) -> Sampling:
        """One row a position; `starts`: where a sequence's rows begin (None: one row each)."""
        if starts is not None and starts[-1] != len(self.temperatures):
            owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            return Sampling(
                self.temperatures[owner],
                self.top_ks[owner],
                self.top_ps[owner],
                self.min_ps[owner],
                self.seeds[owner],
                positions,
            )
        return Sampling(
            self.temperatures, self.top_ks, self.top_ps, self.min_ps, self.seeds, positions
        )
