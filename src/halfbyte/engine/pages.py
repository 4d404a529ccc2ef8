"""KV pages: who holds which. Plain integers; the runtime holds the memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class PagePool:
    """The free pages of one runtime; the last freed is used first, while a cache holds it."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._is_free = bytearray(b"\x01" * num_pages)

    @property
    def num_free(self) -> int:
        """Pages nobody holds."""
        return len(self._free)

    def pages_for(self, num_positions: int) -> int:
        """Pages that hold positions 0 .. num_positions - 1."""
        return -(-num_positions // self.page_size)

    def take(self) -> int:
        """A free page; the caller has checked `num_free`."""
        page = self._free.pop()
        self._is_free[page] = 0
        return page

    def give_back(self, page: int) -> None:
        """Free a page that was taken."""
        if self._is_free[page]:
            raise ValueError(f"page {page} was freed twice")
        self._is_free[page] = 1
        self._free.append(page)


class PageTable:
    """One sequence's pages, in order of position.

    position    0 .. S-1   S .. 2S-1   …
    row         page       page        -1 -1 …
    """

    def __init__(self, pool: PagePool, max_positions: int) -> None:
        self._pool = pool
        self.row: NDArray[np.int32] = np.full(pool.pages_for(max_positions), -1, dtype=np.int32)
        self.num_pages = 0

    def missing(self, num_positions: int) -> int:
        """Pages still needed to hold `num_positions`."""
        return max(0, self._pool.pages_for(num_positions) - self.num_pages)

    def can_grow(self, num_positions: int) -> bool:
        """Whether the pool has the pages that `grow` would take."""
        return self.missing(num_positions) <= self._pool.num_free

    def grow(self, num_positions: int) -> None:
        """Take pages until positions 0 .. num_positions - 1 have a place."""
        for _ in range(self.missing(num_positions)):
            self.row[self.num_pages] = self._pool.take()
            self.num_pages += 1

    def shrink(self, num_positions: int) -> None:
        """Give back every page that holds none of positions 0 .. num_positions - 1."""
        keep = self._pool.pages_for(num_positions)
        while self.num_pages > keep:
            self.num_pages -= 1
            self._pool.give_back(int(self.row[self.num_pages]))
            self.row[self.num_pages] = -1
