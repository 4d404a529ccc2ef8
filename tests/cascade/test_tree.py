"""Tree construction against brute force (connected, parents first, exact top-N), and the walk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from halfbyte.cascade.tree import ROOT, TokenTree, TreeGrowth, TreeShape
from halfbyte.errors import ArgumentError

VOCAB = 5
Path = tuple[int, ...]


class Chances:
    """A distribution over VOCAB tokens for every path, coarse so that scores tie often."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def logprobs(self, path: Path) -> NDArray[np.float32]:
        rng = np.random.default_rng([self.seed, len(path), *path])
        # Multiples of 1/4 add up without rounding: ties are ties.
        return (-rng.integers(0, 9, VOCAB) / 4).astype(np.float32)

    def top(self, path: Path, k: int) -> tuple[list[int], list[float]]:
        logprobs = self.logprobs(path)
        ids = sorted(range(VOCAB), key=lambda t: (-logprobs[t], t))[:k]
        return ids, [float(logprobs[t]) for t in ids]

    def score(self, path: Path) -> float:
        return float(sum(self.logprobs(path[:i])[path[i]] for i in range(len(path))))


def path_of(growth: TreeGrowth, candidate: int) -> Path:
    path: list[int] = []
    while candidate != ROOT:
        path.append(growth.token(candidate))
        candidate = growth.parent(candidate)
    return tuple(reversed(path))


def node_path(tree: TokenTree, node: int) -> Path:
    path: list[int] = []
    while node != ROOT:
        path.append(tree.tokens[node])
        node = tree.parents[node]
    return tuple(reversed(path))


def grow(chances: Chances, shape: TreeShape) -> TreeGrowth:
    growth = TreeGrowth(shape)
    while frontier := growth.frontier:
        children = [chances.top(path_of(growth, c), shape.top_k) for c in frontier]
        growth.expand(
            np.array([ids for ids, _ in children], np.int32),
            np.array([scores for _, scores in children], np.float32),
        )
    return growth


def every_path(top_k: int, depth: int, chances: Chances) -> list[Path]:
    """All paths of `top_k` children a node, shallow first."""
    level: list[Path] = [()]
    found: list[Path] = []
    for _ in range(depth):
        level = [(*path, t) for path in level for t in chances.top(path, top_k)[0]]
        found += level
    return found


shapes = st.builds(TreeShape, st.integers(1, VOCAB), st.integers(1, 4), st.integers(1, 40))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), shapes)
def test_trees_are_connected_parents_first_and_of_the_size_asked(
    seed: int, shape: TreeShape
) -> None:
    growth = grow(Chances(seed), shape)
    tree = growth.best()
    candidates = shape.top_k + (shape.depth - 1) * shape.top_k * shape.top_k
    assert len(tree) == min(shape.nodes, candidates)
    assert all(ROOT <= parent < i for i, parent in enumerate(tree.parents))
    assert max(tree.depths) <= shape.depth
    siblings = list(zip(tree.parents, tree.tokens, strict=True))
    assert len(set(siblings)) == len(siblings)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), shapes)
def test_chosen_nodes_are_the_exact_best_of_all_paths(seed: int, shape: TreeShape) -> None:
    """No more than `top_k` nodes: the frontier then holds every ancestor the best can have."""
    chances = Chances(seed)
    most = min(shape.nodes, shape.top_k)
    tree = grow(chances, shape).best(most)
    every = every_path(shape.top_k, shape.depth, chances)
    expected = sorted((chances.score(p) for p in every), reverse=True)[:most]
    assert sorted((chances.score(node_path(tree, i)) for i in range(len(tree))), reverse=True) == (
        expected
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), shapes)
def test_no_candidate_left_out_beats_one_kept(seed: int, shape: TreeShape) -> None:
    chances = Chances(seed)
    growth = grow(chances, shape)
    tree = growth.best()
    kept = {node_path(tree, i) for i in range(len(tree))}
    full = growth_of_all(growth)
    worst = min(chances.score(p) for p in kept)
    deepest = max(len(p) for p in kept if chances.score(p) == worst)
    for path in full - kept:
        score = chances.score(path)
        # On a tie the shallower one is kept.
        assert score < worst or (score == worst and len(path) >= deepest)


def growth_of_all(growth: TreeGrowth) -> set[Path]:
    everything = TreeGrowth.best(_without_limit(growth))
    return {node_path(everything, i) for i in range(len(everything))}


def _without_limit(growth: TreeGrowth) -> TreeGrowth:
    growth.shape = TreeShape(growth.shape.top_k, growth.shape.depth, 4096)
    return growth


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), shapes)
def test_a_path_is_the_root_the_ancestors_and_the_node(seed: int, shape: TreeShape) -> None:
    tree = grow(Chances(seed), shape).best()
    paths = tree.paths()
    assert paths.shape == (len(tree) + 1, max(tree.depths) + 1)
    assert paths[0].tolist() == [0] + [-1] * max(tree.depths)
    for i, depth in enumerate(tree.depths):
        ancestors = [i + 1]
        while ancestors[0] != 0:
            ancestors.insert(0, tree.parents[ancestors[0] - 1] + 1)
        assert paths[i + 1, : depth + 1].tolist() == ancestors
        assert (paths[i + 1, depth + 1 :] == -1).all()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), shapes, st.integers(0, 10_000))
def test_the_walk_accepts_the_longest_path_the_target_would_have_written(
    seed: int, shape: TreeShape, target_seed: int
) -> None:
    """The target writes a fixed text per prefix; no other path of the tree is as long a prefix."""
    tree = grow(Chances(seed), shape).best()
    target = Chances(target_seed)

    def drawn(path: Path) -> int:
        return int(np.argmax(target.logprobs(path)))

    paths = [node_path(tree, i) for i in range(len(tree))]
    accepted = tree.walk([drawn(()), *(drawn(p) for p in paths)])
    text: Path = ()
    for _ in range(shape.depth):
        text = (*text, drawn(text))
    agreeing = [p for p in paths if text[: len(p)] == p]
    assert [tree.tokens[i] for i in accepted] == list(max(agreeing, key=len, default=()))


def test_a_chain_is_a_tree_without_branches() -> None:
    tree = TokenTree((5, 6, 7), (ROOT, 0, 1))
    assert tree.is_chain
    assert tree.paths().tolist() == [[0, -1, -1, -1], [0, 1, -1, -1], [0, 1, 2, -1], [0, 1, 2, 3]]
    assert tree.walk([5, 6, 9, 1]) == [0, 1]
    assert not TokenTree((5, 6), (ROOT, ROOT)).is_chain


def test_an_empty_tree_is_its_root() -> None:
    tree = TokenTree((), ())
    assert tree.paths().tolist() == [[0]]
    assert tree.walk([3]) == []


def test_what_a_broken_head_returns_is_no_candidate() -> None:
    """NaN, -inf, positive and repeated children."""
    growth = TreeGrowth(TreeShape(top_k=4, depth=2, nodes=9))
    growth.expand(
        np.array([[1, 2, 2, 3]], np.int32), np.array([[np.nan, 0.5, -1, -np.inf]], np.float32)
    )
    tree = growth.best()
    assert tree.tokens == (2,)
    growth.expand(np.full((1, 4), 7, np.int32), np.full((1, 4), np.nan, np.float32))
    assert growth.best() == tree
    assert growth.frontier == []


@pytest.mark.parametrize("change", [{"top_k": 0}, {"depth": 65}, {"nodes": -1}, {"nodes": 2.0}])
def test_a_shape_out_of_range_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="an integer, 1 to"):
        TreeShape(**change)
