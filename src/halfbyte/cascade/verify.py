"""Judging proposals: one causal forward over several sequences, every row sampled.

Each stage of a cascade, the target too, judges what the stage before it proposed in this way. The
root is the last token known; its row and the proposals' rows stand at consecutive positions.

    rows           root   d1   d2   d3
    they sample    t1     t2   t3   t4      (of the next position)

With d1 = t1 and d2 = t2 but d3 != t3, two are accepted and t3 is recovered. Had d3 matched, t4
would be the bonus token. The noise of a position is the same for every stage, so stages agree often
when sampling too.

`decode` and `draft_and_verify` are what a runtime makes one call of: `verify` with nothing
proposed, several times, and `verify` of what the runtime has just drafted.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from halfbyte.cascade.place import Place, batch_of, roots_of
from halfbyte.cascade.scores import Tops, add_scores, tops_of
from halfbyte.cascade.tree import Draft, paths_of, tokens_of
from halfbyte.config import Level
from halfbyte.runtime.accept import accept
from halfbyte.runtime.protocol import DraftRun, Runtime, Sampled
from halfbyte.sampling.sampler import sampling_of


class Fate(StrEnum):
    """How an emitted token came about."""

    ACCEPTED = "accepted"  # it was proposed and the target agreed
    RECOVERED = "recovered"  # the target's own, where it disagreed
    BONUS = "bonus"  # the target's own, after every proposal was accepted
    PLAIN = "plain"  # nothing was proposed


@dataclass(slots=True)
class Outcome:
    """What a sequence got out of a verify: `accepted` proposals and one token of the judge's.

    A chunk of a prompt gets nothing; a plain sequence may get several tokens (see `decode`).
    """

    tokens: list[int]  # accepted + 1
    logprobs: list[float]  # as many
    proposed: int = 0  # tokens, or levels of a tree
    accepted: int = 0
    rows: int = 0  # of the proposals: as many as tokens, or nodes of a tree
    tree: Seq[int] | None = None  # of a tree: its nodes that were accepted, from the root down
    # Where the place asks: the most likely tokens beside each of `tokens`, the logprobs of the
    # tokens it expected, and the most likely ones beside those.
    tops: Seq[Tops] = ()
    scores: Seq[float] = ()
    score_tops: Seq[Tops] = ()

    def fates(self) -> list[Fate]:
        """One per token."""
        if self.proposed == 0:
            return [Fate.PLAIN] * len(self.tokens)
        last = Fate.BONUS if self.accepted == self.proposed else Fate.RECOVERED
        return [Fate.ACCEPTED] * self.accepted + [last]


def verify(
    runtime: Runtime, level: Level, places: Seq[Place], proposals: Seq[Draft]
) -> list[Outcome]:
    """Run every place's tokens and proposals in one forward; the longest agreeing path counts.

    KV of an accepted path is moved to the positions after the root.
    """
    rows: list[int] = []
    sampled_rows: list[int] = []
    positions: list[int] = []
    counts: list[int] = []
    starts = [0]
    special = False
    for place, proposed in zip(places, proposals, strict=True):
        special = special or place.is_special
        base, scored = len(rows), len(place.expected)
        rows += place.tokens
        rows += tokens_of(proposed)
        starts.append(len(rows))
        # Scored rows of the place's own tokens first, then the root and what is proposed.
        sampled_rows += range(base, base + scored)
        positions += range(place.first + 1, place.first + 1 + scored)
        counts.append(scored)
        if place.samples:
            counts[-1] += len(proposed) + 1
            sampled_rows += range(base + len(place.tokens) - 1, len(rows))
            next_position = place.root_position + 1
            positions.append(next_position)
            if isinstance(proposed, list):
                positions += range(next_position + 1, next_position + len(proposed) + 1)
            else:
                positions += [next_position + depth for depth in proposed.depths]
    paths = paths_of([len(place.tokens) for place in places], proposals)
    batch = batch_of(rows, starts, places, paths)
    if not sampled_rows:
        runtime.forward(batch, level, np.empty(0, dtype=np.int32))
        return [Outcome([], []) for _ in places]
    sampling = sampling_of([place.sampler for place in places], positions, counts)
    if special:
        add_scores(sampling, places, proposals, counts)
    sampled = runtime.forward_sample(batch, level, np.array(sampled_rows, dtype=np.int32), sampling)
    return _judge(runtime, places, proposals, counts, sampled)


def decode(runtime: Runtime, level: Level, places: Seq[Place], length: int) -> list[Outcome]:
    """Up to `length` tokens of plain decoding from every root, in one call of the runtime.

    The outcomes are those of as many `verify` with nothing proposed, put together. The places are
    bare. All get equally many.
    """
    roots, sampling = roots_of(places)
    decoded = runtime.decode(roots, level, length, sampling)
    drawn = zip(decoded.tokens.tolist(), decoded.logprobs.tolist(), strict=True)
    return [Outcome(tokens, logprobs) for tokens, logprobs in drawn]


def draft_and_verify(
    runtime: Runtime, level: Level, places: Seq[Place], run: DraftRun
) -> tuple[list[Outcome], int, float]:
    """`verify` of what `run` drafts from the roots, in one call of the runtime.

    The places are bare. Also returns the draft's forwards and seconds.
    """
    roots, sampling = roots_of(places)
    done = runtime.draft_and_verify(roots, run, level, sampling)
    each = zip(done.tokens, done.logprobs, done.proposed, strict=True)
    outcomes = [Outcome(t, logprobs, n, len(t) - 1, n) for t, logprobs, n in each]
    return outcomes, done.forwards, done.draft_seconds


def _judge(
    runtime: Runtime,
    places: Seq[Place],
    proposals: Seq[Draft],
    counts: list[int],
    sampled: Sampled,
) -> list[Outcome]:
    """What each place got of what was sampled; `counts[b]` of the rows are those of place b."""
    tokens, logprobs = sampled.tokens.tolist(), sampled.logprobs.tolist()
    outcomes, at = [], 0
    for place, proposed, count in zip(places, proposals, counts, strict=True):
        start = at + len(place.expected)
        picked: list[int] = []
        outcome = Outcome([], [])
        if place.samples:
            drawn, nodes = tokens[start : at + count], None
            if isinstance(proposed, list):
                accepted, most = accept(proposed, drawn), len(proposed)
            else:
                accepted = nodes = proposed.walk(drawn)
                most = proposed.depth
                _move(runtime, place, nodes)
            picked = [start, *(start + 1 + i for i in accepted)]
            outcome = Outcome(
                [tokens[row] for row in picked],
                [logprobs[row] for row in picked],
                most,
                len(accepted),
                len(proposed),
                nodes,
            )
        if place.expected or place.tops:
            outcome.tops = tops_of(sampled, picked, place.tops)
            outcome.scores = logprobs[at:start]
            outcome.score_tops = tops_of(sampled, range(at, start), place.tops)
        outcomes.append(outcome)
        at += count
    return outcomes


def _move(runtime: Runtime, place: Place, nodes: list[int]) -> None:
    """Move the KV of the accepted nodes to the positions after the root."""
    if nodes == list(range(len(nodes))):
        return
    first = place.root_position + 1
    sources = np.array(nodes, dtype=np.int32) + np.int32(first)
    runtime.copy_kv(place.page_row, sources, first + np.arange(len(nodes), dtype=np.int32))
