"""Both suffix indices, native and slow twin, against their definition, token by token."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte import _native
from halfbyte.runtime.suffixes import BREAK, NO_MATCH, Match, SuffixIndex

texts = st.lists(st.integers(0, 2), max_size=40)
broken_texts = st.lists(st.integers(BREAK, 2), max_size=40)
Index = SuffixIndex | _native.SuffixIndex
both = pytest.mark.parametrize("make", [SuffixIndex, _native.SuffixIndex], ids=["python", "native"])


def _find(index: Index, context: list[int]) -> Match:
    found = index.find(context)
    return found if isinstance(found, Match) else Match(*found)


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


@both
@given(broken_texts, texts, st.integers(1, 8))
def test_the_match_is_the_longest_suffix_and_its_latest_place(
    make: Callable[[int], Index], text: list[int], context: list[int], depth: int
) -> None:
    index = make(depth)
    index.extend(text)
    assert _find(index, context) == _by_definition(text, context, depth)


@both
@given(texts, st.integers(1, 40))
def test_a_text_is_searched_for_its_own_end_while_it_grows(
    make: Callable[[int], Index], text: list[int], depth: int
) -> None:
    index = make(depth)
    for i, token in enumerate(text):
        index.extend([token])
        assert _find(index, text[: i + 1]) == _by_definition(text[: i + 1], text[: i + 1], depth)


@given(
    st.lists(st.sampled_from([*range(5), 7, 49151, 2**31 - 1]), max_size=300),
    st.lists(st.integers(0, 300), max_size=12),
    st.integers(1, 30),
)
def test_the_native_index_follows_a_text_as_its_twin_does(
    text: list[int], cuts: list[int], depth: int
) -> None:
    twin, native = SuffixIndex(depth), _native.SuffixIndex(depth)
    for cut in [*sorted(cuts), len(text)]:
        seen = text[:cut]
        twin.extend(seen[len(twin.text) :])
        assert Match(*native.follow(seen)) == twin.find(seen)
        assert native.slice(0, len(text)) == twin.text == seen[: len(native)]


@both
@given(broken_texts, st.lists(st.integers(0, 40), max_size=5), texts)
def test_growing_in_pieces_is_growing_at_once(
    make: Callable[[int], Index], text: list[int], cuts: list[int], context: list[int]
) -> None:
    whole, pieces = make(6), make(6)
    whole.extend(text)
    at = 0
    for cut in [*sorted(cuts), len(text)]:
        pieces.extend(text[at:cut])
        at = max(at, cut)
    assert _find(pieces, context) == _find(whole, context)


def _nodes(index: SuffixIndex) -> int:
    waiting, count = [index._root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        waiting += (node.children or {}).values()
    return count


@given(st.lists(st.integers(0, 3), max_size=200), st.integers(1, 12))
def test_memory_is_bounded(text: list[int], depth: int) -> None:
    twin, native = SuffixIndex(depth), _native.SuffixIndex(depth)
    twin.extend(text)
    native.extend(text)
    positions = max(0, len(text) - 1)
    assert _nodes(twin) <= 1 + depth * positions
    assert native.nodes <= 1 + 2 * positions


def test_a_text_without_repeats_takes_one_node_a_token() -> None:
    twin, native = SuffixIndex(24), _native.SuffixIndex(24)
    for index in (twin, native):
        index.extend(list(range(1000)))
    assert _nodes(twin) == native.nodes == 1000


@pytest.mark.parametrize(
    "text",
    [[0] * 300_000, [i % 2 for i in range(300_000)], [i * i % 1009 for i in range(300_000)]],
    ids=["one token", "two tokens", "a long loop"],
)
def test_no_text_makes_the_native_index_slow(text: list[int]) -> None:
    """Work a token is bounded by the depth: some 0.05 s here, and minutes were it not."""
    index = _native.SuffixIndex(256)
    started = perf_counter()
    for cut in range(0, len(text) + 1, 10_000):
        index.follow(text[:cut])
    assert perf_counter() - started < 5
    assert index.nodes <= 2 * len(text)


@pytest.mark.parametrize("bad", ["a", 1.5, -2, 2**31, 2**80, None])
def test_what_is_no_token_is_refused_and_the_index_goes_on(bad: object) -> None:
    index = _native.SuffixIndex(8)
    index.extend([1, 2, 3, 1])
    with pytest.raises((ValueError, TypeError, OverflowError)):
        index.extend([bad])  # type: ignore[list-item]
    with pytest.raises((ValueError, TypeError, OverflowError)):
        index.find([bad])  # type: ignore[list-item]
    assert index.follow([1, 2, 3, 1]) == (1, 0)


def test_misuse_of_the_native_index_is_refused() -> None:
    index = _native.SuffixIndex(8)
    index.extend([1, 2, 3])
    with pytest.raises(ValueError, match="may only grow"):
        index.follow([1, 2])
    with pytest.raises(ValueError, match="within the text"):
        index.slice(4, 5)
    with pytest.raises(ValueError, match="one text an index"):
        _native.match_lengths([index], [])
    with pytest.raises((TypeError, RuntimeError)):
        _native.match_lengths([None], [[1]])  # type: ignore[list-item]
    for depth in (0, -1, 1 << 20):
        with pytest.raises(ValueError, match="depth"):
            _native.SuffixIndex(depth)
