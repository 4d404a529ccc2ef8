"""Calls of a runtime that are several forwards, by their definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import numpy as np

from halfbyte.config import Level
from halfbyte.runtime.accept import accept
from halfbyte.runtime.protocol import Batch, Decoded, DraftRun, Runtime, Sampling, Speculated


def decode_stepwise(
    runtime: Runtime,
    batch: Batch,
    level: Level,
    length: int,
    sampling: Sampling,
    interrupted: Callable[[], bool],
) -> Decoded:
    """See `protocol.Runtime.decode`."""
    rows = np.arange(len(batch.tokens), dtype=np.int32)
    tokens, logprobs = [batch.tokens], []
    for done in range(length):
        one = replace(
            batch, tokens=tokens[-1], first_positions=batch.first_positions + np.int32(done)
        )
        sampled = runtime.forward_sample(one, level, rows, sampling.shifted(done))
        tokens.append(sampled.tokens)
        logprobs.append(sampled.logprobs)
        if interrupted():
            break
    return Decoded(np.stack(tokens[1:], axis=1), np.stack(logprobs, axis=1))


def draft_and_verify_stepwise(
    runtime: Runtime, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
) -> Speculated:
    """See `protocol.Runtime.draft_and_verify`."""
    started = perf_counter()
    drafted = runtime.draft(batch, run, sampling)
    seconds = perf_counter() - started
    counts = drafted.counts + np.int32(1)  # rows
    texts = [
        np.append(batch.tokens[b], drafted.tokens[b, : counts[b] - 1]) for b in range(len(counts))
    ]
    starts = np.append(np.int32(0), np.cumsum(counts, dtype=np.int32))
    whole = replace(batch, tokens=np.concatenate(texts), row_starts=starts)
    every = np.arange(starts[-1], dtype=np.int32)
    sampled = runtime.forward_sample(whole, target, every, sampling.repeated(counts))
    tokens, logprobs = [], []
    for text, begin, end in zip(texts, starts[:-1], starts[1:], strict=True):
        accepted = len(accept(text[1:].tolist(), sampled.tokens[begin:end].tolist()))
        kept = begin + accepted + 1
        tokens.append(sampled.tokens[begin:kept].tolist())
        logprobs.append(sampled.logprobs[begin:kept].tolist())
    forwards = int(np.minimum(counts, run.lengths).max(initial=0))
    return Speculated(tokens, logprobs, drafted.counts.tolist(), forwards, seconds)
