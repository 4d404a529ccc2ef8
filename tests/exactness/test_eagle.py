"""Whatever a draft head proposes, the output is plain decoding's, bit for bit (claim C1)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.proposer import Ask
from halfbyte.cascade.tree import TokenTree
from halfbyte.proposers.build import Proposers
from halfbyte.proposers.eagle import EagleProposer
from tests.exactness.heads import head_of
from tests.exactness.runs import SAMPLERS, plain, run, runtime_of, state
from tests.support.runtimes import every_runtime, every_tier
from tests.support.tiny_heads import HEADS, attach, make_head

EVERY_HEAD = ("random", "adversarial", "broken", *HEADS)


def check(
    kind: str, name: str, sampler: str, cascade: str, length: int, inner: int = 4
) -> tuple[int, int, int]:
    """Returns cycles, tokens accepted, and how often KV had to move."""
    runtime = runtime_of(kind)
    moves = 0
    copy = runtime.copy_kv

    def counted(*arguments: NDArray[np.int32]) -> None:
        nonlocal moves
        moves += 1
        copy(*arguments)

    runtime.copy_kv = counted  # type: ignore[method-assign]
    source = Proposers(runtime, open_head=lambda *_: head_of(name, kind, runtime))
    proposer = source.of(Cascade.parse(cascade))
    got = run(runtime, FixedPlan(proposer, length, inner), SAMPLERS[sampler])
    assert [state(runtime, s) for s in got] == plain(kind, sampler)
    for sequence in got:
        assert sequence.statistics.draft_tokens > 0
    cycles = sum(s.statistics.cycles for s in got)
    return cycles, sum(s.statistics.accepted_tokens for s in got), moves


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", EVERY_HEAD)
def test_no_head_changes_the_output(kind: str, name: str, sampler: str) -> None:
    check(kind, name, sampler, "eagle:h > w8a16", 12)


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_good_head_s_tree_is_accepted_along_any_branch(kind: str, sampler: str) -> None:
    cycles, accepted, moves = check(kind, "oracle", sampler, "eagle:h > w8a16", 16)
    assert accepted > cycles  # more than one per cycle
    assert moves > 0  # not always the first child


@every_tier
@pytest.mark.parametrize("length", [1, 2, 5, 23])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_number_of_nodes(kind: str, length: int, sampler: str) -> None:
    _, accepted, _ = check(kind, "oracle", sampler, "eagle:h > w8a16", length)
    assert accepted > 0


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["oracle", "random", "eagle3"])
def test_a_head_may_draft_for_the_draft_level(kind: str, name: str, sampler: str) -> None:
    """eagle > w4a8 > w8a16: rounds of trees, judged into a sequence that the target judges."""
    _, accepted, _ = check(kind, name, sampler, "eagle:h > w4a8 > w8a16", 9, 6)
    assert accepted > 0


@every_runtime
@pytest.mark.parametrize("name", ["oracle", "eagle-reduced", "eagle3"])
@pytest.mark.parametrize("cascade", ["eagle:h > w8a16", "eagle:h > w4a8 > w8a16"])
def test_what_is_proposed_depends_on_the_text_only(kind: str, name: str, cascade: str) -> None:
    """After any history of trees, a proposal is that of a head that reads the whole text anew.

    So stale guesses are refreshed with the target's true features (claim C7), rejected nodes leave
    nothing behind, and features moved with the KV of the accepted path.
    """
    runtime = runtime_of(kind)
    head = head_of(name, kind, runtime)
    proposer = Proposers(runtime, open_head=lambda *_: head).of(Cascade.parse(cascade))
    sequences = run(runtime, FixedPlan(proposer, 9, 5), SAMPLERS["greedy"])
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
    runtime = runtime_of(kind)
    head = head_of("eagle3", kind, runtime)
    proposer = EagleProposer("eagle", head, runtime)
    (sequence, _) = run(runtime, FixedPlan(proposer, 9), SAMPLERS["greedy"])
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
        runtime = runtime_of(kind)
        weights = make_head(HEADS["eagle"])
        head = attach(runtime, weights, scratch_pages=scratch)
        proposer = EagleProposer("eagle", head, runtime)
        sequences = run(runtime, OneByOne(None, 0), SAMPLERS["greedy"])
        trees.append(proposer.propose([Ask(s, 24) for s in sequences]).tokens)
    assert trees[0] == trees[1]


@every_runtime
def test_an_unlikely_node_is_not_proposed(kind: str) -> None:
    runtime = runtime_of(kind)
    head = head_of("oracle", kind, runtime)
    sequences = run(runtime, FixedPlan(None, 0), SAMPLERS["greedy"])
    for sequence in sequences:  # as the engine does: how far bursts came depends on the clock
        sequence.table.grow(sequence.committed_len + 1)
    asks = [Ask(s, 16) for s in sequences]
    every = EagleProposer("all", head, runtime).propose(asks).tokens
    sure = EagleProposer("sure", head, runtime, 0.1).propose(asks).tokens
    assert all(len(a) == 16 for a in every)
    assert all(0 <= len(s) < 16 for s in sure)
