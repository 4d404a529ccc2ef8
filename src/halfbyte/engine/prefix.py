"""Prefix cache: a committed page is named by all the text up to its end, and found by that name.

    tokens   [ 0 .. S-1 ]   [ S .. 2S-1 ]   [ 2S .. now
    name      n0 = h(level, tokens)   n1 = h(n0, tokens)     no name: not full

KV is a function of the tokens up to its position, the target level, the weights and the KV type.
The first two are in the name, the others are those of the pool. A page is named once every position
of it is committed: the target wrote it and nothing writes there again, so a draft's KV is never
found, and a page is shared without a copy. The hash is cryptographic: a prompt cannot be made to
collide with another's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

from halfbyte.engine.pages import PagePool
from halfbyte.engine.sequence import Sequence

NAME_BYTES = 16


class PrefixCache:
    """Names a sequence's pages as they are committed, and finds those of a new one."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool

    def find(self, sequence: Sequence) -> list[int]:
        """Pages that hold the beginning of its text; at least its last token is left to run."""
        pages: list[int] = []
        while (name := self.next_name(sequence, len(pages))) is not None:
            page = self._pool.find(name)
            if page is None:
                break
            pages.append(page)
        return pages

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
        names, size = sequence.page_names, self._pool.page_size
        while len(names) <= index:
            at = len(names) * size
            text = array("i", sequence.tokens[at : at + size]).tobytes()
            before = names[-1] if names else str(sequence.target).encode()
            names.append(blake2b(before + b"|" + text, digest_size=NAME_BYTES).digest())
        return names[index]
