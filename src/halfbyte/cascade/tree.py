"""Token trees: grown by cumulative log-probability (EAGLE-2, arXiv 2406.16858), verified by a walk.

    root (the pending token)          tokens    a   b   c   d   e
    ├── a ── c                        parents  -1  -1   0   1   1
    └── b ──┬ d
            └ e

Nodes stand parents first, and those a tree was grown with best first, so that its first n nodes are
the best tree of n. The root is no node: its index as a parent is -1.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfbyte.checks import check_int
from halfbyte.runtime.accept import ROOT, accept


@dataclass(frozen=True, slots=True)
class TreeShape:
    """How a tree is grown: children per node and frontier width, levels, nodes kept."""

    top_k: int = 8
    depth: int = 4
    nodes: int = 24

    def __post_init__(self) -> None:
        for name, most in (("top_k", 64), ("depth", 64), ("nodes", 4096)):
            fix = "8 children, 4 levels and 24 nodes suit small models"
            check_int(f"tree {name}", getattr(self, name), 1, most, fix)


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Proposed tokens, parents before children; siblings have different tokens."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]  # index of the parent node, or ROOT

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return max(self.depths, default=0)

    def __getitem__(self, part: slice) -> TokenTree:
        """`tree[:n]`, the first n nodes: a tree, since parents come first."""
        return TokenTree(self.tokens[part], self.parents[part])

    @property
    def depths(self) -> list[int]:
        """Level of each node; a child of the root is 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return depths

    @property
    def is_chain(self) -> bool:
        """Whether no node has a sibling."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    def first_path(self) -> list[int]:
        """Tokens from the root down by every node's first child."""
        path, at = [], ROOT
        for i, parent in enumerate(self.parents):
            if parent == at:
                path.append(self.tokens[i])
                at = i
        return path

    def paths(self) -> NDArray[np.int32]:
        """`Batch.paths` of the root and every node: [N + 1, deepest + 1], -1 past the end.

        The root stands in slot 0 past the committed prefix, node i in slot i + 1.
        """
        depths = self.depths
        paths = np.full((len(self) + 1, 1 + max(depths, default=0)), -1, dtype=np.int32)
        paths[0, 0] = 0
        for i, (parent, depth) in enumerate(zip(self.parents, depths, strict=True)):
            paths[i + 1, :depth] = paths[parent + 1, :depth]
            paths[i + 1, depth] = i + 1
        return paths

    def walk(self, drawn: Seq[int]) -> list[int]:
        """Nodes accepted, from the root down, given what the target drew at the root and each node:
        `drawn[0]` at the root, `drawn[i + 1]` at node i."""
        return accept(self.tokens, drawn, self.parents)


Draft = list[int] | TokenTree  # what is proposed after a root


def tokens_of(draft: Draft) -> Seq[int]:
    """Tokens of a sequence, or of the nodes of a tree."""
    return draft if isinstance(draft, list) else draft.tokens


def paths_of(lengths: Seq[int], proposals: Seq[Draft]) -> NDArray[np.int32] | None:
    """`Batch.paths` of texts of `lengths` tokens up to their roots, each with its proposals; None
    where no proposal branches.

    What stands before a root is the trunk of its tree:  t0 ── t1 ── root ── nodes.
    """
    if not any(isinstance(p, TokenTree) and not p.is_chain for p in proposals):
        return None
    blocks: list[NDArray[np.int32]] = []
    for length, proposed in zip(lengths, proposals, strict=True):
        trunk = length - 1
        if not isinstance(proposed, TokenTree) or proposed.is_chain:
            blocks.append(np.full((length + len(proposed), 1), -1, dtype=np.int32))
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


class TreeGrowth:
    """The tree of one sequence while it is drafted: every candidate seen, and the frontier.

    A candidate's score is the sum of the log-probabilities on its path. Candidates are numbered as
    they come, level by level, so a parent's number is below its children's.
    """

    def __init__(self, shape: TreeShape, floor: float = -np.inf) -> None:
        """A candidate whose score is below `floor` is none."""
        self.shape = shape
        self.floor = floor
        self.depth = 0  # levels seen
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._scores: list[float] = []
        self._frontier: list[int] = [ROOT]

    @property
    def frontier(self) -> list[int]:
        """Candidates to expand next, best first; ROOT at the beginning, empty at full depth."""
        return self._frontier if self.depth < self.shape.depth else []

    def token(self, candidate: int) -> int:
        """The token of a candidate."""
        return self._tokens[candidate]

    def parent(self, candidate: int) -> int:
        """The parent of a candidate, or ROOT."""
        return self._parents[candidate]

    def expand(self, tokens: NDArray[np.int32], logprobs: NDArray[np.float32]) -> None:
        """Add a level: `tokens` and `logprobs` [F, K] are the children of each frontier candidate.

        The new frontier is the `top_k` best of the level, ties to the earlier, less those that
        `nodes` candidates are at least as good as: no child of theirs could be kept. A child whose
        log-probability is not a number or -inf is no candidate, nor is a token seen twice.
        """
        begin = len(self._tokens)
        for parent, row, scores in zip(
            self._frontier, tokens.tolist(), logprobs.tolist(), strict=True
        ):
            above = 0.0 if parent == ROOT else self._scores[parent]
            seen: set[int] = set()
            for token, logprob in zip(row[: self.shape.top_k], scores, strict=False):
                score = above + min(logprob, 0.0)
                if token in seen or not logprob > -np.inf or score < self.floor:
                    continue
                seen.add(token)
                self._tokens.append(token)
                self._parents.append(parent)
                self._scores.append(score)
        level = range(begin, len(self._tokens))
        ranked = sorted(level, key=lambda c: -self._scores[c])[: self.shape.top_k]
        bar = -np.inf
        if len(self._scores) >= self.shape.nodes:
            bar = sorted(self._scores, reverse=True)[self.shape.nodes - 1]
        self._frontier = [c for c in ranked if self._scores[c] > bar]
        self.depth += 1

    def best(self, nodes: int | None = None) -> TokenTree:
        """The tree of the best `nodes` candidates (shape.nodes), ties to the shallower and earlier.

        A child never scores above its parent, so the set is closed under taking the parent.
        """
        most = self.shape.nodes if nodes is None else min(nodes, self.shape.nodes)
        # On a tie the earlier: a parent's number is below its children's.
        chosen = sorted(range(len(self._tokens)), key=lambda c: -self._scores[c])[:most]
        place = {ROOT: ROOT} | {c: i for i, c in enumerate(chosen)}
        return TokenTree(
            tuple(self._tokens[c] for c in chosen),
            tuple(place[self._parents[c]] for c in chosen),
        )
