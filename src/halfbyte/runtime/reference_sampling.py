"""Sampling as docs/numerics.md defines it, in numpy: logits and noise to tokens and logprobs.

Everything past the float32 logits is float64. V is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from halfbyte.runtime.noise import mix, noise_of
from halfbyte.runtime.protocol import Adjustments, Sampled, Sampling, SamplingRow

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def gumbel_noise(seed: int, position: int, ids: NDArray[np.int64]) -> F64:
    """The noise of token ids at a position: a pure function of (seed, position, id). [len(ids)]."""
    with np.errstate(over="ignore"):
        of_seed = mix(np.array([seed], dtype=np.uint64))
        of_position = mix(of_seed + np.uint64(position))
        h = mix(of_position + ids.astype(np.uint64))
    return noise_of(h)


def kept_ids(scaled: F64, top_k: int, top_p: float, min_p: float) -> NDArray[np.int64]:
    """Ids that survive top-k, then top-p, then min-p, best first (ties: lower id first).

    `scaled` [V] is logit / temperature. At least one id is always kept.
    """
    ids = np.argsort(-scaled, kind="stable")
    if 0 < top_k < len(ids):
        ids = ids[:top_k]
    if top_p < 1:
        masses = np.cumsum(np.exp(scaled[ids] - scaled[ids[0]]))
        needed = np.searchsorted(masses, top_p * masses[-1], side="left")
        ids = ids[: int(needed) + 1]
    if min_p > 0:
        ids = ids[scaled[ids] >= scaled[ids[0]] + np.log(min_p)]
    return ids


def adjusted(logits: F32, adjustments: Adjustments, row: int) -> F32:
    """A row's logits [V] after its adjustments, all float32; a token its mask forbids is NaN."""
    span = slice(adjustments.starts[row], adjustments.starts[row + 1])
    ids = adjustments.ids[span]
    out = logits.copy()
    changed = out[ids] + adjustments.adds[span]
    factors = adjustments.factors[span]
    with np.errstate(over="ignore", invalid="ignore"):
        changed = np.where(changed > 0, changed / factors, changed * factors)
        out[ids] = changed - adjustments.subtracts[span]
    if adjustments.mask_rows[row] >= 0:
        words = adjustments.masks[adjustments.mask_rows[row]]
        bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
        out[bits.reshape(-1)[: len(out)] == 0] = np.nan
    return out


def sample_token(logits: F32, how: SamplingRow, tokens: NDArray[np.int32] | None = None) -> int:
    """Which of `logits` [V] is drawn.

    A NaN is a token that is not there; -1: none is. `tokens` [V], ascending, are those the logits
    are of; None: 0, 1, …
    """
    there = np.flatnonzero(~np.isnan(logits))
    if not len(there):
        return -1
    best = there[np.argmax(logits[there])]
    if how.temperature == 0 or logits[best] == -np.inf:
        return int(best)
    scaled = logits[there].astype(np.float64) / how.temperature
    kept = np.sort(kept_ids(scaled, how.top_k, how.top_p, how.min_p))
    ids = there[kept]
    named = ids if tokens is None else tokens[ids].astype(np.int64)
    return int(ids[np.argmax(scaled[kept] + gumbel_noise(how.seed, how.position, named))])


def token_logprob(logits: F32, token: int) -> np.float32:
    """log-softmax of `logits` [V] at a token."""
    shifted = (logits - logits.max()).astype(np.float64)
    return np.float32(shifted[token] - np.log(np.exp(shifted).sum()))


def top_tokens(logits: F32, count: int) -> NDArray[np.int32]:
    """Ids of the `count` largest logits, best first (ties: lower id first)."""
    return np.argsort(-logits, kind="stable")[:count].astype(np.int32)


def sample_rows(logits: F32, sampling: Sampling, head: NDArray[np.int32] | None = None) -> Sampled:
    """One token for each row of `logits` [R, V]; of those of `head` (ascending) if it is given."""
    tokens = np.empty(len(logits), dtype=np.int32)
    logprobs = np.empty(len(logits), dtype=np.float32)
    for r, (row, how) in enumerate(zip(logits, _each(sampling), strict=True)):
        if how.forced >= 0:
            tokens[r] = how.forced
        else:
            adjustments = sampling.adjustments
            shaped = row if adjustments is None else adjusted(row, adjustments, r)
            drawn = sample_token(shaped if head is None else shaped[head], how, head)
            if head is not None:
                tokens[r] = -1 if drawn < 0 else head[drawn]
                logprobs[r] = -np.inf if drawn < 0 else token_logprob(row[head], drawn)
                continue
            tokens[r] = drawn
        logprobs[r] = token_logprob(row, int(tokens[r]))
    most = int(sampling.rows["tops"].max(initial=0))
    if not most:
        return Sampled(tokens, logprobs)
    top_ids = np.full((len(logits), most), -1, dtype=np.int32)
    top_logprobs = np.zeros(top_ids.shape, dtype=np.float32)
    for r, (row, count) in enumerate(zip(logits, sampling.rows["tops"], strict=True)):
        top_ids[r, :count] = top_tokens(row, int(count))
        top_logprobs[r, :count] = [token_logprob(row, t) for t in top_ids[r, :count]]
    return Sampled(tokens, logprobs, top_ids, top_logprobs)


def _each(sampling: Sampling) -> Iterator[SamplingRow]:
    return (SamplingRow(*values) for values in sampling.rows.tolist())


def adjustments_of(
    adjustments: Adjustments | None, rows: NDArray[np.intp], *, masked: bool
) -> Adjustments | None:
    """The adjustments of some rows, in their order; `masked` False drops the masks."""
    if adjustments is None:
        return None
    a = adjustments
    counts = np.diff(a.starts)[rows]
    entries = [np.arange(a.starts[r], a.starts[r + 1]) for r in rows]
    picked = np.concatenate(entries) if entries else np.empty(0, dtype=np.intp)
    return Adjustments(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        ids=a.ids[picked],
        adds=a.adds[picked],
        factors=a.factors[picked],
        subtracts=a.subtracts[picked],
        mask_rows=a.mask_rows[rows] if masked else np.full(len(rows), -1, dtype=np.int32),
        masks=a.masks,
    )
