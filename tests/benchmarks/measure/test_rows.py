import re
from pathlib import Path

import pytest
from benchmarks.measure.rows import RESULTS, Row, Spread, identity, keep, newest, read
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import SourceError
from halfbyte.evaluate import result_rows
from halfbyte.evaluate.tables import column_of


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
    rows = [make_row(), make_row(metric="x", details={"tau": 3.5, "alpha": [0.5, 0.25]})]
    path = tmp_path / "results" / "rows.jsonl"
    keep(path, rows[:1])
    keep(path, rows[1:])
    assert read([path]) == rows


def test_a_row_takes_the_place_of_an_older_one_of_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    older = [make_row(), make_row(cascade="w8a8"), make_row(details={"draft_length": 3})]
    keep(path, older)
    again = make_row(date="2026-01-02T00:00:00Z", spread=Spread.of([9.0]))
    keep(path, [again])
    assert read([path]) == [again, *older[1:]]
    other = make_row(machine=again.machine | {"cpu": "Another CPU"})
    keep(path, [other])
    assert read([path]) == [again, *older[1:], other]


def test_a_comparison_is_replaced_as_a_whole() -> None:
    """Or a fixed cascade of one run would be held against `auto` of another."""
    early, late = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    first = [make_row(metric="workload chat x1", cascade=name, date=early) for name in "abc"]
    then = [make_row(metric="workload chat x1", cascade=name, date=late) for name in "ab"]
    beside = make_row(metric="workload chat x4", cascade="c", date=early)
    assert newest([*first, beside, *then]) == [*then, beside]


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.jsonl")), ids=lambda path: path.name)
def test_the_tree_has_one_row_of_each_identity_and_no_path_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'["@: ]/(?:\w[^"/ ]*/)+', text), "a directory of some machine"
    if path.parent.name == "fidelity":
        found = [(row.model, row.cascade, *column_of(row)) for row in result_rows.read(path)]
    else:
        rows = read([path])
        assert newest(rows) == rows
        found = [identity(row) for row in rows]
    assert len(set(found)) == len(found)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(make_row().to_json() + "\n{}\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"rows\.jsonl, line 2"):
        read([path])
