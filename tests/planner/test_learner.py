"""What a planner makes of what cycles showed: text, drafts and machines that are not as thought."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest

from halfbyte.cascade.cycle import PLAIN, CycleReport, Turn
from halfbyte.cascade.verify import Outcome
from halfbyte.planner.acceptance import Acceptance
from halfbyte.planner.drift import Drift
from halfbyte.planner.exploration import Trials
from halfbyte.planner.forecast import Forecaster
from halfbyte.planner.learner import HOST_STEP, Learner, Note
from tests.planner.simulation import Simulation, Text, planner_of, run, table


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
    planner, text = planner_of("w4a8"), Text({"w4a8": [0.9]})
    simulation = Simulation(slow={"w4a8": 3.0, "verify": 3.0})
    run(planner.plan, planner.learn, [text], 800, simulation)
    simulation.choices.clear()
    run(planner.plan, planner.learn, [text], 200, simulation)
    assert simulation.choices["w4a8", 2] > 100


def test_noise_does_not_make_it_worse_than_plain() -> None:
    simulation = Simulation(noise=0.3)
    plain = run(lambda s: [Turn()], lambda *_: None, [Text({})], 3000, simulation)
    planner = planner_of("w4a8")
    got = run(planner.plan, planner.learn, [Text({"w4a8": [0.55]})], 3000, Simulation(noise=0.3))
    assert got > 0.97 * plain


def test_matches_must_promise_more_where_promises_were_not_kept() -> None:
    """Now and then a forward with proposals takes twice as long: no table and no median knows."""

    class Unsteady(Simulation):
        def cycle(self, texts: Seq[Text], plan: Seq[Turn]) -> CycleReport:
            odd = any(turn.length for turn in plan) and self.rng.random() < 0.2
            self.slow["verify"] = 2.0 if odd else 1.0
            return super().cycle(texts, plan)

    kept = []
    for simulation in (Simulation(), Unsteady()):
        planner = planner_of("ngram")
        texts = [Text({"ngram": [0.7]}, match=4) for _ in range(4)]
        for text in texts:
            planner.begin(text)
        run(planner.plan, planner.learn, texts, 400, simulation)
        assert any(name == "ngram" for name, _ in simulation.choices)
        kept.append(planner._learner.promises.kept)
    assert kept[1] < 0.98 < kept[0]


def test_of_the_hosts_time_a_surprise_counts_by_its_sign_alone() -> None:
    """Between cycles lie prefills and slow readers too: seconds, where the host takes 1e-4."""
    known = []
    for pause in (2e-4, 20.0):
        acceptance, drift = Acceptance(), Drift()
        forecaster = Forecaster("w8a16", table(), [], drift.factor)
        trials = Trials(forecaster, [], acceptance, drift)
        learner, text, now = Learner(forecaster, [], acceptance, drift, trials), Text({}), 1.0
        plain = forecaster.plain([600])
        for cycle in range(2000):
            report = CycleReport([Outcome([0], [0.0], 0, 0)], [], 0.0, plain.seconds)
            now += plain.seconds + (pause if cycle % 5 == 0 else 1e-4)
            learner.notes.append(Note(now, cycle, None, None, (), set(), [text], [PLAIN], report))
        learner.digest([600], plain, plain)
        assert not learner.notes
        known.append(forecaster.host_seconds)
    assert known[0] == pytest.approx(1e-4, rel=3 * (HOST_STEP - 1))
    assert known[1] == pytest.approx(known[0])
