"""Tables of schemes show both levels beside the baseline, on the same sequences."""

import math

from benchmarks.measure.rows import Row, Spread
from benchmarks.report.quality_tables import report

from tests.benchmarks.measure.test_rows import make_row


def _rows(scheme: str, level: str, form: str, **metrics: list[float]) -> list[Row]:
    return [
        make_row(
            machine={"tier": "avx512"},
            format=form,
            bytes=500,
            cascade=level,
            metric=metric,
            unit="",
            spread=Spread.of(values),
            details={
                "scheme": scheme,
                "text": "wiki",
                "weights": 1000,
                "tokens": 1022,
                "mean": sum(values) / len(values),
                "sequences": values,
                "source_types": {"Q4_1": 3},
            },
        )
        for metric, values in metrics.items()
    ]


def _nested(scheme: str, agreement: list[float], form: str = "8 planes, group 32") -> list[Row]:
    draft = _rows(scheme, "w4a8", form, agreement=agreement, kl=[0.2, 0.2])
    lost = [math.log(1.01), math.log(1.01)]
    return draft + _rows(scheme, "w8a16", form, nll=[1.0, 1.0], excess_nll=lost, kl=[0.001, 0.001])


def test_a_scheme_is_paired_with_the_baseline_sequence_by_sequence() -> None:
    text = report([*_nested("rtn", [0.5, 0.9]), *_nested("gptq", [0.53, 0.93])])
    line = next(line for line in text.splitlines() if "`gptq`" in line)
    assert "| +3.0 ± 0.0 |" in line  # the sequences differ by 40 points, the schemes by three
    assert "+1.00% ± 0.00" in line
    assert "Q4_1 x3" in text


def test_other_forms_of_scales_have_the_same_baseline() -> None:
    other = _nested("gptq", [0.57, 0.97], "8 planes, group 32, int8+offset")
    text = report([*_nested("rtn", [0.5, 0.9]), *other])
    line = next(line for line in text.splitlines() if "`gptq`" in line)
    assert "| 8 planes, group 32, int8+offset |" in line
    assert "| +7.0 ± 0.0 |" in line


def test_what_lies_within_two_standard_errors_is_no_difference() -> None:
    near = _nested("gptq", [0.52, 0.88])
    assert "| ≈ (± 2.0) |" in report([*_nested("rtn", [0.5, 0.9]), *near])


def test_a_file_of_another_program_stands_beside_one_plane() -> None:
    scores = {"nll": [1.0, 1.1], "excess_nll": [0.1, 0.1], "kl": [0.2, 0.2]}
    ours = _rows("gptq", "w4a16", "4 planes, group 32", **scores)
    theirs = _rows("Q4_K_M", "f32", "Q4_K_M", **scores)
    lines = report(ours + theirs).splitlines()
    shown = [line for line in lines if "Q4_K_M" in line or "`gptq`" in line]
    assert len(shown) == 2
    assert all("| 4.00 |" in line and "+10.5%" in line for line in shown)
