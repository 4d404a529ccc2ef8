"""Prefix cache: a committed page is named by all the text up to its end, and found by that name.

    tokens   [ 0 .. S-1 ]   [ S .. 2S-1 ]   [ 2S .. now
    name      n0 = h(level, tokens)   n1 = h(n0, tokens)     no name: not full

KV is a function of the tokens up to its position, the target level, the weights and the KV type.
The first two are in the name, the others are those of the pool. A page is named once every position
of it is committed: the target wrote it and nothing writes there again, so a draft's KV is never
found, and a page is shared without a copy. The hash is cryptographic: a prompt cannot be made to
collide with another's.

A model that drafts has pages of its own (`DraftTable`) and sees texts, not prefill and commits: it
says itself up to where a text will not change any more.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from functools import partial
from hashlib import blake2b

from halfbyte.config import Level
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence

NAME_BYTES = 16


class PrefixCache:
    """Names a sequence's pages as they are committed, and finds those of a new one."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool

    def find(self, sequence: Sequence) -> list[int]:
        """Pages that hold the beginning of its text; at least its last token is left to run."""
        return _found(self._pool, partial(self.next_name, sequence))

    def next_name(self, sequence: Sequence, index: int) -> bytes | None:
        """Name of a page that it could take over; None past the last such page."""
        if not sequence.may_reuse or index >= (len(sequence.tokens) - 1) // self._pool.page_size:
            return None
        return self._name(sequence, index)

    def coming(self, running: Iterable[Sequence]) -> set[bytes]:
        """Names of the pages that sequences in prefill are about to fill."""
        size = self._pool.page_size
        return {
            self._name(sequence, i)
            for sequence in running
            if not sequence.is_prefilled
            for i in range(sequence.num_sealed, len(sequence.tokens) // size)
        }

    def seal(self, sequence: Sequence) -> None:
        """Name the pages that have become full of committed positions."""
        full = min(sequence.committed_len, len(sequence.tokens)) // self._pool.page_size
        for i in range(sequence.num_sealed, full):
            self._pool.name(int(sequence.page_row[i]), self._name(sequence, i))
        sequence.num_sealed = max(sequence.num_sealed, full)

    def _name(self, sequence: Sequence, index: int) -> bytes:
        """Name of a full page; `page_names` has those before it, since they are asked in order."""
        extend_names(
            sequence.page_names, sequence.tokens, index + 1, self._pool.page_size, sequence.target
        )
        return sequence.page_names[index]


class DraftTable(PageTable):
    """A sequence's pages in the pool of a model that drafts for it."""

    def __init__(
        self, pool: PagePool, max_positions: int, level: Level, *, reuse: bool = True
    ) -> None:
        """`level` is what its KV is written at. Without `reuse` nothing is found and nothing left
        to be found."""
        super().__init__(pool, max_positions)
        self._level = level
        self._reuse = reuse
        self._names: list[bytes] = []  # of its full pages, as far as they were asked for
        self._num_kept = 0

    def resume(self, tokens: Seq[int]) -> int:
        """Begin an empty table with the pages that others left of a text; how many of its positions
        they hold. At least its last token is left to run."""
        size = self._pool.page_size
        most = min((len(tokens) - 1) // size, len(self.row)) if self._reuse else 0
        pages = _found(self._pool, lambda i: self._name(tokens, i) if i < most else None)
        self.adopt(pages)
        self._num_kept = len(pages)
        return len(pages) * size

    def keep(self, tokens: Seq[int], num_positions: int) -> None:
        """Positions 0 .. num_positions - 1 hold the KV of these tokens for good."""
        if not self._reuse:
            return
        for i in range(self._num_kept, num_positions // self._pool.page_size):
            self._pool.name(int(self.row[i]), self._name(tokens, i))
            self._num_kept = i + 1

    def _name(self, tokens: Seq[int], index: int) -> bytes:
        extend_names(self._names, tokens, index + 1, self._pool.page_size, self._level)
        return self._names[index]


def _found(pool: PagePool, name_of: Callable[[int], bytes | None]) -> list[int]:
    """Pages of the names from index 0 on, up to the first that has none or is not known."""
    pages: list[int] = []
    while (name := name_of(len(pages))) is not None and (page := pool.find(name)) is not None:
        pages.append(page)
    return pages


def extend_names(
    names: list[bytes], tokens: Seq[int], count: int, page_size: int, level: Level
) -> None:
    """Make it the names of a text's first `count` pages, which are full."""
    while len(names) < count:
        at = len(names) * page_size
        text = array("i", tokens[at : at + page_size]).tobytes()
        before = names[-1] if names else str(level).encode()
        names.append(blake2b(before + b"|" + text, digest_size=NAME_BYTES).digest())
