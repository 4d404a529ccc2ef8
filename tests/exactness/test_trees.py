"""A tree's rows are plain rows of their paths, bit for bit; an accepted path's KV is plain KV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, Runtime
from tests.support.runtimes import (
    KINDS,
    NATIVE_KINDS,
    every_runtime,
    every_tier,
    random_tokens,
    shared,
)

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
W8A16 = Level.parse("w8a16")
FORKED = (-1, -1, 0, 0, 1, 2, 2, 5, 4)  # parents of nodes 1, 2, … less one; -1: the root


@dataclass(frozen=True)
class Case:
    """A prefix, and a tree past it: node 0 is the root, parent of node n > 0 is parents[n - 1]."""

    prefix: I32
    tokens: I32  # [N]
    parents: tuple[int, ...]  # [N - 1], 0: the root
    slots: tuple[int, ...]  # [N] past the prefix; their pages are not those plain decoding uses

    def path(self, node: int) -> list[int]:
        nodes = [node]
        while nodes[0]:
            nodes.insert(0, self.parents[nodes[0] - 1])
        return nodes

    def paths(self, nodes: list[int]) -> I32:
        rows = [[self.slots[n] for n in self.path(node)] for node in nodes]
        width = max(map(len, rows))
        return np.array([row + [-1] * (width - len(row)) for row in rows], np.int32)


def case(prefix: int, parents: tuple[int, ...], slots: tuple[int, ...] = ()) -> Case:
    nodes = len(parents) + 1
    return Case(
        random_tokens(prefix, seed=prefix) if prefix else np.empty(0, np.int32),
        random_tokens(nodes, seed=nodes + 1),
        parents,
        slots or tuple(range(nodes)),
    )


def pages_for(runtime: Runtime, positions: int, offset: int = 0) -> I32:
    return offset + np.arange(-(-positions // runtime.page_size), dtype=np.int32)[::-1].copy()


def rows_batch(tokens: I32, first: int, pages: I32, paths: I32 | None = None) -> Batch:
    return Batch(
        tokens.astype(np.int32),
        np.array([0, len(tokens)], np.int32),
        np.array([first], np.int32),
        pages[None],
        paths,
    )


def prefill(runtime: Runtime, prefix: I32, pages: I32, level: Level) -> None:
    if len(prefix):
        runtime.forward(rows_batch(prefix, 0, pages), level, np.empty(0, np.int32))


def plain_logits(runtime: Runtime, c: Case, level: Level) -> tuple[F32, dict[int, bytes]]:
    """Logits [N, V] of each node decoded token by token after its own path, and KV per leaf."""
    first = len(c.prefix)
    pages = pages_for(runtime, first + len(c.tokens))
    prefill(runtime, c.prefix, pages, level)
    logits, kv = [], {}
    for node in range(len(c.tokens)):
        for depth, n in enumerate(c.path(node)):
            one = rows_batch(c.tokens[n : n + 1], first + depth, pages)
            row = runtime.forward(one, level, np.zeros(1, np.int32))
        logits.append(row[0])
        kv[node] = kv_bytes(runtime, pages, first + len(c.path(node)))
    return np.stack(logits), kv


def kv_bytes(runtime: Runtime, pages: I32, length: int) -> bytes:
    parts = []
    for layer in range(runtime.config.num_layers):
        for index, page in enumerate(pages.tolist()):
            used = min(max(length - index * runtime.page_size, 0), runtime.page_size)
            keys, values = runtime.read_kv(layer, page)
            parts += [keys[:, :, :used].tobytes(), values[:, :used].tobytes()]
    return b"".join(parts)


def check(runtime: Runtime, c: Case, level: Level, forwards: list[list[int]]) -> None:
    """`forwards`: nodes of each forward, so that later rows refer to slots of earlier ones."""
    expected, plain_kv = plain_logits(runtime, c, level)
    first = len(c.prefix)
    pages = pages_for(runtime, first + max(c.slots) + 1, runtime.num_pages // 2)
    prefill(runtime, c.prefix, pages, level)
    for nodes in forwards:
        batch = rows_batch(c.tokens[nodes], first, pages, c.paths(nodes))
        got = runtime.forward(batch, level, np.arange(len(nodes), dtype=np.int32))
        assert got.tobytes() == expected[nodes].tobytes(), f"nodes {nodes}"
    leaf = max(range(len(c.tokens)), key=lambda n: len(c.path(n)))
    path = [c.slots[n] for n in c.path(leaf)]
    sources = np.array(path, np.int32) + np.int32(first)
    runtime.copy_kv(pages, sources, first + np.arange(len(path), dtype=np.int32))
    length = first + len(path)
    assert kv_bytes(runtime, pages, length) == plain_kv[leaf]


def forked(prefix: int) -> Case:
    return case(prefix, tuple(p + 1 for p in FORKED))


@every_runtime
@pytest.mark.parametrize(
    "model",
    ["llama", "mistral-window", "qwen2-bias-tied-offsets", "layers-sinks-experts", "layers-heads"],
)
@pytest.mark.parametrize("prefix", [0, 5, 15, 27])
def test_one_tree_forward_is_every_path_decoded_token_by_token(
    kind: str, model: str, prefix: int
) -> None:
    check(shared(kind, model), forked(prefix), W8A16, [list(range(len(FORKED) + 1))])


@every_tier
@pytest.mark.parametrize("model", ["qwen3-qk-norm", "wide-g128", "llama-2500-words"])
@pytest.mark.parametrize("level", ["w4a4", "w4a8", "w4a16", "w8a8", "w8a16"])
def test_every_family_and_level(kind: str, model: str, level: str) -> None:
    check(shared(kind, model), forked(21), Level.parse(level), [list(range(len(FORKED) + 1))])


@every_tier
@pytest.mark.parametrize("model", ["llama-f32", "mistral-f16", "qwen2-bf16"])
def test_dense_weights(kind: str, model: str) -> None:
    check(shared(kind, model), forked(30), Level.parse("f32"), [list(range(len(FORKED) + 1))])


@every_tier
@pytest.mark.parametrize("prefix", [246, 250, 255, 256])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_path_may_cross_an_attention_chunk(kind: str, prefix: int, threads: int) -> None:
    runtime = shared(kind, "llama", threads=threads)
    check(runtime, forked(prefix), W8A16, [list(range(len(FORKED) + 1))])


@every_runtime
def test_later_forwards_refer_to_slots_of_earlier_ones(kind: str) -> None:
    check(shared(kind, "llama"), forked(14), W8A16, [[0], [2, 1], [3, 4, 5], [6, 7, 9], [8]])


@every_runtime
def test_slots_need_no_order(kind: str) -> None:
    slots = (7, 0, 30, 3, 12, 1, 44, 5, 18, 9)
    c = case(19, tuple(p + 1 for p in FORKED), slots)
    check(shared(kind, "mistral-window"), c, W8A16, [list(range(10))])


@every_tier
@pytest.mark.parametrize("page_size", [16, 32, 64])
def test_trees_of_hundreds_of_nodes(kind: str, page_size: int) -> None:
    """300 slots in a shuffled order: more than an attention chunk, and no mask of bits."""
    rng = np.random.default_rng(3)
    parents = tuple(int(rng.integers(max(0, n - 40), n + 1)) for n in range(299))
    c = case(37, parents, tuple(int(x) for x in rng.permutation(300)))
    runtime = shared(kind, "llama", page_size=page_size)
    nodes = list(range(300))
    first = len(c.prefix)
    pages = pages_for(runtime, first + 300)
    prefill(runtime, c.prefix, pages, W8A16)
    batch = rows_batch(c.tokens, first, pages, c.paths(nodes))
    got = runtime.forward(batch, W8A16, np.arange(300, dtype=np.int32))
    for node in (0, 1, 7, 100, 211, 299):
        prefill(runtime, c.prefix, pages, W8A16)
        text = c.tokens[c.path(node)]
        alone = runtime.forward(
            rows_batch(text, first, pages), W8A16, np.array([len(text) - 1], np.int32)
        )
        assert alone[0].tobytes() == got[node].tobytes()


@every_runtime
def test_trees_plain_rows_and_chunks_share_a_forward(kind: str) -> None:
    """Three sequences: a tree, a prefill chunk, a single row; each as alone."""
    runtime = shared(kind, "llama")
    c = forked(13)
    expected, _ = plain_logits(runtime, c, W8A16)
    texts = [c.prefix, random_tokens(9, seed=8), random_tokens(20, seed=9)]
    rows = [c.tokens, random_tokens(18, seed=10), random_tokens(1, seed=11)]
    tables = 40 + np.arange(9, dtype=np.int32).reshape(3, 3)
    alone = [expected]
    for text, own, table in zip(texts[1:], rows[1:], tables[1:], strict=True):
        prefill(runtime, text, table, W8A16)
        every = np.arange(len(own), dtype=np.int32)
        alone.append(runtime.forward(rows_batch(own, len(text), table), W8A16, every))
    for text, table in zip(texts, tables, strict=True):
        prefill(runtime, text, table, W8A16)
    tree = c.paths(list(range(10)))
    paths = np.full((29, tree.shape[1]), -1, np.int32)
    paths[:10] = tree
    batch = Batch(
        np.concatenate(rows).astype(np.int32),
        np.array([0, 10, 28, 29], np.int32),
        np.array([len(t) for t in texts], np.int32),
        tables,
        paths,
    )
    got = runtime.forward(batch, W8A16, np.arange(29, dtype=np.int32))
    assert got.tobytes() == np.concatenate(alone).tobytes()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([*NATIVE_KINDS, "reference"]),
    model=st.sampled_from(["llama", "mistral-window", "qwen2-bias-tied-offsets", "wide-g128"]),
    page_size=st.sampled_from([16, 64]),
    threads=st.integers(1, 3),
    prefix=st.sampled_from([0, 1, 15, 16, 31, 40, 250]),
    choices=st.lists(st.integers(0, 1 << 20), max_size=14),
    cut=st.integers(1, 14),
)
def test_any_tree_is_its_paths(
    kind: str,
    model: str,
    page_size: int,
    threads: int,
    prefix: int,
    choices: list[int],
    cut: int,
) -> None:
    parents = tuple(choice % (n + 1) for n, choice in enumerate(choices))
    nodes = list(range(len(parents) + 1))
    forwards = [nodes[:cut], nodes[cut:]] if nodes[cut:] else [nodes]
    runtime = shared(kind, model, page_size=page_size, threads=threads)
    check(runtime, case(prefix, parents), W8A16, forwards)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "reference"])
def test_impossible_trees_are_refused(kind: str) -> None:
    runtime = shared(kind, "llama")
    pages = np.arange(2, dtype=np.int32)
    tokens = random_tokens(3)
    none = np.empty(0, np.int32)
    for paths, why in (
        ([[0, -1], [0, 1], [0, 1]], "share a slot"),
        ([[0, -1], [0, 1], [-1, 2]], "every row of a sequence has a path or none"),
        ([[0, -1], [0, 1]], "paths must be"),
        ([[0, -1], [0, 1], [0, 40]], "page table too short"),
        ([[0, -1], [0, 1], [0, 2**31 - 1]], "page table too short"),
    ):
        batch = rows_batch(tokens, 4, pages, np.array(paths, np.int32))
        with pytest.raises(ValueError, match=why):
            runtime.forward(batch, W8A16, none)
    for slot in (-1, 32, 2**31 - 1):
        with pytest.raises(ValueError, match="outside the page table"):
            runtime.copy_kv(pages, np.array([slot], np.int32), np.zeros(1, np.int32))
