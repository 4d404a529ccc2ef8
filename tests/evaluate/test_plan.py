from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfbyte.api.candidates import candidates
from halfbyte.api.llm import LLM
from halfbyte.config import Level
from halfbyte.evaluate.plan import PlanReport, measure_acceptance, plan_report
from halfbyte.evaluate.plan_plot import plot
from halfbyte.planner.acceptance import Acceptance
from halfbyte.planner.cost_table import CostTable, DraftCost
from halfbyte.planner.planner import CostPlanner

TARGET = Level.parse("w8a16")


def _table(draft: float = 0.5) -> CostTable:
    rows = (1, 16)
    curves = {"w8a16": (1.0, 2.5), "w4a8": (draft, 1.2), "w4a16": (1.0, 2.0)}
    drafts = {"w4a8": DraftCost(draft, draft), "w4a16": DraftCost(1.0, 1.0)}
    return CostTable(rows, (128, 1024), curves, ((0.1, 0.8), (0.8, 6.4)), drafts)


def _report(llm: LLM, alpha: float, draft: float = 0.5) -> PlanReport:
    table = _table(draft)
    arms = candidates(llm.model.runtime, llm.proposers, TARGET, table)
    return plan_report("tiny", "w8a16", table, arms, Acceptance(), alpha)


def test_speedups_are_those_of_the_equation(talking_llm: LLM) -> None:
    for c in _report(talking_llm, 0.9).candidates:
        assert c.speedup == pytest.approx(c.tau / (c.draft_ratio + c.verify_ratio))
    # By hand: one sequence, 128 tokens, w4a8 at length 1, or what is better.
    plain, one_token = 1.0 + 0.1, (0.5 + 0.1) + (1.1 + 0.1 + 0.7 / 15)
    found = next(c for c in _report(talking_llm, 0.9).candidates if c.cascade == "w4a8 > w8a16")
    assert found.speedup >= 1.9 / (one_token / plain) - 1e-9
    assert found.tau == pytest.approx(sum(0.9**i for i in range(found.draft_length + 1)))


@pytest.mark.parametrize(("alpha", "choice"), [(0.98, "w4a8 > w8a16"), (0.1, "w8a16")])
def test_the_choice_is_the_fastest_and_says_why(
    talking_llm: LLM, alpha: float, choice: str
) -> None:
    report = _report(talking_llm, alpha)
    assert report.choice(1, 128).cascade == choice
    for c in report.candidates:
        assert c.reason
        same = [r for r in report.candidates if (r.batch, r.context) == (c.batch, c.context)]
        if c.is_choice and not c.evidence:
            assert all(r.speedup <= c.speedup for r in same if not r.evidence)
    assert {c.batch for c in report.candidates} == {1, 2, 4, 8, 16}
    assert {c.context for c in report.candidates} == {128, 1024}


def test_a_draft_as_dear_as_its_target_is_told_so(talking_llm: LLM) -> None:
    dear = next(c for c in _report(talking_llm, 1.0).candidates if c.cascade == "w4a16 > w8a16")
    assert "costs 1.00 of a plain step" in dear.reason


def test_acceptance_is_measured_on_every_arm(talking_llm: LLM) -> None:
    table = _table()
    arms = candidates(talking_llm.model.runtime, talking_llm.proposers, TARGET, table)
    planner, said = CostPlanner(TARGET, table, arms), []
    free = talking_llm.model.pool.num_free
    measure_acceptance(talking_llm, planner, 48, said.append)
    assert len(said) == 3
    for arm in arms:
        if arm.evidence is None:
            assert planner.acceptance.judged(arm.sources[0]) > 0
    assert talking_llm.model.pool.num_free == free


def test_a_report_is_json_and_a_picture(talking_llm: LLM, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = _report(talking_llm, 0.9)
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["target"] == "w8a16"
    plot(report, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
