"""Another model's weights, with KV pages of its own for every sequence.

It sees a sequence only when it is asked, and then runs what it has not seen: the prompt at first,
later the tokens the target put in the place of its own. What it drafted and the target rejected is
dropped by comparing tokens, so its KV always belongs to a prefix of the text. Pages full of
committed text stay findable, and a text that begins alike begins with them.

    text      t0 t1 t2 t3 t4 t5 t6      t6 is the root
    seen      t0 t1 t2 t3 x4 x5         rolled back to 4; t4 t5 are run together with the root
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.place import Place, batch_of
from halfbyte.cascade.proposer import Ask
from halfbyte.config import Level
from halfbyte.runtime.protocol import Runtime


class Pages(Protocol):
    """A sequence's pages in the model's own pool (`engine.prefix.DraftTable`)."""

    row: NDArray[np.int32]  # [P]

    def can_grow(self, num_positions: int) -> bool:
        """Whether `grow` would find its pages."""

    def grow(self, num_positions: int) -> None:
        """Hold pages for positions 0 .. num_positions - 1."""

    def shrink(self, num_positions: int) -> None:
        """Give back the pages past them."""

    def resume(self, tokens: Seq[int]) -> int:
        """Begin with the KV that is left of a text: of so many positions, fewer than it has."""

    def keep(self, tokens: Seq[int], num_positions: int) -> None:
        """Publish positions 0 .. num_positions - 1 for reuse: their KV is final."""


@dataclass(slots=True)
class _Seen:
    """One sequence in this model's KV."""

    pages: Pages
    tokens: list[int] = field(default_factory=list)  # position by position, drafts included
    sure: int = 0  # that many have been found equal to the sequence's, for good


class ModelRunner:
    """See the module. `vocab_size`: ids below it mean the same to this model and the target."""

    has_pages = True

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        level: Level,
        *,
        new_pages: Callable[[], Pages],
        vocab_size: int,
    ) -> None:
        self.name = name
        self.runtime = runtime
        self.level = level
        self.head = 0
        self.vocab_size = vocab_size
        self._new_pages = new_pages
        self._seen: dict[Decoding, _Seen] = {}

    def begin(self, sequence: Decoding) -> None:
        """Begin with cached pages of its text; no page is taken before the first ask."""
        if sequence not in self._seen:
            pages = self._new_pages()
            known = pages.resume(sequence.tokens)
            self._seen[sequence] = _Seen(pages, sequence.tokens[:known], sure=known)

    def release(self, sequence: Decoding) -> None:
        """Give its pages back."""
        seen = self._seen.pop(sequence, None)
        if seen is not None:
            _compare(seen, sequence.tokens)
            seen.pages.shrink(0)

    def unread(self, sequence: Decoding) -> int:
        """About how many tokens of a text it would have to run before it can draft."""
        seen = self._seen.get(sequence)
        return max(0, sequence.committed_len - (0 if seen is None else len(seen.tokens)))

    def pages_before(self, ask: Ask) -> NDArray[np.int32] | None:
        """The model's own pages of it, once everything before the root has been run."""
        seen, positions = self._seen[ask.sequence], ask.root_position + 1
        if self._roll_back(seen, ask) < ask.root_position or ask.root >= self.vocab_size:
            return None
        if not self._fits(seen, positions):
            return None
        seen.pages.grow(positions)
        return seen.pages.row

    def enter(self, asks: Seq[Ask], rows: Seq[int]) -> dict[int, Place]:
        """Roll back, take pages, and run what is too long to run with the asks' own rows."""
        places: dict[int, Place] = {}
        for i, (ask, count) in enumerate(zip(asks, rows, strict=True)):
            if count > 0 and (place := self._place(ask, count)) is not None:
                places[i] = place
        while sum(len(p.tokens) + rows[i] - 1 for i, p in places.items()) > self.runtime.max_rows:
            if not self._run_chunk(asks, places):
                places.popitem()
        return places

    def left(self, ask: Ask, place: Place, tokens: Seq[int]) -> None:
        """Its KV holds `place.tokens` and `tokens` from `place.first` on."""
        self._seen[ask.sequence].tokens[place.first :] = [*place.tokens, *tokens]

    def _place(self, ask: Ask, rows: int) -> Place | None:
        seen = self._seen[ask.sequence]
        first = self._roll_back(seen, ask)
        committed = ask.sequence.tokens
        unseen = [*committed[first:], *ask.ahead[max(0, first - len(committed)) :]]
        end = first + len(unseen) - 1 + rows
        seen.pages.shrink(end)
        if max(unseen) >= self.vocab_size or not self._fits(seen, end):
            return None
        seen.pages.grow(end)
        return Place(unseen, first, seen.pages.row, ask.sequence.sampler)

    def _fits(self, seen: _Seen, positions: int) -> bool:
        """Whether so many positions can have pages."""
        most = len(seen.pages.row) * self.runtime.page_size
        within = positions <= min(self.runtime.config.max_context, most)
        return within and seen.pages.can_grow(positions)

    def _roll_back(self, seen: _Seen, ask: Ask) -> int:
        """Positions whose KV belongs to the text before the root; what is past them is dropped."""
        committed, ahead, known = ask.sequence.tokens, ask.ahead, seen.tokens
        _compare(seen, committed)
        at = seen.sure
        if at == len(committed):
            ahead_known = known[at : at + len(ahead)]
            for mine, theirs in zip(ahead_known, ahead, strict=False):
                if mine != theirs:
                    break
                at += 1
        first = min(at, ask.root_position)
        seen.sure = min(seen.sure, first)
        del known[first:]
        return first

    def _run_chunk(self, asks: Seq[Ask], places: dict[int, Place]) -> bool:
        """One forward over tokens before the roots, first come first; False: there are none."""
        room = self.runtime.max_rows
        rows: list[int] = []
        starts = [0]
        taken: list[Place] = []
        for i, place in places.items():
            count = min(room, len(place.tokens) - 1)
            if count <= 0:
                continue
            room -= count
            chunk, rest = place.tokens[:count], place.tokens[count:]
            rows += chunk
            starts.append(len(rows))
            taken.append(place)
            self._seen[asks[i].sequence].tokens += chunk
            places[i] = Place(rest, place.first + count, place.page_row, place.sampler)
        if rows:
            self.runtime.forward(
                batch_of(rows, starts, taken), self.level, np.empty(0, dtype=np.int32)
            )
        return bool(rows)


def _compare(seen: _Seen, committed: Seq[int]) -> None:
    """Find how far its KV is that of the text, and keep that much."""
    known, at = seen.tokens, seen.sure
    while at < min(len(known), len(committed)) and known[at] == committed[at]:
        at += 1
    seen.sure = at
    # The last token is a root: its row runs again whatever was seen.
    seen.pages.keep(committed, min(at, len(committed) - 1))
