"""KV pages: which sequence holds which, and what a free one still holds. Plain integers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray


class PagePool:
    """The pages of one runtime, with counts of their holders.

    A page may be *named* by the text it holds. When its last holder leaves, a named page stays
    findable until its place is needed; those that were left longest ago go first. Nameless pages
    are used before them, the last freed first, while a processor's cache holds it.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._holders = [0] * num_pages
        self._blank = list(range(num_pages - 1, -1, -1))
        self._left: OrderedDict[int, None] = OrderedDict()  # named, without holders, oldest first
        self._name_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Pages that no sequence holds, named ones included."""
        return len(self._blank) + len(self._left)

    @property
    def num_cached(self) -> int:
        """Free pages that still hold a named text."""
        return len(self._left)

    def pages_for(self, num_positions: int) -> int:
        """Pages that hold positions 0 .. num_positions - 1."""
        return -(-num_positions // self.page_size)

    def take(self) -> int:
        """A free page for one holder, to be written; the caller has checked `num_free`."""
        if self._blank:
            page = self._blank.pop()
        else:
            page, _ = self._left.popitem(last=False)
            del self._page_of[self._name_of.pop(page)]
        self._holders[page] = 1
        return page

    @contextmanager
    def lent(self, count: int) -> Iterator[list[int]]:
        """`count` free pages, or all there are, as scratch space."""
        pages = [self.take() for _ in range(min(count, self.num_free))]
        try:
            yield pages
        finally:
            for page in reversed(pages):
                self.give_back(page)

    def share(self, page: int) -> None:
        """One more holder of a named page, for reading."""
        if self._holders[page] == 0:
            del self._left[page]
        self._holders[page] += 1

    def give_back(self, page: int) -> None:
        """One holder less."""
        if self._holders[page] == 0:
            raise ValueError(f"page {page} was freed twice")
        self._holders[page] -= 1
        if self._holders[page]:
            return
        if page in self._name_of:
            self._left[page] = None
        else:
            self._blank.append(page)

    def name(self, page: int, name: bytes) -> None:
        """Say what a held page holds; the first page of a name keeps it."""
        if self._holders[page] == 0:
            raise ValueError(f"page {page} is named without a holder")
        if name not in self._page_of and page not in self._name_of:
            self._page_of[name] = page
            self._name_of[page] = name

    def find(self, name: bytes) -> int | None:
        """The page of a name."""
        return self._page_of.get(name)

    def is_held(self, page: int) -> bool:
        """Whether a table holds it."""
        return self._holders[page] > 0

    def forget(self) -> None:
        """Drop every name; what is held stays held."""
        self._blank += self._left
        self._left.clear()
        self._name_of.clear()
        self._page_of.clear()


class PageTable:
    """One sequence's pages, in order of position.

    position    0 .. S-1   S .. 2S-1   …
    row         page       page        -1 -1 …
    """

    def __init__(self, pool: PagePool, max_positions: int) -> None:
        self._pool = pool
        self.row: NDArray[np.int32] = np.full(pool.pages_for(max_positions), -1, dtype=np.int32)
        self.num_pages = 0

    def holds(self, num_positions: int) -> bool:
        """Whether positions 0 .. num_positions - 1 have a place."""
        return num_positions <= self.num_pages * self._pool.page_size

    def missing(self, num_positions: int) -> int:
        """Pages still needed to hold `num_positions`."""
        return max(0, self._pool.pages_for(num_positions) - self.num_pages)

    def can_grow(self, num_positions: int) -> bool:
        """Whether the pool has the pages that `grow` would take."""
        return self.holds(num_positions) or self.missing(num_positions) <= self._pool.num_free

    def grow(self, num_positions: int) -> None:
        """Take pages until positions 0 .. num_positions - 1 have a place."""
        while not self.holds(num_positions):
            self.row[self.num_pages] = self._pool.take()
            self.num_pages += 1

    def adopt(self, pages: list[int]) -> None:
        """Begin an empty table with pages that others wrote; they are only ever read."""
        for page in pages:
            self._pool.share(page)
            self.row[self.num_pages] = page
            self.num_pages += 1

    def shrink(self, num_positions: int) -> None:
        """Give back every page that holds none of positions 0 .. num_positions - 1.

        The last goes first, so that of a cached text the end is forgotten before the beginning.
        """
        keep = self._pool.pages_for(num_positions)
        while self.num_pages > keep:
            self.num_pages -= 1
            self._pool.give_back(int(self.row[self.num_pages]))
            self.row[self.num_pages] = -1
