from pathlib import Path

import pytest
from benchmarks.report import BEGIN, END, replaced, report
from benchmarks.rows import Spread

from halfbyte.errors import SourceError
from tests.benchmarks.test_rows import make_row


def test_the_last_row_about_a_thing_counts() -> None:
    rows = [make_row(spread=Spread.of([11.0])), make_row(spread=Spread.of([22.0]))]
    text = report(rows)
    assert "22.0" in text
    assert "11.0" not in text


def test_an_output_that_differs_is_not_hidden() -> None:
    details = {
        "draft_length": 3,
        "speedup": 1.3,
        "tau": 3.0,
        "alpha": [0.9],
        "bytes_per_token": 1e6,
        "resident_bytes": 1e6,
        "identical": False,
    }
    row = make_row(metric="generate 128 code", cascade="w4a8 > w8a16", details=details)
    assert "**no**" in report([row])


def test_cost_is_shown_against_one_row() -> None:
    rows = [
        make_row(metric=f"forward {count} @ 128", unit="ms", spread=Spread.of([value]))
        for count, value in ((1, 2.0), (4, 3.0))
    ]
    assert "3.00 (1.50)" in report(rows)


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    path.write_text(replaced(path, "new"), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replaced(path, "new") == path.read_text(encoding="utf-8")


def test_a_file_without_markers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("text", encoding="utf-8")
    with pytest.raises(SourceError, match="markers"):
        replaced(path, "new")
