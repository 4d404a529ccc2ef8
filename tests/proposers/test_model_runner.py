"""Another model's KV follows the text: every roll-back of SpecMQuant's hierarchy, case by case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cycle import CycleReport, Turn, run_cycle
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.proposer import Ask, Proposer
from halfbyte.cascade.stages import Model
from halfbyte.config import Level
from halfbyte.engine.engine import Engine, EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.prefix import DraftTable
from halfbyte.engine.sequence import Sequence
from halfbyte.proposers.drafter import Drafter
from halfbyte.proposers.intermediate import Intermediate
from halfbyte.proposers.model_runner import ModelRunner
from halfbyte.sampling.sampler import GREEDY
from tests.support.fake_runtime import VOCAB, FakeRuntime, _mix
from tests.support.proposers import branching, knowing, model_runner, noise

STAGE = Model("m", Level(4, 8))
TARGET = Level(8, 16)


class World:
    """One sequence of one token, the target, and a model that is wrong at given positions."""

    def __init__(
        self,
        wrong: set[int],
        stack: Callable[[ModelRunner], Proposer],
        stops: frozenset[int] = frozenset(),
    ) -> None:
        self.target = FakeRuntime(num_pages=64, target="w8a16")
        self.model = FakeRuntime(
            num_pages=64, page_size=2, target="none", wrong_positions=frozenset(wrong)
        )
        self.runner = model_runner(self.model, STAGE)
        self.proposer = stack(self.runner)
        self.inner_length = 6 if stack is of_trees else 3  # in either case 3 tokens of a round
        pool = PagePool(64, 4)
        table = PageTable(pool, 256)
        table.grow(200)
        self.sequence = Sequence([5], table=table, sampler=GREEDY, limit=99, stop_ids=stops)
        self.proposer.begin(self.sequence)

    def cycle(self) -> CycleReport:
        turn = Turn(self.proposer, 9, self.inner_length)
        report = run_cycle(self.target, TARGET, [self.sequence], [turn])
        self.check()
        return report

    def check(self) -> None:
        """Text as in plain decoding; the model's KV is of the tokens it claims to have seen."""
        assert self.sequence.tokens == PLAIN[: len(self.sequence.tokens)]
        seen = self.runner._seen[self.sequence]
        for position, token in enumerate(seen.tokens):
            page, slot = seen.pages.row[position // 2], position % 2
            assert self.model.values[page, slot] == _mix(token * 8191 + position)
        assert seen.tokens[: seen.sure] == self.sequence.tokens[: seen.sure]


def _plain() -> list[int]:
    target = FakeRuntime(num_pages=64, target="w8a16")
    pool = PagePool(64, 4)
    engine = Engine(
        target, pool, Cascade.parse("w8a16"), EngineOptions(), lambda _: FixedPlan(None, 0)
    )
    table = PageTable(pool, 256)
    sequence = Sequence([5], table=table, sampler=GREEDY, limit=99, stop_ids=frozenset())
    engine.add(sequence)
    while engine.has_work:
        engine.step()
    return sequence.tokens


PLAIN = _plain()


def hierarchy(runner: ModelRunner) -> Proposer:
    """A stage before the model that is right on every second position."""
    return Intermediate(knowing([PLAIN], 2, VOCAB), runner)


def of_trees(runner: ModelRunner) -> Proposer:
    """The same stage before the model, proposing trees: SpecMQuant's own hierarchy."""
    return Intermediate(branching(knowing([PLAIN], 2, VOCAB)), runner)


def plain_draft(runner: ModelRunner) -> Proposer:
    return Drafter(runner)


@pytest.mark.parametrize("stack", [hierarchy, of_trees, plain_draft])
def test_claim_c6_full_accept(stack: Callable[[ModelRunner], Proposer]) -> None:
    world = World(set(), stack)
    outcome = world.cycle().outcomes[0]
    assert outcome.accepted == outcome.proposed >= 6
    world.model.calls.clear()
    report = world.cycle()
    # Its own last token and the target's bonus had no KV: both run with the next first row.
    inner = report.links[1].rounds[0][1] if len(report.links) > 1 else 0
    rows = 2 * inner if stack is of_trees else inner
    assert world.model.calls[0] == ("forward_sample", 2 + rows)


@pytest.mark.parametrize("stack", [hierarchy, of_trees, plain_draft])
def test_claim_c6_reject_at_the_first_token(stack: Callable[[ModelRunner], Proposer]) -> None:
    world = World({1}, stack)
    outcome = world.cycle().outcomes[0]
    assert (outcome.accepted, outcome.proposed >= 6) == (0, True)
    world.model.calls.clear()
    after = world.cycle().outcomes[0]
    assert after.accepted == after.proposed
    # Nothing to catch up: the target's correction is the root.
    assert [verb for verb, _ in world.model.calls].count("forward") == 0


@pytest.mark.parametrize("stack", [hierarchy, of_trees])
@pytest.mark.parametrize("wrong", range(2, 10))
def test_claim_c6_reject_inside_or_before_the_last_inner_round(
    wrong: int, stack: Callable[[ModelRunner], Proposer]
) -> None:
    world = World({wrong}, stack)
    report = world.cycle()
    outcome = report.outcomes[0]
    assert outcome.accepted == min(wrong - 1, outcome.proposed)
    rounds = [accepted + 1 for _, _, accepted in report.links[1].rounds]
    assert sum(rounds) == outcome.proposed
    while len(world.sequence.tokens) <= wrong:
        world.cycle()
    for _ in range(3):
        after = world.cycle()
        assert after.outcomes[0].accepted == after.outcomes[0].proposed


@pytest.mark.parametrize("stack", [hierarchy, of_trees])
def test_the_rejections_above_lie_inside_and_before_the_last_round(
    stack: Callable[[ModelRunner], Proposer],
) -> None:
    places = set()
    for wrong in range(2, 10):
        report = World({wrong}, stack).cycle()
        rounds = [accepted + 1 for _, _, accepted in report.links[1].rounds]
        if report.outcomes[0].accepted < report.outcomes[0].proposed:
            before_last = report.outcomes[0].accepted < sum(rounds[:-1])
            places.add("before" if before_last else "inside")
    assert places == {"before", "inside"}


@pytest.mark.parametrize("trees", [False, True], ids=["sequences", "trees"])
@pytest.mark.parametrize("stop", range(1, 9))
def test_claim_c6_end_token_inside_the_block(stop: int, trees: bool) -> None:
    target = FakeRuntime(num_pages=64, target="w8a16")
    model = FakeRuntime(num_pages=64, page_size=2, target="none", disagree_percent=0)
    runner = model_runner(model, STAGE)
    script = branching(knowing([PLAIN], 2, VOCAB)) if trees else noise(VOCAB)
    planner = FixedPlan(Intermediate(script, runner), 9, 6 if trees else 3)
    pool = PagePool(64, 4)
    engine = Engine(target, pool, Cascade.parse("w8a16"), EngineOptions(), lambda _: planner)
    stops = frozenset({PLAIN[stop]})
    sequence = Sequence([5], table=PageTable(pool, 256), sampler=GREEDY, limit=99, stop_ids=stops)
    engine.add(sequence)
    while engine.has_work:
        engine.step()
    assert sequence.finish_reason == "stop"
    assert sequence.tokens == PLAIN[: PLAIN.index(PLAIN[stop], 1) + 1]
    assert pool.num_free == pool.num_pages
    assert not runner._seen


def test_a_long_prompt_is_caught_up_with_in_chunks() -> None:
    prompt = list(range(90))
    model = FakeRuntime(num_pages=64, max_rows=16, target="none")
    runner = model_runner(model, STAGE)
    table = PageTable(PagePool(64, 4), 256)
    table.grow(200)
    sequence = Sequence(prompt, table=table, sampler=GREEDY, limit=99, stop_ids=frozenset())
    sequence.committed_len = 89
    runner.begin(sequence)
    places = runner.enter([Ask(sequence, 4)], [4])
    assert all(verb == "forward" and rows <= 16 for verb, rows in model.calls)
    assert places[0].root_position == 89
    assert len(places[0].tokens) + 3 <= 16
    assert runner._seen[sequence].tokens == prompt[: places[0].first]


def test_a_text_that_goes_on_from_another_is_read_from_where_that_ended() -> None:
    """A conversation's next turn, after answers that the model guessed wrong in part."""
    world = World({3, 8}, plain_draft)
    while len(world.sequence.tokens) < 20:
        world.cycle()
    text, seen = world.sequence.tokens, world.runner._seen[world.sequence].tokens
    # The last token is a root, which is run again; pages have two positions.
    known = sum(1 for a, b in zip(text[:-1], seen, strict=False) if a == b) // 2 * 2
    assert known > 15
    turn = [*text, 1, 2, 3]
    world.proposer.release(world.sequence)
    table = PageTable(PagePool(64, 4), 256)
    table.grow(200)
    world.sequence = Sequence(turn, table=table, sampler=GREEDY, limit=99, stop_ids=frozenset())
    world.sequence.committed_len = len(turn) - 1
    world.proposer.begin(world.sequence)
    assert world.runner.unread(world.sequence) == len(turn) - 1 - known
    world.model.calls.clear()
    drafted = world.proposer.propose([Ask(world.sequence, 3)]).tokens[0]
    assert len(drafted) == 3
    assert world.model.calls[0] == ("forward_sample", len(turn) - known)
    pages, tokens = world.runner._seen[world.sequence].pages, [*turn, *drafted]
    for position in range(len(turn)):
        page, slot = pages.row[position // 2], position % 2
        assert world.model.values[page, slot] == _mix(tokens[position] * 8191 + position)


def test_what_was_read_is_not_kept_where_prefixes_are_not() -> None:
    model = FakeRuntime(num_pages=64, page_size=2, target="none")
    pool = PagePool(64, 2)
    runner = ModelRunner(
        "m",
        model,
        STAGE.level,
        new_pages=lambda: DraftTable(pool, 128, STAGE.level, reuse=False),
        vocab_size=VOCAB,
    )
    for _ in range(2):
        table = PageTable(PagePool(64, 4), 64)
        table.grow(64)
        text = [1, 2, 3, 4, 5, 6, 7]
        sequence = Sequence(text, table=table, sampler=GREEDY, limit=9, stop_ids=frozenset())
        sequence.committed_len = 6
        runner.begin(sequence)
        assert runner.unread(sequence) == 6
        Drafter(runner).propose([Ask(sequence, 2)])
        runner.release(sequence)
    assert (pool.num_cached, pool.num_free) == (0, 64)


def test_a_model_without_room_proposes_nothing_and_holds_no_more_pages() -> None:
    model = FakeRuntime(num_pages=3, page_size=4, target="none")
    runner = model_runner(model, STAGE)
    drafter = Drafter(runner)
    pool = PagePool(64, 4)
    sequences = []
    for i in range(3):
        table = PageTable(pool, 64)
        table.grow(64)
        prompt = [i + 1] * 6
        sequence = Sequence(prompt, table=table, sampler=GREEDY, limit=9, stop_ids=frozenset())
        sequence.committed_len = 5
        sequences.append(sequence)
        drafter.begin(sequence)
    drafted = drafter.propose([Ask(s, 2) for s in sequences]).tokens
    assert [len(t) for t in drafted] == [2, 0, 0]
    drafter.release(sequences[0])
    assert len(drafter.propose([Ask(sequences[1], 2)]).tokens[0]) == 2


def test_a_token_the_model_cannot_read_stops_it_and_one_the_target_cannot_is_cut() -> None:
    model = FakeRuntime(num_pages=64, target="none")
    runner = model_runner(model, STAGE, vocab_size=40)
    drafter = Drafter(runner)
    table = PageTable(PagePool(64, 4), 64)
    table.grow(64)
    seen = set()
    for token in range(VOCAB):
        sequence = Sequence([token], table=table, sampler=GREEDY, limit=9, stop_ids=frozenset())
        drafter.begin(sequence)
        drafted = drafter.propose([Ask(sequence, 4)]).tokens[0]
        assert all(t < 40 for t in drafted)
        assert token < 40 or not drafted
        seen.add(len(drafted))
        drafter.release(sequence)
    assert len(seen) > 2
