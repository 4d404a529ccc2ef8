from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from halfbyte.config import Level
from halfbyte.planner.cost_cache import load_or_measure, read, table_path
from halfbyte.planner.cost_table import CostTable
from tests.support.fake_runtime import FakeRuntime

TARGET, DRAFT = Level.parse("w8a16"), Level.parse("w4a8")
TABLE = CostTable(
    (1, 2),
    {"w8a16": (1.0, 1.5), "w4a8": (0.5, 0.75)},
    (0.1, 0.25),
    {"w4a8": (0.5, 0.25)},
)


class Meter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> CostTable:
        self.calls += 1
        return TABLE


def test_a_table_is_measured_once_and_then_read(tmp_path: Path) -> None:
    meter, path = Meter(), tmp_path / "costs" / "one.json"
    assert load_or_measure(path, [TARGET, DRAFT], meter) == TABLE
    assert load_or_measure(path, [TARGET, DRAFT], meter) == TABLE
    assert meter.calls == 1
    assert [p.name for p in path.parent.iterdir()] == ["one.json"]


def test_it_is_measured_again_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter, path = Meter(), tmp_path / "one.json"
    load_or_measure(path, [TARGET], meter)
    load_or_measure(path, [TARGET], meter, again=True)
    assert meter.calls == 2
    monkeypatch.setenv("HALFBYTE_REMEASURE", "1")
    load_or_measure(path, [TARGET], meter)
    assert meter.calls == 3
    monkeypatch.setenv("HALFBYTE_REMEASURE", "0")
    load_or_measure(path, [TARGET, Level.parse("w4a16")], meter)
    assert meter.calls == 4, "a table without a level wanted is of no use"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"rows": [1], "linear": {"w8a16": [NaN]}, "attention": [0], "drafts": {}, "spread": 1}',
        b" " * (2 << 20),
    ],
)
def test_a_corrupt_file_is_measured_again(tmp_path: Path, content: bytes) -> None:
    meter, path = Meter(), tmp_path / "one.json"
    path.write_bytes(content)
    assert read(path) is None
    assert load_or_measure(path, [TARGET], meter) == TABLE
    assert meter.calls == 1
    assert CostTable.from_dict(json.loads(path.read_bytes())) == TABLE


def test_a_table_of_a_busy_machine_is_not_kept(tmp_path: Path) -> None:
    path, busy = tmp_path / "one.json", replace(TABLE, spread=2.0)
    assert load_or_measure(path, [TARGET], lambda: busy) == busy
    assert not path.exists()


def test_a_directory_that_cannot_be_made_costs_only_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    meter = Meter()
    assert load_or_measure(tmp_path / "file" / "one.json", [TARGET], meter) == TABLE
    assert meter.calls == 1


def test_what_changes_the_time_changes_the_name(tmp_path: Path) -> None:
    def path(**options: int) -> Path:
        return table_path(tmp_path, FakeRuntime(**options), TARGET, [DRAFT])

    same = path()
    assert path() == same
    other = FakeRuntime()
    other.speed_key = "another machine"
    names = {
        same,
        path(page_size=8),
        path(max_rows=8),
        path(vocab_size=96),
        table_path(tmp_path, other, TARGET, [DRAFT]),
        table_path(tmp_path, FakeRuntime(), TARGET, []),
    }
    assert len(names) == 6
