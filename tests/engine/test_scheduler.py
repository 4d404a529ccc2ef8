"""The scheduler decides on integers: no request starves, no page is lost, order is kept."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.cascade.cascade import Cascade
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.prefix import PrefixCache
from halfbyte.engine.scheduler import Limits, Scheduler, Step, share_rows
from halfbyte.engine.sequence import Sequence
from halfbyte.sampling.sampler import GREEDY

PAGE = 4


@given(st.lists(st.integers(1, 50), max_size=8), st.integers(0, 120))
def test_prompt_rows_use_the_budget_and_the_first_in_line_always_moves(
    needs: list[int], budget: int
) -> None:
    given_rows = share_rows(needs, budget)
    assert all(0 <= g <= n for g, n in zip(given_rows, needs, strict=True))
    assert sum(given_rows) == min(budget, sum(needs))
    if needs and budget:
        assert given_rows[0] >= min(needs[0], (budget + 1) // 2)
        shortest = min(range(len(needs)), key=lambda i: needs[i])
        assert given_rows[shortest] >= min(needs[shortest], budget // 2)


def test_a_short_prompt_is_not_held_up_by_a_long_one() -> None:
    assert share_rows([1000, 20], 64) == [44, 20]


@dataclass
class World:
    """A scheduler and the commits a runtime would make."""

    pool: PagePool
    scheduler: Scheduler

    def sequence(
        self, prompt: list[int], limit: int, cascade: str = "w8a16", priority: int = 0
    ) -> Sequence:
        return Sequence(
            prompt,
            table=PageTable(self.pool, self.pool.num_pages * PAGE),
            sampler=GREEDY,
            limit=limit,
            stop_ids=frozenset(),
            cascade=Cascade.parse(cascade),
            priority=priority,
        )

    def step(self) -> Step:
        step = self.scheduler.next()
        for sequence, rows, is_end in step.parts:
            assert sequence.table.num_pages * PAGE > sequence.committed_len
            assert is_end == (sequence.committed_len + rows == len(sequence.tokens))
            sequence.committed_len += rows
            if is_end:
                sequence.commit([1])
        for sequence, _, _ in step.parts:
            if sequence.is_prefilled:
                sequence.table.shrink(sequence.committed_len)
            if sequence.remaining <= 0:
                sequence.finish_reason = "length"
                self.scheduler.remove(sequence)
        return step


def world(pages: int = 64, *, cached: bool = False, **limits: int) -> World:
    pool = PagePool(pages, PAGE)
    numbers = {"max_rows": 32, "max_running": 4, "prefill_rows": 8} | limits
    return World(pool, Scheduler(pool, Limits(**numbers), PrefixCache(pool) if cached else None))


requests = st.lists(
    st.tuples(
        st.integers(1, 40),  # prompt
        st.integers(1, 12),  # limit
        st.sampled_from(["w8a16", "w4a16", "w4a8 > w8a16"]),
        st.integers(-1, 1),  # priority
        st.integers(0, 20),  # step it comes at
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(requests, st.integers(0, 10), st.integers(1, 9), st.integers(1, 32), st.integers(1, 40))
def test_every_sequence_ends_and_every_page_comes_back(
    wanted: list[tuple[int, int, str, int, int]],
    spare_pages: int,
    max_running: int,
    max_rows: int,
    prefill_rows: int,
) -> None:
    least = max(-(-(prompt + limit) // PAGE) for prompt, limit, *_ in wanted)
    w = world(
        least + spare_pages,
        max_rows=max_rows,
        max_running=min(max_running, max_rows),
        prefill_rows=prefill_rows,
    )
    coming = [(at, w.sequence([7] * p, n, c, priority)) for p, n, c, priority, at in wanted]
    sequences = [s for _, s in coming]
    for number in range(5000):
        for at, sequence in coming:
            if at == number:
                w.scheduler.add(sequence)
        if all(s.finish_reason for s in sequences):
            break
        step = w.step()
        assert len(w.scheduler.running) <= w.scheduler._limits.max_running
        assert sum(part.rows for part in step.parts) <= max_rows
        assert {part.sequence.target for part in step.parts} <= {step.target}
        decoding = [part.decodes for part in step.parts]
        ends = [part.is_end for part in step.parts]
        assert decoding == sorted(decoding, reverse=True)
        assert ends == sorted(ends, reverse=True)
        if any(decoding):
            assert sum(part.rows for part in step.parts if not part.decodes) <= prefill_rows
        held = sum(s.table.num_pages for s in sequences)
        assert held + w.pool.num_free == w.pool.num_pages
    assert all(s.finish_reason == "length" for s in sequences)
    assert w.pool.num_free == w.pool.num_pages


def test_lower_priority_numbers_go_first_and_arrival_breaks_ties() -> None:
    w = world(max_running=1)
    order = [w.sequence([1], 1, priority=p) for p in (1, 0, 1, -5)]
    for sequence in order:
        w.scheduler.add(sequence)
    served = []
    while w.scheduler.waiting or w.scheduler.running:
        step = w.step()
        served += [order.index(s) for s in step.admitted]
    assert served == [3, 1, 0, 2]


def test_a_better_priority_takes_the_place_of_a_worse_one_but_never_of_an_equal() -> None:
    w = world(max_running=2)
    low, equal, high = (w.sequence([1] * 5, 9, priority=p) for p in (1, 0, 0))
    for sequence in (low, equal):
        w.scheduler.add(sequence)
    w.step()
    w.scheduler.add(high)
    step = w.step()
    assert (step.preempted, step.admitted) == ([low], [high])
    another = w.sequence([1], 1)
    w.scheduler.add(another)
    assert w.step().preempted == []
    assert another in w.scheduler.waiting


def test_short_pages_push_out_the_last_in_order() -> None:
    w = world(6)
    first, second = w.sequence([1] * 9, 12), w.sequence([1] * 4, 12)
    w.scheduler.add(first)
    w.scheduler.add(second)
    pushed = []
    while first.finish_reason is None:
        pushed += w.step().preempted
    assert set(pushed) == {second}


def test_targets_take_turns() -> None:
    w = world()
    for cascade in ("w8a16", "w4a16", "w4a8 > w8a16"):
        w.scheduler.add(w.sequence([1], 40, cascade))
    targets = [str(w.step().target) for _ in range(6)]
    assert sorted(targets[:2]) == ["w4a16", "w8a16"]
    assert targets == targets[:2] * 3


def test_deadlines_are_found_wherever_the_sequence_is() -> None:
    w = world(max_running=1)
    running, waiting, calm = (w.sequence([1], 40) for _ in range(3))
    running.deadline, waiting.deadline = 5.0, 4.0
    for sequence in (running, waiting, calm):
        w.scheduler.add(sequence)
    w.step()
    assert w.scheduler.expired(3.9) == []
    assert w.scheduler.expired(4.5) == [waiting]
    assert w.scheduler.expired(5.0) == [running, waiting]
    assert w.scheduler.remove(running)
    assert not w.scheduler.remove(waiting)
    assert w.scheduler.expired(9.0) == []
    assert w.pool.num_free == w.pool.num_pages


def test_a_prompt_being_run_is_waited_for_and_shared() -> None:
    w = world(cached=True)
    prompt = list(range(21))
    first, second, other = (
        w.sequence(prompt, 3),
        w.sequence([*prompt, 5], 3),
        w.sequence([9] * 21, 3),
    )
    for sequence in (first, second, other):
        w.scheduler.add(sequence)
    cache = w.scheduler._cache
    assert cache is not None
    seen = []
    while any(s.finish_reason is None for s in (first, second, other)):
        step = w.step()
        seen.append([(first, second, other).index(s) for s in step.admitted])
        for sequence in w.scheduler.running:
            cache.seal(sequence)
    assert seen[0] == [0, 2]
    assert (first.cached_len, second.cached_len) == (0, 20)
