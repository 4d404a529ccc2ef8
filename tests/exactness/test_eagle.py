"""Whatever a draft head proposes, the output is plain decoding's, bit for bit (claim C1)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.proposer import Ask
from halfbyte.cascade.tree import TokenTree
from halfbyte.config import Level
from halfbyte.formats.draft_head import HeadConfig
from halfbyte.proposers.build import Proposers
from halfbyte.proposers.eagle import EagleProposer
from halfbyte.runtime.draft_head import DraftHead, HeadStep
from halfbyte.runtime.protocol import Batch, Runtime
from tests.exactness.test_cascades import CHOICES, _run, _runtime, _state
from tests.support.runtimes import build, every_runtime, every_tier
from tests.support.tiny_heads import HEADS, TinyHead, attach, make_head
from tests.support.tiny_models import tiny

EVERY_HEAD = ("random", "adversarial", "broken", *HEADS)


class Oracle:
    """A head that is often right: the target itself at w4a8, a token behind.

    A head's row p has the token of position p + 1, so this one reads the text without its first
    token. Attention is relative, so only what that token meant is lost.
    """

    def __init__(self, kind: str, target: Runtime) -> None:
        self._model = build(kind, tiny("llama"), num_tokens=1536, max_rows=48)
        self.scratch_pages = range(target.num_pages, self._model.num_pages)
        self.config: HeadConfig = HEADS["eagle"]
        self.level = Level.parse("w4a8")
        self.page_size, self.max_rows = target.page_size, 48
        target.keep_features((2,))

    def forward(
        self,
        batch: Batch,
        level: Level,
        features: NDArray[np.float32],
        rows: NDArray[np.int32],
        k: int,
    ) -> HeadStep:
        assert len(features) == len(batch.tokens)
        logits = self._model.forward(batch, level, rows).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        best = np.argsort(-logprobs, axis=1, kind="stable")[:, :k]
        top = np.take_along_axis(logprobs, best, axis=1).astype(np.float32)
        return HeadStep(best.astype(np.int32), top, np.zeros((len(rows), 64), np.float32))

    def weight_bytes(self, level: Level) -> int:
        return self._model.weight_bytes(level)


def head_of(name: str, kind: str, runtime: Runtime) -> DraftHead:
    if name == "oracle":
        return Oracle(kind, runtime)
    return attach(runtime, weights_of(name))


def weights_of(name: str) -> TinyHead:
    if name == "random":
        return make_head(HEADS["eagle"], seed=9)
    if name == "adversarial":  # huge logits: always sure, always of the wrong thing
        return make_head(HEADS["eagle-normed"], seed=4, scale=1e4)
    if name == "broken":  # not a number is in every row
        weights = make_head(HEADS["eagle"])
        nan = {k: np.full_like(v, np.nan) for k, v in weights.vectors.items()}
        return replace(weights, vectors=nan)
    return make_head(HEADS[name])


@cache
def plain(kind: str, choice: str) -> list[list[bytes]]:
    runtime = _runtime(kind)
    return [_state(runtime, s) for s in _run(kind, runtime, FixedPlan(None, 0), CHOICES[choice])]


def check(
    kind: str, name: str, choice: str, cascade: str, length: int, inner: int = 4
) -> tuple[int, int, int]:
    """Returns cycles, tokens accepted, and how often KV had to move."""
    runtime = _runtime(kind)
    moves = 0
    copy = runtime.copy_kv

    def counted(*arguments: NDArray[np.int32]) -> None:
        nonlocal moves
        moves += 1
        copy(*arguments)

    runtime.copy_kv = counted  # type: ignore[method-assign]
    source = Proposers(runtime, open_head=lambda *_: head_of(name, kind, runtime))
    proposer = source.of(Cascade.parse(cascade))
    got = _run(kind, runtime, FixedPlan(proposer, length, inner), CHOICES[choice])
    assert [_state(runtime, s) for s in got] == plain(kind, choice)
    for sequence in got:
        assert sequence.statistics.draft_tokens > 0
    cycles = sum(s.statistics.cycles for s in got)
    return cycles, sum(s.statistics.accepted_tokens for s in got), moves


@every_runtime
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", EVERY_HEAD)
def test_no_head_changes_the_output(kind: str, name: str, choice: str) -> None:
    check(kind, name, choice, "eagle:h > w8a16", 12)


@every_runtime
@pytest.mark.parametrize("choice", CHOICES)
def test_a_good_head_s_tree_is_accepted_along_any_branch(kind: str, choice: str) -> None:
    cycles, accepted, moves = check(kind, "oracle", choice, "eagle:h > w8a16", 16)
    assert accepted > cycles  # more than one a cycle
    assert moves > 0  # not always the first child


@every_tier
@pytest.mark.parametrize("length", [1, 2, 5, 23])
@pytest.mark.parametrize("choice", CHOICES)
def test_any_number_of_nodes(kind: str, length: int, choice: str) -> None:
    _, accepted, _ = check(kind, "oracle", choice, "eagle:h > w8a16", length)
    assert accepted > 0


@every_runtime
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["oracle", "random", "eagle3"])
def test_a_head_may_draft_for_the_draft_level(kind: str, name: str, choice: str) -> None:
    """eagle > w4a8 > w8a16: rounds of trees, judged into a sequence that the target judges."""
    _, accepted, _ = check(kind, name, choice, "eagle:h > w4a8 > w8a16", 9, 6)
    assert accepted > 0


@every_runtime
@pytest.mark.parametrize("name", ["oracle", "eagle-reduced", "eagle3"])
@pytest.mark.parametrize("cascade", ["eagle:h > w8a16", "eagle:h > w4a8 > w8a16"])
def test_what_is_proposed_depends_on_the_text_only(kind: str, name: str, cascade: str) -> None:
    """After any history of trees, a proposal is that of a head that reads the whole text anew.

    So stale guesses are refreshed with the target's true features (claim C7), rejected nodes leave
    nothing behind, and features moved with the KV of the accepted path.
    """
    runtime = _runtime(kind)
    head = head_of(name, kind, runtime)
    proposer = Proposers(runtime, open_head=lambda *_: head).of(Cascade.parse(cascade))
    sequences = _run(kind, runtime, FixedPlan(proposer, 9, 5), CHOICES["greedy"])
    used = EagleProposer("used", head, runtime)
    inner = proposer if isinstance(proposer, EagleProposer) else proposer._inner  # type: ignore
    used._refreshed = inner._refreshed
    asks = [Ask(s, 9) for s in sequences]
    proposals = used.propose(asks).tokens
    fresh = EagleProposer("fresh", head, runtime).propose(asks).tokens
    assert proposals == fresh
    assert all(isinstance(tree, TokenTree) and len(tree) == 9 for tree in fresh)


@every_tier
def test_features_matter_to_a_head(kind: str) -> None:
    """Otherwise the test above could not fail for stale ones."""
    runtime = _runtime(kind)
    head = head_of("eagle3", kind, runtime)
    proposer = EagleProposer("eagle", head, runtime)
    (sequence, _) = _run(kind, runtime, FixedPlan(proposer, 9), CHOICES["greedy"])
    before = EagleProposer("a", head, runtime).propose([Ask(sequence, 9)]).tokens
    pages = sequence.page_row
    last = np.array([sequence.committed_len - 1], np.int32)
    runtime.copy_kv(pages, last - 5, last)
    assert EagleProposer("b", head, runtime).propose([Ask(sequence, 9)]).tokens != before


class OneByOne(FixedPlan):
    """How many tokens a burst has goes by the clock: without one, runs end at the same token."""

    def plain_for(self, sequences: object) -> int:
        return 1


@every_tier
def test_scratch_pages_may_be_short(kind: str) -> None:
    """Trees then grow one after the other; what they are does not change."""
    trees = []
    for scratch in (3, 64):
        runtime = _runtime(kind)
        weights = make_head(HEADS["eagle"])
        head = attach(runtime, weights, scratch_pages=scratch)
        proposer = EagleProposer("eagle", head, runtime)
        sequences = _run(kind, runtime, OneByOne(None, 0), CHOICES["greedy"])
        trees.append(proposer.propose([Ask(s, 24) for s in sequences]).tokens)
    assert trees[0] == trees[1]


@every_runtime
def test_an_unlikely_node_is_not_proposed(kind: str) -> None:
    runtime = _runtime(kind)
    head = head_of("oracle", kind, runtime)
    sequences = _run(kind, runtime, FixedPlan(None, 0), CHOICES["greedy"])
    for sequence in sequences:  # as the engine does: how far bursts came depends on the clock
        sequence.table.grow(sequence.committed_len + 1)
    asks = [Ask(s, 16) for s in sequences]
    every = EagleProposer("all", head, runtime).propose(asks).tokens
    sure = EagleProposer("sure", head, runtime, 0.1).propose(asks).tokens
    assert all(len(a) == 16 for a in every)
    assert all(0 <= len(s) < 16 for s in sure)
