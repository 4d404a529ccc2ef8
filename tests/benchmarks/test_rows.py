from pathlib import Path

import pytest
from benchmarks.measure.rows import Row, Spread, append, read
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import SourceError


def make_row(**changes: object) -> Row:
    values: dict[str, object] = {
        "commit": "abc",
        "date": "2026-01-01T00:00:00Z",
        "machine": {
            "cpu": "Some CPU",
            "family_model": "6/1",
            "threads": 2,
            "cores": 2,
            "read_gbs": 50.0,
            "flags": ["avx2"],
        },
        "engine": "halfbyte",
        "version": "1",
        "model": "m",
        "format": "planes 8",
        "bytes": 1000,
        "cascade": "w4a8",
        "metric": "decode 128 @ 16",
        "unit": "tok/s",
        "spread": Spread.of([1.0, 2.0, 4.0]),
    }
    return Row(**(values | changes))  # type: ignore[arg-type]


@given(st.lists(st.floats(min_value=0.1, max_value=1e6), min_size=1, max_size=20))
def test_spread_is_ordered(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.min <= spread.p20 <= spread.median <= spread.p80 <= spread.max
    assert spread.n == len(values)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [make_row(), make_row(details={"tau": 3.5, "alpha": [0.5, 0.25]})]
    path = tmp_path / "results" / "rows.jsonl"
    append(path, rows[:1])
    append(path, rows[1:])
    assert read([path]) == rows


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(make_row().to_json() + "\n{}\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"rows\.jsonl, line 2"):
        read([path])
