"""Pages are neither lost nor shared, whatever the order of growing and shrinking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from halfbyte.engine.pages import PagePool, PageTable


class PageMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(13, 4)
        self.tables = [PageTable(self.pool, 48) for _ in range(3)]

    @rule(which=st.integers(0, 2), positions=st.integers(0, 48))
    def grow(self, which: int, positions: int) -> None:
        table = self.tables[which]
        if table.can_grow(positions):
            table.grow(positions)
            assert table.num_pages * 4 >= positions

    @rule(which=st.integers(0, 2), positions=st.integers(0, 48))
    def shrink(self, which: int, positions: int) -> None:
        self.tables[which].shrink(positions)
        assert self.tables[which].num_pages <= -(-positions // 4)

    @invariant()
    def every_page_has_one_owner_or_is_free(self) -> None:
        held = [int(p) for t in self.tables for p in t.row[: t.num_pages]]
        assert len(held) == len(set(held))
        assert len(held) + self.pool.num_free == self.pool.num_pages
        for table in self.tables:
            assert (table.row[table.num_pages :] == -1).all()
            assert (table.row[: table.num_pages] >= 0).all()


TestPageMachine = PageMachine.TestCase


@given(st.integers(0, 40), st.integers(0, 8))
def test_rejected_tail_frees_its_pages(committed: int, proposed: int) -> None:
    pool = PagePool(32, 4)
    table = PageTable(pool, 64)
    table.grow(committed)
    before, free = table.row.copy(), pool.num_free
    table.grow(committed + proposed + 1)
    table.shrink(committed)
    assert pool.num_free == free
    np.testing.assert_array_equal(table.row, before)


def test_shrinking_keeps_the_page_of_the_last_committed_position() -> None:
    pool = PagePool(8, 4)
    table = PageTable(pool, 32)
    table.grow(9)
    table.shrink(5)
    assert table.num_pages == 2


def test_freeing_a_page_twice_is_caught() -> None:
    pool = PagePool(2, 4)
    page = pool.take()
    pool.give_back(page)
    with pytest.raises(ValueError, match="twice"):
        pool.give_back(page)
