from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.measure.rows import read

from benchmarks.decoding import cascades
from halfbyte.errors import ArgumentError


def test_a_row_accounts_for_every_link(
    talking_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.jsonl"
    stack = f"model:{talking_model}@w4a8 > w8a16 @3"
    command = ["x", "--name", "tiny", "--model", str(talking_model), "--variant", stack]
    command += ["--variant", "ngram > w4a8 > w8a16 @4/2", "--kinds", "chat", "--tokens", "16"]
    command += ["--rounds", "1", "--output", str(output)]
    monkeypatch.setattr("sys.argv", command)
    cascades.main()
    rows = {row.cascade: row.details or {} for row in read([output])}
    small = f"model:{talking_model.name}@w4a8"
    assert list(rows) == ["w8a16", f"{small} > w8a16 @3", "ngram > w4a8 > w8a16 @4/2"]
    assert all(details["identical"] for details in rows.values())
    assert rows["w8a16"]["speedup"] == 1.0
    assert rows["w8a16"]["predicted_speedup"] is None
    pair = rows[f"{small} > w8a16 @3"]
    assert 1 < pair["links"][f"{small} > w8a16"]["tau"] <= 4
    assert pair["draft_prefill_seconds"] >= 0
    assert pair["predicted_speedup"] > 0
    assert set(rows["ngram > w4a8 > w8a16 @4/2"]["links"]) <= {"ngram > w4a8", "w4a8 > w8a16"}


def test_variants_of_two_targets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["x", "--name", "n", "--model", "m", "--variant", "w4a8 > w8a16 @3"]
    monkeypatch.setattr("sys.argv", [*command, "--variant", "w4a4 > w4a16 @3"])
    with pytest.raises(ArgumentError, match="one target"):
        cascades.main()
