"""What runs next: a decision on integers. It knows sequences and pages, no runtime and no clock.

A step is one target forward: the cycle of every sequence that decodes, and chunks of the prompts of
those that do not yet. Sequences of one target level run together whatever their cascades; where
there are several levels, they take turns.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import NamedTuple

from halfbyte.config import Level
from halfbyte.engine.pages import PagePool
from halfbyte.engine.prefix import PrefixCache
from halfbyte.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one step."""

    max_rows: int  # of a forward
    max_running: int  # sequences, at most max_rows
    prefill_rows: int  # of prompts beside sequences that decode: they wait for these rows


class Part(NamedTuple):
    """What a step runs of one sequence."""

    sequence: Sequence
    rows: int  # from committed_len on
    is_end: bool  # the last token known is among them, so that the sequence gets more

    @property
    def decodes(self) -> bool:
        """Whether it is the pending token alone, with a page for it: nothing of a prompt."""
        return self.rows == 1 and self.is_end


@dataclass(slots=True)
class Step:
    """What the next forward runs, all at one target level."""

    target: Level | None = None  # None: nothing to run
    # First the sequences that decode, then ends of prompts, then parts that end further on.
    parts: list[Part] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)  # after it was admitted, possibly


class Scheduler:
    """Queues, pages and turns. Order is by priority, lower first, then arrival."""

    def __init__(self, pool: PagePool, limits: Limits, cache: PrefixCache | None = None) -> None:
        self._pool = pool
        self._limits = limits
        self._cache = cache
        self.waiting: list[Sequence] = []  # in order
        self.running: list[Sequence] = []  # in order; they hold pages
        self._dated: set[Sequence] = set()  # those with a deadline
        self._arrivals = 0
        self._steps = 0
        self._served: dict[Level, int] = {}  # target -> step it last had

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence whose table is empty."""
        sequence.order = (sequence.priority, self._arrivals)
        self._arrivals += 1
        insort(self.waiting, sequence, key=_order)
        if sequence.deadline is not None:
            self._dated.add(sequence)

    def remove(self, sequence: Sequence) -> bool:
        """Forget a sequence and give back its pages; whether it was running."""
        self._dated.discard(sequence)
        was_running = sequence in self.running
        if was_running:
            self.running.remove(sequence)
            sequence.release()
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        return was_running

    def expired(self, now: float) -> list[Sequence]:
        """Those whose deadline has passed; the caller removes them."""
        if not self._dated:
            return []
        late = (s for s in self._dated if s.deadline is not None and s.deadline <= now)
        return sorted(late, key=_order)

    def next(self) -> Step:
        """Admit, choose a target, make room for its pending tokens, and deal out prompt rows."""
        step = Step()
        if self.waiting:
            self._admit(step)
        if not self.running:
            return step
        step.target = self.running[0].target
        # Those of one cascade share one object, and are not hashed for every step.
        if mixed := any(s.target is not step.target for s in self.running):
            step.target = self._in_turn({s.target for s in self.running})
        self._make_room(step)
        prompts: list[Sequence] = []
        for sequence in self.running:
            if mixed and sequence.target != step.target:
                continue
            if sequence.is_prefilled:
                step.parts.append(Part(sequence, 1, True))
            else:
                prompts.append(sequence)
        if prompts:
            step.parts += self._prompt_parts(prompts, len(step.parts))
        return step

    def _prompt_parts(self, prompts: list[Sequence], decoding: int) -> list[Part]:
        """Rows of prompts beside so many sequences that decode; those that end come first."""
        room = self._limits.max_rows - decoding
        if decoding:
            room = min(room, self._limits.prefill_rows)
        needs = [len(s.tokens) - s.committed_len for s in prompts]
        dealt = zip(prompts, share_rows(needs, room), needs, strict=True)
        parts = [Part(s, rows, rows == need) for s, rows, need in dealt if rows > 0]
        return sorted(parts, key=lambda part: not part.is_end)

    def _in_turn(self, targets: set[Level]) -> Level:
        """The one that has waited longest."""
        self._steps += 1
        target = min(targets, key=lambda t: (self._served.get(t, 0), str(t)))
        self._served[target] = self._steps
        return target

    def _admit(self, step: Step) -> None:
        """Take waiting sequences in order while there are places and pages.

        The first that does not fit holds up those behind it, so that none is passed for ever. One
        whose text another is just running waits to share those pages, and holds up no other. A
        sequence of a better priority takes the place of the last that runs.
        """
        cache = self._cache
        coming = cache.coming(self.running) if cache else set()
        for sequence in list(self.waiting):
            pages = cache.find(sequence) if cache else []
            if cache and coming and cache.next_name(sequence, len(pages)) in coming:
                continue
            while not self._fits(sequence, pages):
                if not self.running or self.running[-1].priority <= sequence.priority:
                    return
                self._preempt(step)
            sequence.start(pages, self._pool.page_size)
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=_order)
            step.admitted.append(sequence)
            if cache:
                coming |= cache.coming([sequence])

    def _fits(self, sequence: Sequence, cached: list[int]) -> bool:
        """Whether there is a place, and pages for its tokens beyond those cached.

        One page stays in hand for each that runs: they grow, and would have to push it out again.
        """
        needed = sequence.table.missing(len(sequence.tokens)) - len(cached)
        free = self._pool.num_free - sum(not self._pool.is_held(page) for page in cached)
        return len(self.running) < self._limits.max_running and needed + len(self.running) <= free

    def _preempt(self, step: Step) -> None:
        """Preempt the last in order: it gives its pages back, waits, and is computed again."""
        victim = self.running.pop()
        victim.release()
        insort(self.waiting, victim, key=_order)
        step.preempted.append(victim)

    def _make_room(self, step: Step) -> None:
        """A page for every pending token; the last in order give theirs back if few are left."""
        for sequence in list(self.running):
            needed = sequence.committed_len + 1
            if sequence.table.holds(needed):
                continue
            if sequence.target != step.target or not sequence.is_prefilled:
                continue
            while sequence in self.running and not sequence.table.can_grow(needed):
                self._preempt(step)
            if sequence in self.running:
                sequence.table.grow(needed)


def share_rows(needs: Seq[int], budget: int) -> list[int]:
    """Rows for each prompt, in order of the queue.

    Half of them go to the first in line, so that none starves, and half to the shortest, so that a
    short prompt need not wait for a long one.
    """
    given = [0] * len(needs)

    def pour(order: Iterable[int], rows: int) -> int:
        for i in order:
            more = min(needs[i] - given[i], rows)
            given[i] += more
            rows -= more
        return rows

    left = pour(range(len(needs)), budget - budget // 2)
    pour(sorted(range(len(needs)), key=lambda i: needs[i]), left + budget // 2)
    return given


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order
