"""Whether a model that has not read a text is worth the reading."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halfbyte.api.candidates import MODEL_FADE
from halfbyte.cascade.cycle import PLAIN, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.planner.acceptance import Source
from halfbyte.planner.candidates import Unread
from halfbyte.planner.draft_prefill import MUCH_UNREAD, Reading
from halfbyte.planner.exploration import READING
from halfbyte.planner.planner import CostPlanner
from halfbyte.planner.remaining_length import Answers
from tests.planner.simulation import TARGET, NamedProposer, Simulation, Text, arms, table
from tests.planner.timed_runtime import linear_seconds


@pytest.mark.parametrize(("wanted", "is_used"), [(100, False), (100_000, True)])
def test_a_model_reads_a_text_only_where_enough_is_still_to_come(
    wanted: int, is_used: bool
) -> None:
    """Plain steps take 5 ms or so; reading the text takes a second."""
    text, simulation = Text({"w4a8": [0.95]}, remaining=wanted), Simulation()
    unread = {text: 600}

    class Reading(NamedProposer):
        def observe_read(self, sequence: Text) -> None:
            unread[sequence] = 0

    drafts = arms("w4a8")[0]
    proposer = Reading("w4a8")
    arm = replace(drafts, proposer=proposer, unread=Unread(unread.__getitem__, lambda n: n / 600))
    planner = CostPlanner(TARGET, table(), [arm])
    for step in range(100):  # another text has shown what it is worth
        planner.acceptance.observe(arm.sources[0], "another", 4, 4 if step % 5 else 2, step)
    planner.begin(text)
    used_from = None
    for _ in range(2000):
        plan = planner.plan([text])
        if plan[0].length and used_from is None:
            used_from = len(text.tokens) - 600
            proposer.observe_read(text)
        planner.learn([text], plan, simulation.cycle([text], plan))
        text.remaining = max(1, wanted - (len(text.tokens) - 600))
    assert (used_from is not None) == is_used
    if used_from is not None:
        assert used_from > 200, "not before as much has come as the reading is worth"
    # What it took to read is no part of what a draft costs.
    assert planner._drift.factor(0) == pytest.approx(1.0, rel=0.2)


def test_where_answers_are_long_a_text_is_read_at_once() -> None:
    arm = replace(arms("w4a8")[0], unread=Unread(lambda s: 600, lambda n: n / 600))
    planner = CostPlanner(TARGET, table(), [arm])
    for step in range(100):
        planner.acceptance.observe(arm.sources[0], "another", 4, 4 if step % 5 else 2, step)
    used = []
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
    unread: dict[Decoding, int] = {}
    drafts = arms("w4a8")[0]
    reads = Unread(lambda text: unread[text], lambda n: n * seconds_to_read)
    source = Source("w4a8", fade=MODEL_FADE)
    planner = CostPlanner(TARGET, table(), [replace(drafts, unread=reads, sources=(source,))])

    def answer(alpha: float) -> tuple[bool, float]:
        """Whether the text was read, and the share of its cycles in which the model drafted."""
        text = Text({"w4a8": [alpha]}, remaining=150)
        unread[text], drafting, cycles = 1, 0, 0
        planner.begin(text)
        while text.remaining > 1:
            plan = planner.plan([text])
            if plan[0].length:
                simulation.seconds += unread[text] * seconds_to_read
                unread[text], drafting = 0, drafting + 1
            planner.learn([text], plan, simulation.cycle([text], plan))
            text.remaining = max(1, 150 - (len(text.tokens) - 600))
            cycles += 1
        planner.release(text)
        return not unread[text], drafting / cycles

    poor = [answer(0.4) for _ in range(80)]
    assert sum(was_read for was_read, _ in poor[:4]), "it was tried"
    spent = sum(was_read for was_read, _ in poor[4:]) * seconds_to_read
    assert 0 < spent <= 2 * READING * simulation.seconds
    good = [answer(0.98) for _ in range(40)]
    first = next(i for i, (was_read, _) in enumerate(good) if was_read)
    assert first < 20
    assert min(share for _, share in good[first + 8 :]) > 0.8


def test_what_is_unread_is_charged_in_equal_parts_to_what_is_still_to_come() -> None:
    unread, answers = {}, Answers()
    texts = [Text({}) for _ in range(3)]
    for text, tokens in zip(texts, (0, 100, 600), strict=True):
        answers.begin(text)
        unread[text] = tokens
    reads, owns = arms("w4a8")[0], arms("ngram")[0]
    reads = replace(reads, unread=Unread(unread.__getitem__, lambda n: n / 600))
    reading = Reading([owns, reads])
    [(arm, charges)] = reading.charges(texts, answers).items()
    assert arm == 1
    total = [charge * answers.to_come(text) for charge, text in zip(charges, texts, strict=True)]
    assert total == pytest.approx([0, 1 / 6, 1])


def test_a_call_reads_much_where_its_own_arm_has_much_to_read() -> None:
    unread = {Text({}): MUCH_UNREAD, Text({}): MUCH_UNREAD + 1}
    texts = list(unread)
    other, reads = arms("ngram", "w4a8")
    reads = replace(reads, unread=Unread(unread.__getitem__, lambda n: n / 600))
    reading = Reading([other, reads])
    own, others = Turn(reads.proposer, 2), Turn(other.proposer, 2)
    for turns, expected in (
        ([own, own], {1}),
        ([own, others], set()),
        ([PLAIN, own], {1}),
        ([PLAIN, PLAIN], set()),
    ):
        reading.see(texts, turns)
        assert reading.now == expected
