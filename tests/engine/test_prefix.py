"""What the prefix cache finds was committed at the same level for the same text, and only that."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.cascade.cascade import Cascade
from halfbyte.config import Level
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.prefix import DraftTable, PrefixCache
from halfbyte.engine.sequence import Sequence
from halfbyte.sampling.sampler import GREEDY, Sampler
from tests.support.engines import engine_of
from tests.support.fake_runtime import FakeRuntime

PAGE = 4


def sequence(
    pool: PagePool, tokens: list[int], cascade: str = "w8a16", sampler: Sampler = GREEDY
) -> Sequence:
    return Sequence(
        tokens,
        table=PageTable(pool, 64),
        sampler=sampler,
        limit=8,
        stop_ids=frozenset(),
        cascade=Cascade.parse(cascade),
    )


def commit(pool: PagePool, cache: PrefixCache, one: Sequence, committed: int) -> None:
    one.start(cache.find(one), PAGE)
    one.committed_len = committed
    cache.seal(one)


texts = st.lists(st.integers(0, 1), min_size=1, max_size=30)


@settings(max_examples=200)
@given(texts, texts, st.data())
def test_the_longest_common_run_of_full_pages_is_found(
    first: list[int], second: list[int], data: st.DataObject
) -> None:
    pool = PagePool(32, PAGE)
    cache = PrefixCache(pool)
    committed = data.draw(st.integers(0, len(first)))
    one, two = sequence(pool, first), sequence(pool, second)
    commit(pool, cache, one, committed)
    same = 0
    while same < min(committed, len(second)) and first[same] == second[same]:
        same += 1
    # At least one token of the second is left to run.
    expected = min(same // PAGE, (len(second) - 1) // PAGE)
    assert cache.find(two) == one.page_row[:expected].tolist()
    assert cache.find(sequence(pool, second, "w4a16")) == []
    one.release()
    assert pool.num_free == 32
    assert cache.find(two) == ([] if not expected else cache.find(two))
    assert len(cache.find(two)) == expected


def test_a_shared_page_stays_until_its_last_holder_leaves() -> None:
    pool = PagePool(8, PAGE)
    cache = PrefixCache(pool)
    one, two = sequence(pool, [1] * 9), sequence(pool, [1] * 9)
    commit(pool, cache, one, 9)
    commit(pool, cache, two, 9)
    assert one.page_row[:2].tolist() == two.page_row[:2].tolist()
    assert one.page_row[2] != two.page_row[2]
    assert pool.num_free == 8 - 4
    one.release()
    assert pool.num_free == 8 - 3
    two.release()
    assert (pool.num_free, pool.num_cached) == (8, 2)


def test_what_was_left_longest_ago_is_forgotten_first_and_ends_before_beginnings() -> None:
    pool = PagePool(6, PAGE)
    cache = PrefixCache(pool)
    old, new = sequence(pool, [1] * 9), sequence(pool, [2] * 9)
    for one in (old, new):
        commit(pool, cache, one, 9)
    old.release()
    new.release()
    taken = [pool.take() for _ in range(3)]  # two nameless pages, then the end of the old text
    assert len(cache.find(sequence(pool, [1] * 9))) == 1
    assert len(cache.find(sequence(pool, [2] * 9))) == 2
    for page in taken:
        pool.give_back(page)


def test_a_page_that_is_not_full_of_committed_positions_is_never_found() -> None:
    pool = PagePool(8, PAGE)
    cache = PrefixCache(pool)
    one = sequence(pool, [3] * 12)
    commit(pool, cache, one, 7)  # position 7 may hold a draft's KV
    assert len(cache.find(sequence(pool, [3] * 12))) == 1


def test_a_sequence_that_must_run_its_prompt_finds_nothing() -> None:
    pool = PagePool(8, PAGE)
    cache = PrefixCache(pool)
    commit(pool, cache, sequence(pool, [3] * 12), 12)
    eager = sequence(pool, [3] * 12, sampler=replace(GREEDY, scores_prompt=True))
    assert cache.find(eager) == []


@settings(max_examples=200)
@given(texts, texts, st.data())
def test_a_draft_table_begins_with_the_pages_that_were_kept_of_its_text(
    first: list[int], second: list[int], data: st.DataObject
) -> None:
    pool, level = PagePool(32, PAGE), Level.parse("w4a8")
    kept = data.draw(st.integers(0, len(first)))
    one = DraftTable(pool, 64, level)
    assert one.resume(first) == 0
    one.grow(len(first))
    for some in sorted(data.draw(st.lists(st.integers(0, kept), max_size=3))):
        one.keep(first, some)
    one.keep(first, kept)
    same = 0
    while same < min(kept, len(second)) and first[same] == second[same]:
        same += 1
    expected = min(same // PAGE, (len(second) - 1) // PAGE)
    two, other = DraftTable(pool, 64, level), DraftTable(pool, 64, Level.parse("w4a16"))
    for pages_held_by in ("the first", "none"):
        assert two.resume(second) == expected * PAGE, pages_held_by
        assert two.row[:expected].tolist() == one.row[:expected].tolist() or not one.num_pages
        two.grow(len(second))
        two.shrink(0)
        one.shrink(0)
    assert other.resume(second) == 0, "written at another level"
    assert DraftTable(pool, 64, level, reuse=False).resume(second) == 0
    assert pool.num_free == 32


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), min_size=1, max_size=40),
            st.sampled_from(["w4a8 > w8a16", "w8a16", "w4a4 > w8a16", "w4a8 > w4a16"]),
        ),
        min_size=2,
        max_size=10,
    ),
    st.integers(13, 30),
)
def test_a_hit_changes_no_output_whatever_was_cached_and_evicted(
    wanted: list[tuple[list[int], str]], num_pages: int
) -> None:
    """The fake runtime's tokens are hashes of the KV read, and of the level that wrote it."""
    runtime = FakeRuntime(num_pages=num_pages, page_size=PAGE)
    pool = PagePool(num_pages, PAGE)
    for number, (text, cascade) in enumerate(again for one in wanted for again in (one, one)):
        engine = engine_of(runtime, pool, cascade)
        one = Sequence(
            text, table=PageTable(pool, 64), sampler=GREEDY, limit=8, stop_ids=frozenset()
        )
        engine.add(one)
        while engine.has_work:
            engine.step()
        if number % 2:
            assert one.cached_len == (len(text) - 1) // PAGE * PAGE
        assert one.emitted == _plain(text, cascade)
        assert pool.num_free == num_pages


def _plain(text: list[int], cascade: str) -> list[int]:
    runtime = FakeRuntime(num_pages=16, page_size=PAGE)
    pool = PagePool(16, PAGE)
    plain = str(Cascade.parse(cascade).plain)
    engine = engine_of(runtime, pool, plain, EngineOptions(prefix_cache=False))
    one = Sequence(text, table=PageTable(pool, 64), sampler=GREEDY, limit=8, stop_ids=frozenset())
    engine.add(one)
    while engine.has_work:
        engine.step()
    return one.emitted
