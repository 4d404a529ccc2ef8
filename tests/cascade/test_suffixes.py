"""The suffix index against its definition, token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halfbyte.cascade.suffixes import BREAK, NO_MATCH, Match, SuffixIndex

texts = st.lists(st.integers(0, 2), max_size=40)
broken_texts = st.lists(st.integers(BREAK, 2), max_size=40)


def _by_definition(text: list[int], context: list[int], depth: int) -> Match:
    """The longest suffix of `context` that stands in `text` with a token after it; the latest."""
    best = NO_MATCH
    for end in range(len(text) - 1):
        if text[end + 1] == BREAK:
            continue
        length = 0
        while (
            length < min(depth, len(context), end + 1)
            and text[end - length] == context[-1 - length]
            and text[end - length] != BREAK
        ):
            length += 1
        if length and length >= best.length:
            best = Match(length, end)
    return best


@given(broken_texts, texts, st.integers(1, 8))
def test_the_match_is_the_longest_suffix_and_its_latest_place(
    text: list[int], context: list[int], depth: int
) -> None:
    index = SuffixIndex(depth)
    index.extend(text)
    assert index.find(context) == _by_definition(text, context, depth)


@given(texts, st.integers(1, 40))
def test_a_text_is_searched_for_its_own_end_while_it_grows(text: list[int], depth: int) -> None:
    index = SuffixIndex(depth)
    for i, token in enumerate(text):
        index.extend([token])
        assert index.find(text[: i + 1]) == _by_definition(text[: i + 1], text[: i + 1], depth)


@given(broken_texts, st.lists(st.integers(0, 40), max_size=5), texts)
def test_growing_in_pieces_is_growing_at_once(
    text: list[int], cuts: list[int], context: list[int]
) -> None:
    whole, pieces = SuffixIndex(6), SuffixIndex(6)
    whole.extend(text)
    at = 0
    for cut in [*sorted(cuts), len(text)]:
        pieces.extend(text[at:cut])
        at = max(at, cut)
    assert pieces.text == whole.text
    assert pieces.find(context) == whole.find(context)


def _nodes(index: SuffixIndex) -> int:
    waiting, count = [index._root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        waiting += (node.children or {}).values()
    return count


@given(st.lists(st.integers(0, 3), max_size=200), st.integers(1, 12))
def test_memory_is_bounded_by_text_times_depth(text: list[int], depth: int) -> None:
    index = SuffixIndex(depth)
    index.extend(text)
    assert _nodes(index) <= 1 + depth * max(0, len(text) - 1)


def test_a_text_without_repeats_takes_one_node_a_token() -> None:
    index = SuffixIndex(24)
    index.extend(range(1000))
    assert _nodes(index) == 1000
