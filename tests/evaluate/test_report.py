"""Tables say what rows say, and show when a cascade's output is not its target's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halfbyte.cli.main import run
from halfbyte.evaluate.result_rows import ResultRow, append, read
from halfbyte.evaluate.tables import report, same_output

PLAIN = ResultRow(
    task="gsm8k",
    metric="strict",
    value=0.25,
    stderr=0.1083,
    n=16,
    unit="items",
    items=16,
    total=1319,
    limit=16,
    model="tiny",
    cascade="w4a16",
    level="w4a16",
    settings={},
    details={"output": "aa"},
    fingerprint="f",
    run="r1",
    commit="c0ffee",
    version="0.1.0",
    date="2026-01-01T00:00:00Z",
    machine={"cpu": "A CPU", "tier": "scalar"},
    remark="source weights are quantized already (Q4_1 x210)",
)
PAIR = replace(PLAIN, cascade="w4a4 > w4a16", run="r2")
PPL = replace(
    PLAIN, task="perplexity", metric="perplexity", value=23.456, stderr=1.5, run="r3", details={}
)
DETAILS = {"proposed": [9, 9], "prefix": [8, 6], "position": [8, 7]}


def _acceptance() -> list[ResultRow]:
    base = replace(PAIR, task="acceptance", run="r4", details=DETAILS, items=3)
    values = {"prefix@2": 0.78, "position@2": 0.83, "tau@2": 2.55}
    return [replace(base, metric=name, value=value) for name, value in values.items()]


def test_a_table_has_a_line_a_cascade_and_a_column_a_metric() -> None:
    text = report([PLAIN, PAIR, PPL])
    head, _, plain, pair = text.splitlines()[:4]
    assert head == (
        "| model | cascade | gsm8k strict (16 of 1319) | perplexity (16 of 1319) | = target |"
    )
    assert plain == "| tiny | `w4a16` | 0.250 ± 0.108 | 23.46 ± 1.50 |  |"
    # The likelihoods of a cascade are its target's.
    assert pair == "| tiny | `w4a4 > w4a16` | 0.250 ± 0.108 | 23.46 ± 1.50 | yes |"
    assert "tiny: source weights are quantized already (Q4_1 x210)." in text
    assert "A CPU, tier scalar" in text


def test_another_output_than_the_targets_is_shown() -> None:
    other = replace(PAIR, details={"output": "bb"})
    assert "| **no** |" in report([PLAIN, other])
    assert same_output([PLAIN, other], "tiny", "w4a4 > w4a16", "w4a16") is False
    assert same_output([other], "tiny", "w4a4 > w4a16", "w4a16") is None
    fewer = replace(PLAIN, items=8, details={"output": "cc"})
    assert same_output([fewer, PAIR], "tiny", "w4a4 > w4a16", "w4a16") is None


def test_subsets_of_different_size_are_different_columns() -> None:
    text = report([PLAIN, replace(PLAIN, items=1319, value=0.3)])
    assert "gsm8k strict (16 of 1319) | gsm8k strict |" in text


def test_of_rows_about_the_same_thing_the_last_counts() -> None:
    text = report([PLAIN, replace(PLAIN, value=0.5)])
    assert "0.500" in text
    assert "0.250" not in text


def test_acceptance_has_both_rates_and_tokens_a_forward() -> None:
    text = report(_acceptance())
    assert "| model | cascade | prompts | γ = 2 |" in text
    assert "| tiny | `w4a4 > w4a16` | 3 | 0.78 · 0.83 · 2.55 |" in text


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    append(tmp_path / "rows.jsonl", [PLAIN, PAIR])
    append(tmp_path / "rows.jsonl", [PPL])
    assert read(tmp_path / "rows.jsonl") == [PLAIN, PAIR, PPL]


def test_the_command_prints_tables_and_draws_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    append(tmp_path / "rows.jsonl", [PLAIN, PAIR, PPL, *_acceptance()])
    assert run(["report", str(tmp_path / "rows.jsonl"), "--plots", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("| model | cascade |")
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {
        "gsm8k-strict-16-of-1319.png",
        "perplexity-perplexity-16-of-1319.png",
        "acceptance.png",
    }
    assert all(path.stat().st_size > 5000 for path in (tmp_path / "out").iterdir())


def test_a_file_of_other_lines_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    assert run(["report", str(tmp_path / "x.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
