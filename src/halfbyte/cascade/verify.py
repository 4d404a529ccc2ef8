"""Judging proposals: one causal forward over several sequences, every row sampled.

Each stage of a cascade, the target too, judges what the stage before it proposed in this way. The
root is the last token known; its row and the proposals' rows stand at consecutive positions.

    rows           root   d1   d2   d3
    they sample    t1     t2   t3   t4      (of the next position)

With d1 = t1 and d2 = t2 but d3 != t3, two are accepted and t3 is recovered. Had d3 matched, t4
would be the bonus token. The noise of a position is the same for every stage, so stages agree often
when sampling too.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.tree import TokenTree
from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, Runtime, Sampled, Sampling
from halfbyte.sampling.choice import Choice
from halfbyte.sampling.shaping import Changes, Shaper, adjustments_of

Draft = list[int] | TokenTree  # what is proposed after a root
Number = TypeVar("Number", np.float32, np.int32, np.uint64)


class Fate(StrEnum):
    """How an emitted token came about."""

    ACCEPTED = "accepted"  # it was proposed and the target agreed
    RECOVERED = "recovered"  # the target's own, where it disagreed
    BONUS = "bonus"  # the target's own, after every proposal was accepted
    PLAIN = "plain"  # nothing was proposed


Tops = list[tuple[int, float]]  # (token, logprob), best first


@dataclass(slots=True)
class Outcome:
    """What a sequence got out of a verify: `accepted` proposals and one token of the judge's.

    A chunk of a prompt gets nothing; a plain sequence may get several tokens (see `decode`).
    """

    tokens: list[int]  # accepted + 1
    logprobs: list[float]  # as many
    proposed: int
    accepted: int
    # Where the place asks: the most likely tokens beside each of `tokens`, the logprobs of the
    # tokens it expected, and the most likely ones beside those.
    tops: Seq[Tops] = ()
    scores: Seq[float] = ()
    score_tops: Seq[Tops] = ()
    tree: Seq[int] | None = None  # of a tree: its nodes that were accepted, from the root down
    rows: int = 0  # of a tree: its nodes

    def fates(self) -> list[Fate]:
        """One a token."""
        if self.proposed == 0:
            return [Fate.PLAIN] * len(self.tokens)
        last = Fate.BONUS if self.accepted == self.proposed else Fate.RECOVERED
        return [Fate.ACCEPTED] * self.accepted + [last]


NOTHING = Outcome([], [], 0, 0)


@dataclass(slots=True)
class Place:
    """Where a sequence's rows go in the KV of the model that runs them."""

    tokens: list[int]  # what that KV has not seen yet; the root is last
    first: int  # position of tokens[0]
    page_row: NDArray[np.int32]  # [P], with pages up to the last proposal
    choice: Choice
    samples: bool = True  # False: a chunk of a prompt whose end is further on; no root
    expected: Seq[int] = ()  # the tokens after the first of `tokens`, to be scored: not the root's
    tops: int = 0
    shaper: Shaper | None = None  # knows the text up to the root; its proposals are a sequence

    @property
    def is_special(self) -> bool:
        """Whether it asks for more than a token and its logprob."""
        return bool(self.expected or self.tops or self.shaper)

    @property
    def root_position(self) -> int:
        """Position of the last of `tokens`."""
        return self.first + len(self.tokens) - 1


def accept(proposed: Seq[int], sampled: Seq[int]) -> int:
    """Length of the longest prefix where the proposed tokens equal the judge's."""
    for i, (d, t) in enumerate(zip(proposed, sampled, strict=False)):
        if d != t:
            return i
    return min(len(proposed), len(sampled))


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
        rows += proposed.tokens if isinstance(proposed, TokenTree) else proposed
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
            if isinstance(proposed, TokenTree):
                positions += [next_position + depth for depth in proposed.depths]
            else:
                positions += range(next_position + 1, next_position + len(proposed) + 1)
    batch = batch_of(rows, starts, places, _paths(places, proposals))
    if not sampled_rows:
        runtime.forward(batch, level, np.empty(0, dtype=np.int32))
        return [NOTHING] * len(places)
    sampling = sampling_of([place.choice for place in places], positions, counts)
    if special:
        sampling = _specialised(sampling, places, proposals, counts)
    sampled = runtime.forward_sample(batch, level, np.array(sampled_rows, dtype=np.int32), sampling)
    return _judge(runtime, places, proposals, counts, sampled)


def decode(runtime: Runtime, level: Level, places: Seq[Place], length: int) -> list[Outcome]:
    """Up to `length` tokens of plain decoding from every root, in one call of the runtime.

    The outcomes are those of as many `verify` with nothing proposed, put together. The places have
    their roots only and nothing special. All get equally many.
    """
    roots, sampling = roots_of(places)
    decoded = runtime.decode(roots, level, length, sampling)
    drawn = zip(decoded.tokens.tolist(), decoded.logprobs.tolist(), strict=True)
    return [Outcome(tokens, logprobs, 0, 0) for tokens, logprobs in drawn]


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
        picked: Seq[int] = ()
        if not place.samples:
            outcome = NOTHING
        elif isinstance(proposed, TokenTree):
            nodes = proposed.walk(tokens[start : start + len(proposed) + 1])
            _move(runtime, place, nodes)
            picked = [start, *(start + 1 + node for node in nodes)]
            outcome = Outcome(
                [tokens[r] for r in picked],
                [logprobs[r] for r in picked],
                proposed.depth,
                len(nodes),
                tree=nodes,
                rows=len(proposed),
            )
        else:
            accepted = accept(proposed, tokens[start : start + len(proposed)])
            end = start + accepted + 1
            picked = range(start, end)
            outcome = Outcome(tokens[start:end], logprobs[start:end], len(proposed), accepted)
        if place.expected or place.tops:
            outcome = replace(
                outcome,
                tops=_tops(sampled, picked, place.tops),
                scores=logprobs[at:start],
                score_tops=_tops(sampled, range(at, start), place.tops),
            )
        outcomes.append(outcome)
        at += count
    return outcomes


def _specialised(
    sampling: Sampling, places: Seq[Place], proposals: Seq[Draft], counts: list[int]
) -> Sampling:
    """With what shapers change, the tokens that scored rows are held to, and the tops wanted."""
    changes: list[Changes | None] = []
    forced: list[int] = []
    for place, proposed, count in zip(places, proposals, counts, strict=True):
        forced += [*place.expected, *[-1] * (count - len(place.expected))]
        shaped: list[Changes] = []
        if place.shaper is not None and place.samples:
            assert isinstance(proposed, list), "a shaped sequence proposes no tree"
            shaped = place.shaper.changes(proposed)
        changes += [*[None] * (count - len(shaped)), *shaped]
    tops = np.repeat(np.array([place.tops for place in places], dtype=np.int32), counts)
    scored = any(place.expected for place in places)
    return replace(
        sampling,
        adjustments=adjustments_of(changes),
        forced=np.array(forced, dtype=np.int32) if scored else None,
        tops=tops if tops.any() else None,
    )


def _tops(sampled: Sampled, rows: Seq[int], count: int) -> list[Tops]:
    """The most likely tokens of some rows."""
    if count == 0 or sampled.top_ids is None or sampled.top_logprobs is None:
        return []
    ids = sampled.top_ids[list(rows), :count].tolist()
    logprobs = sampled.top_logprobs[list(rows), :count].tolist()
    return [list(zip(i, x, strict=True)) for i, x in zip(ids, logprobs, strict=True)]


def _paths(places: Seq[Place], proposals: Seq[Draft]) -> NDArray[np.int32] | None:
    """`Batch.paths` of all rows; None where no proposal branches.

    A place's own tokens are the trunk of its tree:  t0 ── t1 ── root ── nodes.
    """
    if not any(isinstance(p, TokenTree) and not p.is_chain for p in proposals):
        return None
    blocks: list[NDArray[np.int32]] = []
    for place, proposed in zip(places, proposals, strict=True):
        trunk = len(place.tokens) - 1
        if not isinstance(proposed, TokenTree) or proposed.is_chain:
            blocks.append(np.full((trunk + 1 + len(proposed), 1), -1, dtype=np.int32))
            continue
        below = proposed.paths()
        block = np.full((trunk + len(below), trunk + below.shape[1]), -1, dtype=np.int32)
        block[:, :trunk] = np.where(
            np.arange(trunk) <= np.arange(len(block))[:, None], np.arange(trunk), -1
        )
        block[trunk:, trunk:] = np.where(below >= 0, below + trunk, -1)
        blocks.append(block)
    width = max(block.shape[1] for block in blocks)
    return np.concatenate(
        [np.pad(b, ((0, 0), (0, width - b.shape[1])), constant_values=-1) for b in blocks]
    )


def _move(runtime: Runtime, place: Place, nodes: list[int]) -> None:
    """Move the KV of the accepted nodes to the positions after the root."""
    if nodes == list(range(len(nodes))):
        return
    first = place.root_position + 1
    sources = np.array(nodes, dtype=np.int32) + np.int32(first)
    runtime.copy_kv(place.page_row, sources, first + np.arange(len(nodes), dtype=np.int32))


def batch_of(
    rows: list[int],
    starts: list[int],
    places: Seq[Place],
    paths: NDArray[np.int32] | None = None,
) -> Batch:
    """Rows of several sequences; place b has rows starts[b] .. starts[b + 1] - 1."""
    tables = [place.page_row for place in places]
    return Batch(
        tokens=np.array(rows, dtype=np.int32),
        row_starts=np.array(starts, dtype=np.int32),
        first_positions=np.array([place.first for place in places], dtype=np.int32),
        # A batch of one is a view, not a copy.
        page_tables=tables[0][None] if len(tables) == 1 else np.array(tables),
        paths=paths,
    )


def root_of(sequence: Decoding) -> Place:
    """The place of a sequence that has nothing to run but its pending token."""
    return Place([sequence.pending], sequence.committed_len, sequence.page_row, sequence.choice)


def roots_of(places: Seq[Place]) -> tuple[Batch, Sampling]:
    """The rows of places that have their roots only, and how what follows these is drawn."""
    tokens, ones = [place.tokens[0] for place in places], [1] * len(places)
    positions = [place.first + 1 for place in places]
    sampling = sampling_of([place.choice for place in places], positions, ones)
    return batch_of(tokens, list(range(len(places) + 1)), places), sampling


def sampling_of(choices: list[Choice], positions: list[int], counts: list[int]) -> Sampling:
    """`counts[b]` rows drawn by `choices[b]`; one position a row, of the token drawn."""
    if len(choices) == 1:  # of a single user
        return Sampling(*choices[0].rows(counts[0]), positions=np.array(positions, dtype=np.int32))
    repeat = counts != [1] * len(counts)

    def rows(values: list[float] | list[int], dtype: type[Number]) -> NDArray[Number]:
        each = np.array(values, dtype=dtype)
        return each.repeat(counts) if repeat else each

    return Sampling(
        temperatures=rows([c.temperature for c in choices], np.float32),
        top_ks=rows([c.top_k for c in choices], np.int32),
        top_ps=rows([c.top_p for c in choices], np.float32),
        min_ps=rows([c.min_p for c in choices], np.float32),
        seeds=rows([c.seed for c in choices], np.uint64),
        positions=np.array(positions, dtype=np.int32),
    )
