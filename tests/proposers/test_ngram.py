"""`ngram`: what it proposes by its definition, from which text, and within which bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.cascade.proposer import Ask
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError
from halfbyte.proposers.ngram import SURE_MATCH, History, NgramProposer
from halfbyte.proposers.options import NgramOptions
from halfbyte.sampling.sampler import GREEDY

texts = st.lists(st.integers(0, 2), min_size=1, max_size=40)


def _sequence(tokens: list[int]) -> Sequence:
    table = PageTable(PagePool(16, 16), 256)
    sequence = Sequence(tokens, table=table, sampler=GREEDY, limit=99, stop_ids=frozenset())
    sequence.committed_len = len(tokens) - 1
    return sequence


def _propose(
    proposer: NgramProposer, sequence: Sequence, length: int, ahead: list[int]
) -> list[int]:
    proposer.begin(sequence)
    return proposer.propose([Ask(sequence, length, ahead=ahead)]).tokens[0]


def _by_definition(
    tokens: list[int], ahead: list[int], length: int, min_n: int, max_n: int
) -> list[int]:
    """Longest suffix of tokens + ahead at an earlier place of tokens, and what comes after it: one
    token more than it has, unless it is as long as any is looked for."""
    text = tokens + ahead
    for n in range(min(max_n, len(text)), min_n - 1, -1):
        for end in range(len(tokens) - 2, n - 2, -1):
            if tokens[end - n + 1 : end + 1] == text[-n:]:
                length = length if n == max_n else min(length, n + 1)
                for i in range(length):
                    text.append(text[end + 1 + i])
                return text[len(text) - length :] if length else []
    return []


@given(texts, st.lists(st.integers(0, 2), max_size=6), st.integers(0, 12), st.integers(1, 4))
def test_it_proposes_what_followed_the_longest_suffix(
    tokens: list[int], ahead: list[int], length: int, min_n: int
) -> None:
    for max_n in (min_n, 6):
        proposer = NgramProposer(NgramOptions(min_n, max_n))
        got = _propose(proposer, _sequence(tokens), length, ahead)
        assert got == _by_definition(tokens, ahead, length, min_n, max_n)


@pytest.mark.parametrize("repeated", [SURE_MATCH - 1, SURE_MATCH, 9])
def test_a_long_match_is_sure_and_may_then_be_longer(repeated: int) -> None:
    text = list(range(100, 130))
    sequence, proposer = _sequence([*text, 7, *text[:repeated]]), NgramProposer()
    proposer.begin(sequence)
    asks = [Ask(sequence, 2, sure_depth=6), Ask(sequence, 2), Ask(sequence, 0, sure_depth=6)]
    found = proposer.propose(asks)
    is_sure = repeated >= SURE_MATCH
    assert list(found.sure) == [is_sure, False, is_sure]
    longer = text[repeated : repeated + min(6, repeated + 1)]
    usual = text[repeated : repeated + 2]
    assert found.tokens == ([longer, usual, longer] if is_sure else [usual, usual, []])


def test_a_loop_is_continued_as_long_as_asked() -> None:
    proposer = NgramProposer(NgramOptions(max_n=5))
    found = _propose(proposer, _sequence([7, 1, 2, 3, 1, 2, 3, 1, 2]), 8, [])
    assert found == [3, 1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize(("repeated", "proposed"), [(2, 3), (5, 6), (6, 12)])
def test_a_short_match_is_not_taken_to_go_on_for_long(repeated: int, proposed: int) -> None:
    proposer = NgramProposer(NgramOptions(max_n=6))
    text = list(range(100, 130))
    found = _propose(proposer, _sequence([*text, 7, *text[:repeated]]), 12, [])
    assert found == text[repeated : repeated + proposed]


@given(texts, texts)
def test_an_index_that_grew_with_the_text_is_as_good_as_a_new_one(
    tokens: list[int], more: list[int]
) -> None:
    old, new = NgramProposer(), NgramProposer()
    sequence = _sequence(tokens)
    _propose(old, sequence, 3, [])
    sequence.commit(more)
    assert _propose(old, sequence, 5, []) == _propose(new, sequence, 5, [])


def test_sequences_in_one_call_do_not_see_each_other() -> None:
    proposer = NgramProposer()
    first, second = _sequence([1, 2, 3, 4, 1, 2]), _sequence([1, 2])
    for sequence in (first, second):
        proposer.begin(sequence)
    asks = [Ask(first, 2), Ask(second, 2), Ask(first, 0)]
    assert proposer.propose(asks).tokens == [[3, 4], [], []]


def test_the_match_length_is_told_to_whoever_plans() -> None:
    proposer = NgramProposer(NgramOptions(min_n=3))
    for tokens, length in (([1, 2, 3, 9, 1, 2, 3], 3), ([1, 2, 9, 1, 2], 0)):
        sequence = _sequence(tokens)
        proposer.begin(sequence)
        assert proposer.match_lengths([sequence]) == [length]
        assert bool(proposer.propose([Ask(sequence, 1)]).tokens[0]) == bool(length)


@given(st.lists(texts, max_size=5), st.lists(texts, max_size=5), st.sampled_from([0, 50]))
def test_matches_of_several_are_those_of_each(
    prompts: list[list[int]], more: list[list[int]], history: int
) -> None:
    options = NgramOptions(history=history)
    together, alone = NgramProposer(options), NgramProposer(options)
    sequences = [_sequence(prompt) for prompt in prompts]
    for proposer in (together, alone):
        for sequence in sequences:
            proposer.begin(sequence)
    for tokens in ([], *more):
        for sequence in sequences:
            sequence.commit(tokens)
        lengths = [alone.match_lengths([sequence])[0] for sequence in sequences]
        assert together.match_lengths(sequences) == lengths


def test_earlier_outputs_are_searched_only_if_asked() -> None:
    for history, expected in ((0, []), (100, [8, 9])):
        proposer = NgramProposer(NgramOptions(history=history))
        first = _sequence([5])
        proposer.begin(first)
        first.commit([6, 7, 8, 9])
        proposer.release(first)
        assert _propose(proposer, _sequence([1, 6, 7]), 3, []) == expected


def test_prompts_are_not_remembered_and_no_output_runs_into_the_next() -> None:
    proposer = NgramProposer(NgramOptions(history=100))
    for prompt, output in (([1, 2, 3], [4, 5, 6]), ([7], [5, 6, 8])):
        sequence = _sequence(prompt)
        proposer.begin(sequence)
        sequence.commit(output)
        proposer.release(sequence)
    assert _propose(proposer, _sequence([2, 3]), 3, []) == []
    assert _propose(proposer, _sequence([4, 5]), 3, []) == [6]
    assert _propose(proposer, _sequence([5, 6]), 3, []) == [8]


def test_an_output_split_by_a_preemption_is_remembered_once() -> None:
    proposer = NgramProposer(NgramOptions(history=100))
    sequence = _sequence([1])
    for output in ([2, 3, 4], [5, 6, 7]):
        proposer.begin(sequence)
        sequence.commit(output)
        proposer.release(sequence)
    assert len(proposer._history or []) == 6 + 2


@given(st.lists(st.lists(st.integers(0, 5), max_size=30), max_size=12), st.integers(1, 40))
def test_history_never_holds_more_than_its_capacity(
    outputs: list[list[int]], capacity: int
) -> None:
    history = History(capacity, 8)
    for output in outputs:
        history.add(output)
        assert len(history) <= max(2, capacity)


@pytest.mark.parametrize(
    "values", [(0, 4, 0), (3, 2, 0), (1, 1000, 0), (1, 4, -1), (1, 4, 1 << 40)]
)
def test_options_out_of_range_are_named(values: tuple[int, int, int]) -> None:
    with pytest.raises(ArgumentError, match="ngram"):
        NgramOptions(*values)
