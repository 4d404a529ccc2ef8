"""What the planner decides, where costs are a formula and acceptance is thrown by dice."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest

from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.verify import Outcome
from halfbyte.planner.acceptance import Source
from halfbyte.planner.exploration import SHARES
from halfbyte.planner.planner import LOOK, REVIEW, CostPlanner
from tests.planner.simulation import (
    TARGET,
    NamedProposer,
    Simulation,
    Text,
    candidates,
    planner_of,
    run,
    table,
)
from tests.planner.timed_runtime import linear_seconds

LENGTHS = (1, 2, 3, 4, 5, 6, 8)


def _fixed(name: str, length: int, texts: list[Text], cycles: int = 1200) -> float:
    turn = Turn(NamedProposer(name), length) if length else Turn()
    return run(lambda s: [turn] * len(s), lambda *_: None, texts, cycles, Simulation())


def _auto(planner: CostPlanner, texts: list[Text], cycles: int = 1200, warm: int = 600) -> float:
    simulation = Simulation()
    run(planner.plan, planner.learn, texts, warm, simulation)
    return run(planner.plan, planner.learn, texts, cycles, simulation)


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize(
    ("draft", "ngram", "match"),
    [(0.97, 0.1, 0), (0.9, 0.1, 3), (0.3, 0.05, 3), (0.7, 0.9, 4), (0.95, 0.5, 3)],
)
def test_steady_state_is_near_the_best_fixed_cascade_and_never_below_plain(
    batch: int, draft: float, ngram: float, match: int
) -> None:
    def texts() -> list[Text]:
        return [Text({"w4a8": [draft], "ngram": [ngram]}, match=match) for _ in range(batch)]

    plain = _fixed("plain", 0, texts())
    names = ["w4a8"] + (["ngram"] if match > 0 else [])
    best = max([plain, *(_fixed(name, k, texts()) for name in names for k in LENGTHS)])
    got = _auto(planner_of(), texts())
    # The dice alone move a rate by 1 to 2% in so many cycles.
    assert got >= 0.96 * best
    assert got >= 0.98 * plain


def test_a_mixed_batch_does_as_well_as_the_best_one_choice_for_all() -> None:
    def texts() -> list[Text]:
        copying = [Text({"w4a8": [0.9], "ngram": [0.95]}, match=4) for _ in range(2)]
        return copying + [Text({"w4a8": [0.6], "ngram": [0.05]}, match=1) for _ in range(2)]

    fixed = max(_fixed(name, k, texts()) for name in ("w4a8", "ngram") for k in LENGTHS)
    assert _auto(planner_of(), texts()) > 0.98 * fixed


def test_matches_of_a_mixed_batch_serve_the_sequences_that_have_them() -> None:
    planner = planner_of("ngram")
    for source, alpha in zip(planner.candidates[0].sources, (0.0, 0.0, 0.0, 0.95), strict=True):
        planner.optimiser.acceptance.assume(source, alpha)
    texts = [Text({}, match=match) for match in (4, 0, 4, 1)]
    assert [turn.length > 0 for turn in planner.plan(texts)] == [True, False, True, False]


def test_a_sequence_that_is_ahead_waits_unless_others_join() -> None:
    """A closed batch: rows go to the sequence that ends last. After a join: to all."""
    planner = planner_of("ngram")
    planner.optimiser.acceptance.assume(planner.candidates[0].sources[3], 0.95)
    texts = [Text({}, match=4) for _ in range(4)]
    for text in texts:
        planner.begin(text)
    texts[0].commit([0] * 40)
    ahead, *others = planner.plan(texts)
    assert ahead.length == 0
    assert all(turn.length > 0 for turn in others)
    planner.release(texts.pop())
    planner.begin(newcomer := Text({}, match=0))
    assert all(turn.length > 0 for turn in planner.plan([*texts, newcomer])[:3])
    for text in [*texts, newcomer]:
        planner.release(text)
    texts = [Text({}, match=4) for _ in range(2)]  # no sequence ran: a closed batch again
    for text in texts:
        planner.begin(text)
    texts[0].commit([0])
    assert [turn.length > 0 for turn in planner.plan(texts)] == [False, True]


def test_a_closed_batch_proposes_what_matches_only_where_all_that_it_waits_for_do() -> None:
    planner = planner_of("ngram")
    planner.optimiser.acceptance.assume(planner.candidates[0].sources[3], 0.95)
    texts = [Text({}, match=4) for _ in range(4)]
    for text in texts:
        planner.begin(text)

    def proposes() -> list[bool]:
        turns = planner.plan(texts)
        planner.learn(texts, [Turn()] * len(texts), _plain_cycle(len(texts)))
        return [turn.length > 0 for turn in turns]

    assert proposes() == [True] * 4
    texts[2].match = 0
    assert proposes() == [False] * 4, "all would wait for the third"
    for _ in range(REVIEW):  # until the next review, which sees which one is ahead
        texts[2].commit([0])
        proposes()
    assert proposes() == [True, True, False, True], "it is ahead: none waits for it"
    texts[1].match = 0
    assert proposes() == [False] * 4
    planner.release(texts.pop())
    planner.begin(newcomer := Text({}, match=4))
    texts.append(newcomer)
    assert proposes() == [True, False, False, True], "joined: what some gain is gained"


def test_trials_lose_no_more_than_their_budget() -> None:
    planner, text = planner_of(), Text({"w4a8": [0.0], "ngram": [0.0]}, match=3)
    plain = _fixed("plain", 0, [Text({})], 4000)
    assert _auto(planner, [text], 4000, warm=0) > 0.98 * plain


def test_more_load_never_means_less_throughput() -> None:
    rates = []
    for batch in (1, 2, 3, 4, 6, 8, 12, 16):
        texts = [Text({"w4a8": [0.93], "ngram": [0.3]}) for _ in range(batch)]
        rates.append(_auto(planner_of(), texts, 600))
    assert all(b > 0.97 * a for a, b in pairwise(rates)), rates


@contextmanager
def _operations(counted: list[int]) -> Iterator[None]:
    """Add the bytecode instructions that run to `counted[0]`."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted[0] += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(("batch", "most"), [(1, 3000), (4, 6000), (16, 10000)])
def test_choosing_takes_few_operations(batch: int, most: int) -> None:
    """Per cycle, mean over a busy server's: matches come and go, and so do sequences."""
    planner, simulation = planner_of(), Simulation()
    texts = [Text({"w4a8": [0.8], "ngram": [0.6]}) for _ in range(batch)]
    counted, cycles = [0], 200

    def plan(sequences: Seq[Text]) -> list[Turn]:
        with _operations(counted):
            return planner.plan(sequences)

    def learn(sequences: Seq[Text], turns: Seq[Turn], report: CycleReport) -> None:
        with _operations(counted):
            planner.learn(sequences, turns, report)

    for cycle in range(cycles):
        if cycle % (128 // batch) == 0:
            planner.release(texts.pop(0))
            texts.append(Text({"w4a8": [0.8], "ngram": [0.6]}))
            planner.begin(texts[-1])
        for b, text in enumerate(texts):
            text.match = (cycle * (b + 1)) % 7
        run(plan, learn, list(texts), 1, simulation)
    assert 100 < counted[0] / cycles < most


def test_a_burst_of_plain_cycles_ends_when_a_match_may_have_become_long_enough() -> None:
    """A match grows by one per token: one of 1 that pays from 7 on is looked at 6 cycles on."""
    lookup = candidates("ngram")[0]
    sources = Source("ngram", 1), Source("ngram", 7)
    planner = CostPlanner(TARGET, table(), [replace(lookup, sources=sources)])
    planner.optimiser.acceptance.assume(sources[0], 0.0)
    planner.optimiser.acceptance.assume(sources[1], 0.95)
    text = Text({})
    for match, cycles in ((1, 6), (2, 5), (6, LOOK)):
        text.match = match
        text = Text({}, match=match)  # a new batch is reviewed at once
        assert planner.plan([text])[0].length == 0
        assert planner.plain_for([text]) == cycles
        planner.learn([text], [Turn()], _plain_cycle())
    text.match = 7
    assert planner.plan([text])[0].length > 0


def test_a_burst_ends_at_the_next_review_and_is_over_when_the_batch_changes() -> None:
    planner, text = planner_of("w4a8"), Text({"w4a8": [0.0]})
    planner.optimiser.acceptance.assume(planner.candidates[0].sources[0], 0.0)
    planner.plan([text])
    assert planner.plain_for([text]) == REVIEW
    planner.learn([text], [Turn()], _plain_cycle(forwards=5))
    planner.plan([text])
    assert planner.plain_for([text]) == REVIEW - 5
    assert planner.plain_for([text, Text({})]) == 1


def test_the_longer_nothing_was_proposed_the_longer_a_burst_may_be() -> None:
    planner, text = planner_of("ngram"), Text({}, match=0)
    planner.optimiser.acceptance.assume(planner.candidates[0].sources[3], 0.95)

    def burst() -> int:
        turns, forwards = planner.plan([text]), planner.plain_for([text])
        assert turns == [Turn()]
        planner.learn([text], turns, _plain_cycle(forwards=forwards))
        return forwards

    bursts = [burst() for _ in range(20)]
    assert bursts[0] == LOOK
    assert max(bursts[:5]) < max(bursts[:10]) < max(bursts)
    # Late by no more than half of the cycles since a proposal.
    assert all(each <= max(LOOK, sum(bursts[:n]) / 2 + 1) for n, each in enumerate(bursts))
    text.match = 4
    turns = planner.plan([text])
    assert turns[0].length > 0
    planner.learn([text], turns, Simulation().cycle([Text({"ngram": [0.9]})], turns))
    text.match = 0
    assert burst() <= LOOK


def _plain_cycle(sequences: int = 1, forwards: int = 1) -> CycleReport:
    outcomes = [Outcome([0] * forwards, [0.0] * forwards, 0, 0) for _ in range(sequences)]
    seconds = 0.005 * forwards
    return CycleReport(outcomes, [], 0.0, seconds, rows=sequences, target_forwards=forwards)


def test_a_released_sequence_is_forgotten() -> None:
    planner, text = planner_of(), Text({"w4a8": [0.9], "ngram": [0.5]}, match=2)
    planner.begin(text)
    run(planner.plan, planner.learn, [text], 50, Simulation())
    proposers = [candidate.proposer for candidate in planner.candidates]
    assert all(text in proposer.live for proposer in proposers)  # type: ignore[attr-defined]
    planner.release(text)
    assert not any(text in proposer.live for proposer in proposers)  # type: ignore[attr-defined]
    watched, other = weakref.ref(text), Text({})
    del text
    planner.begin(other)
    planner.plan([other])
    planner.learn([other], [Turn()], _plain_cycle())
    gc.collect()
    assert watched() is None


def test_no_sequence_and_no_candidate_are_plans_too() -> None:
    assert planner_of().plan([]) == []
    alone = CostPlanner(TARGET, table(), [])
    text = Text({})
    assert alone.plan([text]) == [Turn()]
    alone.learn([text], [Turn()], _plain_cycle())


def test_forced_proposals_are_those_of_one_candidate() -> None:
    planner, texts = planner_of(), [Text({"w4a8": [0.0], "ngram": [0.0]}, match=m) for m in (0, 4)]
    acceptance = planner.optimiser.acceptance
    sources = [candidate.sources[-1] for candidate in planner.candidates]
    before = [acceptance.alphas(source) for source in sources]
    for index, expected in ((0, ["w4a8", "w4a8"]), (1, [None, "ngram"])):
        turns = planner.force(texts, index, 2)
        assert [turn.proposer and turn.proposer.name for turn in turns] == expected
        assert {turn.length for turn in turns if turn.proposer} == {2}
        planner.learn(texts, turns, Simulation().cycle(texts, turns))
    after = [acceptance.alphas(source) for source in sources]
    assert all(now < then for now, then in zip(after, before, strict=True)), "and they are judged"


def test_text_that_becomes_predictable_is_noticed() -> None:
    planner, text, simulation = planner_of("w4a8"), Text({"w4a8": [0.2]}), Simulation()
    run(planner.plan, planner.learn, [text], 500, simulation)
    simulation.choices.clear()
    run(planner.plan, planner.learn, [text], 100, simulation)
    assert simulation.choices["plain", 0] > 90
    text.alphas = {"w4a8": [0.97]}
    run(planner.plan, planner.learn, [text], 2000, simulation)
    simulation.choices.clear()
    run(planner.plan, planner.learn, [text], 100, simulation)
    assert simulation.choices["plain", 0] < 5


def test_a_draft_slower_than_measured_is_dropped() -> None:
    planner, text = planner_of("w4a8"), Text({"w4a8": [0.9]})
    simulation = Simulation(slow={"w4a8": 2.2})
    run(planner.plan, planner.learn, [text], 800, simulation)
    simulation.choices.clear()
    run(planner.plan, planner.learn, [text], 200, simulation)
    assert simulation.choices["plain", 0] > 180


def test_a_slow_machine_changes_nothing() -> None:
    chosen = []
    for slow in (1.0, 3.0):
        planner, text = planner_of("w4a8"), Text({"w4a8": [0.9]})
        simulation = Simulation(slow={"w4a8": slow, "verify": slow})
        run(planner.plan, planner.learn, [text], 800, simulation)
        simulation.choices.clear()
        run(planner.plan, planner.learn, [text], 200, simulation)
        chosen.append(simulation.choices)
    assert set(chosen[0]) == set(chosen[1]) <= {("w4a8", 2), ("w4a8", 3)}
    for choice, times in chosen[0].items():
        assert abs(times - chosen[1][choice]) < 20


def test_noise_does_not_make_it_worse_than_plain() -> None:
    simulation = Simulation(noise=0.3)
    plain = run(lambda s: [Turn()], lambda *_: None, [Text({})], 3000, simulation)
    planner = planner_of("w4a8")
    got = run(planner.plan, planner.learn, [Text({"w4a8": [0.55]})], 3000, Simulation(noise=0.3))
    assert got > 0.97 * plain


@pytest.mark.parametrize(("wanted", "is_used"), [(100, False), (100_000, True)])
def test_a_model_reads_a_text_only_where_enough_is_still_to_come(
    wanted: int, is_used: bool
) -> None:
    """Plain steps take 5 ms or so; reading the text takes a second."""
    text, simulation = Text({"w4a8": [0.95]}, remaining=wanted), Simulation()
    unread: dict[Decoding, float] = {text: 1.0}
    planner = _reading_planner(unread.__getitem__)
    planner.begin(text)
    used_from = None
    for _ in range(2000):
        plan = planner.plan([text])
        report = simulation.cycle([text], plan)
        if plan[0].length:
            used_from = len(text.tokens) - 600 if used_from is None else used_from
            report.draft_seconds += unread[text]
            unread[text] = 0.0
        planner.learn([text], plan, report)
        text.remaining = max(1, wanted - (len(text.tokens) - 600))
    assert (used_from is not None) == is_used
    if used_from is not None:
        assert used_from > 200, "not before as much has come as the reading is worth"


def test_where_answers_are_long_a_text_is_read_at_once() -> None:
    planner, used = _reading_planner(lambda _: 1.0), []
    for _ in range(40):
        text = Text({"w4a8": [0.95]}, remaining=5000)
        planner.begin(text)
        used.append(planner.plan([text])[0].length > 0)
        text.tokens = range(600 + 2000)
        planner.release(text)
    assert not used[0]
    assert used[-1]


def test_a_model_that_was_poor_on_one_kind_of_text_is_seen_again_on_another() -> None:
    """Reading a text takes as long as 16 plain steps, and an answer has 150 tokens."""
    simulation, seconds_to_read = Simulation(), 16 * linear_seconds("w8a16", 1)
    unread: dict[Decoding, float] = {}
    drafts = candidates("w4a8")[0]
    planner = CostPlanner(TARGET, table(), [replace(drafts, unread=unread.__getitem__)])

    def answer(alpha: float) -> tuple[bool, float]:
        """Whether the text was read, and the share of its cycles in which the model drafted."""
        text = Text({"w4a8": [alpha]}, remaining=150)
        unread[text], drafting, cycles = seconds_to_read, 0, 0
        planner.begin(text)
        while text.remaining > 1:
            plan = planner.plan([text])
            report = simulation.cycle([text], plan)
            if plan[0].length:
                simulation.seconds += unread[text]
                report.draft_seconds += unread[text]
                unread[text], drafting = 0.0, drafting + 1
            planner.learn([text], plan, report)
            text.remaining = max(1, 150 - (len(text.tokens) - 600))
            cycles += 1
        planner.release(text)
        return not unread[text], drafting / cycles

    poor = [answer(0.4) for _ in range(80)]
    assert sum(was_read for was_read, _ in poor[:4]), "it was tried"
    spent = sum(was_read for was_read, _ in poor[4:]) * seconds_to_read
    assert 0 < spent <= 2 * SHARES[1] * simulation.seconds
    good = [answer(0.98) for _ in range(40)]
    first = next(i for i, (was_read, _) in enumerate(good) if was_read)
    assert first < 20
    # The budget of reading covers another text after 16 steps / 1% of the time: 11 answers.
    assert min(share for _, share in good[first + 12 :]) > 0.8


def _reading_planner(unread: Callable[[Decoding], float]) -> CostPlanner:
    """Of a model that another text has shown to be right nine times in ten."""
    drafts = replace(candidates("w4a8")[0], unread=unread)
    planner = CostPlanner(TARGET, table(), [drafts])
    for step in range(100):
        planner.optimiser.acceptance.observe(drafts.sources[0], 4, 4 if step % 5 else 2)
    return planner
