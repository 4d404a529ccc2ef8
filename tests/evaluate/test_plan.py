from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.api.candidates import planner_for
from halfbyte.api.llm import LLM
from halfbyte.config import Level
from halfbyte.evaluate.plan import (
    PlanReport,
    assume_acceptance,
    measure_acceptance,
    plan_report,
)
from halfbyte.evaluate.plan_plot import plot
from halfbyte.planner.candidates import level_cost
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.planner import CostPlanner
from tests.planner.simulation import Text
from tests.planner.simulation import candidates as simulated

TARGET = Level.parse("w8a16")


def _table(draft: float = 0.5) -> CostTable:
    curves = {"w8a16": (1.0, 2.5), "w4a8": (draft, 1.2), "w4a16": (1.0, 2.0)}
    drafts = {"w4a8": (draft, draft), "w4a16": (1.0, 1.0)}
    return CostTable((1, 16), curves, (0.1 / 128, 0.8 / 128), drafts)


def _planner(llm: LLM, draft: float = 0.5) -> CostPlanner:
    return planner_for(llm.model.runtime, llm.proposers, TARGET, _table(draft))


def _report(llm: LLM, alpha: float, draft: float = 0.5) -> PlanReport:
    planner = _planner(llm, draft)
    assume_acceptance(planner, alpha)
    return plan_report("tiny", _table(draft), planner, contexts=(128, 1024))


def test_speedups_are_those_of_the_equation(talking_llm: LLM) -> None:
    report = _report(talking_llm, 0.9)
    for c in report.candidates:
        parts = c.draft_ratio + c.verify_ratio + c.host_ratio
        assert c.speedup == pytest.approx(c.tau / parts)
    # By hand: one sequence, 128 tokens, w4a8 at length 1, or what is better.
    host = report.host_seconds
    plain, one_token = 1.0 + 0.1 + host, (0.5 + 0.1) + (1.1 + 0.1 + 0.7 / 15) + host
    found = next(c for c in report.candidates if c.cascade == "w4a8 > w8a16")
    assert found.speedup >= 1.9 / (one_token / plain) - 1e-9
    assert found.tau == pytest.approx(sum(0.9**i for i in range(int(found.draft_length) + 1)))


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
    assert report.contexts == [128, 1024]
    assert {c.evidence for c in report.candidates} == {"", "match 1-3", "match 4-8", "match 9+"}


curves = st.lists(st.floats(1e-4, 2e-2), min_size=3, max_size=3).map(
    lambda steps: tuple(accumulate(steps))
)
alphas = st.floats(0.0, 1.0)


@settings(max_examples=80, deadline=None)
@given(
    verify=curves,
    draft=curves,
    attention=st.floats(0.0, 1e-6),
    level=alphas,
    matches=st.lists(alphas, min_size=4, max_size=4),
    size=st.integers(1, 8),
    context=st.integers(0, 4000),
)
def test_what_is_told_is_what_auto_does(
    verify: tuple[float, ...],
    draft: tuple[float, ...],
    attention: float,
    level: float,
    matches: list[float],
    size: int,
    context: int,
) -> None:
    """The choice for equal sequences, without a match and with one of each range, is the cycle that
    a planner of the same knowledge runs."""
    rows = {"w8a16": verify, "w4a8": draft}
    table = CostTable((1, 4, 64), rows, (attention,) * 3, {"w4a8": (draft[0], draft[0])})

    def planner() -> CostPlanner:
        offered = simulated("w4a8", "ngram")
        offered[0] = replace(offered[0], cost=level_cost(table, "w4a8"))
        made = CostPlanner(TARGET, table, offered)
        for source, alpha in zip(
            [*offered[0].sources, *offered[1].sources], [level, *matches], strict=True
        ):
            made.optimiser.acceptance.assume(source, alpha)
        return made

    report = plan_report("tiny", table, planner(), batches=(size,), contexts=(context,))
    told = [option for option in report.candidates if option.is_choice]
    assert [option.evidence for option in told] == ["", "match 1", "match 2", "match 3", "match 4+"]
    for match, option in enumerate(told):
        texts = [Text({}, committed_len=context, match=match) for _ in range(size)]
        auto = planner()
        auto.plan(texts)  # may be a trial: the first cycle looks for one, the next ones do not
        turns = auto.plan(texts)  # no sequence has begun, so none waits for another
        names = {turn.proposer.name for turn in turns if turn.proposer and turn.length}
        assert option.cascade == " > ".join([*names, "w8a16"])
        assert option.draft_length * size == sum(turn.length for turn in turns)


def test_a_draft_as_dear_as_its_target_is_told_so(talking_llm: LLM) -> None:
    dear = next(c for c in _report(talking_llm, 1.0).candidates if c.cascade == "w4a16 > w8a16")
    assert "costs 1.00 of a plain step" in dear.reason


def test_acceptance_is_measured_on_every_candidate(talking_llm: LLM) -> None:
    planner, said = _planner(talking_llm), []
    acceptance, free = planner.optimiser.acceptance, talking_llm.model.pool.num_free
    sources = [c.sources[0] for c in planner.candidates if c.evidence is None]
    before = [acceptance.alphas(source) for source in sources]
    measure_acceptance(talking_llm, planner, 48, said.append)
    assert len(said) == 3
    for source, unseen in zip(sources, before, strict=True):
        assert acceptance.alphas(source) != unseen
    assert talking_llm.model.pool.num_free == free


def test_a_report_is_json_and_a_picture(talking_llm: LLM, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = _report(talking_llm, 0.9)
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["target"] == "w8a16"
    plot(report, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
