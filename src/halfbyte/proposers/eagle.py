"""EAGLE: a trained head drafts a token tree from the target's own features (EAGLE-2, EAGLE-3).

The head's row at position p has the token at p + 1 and the feature of p, so its output speaks of
the token at p + 2. Features are read where the target kept them, beside its KV:

    position          …   n-1        n (pending)          n+1 …
    target's feature  …   known      not yet
    head's rows       …   (f, tₙ)    (guess, child)       (guess, grandchild) …
                          refresh    scratch slots, thrown away

Every `propose` first runs the rows that the last cycle committed, with the target's true features
in place of what the head had guessed, then expands level by level. KV of the prefix stays in the
target's page numbers, KV of the tree in scratch pages.

Before a model in the middle of a hierarchy that model is the target: its features, its pages. Where
it has not run all that stands before the root nothing is proposed, and its own next token is the
root of the next round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from copy import copy
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Ask, Proposals
from halfbyte.cascade.tree import Draft, TokenTree, TreeGrowth, TreeShape
from halfbyte.cascade.verify import Outcome
from halfbyte.proposers.noise import Guesses, as_drawn
from halfbyte.runtime.accept import ROOT
from halfbyte.runtime.draft_head import DraftHead, HeadOutput
from halfbyte.runtime.protocol import Batch, Runtime

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

TOP_K = 8
DEPTH = 6
# Under seeded sampling the best children are those whose noise is large, so more are looked at.
SAMPLED_FACTOR = 4


@dataclass(slots=True)
class _Sketch:
    """The tree of one ask while it grows."""

    ask: Ask
    growth: TreeGrowth
    pages: I32  # [P] the head's page table: the sequence's pages, then scratch
    hidden: dict[int, F32] = field(default_factory=dict)  # candidate -> what the head made of it
    paths: dict[int, list[int]] = field(default_factory=lambda: {ROOT: []})
    num_slots: int = 0

    def place(self, candidate: int) -> list[int]:
        """Give a candidate a slot; returns its path."""
        path = [*self.paths[self.growth.parent(candidate)], self.num_slots]
        self.paths[candidate] = path
        self.num_slots += 1
        return path


class EagleProposer:
    """`eagle:PATH` before the target, a level of the target's weights, or another model."""

    fused = None

    def __init__(
        self,
        name: str,
        head: DraftHead,
        runtime: Runtime,
        min_confidence: float = 0.0,
        *,
        top_k: int = TOP_K,
        depth: int = DEPTH,
        pages_before: Callable[[Ask], I32 | None] = lambda ask: ask.sequence.page_row,
    ) -> None:
        """`runtime` keeps the features `head` reads, in the pages that `pages_before` names.

        A node whose path is less likely than `min_confidence` is not proposed.
        """
        self.name = self.stack = name
        self._head = head
        self._runtime = runtime
        self._top_k = top_k
        self.deepest = depth
        self._pages_before = pages_before
        self._floor = float(np.log(min_confidence)) if min_confidence > 0 else -np.inf
        self._refreshed: dict[Decoding, int] = {}  # positions whose KV has true features

    def at_depth(self, depth: int) -> EagleProposer:
        """The same head and what it has read, for trees of at most so many levels: a way to propose
        of its own, for a planner to choose."""
        other = copy(self)
        other.deepest = min(depth, self.deepest)
        return other

    def begin(self, sequence: Decoding) -> None:
        """Its prompt is run with the first `propose`."""
        self._refreshed[sequence] = 0

    def release(self, sequence: Decoding) -> None:
        """Forget a sequence; its KV goes with its pages."""
        self._refreshed.pop(sequence, None)

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        """Nothing to learn now: the next `propose` finds the true features beside the KV."""

    def propose(self, asks: Seq[Ask]) -> Proposals:
        """A tree for every ask; none for a root without features before it."""
        started = perf_counter()
        trees: list[Draft] = [TokenTree((), ()) for _ in asks]
        forwards = 0
        for members in self._groups(asks):
            sketches = {i: self._sketch(asks[i], *pages) for i, *pages in members}
            forwards += self._refresh(list(sketches.values()))
            while rows := _frontier(sketches.values()):
                self._expand(rows)
                forwards += 1
            for i, sketch in sketches.items():
                trees[i] = sketch.growth.best()
        read = forwards * self._head.weight_bytes(self._head.level)
        return Proposals(trees, forwards, read, perf_counter() - started)

    def _shape(self, ask: Ask) -> TreeShape:
        return TreeShape(min(self._top_k, ask.size), min(self.deepest, ask.depth), ask.size)

    def _sketch(self, ask: Ask, table: I32, scratch: I32) -> _Sketch:
        own = ask.root_position // self._head.page_size + 1
        pages = np.concatenate([table[:own], scratch])
        return _Sketch(ask, TreeGrowth(self._shape(ask), self._floor), pages)

    def _groups(self, asks: Seq[Ask]) -> Iterator[list[tuple[int, I32, I32]]]:
        """Asks that run together, each with the page table before its root and scratch pages."""
        scratch, size = self._head.scratch_pages, self._head.page_size
        group: list[tuple[int, I32, I32]] = []
        used = rows = 0
        for i, ask in enumerate(asks):
            if ask.depth <= 0 or ask.root_position == 0:
                continue
            table = self._pages_before(ask)
            if table is None:
                continue
            shape = self._shape(ask)
            width = shape.top_k
            slots = width * (shape.depth - 1)
            need = (ask.root_position % size + slots) // size
            if group and (used + need > len(scratch) or rows + width > self._head.max_rows):
                yield group
                group, used, rows = [], 0, 0
            begin = scratch.start + used
            group.append((i, table, np.arange(begin, begin + need, dtype=np.int32)))
            used += need
            rows += width
        if group:
            yield group

    def _refresh(self, sketches: list[_Sketch]) -> int:
        """Run what was committed since the last time up to the root: the first level of each tree.

        Returns the number of forwards; a long prompt takes several.
        """
        at = [self._refreshed.setdefault(s.ask.sequence, 0) for s in sketches]
        forwards = 0
        while any(a < s.ask.root_position for a, s in zip(at, sketches, strict=True)):
            room, spans = self._head.max_rows, []
            for i, sketch in enumerate(sketches):
                end = min(sketch.ask.root_position, at[i] + room)
                if end > at[i]:
                    spans.append((i, at[i], end))
                    room -= end - at[i]
            found = self._run_spans(sketches, spans)
            done = [i for i, _, end in spans if end == sketches[i].ask.root_position]
            guesses = self._guesses(found, [sketches[i] for i in done], [0] * len(done))
            for row, i in enumerate(done):
                sketches[i].hidden[ROOT] = found.hidden[row]
                sketches[i].growth.expand(guesses.tokens[[row]], guesses.logprobs[[row]])
            for i, _, end in spans:
                at[i] = end
            forwards += 1
        for sketch in sketches:
            # Rows past it were run on what a stage only proposes: they run again.
            self._refreshed[sketch.ask.sequence] = sketch.ask.sequence.committed_len
        return forwards

    def _run_spans(self, sketches: list[_Sketch], spans: list[tuple[int, int, int]]) -> HeadOutput:
        """One forward over positions begin .. end - 1 of some; results for roots reached."""
        tokens: list[int] = []
        features, starts, rows = [], [0], []
        for i, begin, end in spans:
            ask = sketches[i].ask
            tokens += _text(ask, begin + 1, end + 1)
            positions = np.arange(begin, end, dtype=np.int32)
            features.append(self._runtime.read_features(sketches[i].pages, positions))
            starts.append(len(tokens))
            if end == ask.root_position:
                rows.append(len(tokens) - 1)
        batch = Batch(
            np.array(tokens, dtype=np.int32),
            np.array(starts, dtype=np.int32),
            np.array([begin for _, begin, _ in spans], dtype=np.int32),
            _stacked([sketches[i].pages for i, _, _ in spans]),
        )
        known = features[0] if len(features) == 1 else np.concatenate(features)
        asked = np.array(rows, dtype=np.int32)
        return self._head.forward(batch, self._head.level, known, asked, self._looked_at(sketches))

    def _expand(self, rows: list[tuple[_Sketch, list[int]]]) -> None:
        """One level of every tree: the children of its frontier."""
        tokens, starts, paths, features = [], [0], [], []
        for sketch, frontier in rows:
            for candidate in frontier:
                tokens.append(sketch.growth.token(candidate))
                paths.append(sketch.place(candidate))
                features.append(sketch.hidden[sketch.growth.parent(candidate)])
            starts.append(len(tokens))
        width = max(map(len, paths))
        batch = Batch(
            np.array(tokens, dtype=np.int32),
            np.array(starts, dtype=np.int32),
            np.array([sketch.ask.root_position for sketch, _ in rows], dtype=np.int32),
            _stacked([sketch.pages for sketch, _ in rows]),
            np.array([path + [-1] * (width - len(path)) for path in paths], dtype=np.int32),
        )
        every = np.arange(len(tokens), dtype=np.int32)
        sketches = [sketch for sketch, frontier in rows for _ in frontier]
        known = np.stack(features)
        found = self._head.forward(batch, self._head.level, known, every, self._looked_at(sketches))
        guesses = self._guesses(found, sketches, [len(path) for path in paths])
        for (sketch, frontier), begin, end in zip(rows, starts[:-1], starts[1:], strict=True):
            for row, candidate in zip(range(begin, end), frontier, strict=True):
                sketch.hidden[candidate] = found.hidden[row]
            sketch.growth.expand(guesses.tokens[begin:end], guesses.logprobs[begin:end])

    def _looked_at(self, sketches: Seq[_Sketch]) -> int:
        """Children to ask the head for, so many per row."""
        sampled = any(s.ask.sequence.sampler.row.temperature > 0 for s in sketches)
        most = max(s.growth.shape.top_k for s in sketches)
        return most * SAMPLED_FACTOR if sampled else most

    def _guesses(self, found: HeadOutput, sketches: Seq[_Sketch], depths: Seq[int]) -> Guesses:
        """What the rows' judge would draw; a row at depth d speaks of root_position + d + 1."""
        return as_drawn(
            Guesses(found.tokens, found.logprobs),
            [s.ask.sequence.sampler for s in sketches],
            [s.ask.root_position + depth + 1 for s, depth in zip(sketches, depths, strict=True)],
        )


def _frontier(sketches: Iterable[_Sketch]) -> list[tuple[_Sketch, list[int]]]:
    """The trees that still grow, each with its candidates to expand."""
    return [(s, frontier) for s in sketches if (frontier := s.growth.frontier)]


def _text(ask: Ask, begin: int, end: int) -> list[int]:
    """Tokens at positions begin .. end - 1 of the sequence and what is proposed ahead."""
    own = ask.sequence.tokens
    tokens = list(own[begin:end])
    if end > len(own):
        tokens += ask.ahead[max(0, begin - len(own)) : end - len(own)]
    return tokens


def _stacked(tables: list[I32]) -> I32:
    """[B, P] of page tables of any lengths, -1 past the end of each."""
    stacked = np.full((len(tables), max(map(len, tables))), -1, dtype=np.int32)
    for row, table in zip(stacked, tables, strict=True):
        row[: len(table)] = table
    return stacked
