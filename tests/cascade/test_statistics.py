"""What the outcomes of cycles say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.cascade.cycle import CycleReport
from halfbyte.cascade.proposer import Link
from halfbyte.cascade.statistics import Statistics, record_step
from halfbyte.cascade.verify import Outcome

outcome = st.integers(0, 6).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p)))


def _of(outcomes: list[tuple[int, int]]) -> Statistics:
    statistics = Statistics()
    for proposed, accepted in outcomes:
        statistics.outcomes[proposed, accepted] += 1
        statistics.emitted_tokens += accepted + 1
        statistics.target_forwards += 1
    return statistics


@given(st.lists(outcome, max_size=40))
def test_counts_by_position_add_up(outcomes: list[tuple[int, int]]) -> None:
    s = _of(outcomes)
    assert sum(s.proposed_by_position) == s.draft_tokens == sum(p for p, _ in outcomes)
    assert sum(s.accepted_by_position) == s.accepted_tokens == sum(a for _, a in outcomes)
    assert s.accepted_by_position == sorted(s.accepted_by_position, reverse=True)
    assert all(0.0 <= a <= 1.0 for a in s.alpha)


def test_alpha_counts_only_positions_with_a_correct_prefix() -> None:
    s = _of([(3, 3), (3, 1), (3, 0), (1, 1)])
    assert s.proposed_by_position == [4, 3, 3]
    assert s.accepted_by_position == [3, 1, 1]
    # Position 1 was judged in (3, 3) and (3, 1) only; position 2 in (3, 3) only.
    assert s.alpha == [3 / 4, 1 / 2, 1.0]
    assert s.tau == 9 / 4


def test_plain_decoding_has_tau_one_and_no_alpha() -> None:
    s = _of([(0, 0)] * 5)
    assert (s.tau, s.alpha, s.accepted_by_position) == (1.0, [], [])


@given(st.lists(outcome, max_size=20), st.lists(outcome, max_size=20))
def test_adding_runs_equals_one_run_over_both(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    total = _of(first)
    total.add(_of(second))
    assert total == _of(first + second)


def test_bytes_per_token_weighs_draft_and_target_forwards() -> None:
    s = Statistics(emitted_tokens=10, target_forwards=4)
    s.link("w4a8 > w8a16").count(Link("w4a8 > w8a16", forwards=12, bytes_read=12 * 50))
    assert s.draft_forwards == 12
    assert s.bytes_per_token(100) == pytest.approx((4 * 100 + 12 * 50) / 10)
    assert Statistics().bytes_per_token(100) == 0.0


def _report() -> CycleReport:
    """Three sequences: two under one proposer, with an inner link, the third alone."""
    return CycleReport(
        outcomes=[_outcome(4, 2), _outcome(0, 0), _outcome(3, 3)],
        links=[
            Link("w4a8 > w8a16", 3, 300, 0.5, [(0, 4, 2), (2, 3, 3)]),
            Link("ngram > w4a8", 0, 0, 0.25, [(0, 2, 1), (0, 2, 2), (2, 1, 0)]),
        ],
        draft_seconds=1.0,
        verify_seconds=2.0,
    )


def _outcome(proposed: int, accepted: int) -> Outcome:
    return Outcome([0] * (accepted + 1), [0.0] * (accepted + 1), proposed, accepted)


def _record(report: CycleReport, total: Statistics, each: list[Statistics]) -> None:
    """As a step of sequences that decode, with half a second outside the runtime."""
    seconds = report.draft_seconds + report.verify_seconds + 0.5
    record_step(report, [len(o.tokens) for o in report.outcomes], seconds, total, each, [])


def test_a_cycle_is_counted_once_in_total_and_once_for_each_that_took_part() -> None:
    total, each = Statistics(), [Statistics() for _ in range(3)]
    _record(_report(), total, each)
    assert total.target_forwards == 1
    assert [s.target_forwards for s in each] == [1, 1, 1]
    assert total.outcomes == {(4, 2): 1, (0, 0): 1, (3, 3): 1}
    assert total.links["ngram > w4a8"].outcomes == {(2, 1): 1, (2, 2): 1, (1, 0): 1}
    assert each[0].links["ngram > w4a8"].outcomes == {(2, 1): 1, (2, 2): 1}
    assert each[1].links == {}
    assert each[2].links["w4a8 > w8a16"].outcomes == {(3, 3): 1}
    assert each[2].draft_forwards == total.draft_forwards == 3
    assert total.draft_seconds == each[1].draft_seconds == 1.0
    assert total.host_seconds == each[1].host_seconds == 0.5
    assert [s.emitted_tokens for s in (total, *each)] == [8, 3, 1, 4]


def test_a_step_is_shared_between_prompts_and_cycles_by_rows() -> None:
    """One sequence decodes, one prompt ends and another goes on: 8 of 10 rows are of prompts."""
    total, decoding, ended, going_on = (Statistics() for _ in range(4))
    report = CycleReport([_outcome(1, 1), _outcome(0, 0)], [], 1.0, 5.0, prompt_rows=8, rows=10)
    record_step(report, [2, 1], 7.0, total, [decoding], [ended, going_on])
    for one in (total, decoding):
        assert (one.draft_seconds, one.verify_seconds, one.host_seconds) == (1.0, 1.0, 1.0)
        assert one.target_forwards == one.cycles == 1
    assert [s.prefill_seconds for s in (total, decoding, ended, going_on)] == [4.0, 0.0, 4.0, 4.0]
    assert [s.emitted_tokens for s in (total, decoding, ended, going_on)] == [3, 2, 1, 0]
    assert [s.prefill_emitted for s in (total, decoding, ended, going_on)] == [1, 0, 1, 0]
    assert total.seconds == 7.0


def test_a_step_without_a_cycle_is_prefill() -> None:
    total, prompt = Statistics(), Statistics()
    report = CycleReport([_outcome(0, 0)], [], 0.0, 5.0, prompt_rows=9, rows=10)
    record_step(report, [1], 7.0, total, [], [prompt])
    for one in (total, prompt):
        assert (one.prefill_seconds, one.seconds, one.target_forwards) == (7.0, 7.0, 0)
        assert (one.emitted_tokens, one.decoded_tokens) == (1, 0)


def test_alpha_of_every_link_stands_alone() -> None:
    total = Statistics()
    _record(_report(), total, [Statistics() for _ in range(3)])
    shown = total.as_dict()["links"]
    assert shown["ngram > w4a8"]["alpha"] == [2 / 3, 1 / 2]
    assert shown["w4a8 > w8a16"]["alpha"] == [1.0, 1.0, 1 / 2]
    assert shown["ngram > w4a8"]["tau"] == 1 + 3 / 3


def test_time_shares_name_every_stage_and_add_up_to_one() -> None:
    total = Statistics()
    _record(_report(), total, [Statistics() for _ in range(3)])
    total.host_seconds = 1.0
    shares = total.time_shares
    assert shares == {
        "w4a8 > w8a16": 0.5 / 4,
        "ngram > w4a8": 0.25 / 4,
        "verify": 0.5,
        "host": pytest.approx(1.25 / 4),
    }
    assert sum(shares.values()) == pytest.approx(1.0)
    assert Statistics().time_shares == {}


@given(st.lists(outcome, max_size=20), st.lists(outcome, max_size=20))
def test_adding_links_equals_one_run_over_both(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    def of(outcomes: list[tuple[int, int]]) -> Statistics:
        statistics = Statistics()
        for p, a in outcomes:
            link = Link("a > b", 1, 2, 0.0, [(0, p, a)])
            report = CycleReport([_outcome(p, a)], [link], 0.0, 0.0)
            _record(report, Statistics(), [statistics])
        return statistics

    total = of(first)
    total.add(of(second))
    assert total == of(first + second)
